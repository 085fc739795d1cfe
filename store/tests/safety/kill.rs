//! kill -9 and SIGSTOP, under load, one member.

use crate::child::Process;
use crate::workload::{LOAD, Run, judged};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;
use std::time::Duration;

/// Kills in one history; more are spread over several.
const ROUNDS: usize = 20;

async fn start(dir: &Path, round: usize) -> Process {
    let (data, socket) = (dir.join("data"), dir.join(format!("s{round}")));
    tokio::task::spawn_blocking(move || Process::start(&data, socket)).await.unwrap().unwrap()
}

async fn killed_often(rounds: usize, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut run = Run::new(LOAD, seed);
    for round in 0..rounds {
        let mut process = start(dir.path(), round).await;
        let target = process.target.clone();
        let (before, pause) = (rng.random_range(0..300), rng.random_range(0..200));
        run.round(&[target], async {
            tokio::time::sleep(Duration::from_millis(before)).await;
            if rng.random_bool(0.3) {
                process.stop();
                tokio::time::sleep(Duration::from_millis(pause)).await;
                process.go_on();
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            process.kill();
        })
        .await;
    }
    let process = start(dir.path(), rounds).await;
    let history = run.finish(&[process.target.clone()]).await;
    judged("kill", &history);
    assert!(history.operations.len() > 20 * rounds, "the clients have hardly asked anything");
}

/// `SAFETY_KILLS` sets how often.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let mut left = crate::setting("SAFETY_KILLS", ROUNDS);
    let mut seed = crate::setting("SAFETY_SEED", 1) as u64;
    while left > 0 {
        let rounds = left.min(ROUNDS);
        killed_often(rounds, seed).await;
        (left, seed) = (left - rounds, seed + 1);
    }
}
