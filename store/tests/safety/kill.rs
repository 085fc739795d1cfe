//! kill -9 and SIGSTOP, under load: one member, and three.

use crate::child::{NAMES, Process};
use crate::workload::{LOAD, Load, Run, judged};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;
use std::time::{Duration, Instant};

/// Kills in one history; more are spread over several.
const ROUNDS: usize = 20;

async fn start(dir: &Path, round: usize, name: Option<&'static str>) -> Process {
    let own = name.unwrap_or("data");
    let (data, socket) = (dir.join(own), dir.join(format!("{own}{round}")));
    tokio::task::spawn_blocking(move || Process::start(&data, socket, name)).await.unwrap().unwrap()
}

async fn killed_often(rounds: usize, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut run = Run::new(LOAD, seed);
    for round in 0..rounds {
        let mut process = start(dir.path(), round, None).await;
        let target = process.target.clone();
        let (before, pause) = (rng.random_range(0..300), rng.random_range(0..200));
        run.round(&[target], async {
            tokio::time::sleep(Duration::from_millis(before)).await;
            if rng.random_bool(0.3) {
                process.pause();
                tokio::time::sleep(Duration::from_millis(pause)).await;
                process.go_on();
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            process.kill();
        })
        .await;
    }
    let process = start(dir.path(), rounds, None).await;
    let history = run.finish(std::slice::from_ref(&process.target)).await;
    judged("kill", &history);
    assert!(history.operations.len() > 20 * rounds, "the clients have hardly asked anything");
}

/// `SAFETY_KILLS` sets how often.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let wanted = crate::setting("SAFETY_KILLS", ROUNDS);
    let (mut left, mut seed) = (wanted, crate::setting("SAFETY_SEED", 1) as u64);
    let begun = Instant::now();
    while left > 0 {
        let rounds = left.min(ROUNDS);
        killed_often(rounds, seed).await;
        (left, seed) = (left - rounds, seed + 1);
    }
    println!("figure kills {wanted} in {:.1?}", begun.elapsed());
}

/// A round with three members: one is killed or stands still for a while, the leader as often as not. Returns who was killed.
async fn trouble(processes: &mut [Process], run: &mut Run, rng: &mut StdRng) -> Option<usize> {
    let targets: Vec<_> = processes.iter().map(|process| process.target.clone()).collect();
    let mut victim = rng.random_range(0..targets.len());
    if rng.random_bool(0.4) {
        for (at, target) in targets.iter().enumerate() {
            victim = if target.leads().await { at } else { victim };
        }
    }
    let (before, pause, kills) = (rng.random_range(50..300), rng.random_range(100..1200), rng.random_bool(0.5));
    run.round(&targets, async {
        tokio::time::sleep(Duration::from_millis(before)).await;
        if kills {
            processes[victim].kill();
        } else {
            processes[victim].pause();
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if !kills {
            processes[victim].go_on();
        }
        tokio::time::sleep(Duration::from_millis(before)).await;
    })
    .await;
    kills.then_some(victim)
}

/// Returns how often somebody was killed.
async fn three_killed_often(rounds: usize, seed: u64) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut run = Run::new(Load { compactions: 1, ..LOAD }, seed);
    let mut processes = futures::future::join_all(NAMES.map(|name| start(dir.path(), 0, Some(name)))).await;
    let mut kills = 0;
    for round in 1..=rounds {
        if let Some(victim) = trouble(&mut processes, &mut run, &mut rng).await {
            kills += 1;
            processes[victim] = start(dir.path(), round, Some(NAMES[victim])).await;
        }
    }
    let targets: Vec<_> = processes.iter().map(|process| process.target.clone()).collect();
    let history = run.finish(&targets).await;
    judged("kill_three", &history);
    assert!(history.operations.len() > 20 * rounds, "the clients have hardly asked anything");
    kills
}

/// `SAFETY_KILLS_OF_THREE` sets how often somebody is killed; about as often, somebody stands still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9_or_sigstop_of_one_of_three() {
    let wanted = crate::setting("SAFETY_KILLS_OF_THREE", 20);
    let (mut kills, mut rounds, mut seed) = (0, 0, crate::setting("SAFETY_SEED", 1) as u64);
    let begun = Instant::now();
    while kills < wanted {
        // Every other round kills.
        let next = ROUNDS.min(2 * (wanted - kills));
        kills += three_killed_often(next, seed).await;
        (rounds, seed) = (rounds + next, seed + 1);
    }
    println!("figure kills_of_three {kills} in {rounds} rounds in {:.1?}", begun.elapsed());
}
