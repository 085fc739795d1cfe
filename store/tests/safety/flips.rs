//! Bit flips in the files of a closed store: found, and never served. Each ends in the same state as before, or in an error
//! that says what is damaged.

use crate::checks::LEASED;
use orchd_store::{KeyRange, Op, OpenError, Options, RangeRequest, RangeResponse, Revision, Store, StoreError, Txn, WatchBatch};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long anything may take that must come to be.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

async fn open(dir: &Path, quota_bytes: u64) -> Result<Store, OpenError> {
    Store::open(Options { dir: dir.to_owned(), quota_bytes, group: None }).await
}

fn put(key: String, value: Vec<u8>, lease: i64) -> Txn {
    Txn { success: vec![Op::Put { key: key.into(), value: value.into(), lease, prev_kv: false }], ..Txn::default() }
}

/// Everything that can be asked of a store.
#[derive(Debug, PartialEq)]
struct Contents {
    revision: Revision,
    compacted: Revision,
    at: Vec<RangeResponse>,
    history: Vec<WatchBatch>,
    leases: Vec<i64>,
}

async fn contents(store: &Store) -> Contents {
    let (revision, compacted) = (store.revision(), store.compacted_revision());
    let everything = || KeyRange::prefix("");
    let mut at = Vec::new();
    // Some revisions are enough: the history has every change.
    for at_revision in (compacted.max(1)..=revision).step_by(((revision - compacted) as usize / 8).max(1)).chain([revision]) {
        at.push(store.range_local(&RangeRequest { revision: at_revision, ..RangeRequest::new(everything()) }).unwrap());
    }
    let mut history = Vec::new();
    let mut watcher = store.watch(everything(), compacted.max(1)).unwrap();
    while history.last().is_none_or(|batch: &WatchBatch| batch.revision < revision) {
        history.push(watcher.next().await.unwrap());
    }
    Contents { revision, compacted, at, history, leases: store.leases() }
}

/// Writes as soon as there is room: on a busy machine the log is shortened later than it grows.
async fn roomy(store: &Store, txn: Txn) {
    let begun = Instant::now();
    while let Err(error) = store.txn(txn.clone()).await {
        assert!(matches!(error, StoreError::NoSpace(_)), "{error}");
        assert!(begun.elapsed() < PATIENCE, "there never is room: {error}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Fills a store: small values, values of zeros, large ones; deletions, leases, a compaction, a snapshot. `purges`: so much
/// that the log before the snapshot goes.
async fn fill(dir: &Path, purges: bool, rng: &mut StdRng) -> Contents {
    let store = open(dir, if purges { 90 << 20 } else { 0 }).await.unwrap();
    let lease = store.lease_grant(0, 100_000).await.unwrap();
    let (writes, large) = if purges { (160, 150_000) } else { (40, 3_000) };
    for at in 0..writes {
        let size = if rng.random_bool(0.3) { rng.random_range(0..large) } else { rng.random_range(0..100) };
        let byte = if rng.random_bool(0.5) { 0 } else { at as u8 };
        let (key, lease) = if at % 7 == 0 { (format!("{LEASED}{at}"), lease) } else { (format!("k{}", at % 25), 0) };
        store.txn(put(key, vec![byte; size], lease)).await.unwrap();
        if at % 9 == 0 {
            store.txn(Txn { success: vec![Op::delete(format!("k{}", at % 5))], ..Txn::default() }).await.unwrap();
        }
        if at == writes / 2 {
            store.compact(store.revision() - 10).await.unwrap();
            store.snapshot_file().await.unwrap();
        }
    }
    if purges {
        let begun = Instant::now();
        while dir.join("log/0000000000000001.log").exists() {
            roomy(&store, put("filler".into(), vec![7; 150_000], 0)).await;
            assert!(begun.elapsed() < PATIENCE, "the log is not purged");
            tokio::time::sleep(LOOK).await;
        }
    }
    // The last write ends the log: zeros, which look like what a torn write leaves.
    roomy(&store, put("last".into(), vec![0; rng.random_range(0..3_000)], 0)).await;
    let filled = contents(&store).await;
    store.close().await;
    filled
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The directory's files, by name.
fn load(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files(dir).into_iter().map(|path| (path.strip_prefix(dir).unwrap().to_owned(), std::fs::read(&path).unwrap())).collect()
}

fn save(files: &BTreeMap<PathBuf, Vec<u8>>, dir: &Path) {
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// A byte of some file; the empty room at a file's end as well, but seldom.
fn place(files: &BTreeMap<PathBuf, Vec<u8>>, rng: &mut StdRng) -> (PathBuf, usize) {
    let named: Vec<(&PathBuf, &Vec<u8>)> = files.iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    let small = rng.random_ratio(1, 8);
    let chosen = |(name, bytes): &&(&PathBuf, &Vec<u8>)| (bytes.len() < 100) == small && !name.ends_with("spare");
    let named: Vec<_> = named.iter().filter(chosen).collect();
    let (name, bytes) = named[rng.random_range(0..named.len())];
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    let at = match rng.random_range(0..10) {
        0 => rng.random_range(0..bytes.len()),
        // The last write of all is told from a torn one with the most difficulty.
        1..4 => written - rng.random_range(0..=written.min(2_000)),
        _ => rng.random_range(0..=written),
    };
    ((*name).clone(), at)
}

#[derive(Debug, Default)]
struct Tally {
    same: usize,
    refused: usize,
}

async fn flips(purges: bool, count: usize, seed: u64) -> BTreeMap<String, Tally> {
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let filled = fill(dir.path(), purges, &mut rng).await;
    let whole = load(dir.path());
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for _ in 0..count {
        let (name, at) = place(&whole, &mut rng);
        let bit = 1_u8 << rng.random_range(0..8);
        let mut flipped = whole.clone();
        flipped.get_mut(&name).unwrap()[at] ^= bit;
        let dir = tempfile::tempdir().unwrap();
        save(&flipped, dir.path());
        let kind = match name.to_str().unwrap() {
            name if name.ends_with(".log") => "log",
            name if name.starts_with("checkpoint") => "checkpoint",
            name => name,
        };
        let tally = tallies.entry(kind.to_owned()).or_default();
        match open(dir.path(), 0).await {
            Ok(store) => {
                let found = contents(&store).await;
                let what = || format!("seed {seed}, purges {purges}: bit {bit:#x} of byte {at} of {}", name.display());
                assert_eq!((found.revision, found.compacted), (filled.revision, filled.compacted), "{}", what());
                assert!(found == filled, "{}: other contents", what());
                store.close().await;
                tally.same += 1;
            }
            Err(OpenError::Damaged(_) | OpenError::NewerFormat { .. }) => tally.refused += 1,
            Err(other) => panic!("not a clear error: {other}"),
        }
    }
    tallies
}

/// `SAFETY_FLIPS` sets how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_never_served() {
    let (wanted, mut seed) = (crate::setting("SAFETY_FLIPS", 60), crate::setting("SAFETY_SEED", 1) as u64);
    let (begun, mut left) = (Instant::now(), wanted);
    while left > 0 {
        let count = left.min(30);
        let purges = seed % 4 == 0;
        println!("figure flips (seed {seed}, purged log: {purges}): {:?}", flips(purges, count, seed).await);
        (left, seed) = (left - count, seed + 1);
    }
    println!("figure flipped_bits {wanted} in {:.1?}", begun.elapsed());
}

/// A member whose files are damaged: checkpoint and snapshot it makes anew by itself; with a damaged log, which it may not
/// forget by itself, it has the others give it a new place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_member_comes_back_from_its_peers() {
    use crate::members::Trio;
    let mut trio = Trio::open().await;
    for at in 0..200_u32 {
        trio.stores[1].txn(put(format!("k{}", at % 40), vec![at as u8; 2_000], 0)).await.unwrap();
    }
    trio.stores[0].snapshot_file().await.unwrap();
    for victim in ["checkpoint", "snapshot", "log"] {
        let before = contents(&trio.stores[1]).await;
        trio.stores[0].close().await;
        let dir = trio.dir(0);
        let damaged = files(&dir).into_iter().filter(|path| path.strip_prefix(&dir).unwrap().starts_with(victim));
        for path in damaged.filter(|path| !path.ends_with("spare")) {
            let mut bytes = std::fs::read(&path).unwrap();
            let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            bytes[written / 2] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        let id = trio.stores[0].member_id();
        trio.stores[0] = trio.try_open(0).await.unwrap();
        assert_eq!(trio.stores[0].member_id() != id, victim == "log", "{victim}: who it is");
        trio.stores[0].read_barrier().await.unwrap();
        assert!(contents(&trio.stores[0]).await == before, "{victim}: other contents");
    }
    trio.close().await;
}
