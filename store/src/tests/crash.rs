//! kill -9: nothing that was acknowledged is lost.
//!
//! The test starts itself again as a child that writes and prints what was acknowledged, kills it, and looks.

use super::{all, open, put};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DIR: &str = "ORCHD_STORE_CRASH_DIR";
const ROUNDS: usize = 5;

/// The child's part: does nothing unless it is told where.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_writes_until_killed() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = open(dir.as_ref()).await;
    let revision = store.revision();
    let writers = (0..16).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..1_000_000_u64 {
                let value = format!("{revision}-{round}");
                let response = store.txn(put(format!("key-{writer}"), format!("{value}{:0300}", 0))).await.unwrap();
                println!("\nACK key-{writer} {} {value}", response.revision);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

/// Runs a child for a while, kills it, and returns what it had acknowledged last, by key: revision and value.
#[allow(clippy::disallowed_methods, reason = "the test starts itself as the process that is killed")]
fn write_and_kill(dir: &std::path::Path, for_ms: u64) -> BTreeMap<String, (i64, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::crash::child_writes_until_killed", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = BTreeMap::new();
    let mut begun: Option<Instant> = None;
    let mut killed = false;
    while let Some(Ok(line)) = lines.next() {
        if let Some(ack) = line.strip_prefix("ACK ") {
            let mut words = ack.split(' ');
            let (Some(key), Some(revision), Some(value)) = (words.next(), words.next(), words.next()) else { continue };
            // The kill may have cut the last line short.
            if value.contains('-') && revision.parse::<i64>().is_ok() {
                acknowledged.insert(key.to_owned(), (revision.parse().unwrap(), value.to_owned()));
            }
            begun.get_or_insert_with(Instant::now);
        }
        if !killed && begun.is_some_and(|begun| begun.elapsed() >= Duration::from_millis(for_ms)) {
            // SIGKILL.
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself");
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut written = 0;
    for round in 0..ROUNDS {
        let acknowledged = write_and_kill(dir.path(), 100 + 80 * round as u64);
        assert!(!acknowledged.is_empty());
        let store = open(dir.path()).await;
        let found: BTreeMap<String, (i64, i64)> = store
            .range(all())
            .await
            .unwrap()
            .kvs
            .into_iter()
            .map(|kv| (String::from_utf8(kv.key.to_vec()).unwrap(), (kv.mod_revision, kv.version)))
            .collect();
        for (key, (revision, value)) in &acknowledged {
            let (modified, _) = found.get(key).unwrap_or_else(|| panic!("round {round}: {key} is gone"));
            assert!(modified >= revision, "round {round}: {key} stands at {modified}, acknowledged at {revision} as {value}");
        }
        // Every write is one version of one key: nothing was applied twice, nothing skipped.
        assert_eq!(found.values().map(|(_, version)| version).sum::<i64>(), store.revision() - 1);
        written = store.revision();
        store.close().await;
    }
    println!("{written} writes survived {ROUNDS} kills");
}
