//! Whole clusters in one thread, from a seed: the real store, openraft and all, over a simulated network, disk and clock,
//! under the workload and the checkers of the other tests. The same seed gives the same trace.

pub mod clock;
mod cluster;
mod disk;
mod engine;
mod faults;
mod network;
pub mod slot;
mod trace;

use crate::checks::judge;
use crate::history::History;
use crate::workload::{LOAD, Load, Run};
use cluster::{Cluster, Member};
use faults::{EVERY, befall};
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, RngSeed};
use trace::Traced;

/// Each change's simulations, if nothing else is asked for: how many, how long, and how long their clients rest at most.
const SEEDS: usize = 50;
const SECONDS: usize = 600;
const REST_MS: usize = 5000;

/// What is simulated, beside the seed.
#[derive(Clone, Copy)]
pub struct Plan {
    /// How long faults befall the members; then all heals.
    lasts: Duration,
    /// The longest that a client rests between two requests; each cluster's clients have a bound of their own below it.
    rest_ms: u64,
    keep_trace: bool,
    /// What disks say to have synced in the log is there for good only after the next time.
    lying_disks: bool,
    /// Reads that should be linearizable are answered by any replica as it stands.
    stale_reads: bool,
}

/// A short one, with busy clients.
const PLAN: Plan = Plan { lasts: Duration::from_secs(25), rest_ms: 200, keep_trace: false, lying_disks: false, stale_reads: false };

/// What came of a simulation.
struct Ran {
    traced: Traced,
    history: History,
    simulated: Duration,
}

async fn simulate(seed: u64, plan: Plan) -> Ran {
    let mut rng = StdRng::seed_from_u64(seed);
    let begun = tokio::time::Instant::now();
    let cluster = Cluster::new(&plan, &mut rng);
    let load = Load { clients: rng.random_range(2..7), large: 3, rest_ms: rng.random_range(10..=plan.rest_ms.max(10)), ..LOAD };
    let mut run = Run::new(load, rng.random());
    (0..3).for_each(|at| cluster.start(at));
    match rng.random_range(0..3) {
        0 => cluster.recover().await,
        1 => while_founding(&cluster, &mut rng).await,
        // What is to come comes while they are being founded.
        _ => {}
    }
    while begun.elapsed() < plan.lasts {
        let faults: Vec<_> = (0..rng.random_range(1..4))
            .map(|_| befall(cluster.clone(), EVERY[rng.random_range(0..EVERY.len())], StdRng::seed_from_u64(rng.random())))
            .collect();
        let replaced = rng.random_bool(0.1).then(|| rng.random_range(0..3));
        let after = Duration::from_millis(rng.random_range(100..1500));
        let cluster_there = cluster.clone();
        run.round(&cluster.targets(), async move {
            join_all(faults).await;
            if let Some(at) = replaced {
                cluster_there.recover().await;
                cluster_there.replace(at).await;
            }
            tokio::time::sleep(after).await;
        })
        .await;
        cluster.check();
    }
    cluster.recover().await;
    cluster.settle().await;
    let history = run.finish(&cluster.targets()).await;
    cluster.agree().await;
    cluster.check_files();
    cluster.check();
    Ran { traced: cluster.trace.taken(), history, simulated: begun.elapsed() }
}

/// The power of some fails just when the group comes into being.
async fn while_founding(cluster: &Arc<Cluster>, rng: &mut StdRng) {
    if rng.random_bool(0.5) {
        // Each knows its place, and may not have written down more: their disks are slow.
        cluster.members.iter().for_each(|member| member.drive.slow(Some(400_000)));
        let placed = |member: &Member| member.drive.files().iter().any(|path| path.ends_with("MEMBER"));
        while !cluster.members.iter().all(placed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    } else {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..80))).await;
    }
    for at in 0..3 {
        if rng.random_bool(0.8) {
            cluster.kill(at, true);
            cluster.start(at);
        }
    }
    cluster.members.iter().for_each(|member| member.drive.slow(None));
}

/// Runs a simulation in a thread of its own.
///
/// # Errors
/// What went wrong, in words.
fn run(seed: u64, plan: Plan) -> Result<Ran, String> {
    let thread = std::thread::Builder::new().name(format!("seed {seed}")).spawn(move || {
        orchd_store::random::seed(seed);
        let rng_seed = RngSeed::from_bytes(&seed.to_le_bytes());
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).rng_seed(rng_seed).build().expect("a runtime");
        runtime.block_on(simulate(seed, plan))
    });
    let ran = thread.expect("a thread").join().map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "it panicked".into())
    })?;
    judge(&ran.history).map(|()| ran)
}

fn first_seed() -> u64 {
    crate::setting("SIMULATION_SEED", 0) as u64
}

/// `SIMULATION_SEEDS` sets how many, `SIMULATION_SECONDS` how long each of them is, `SIMULATION_REST_MS` how long their clients
/// rest at most, `SIMULATION_SEED` where they begin, `SIMULATION_THREADS` how many run at a time (as many as there are cores).
#[test]
fn whatever_befalls_it_a_simulated_cluster_stays_one_store() {
    let (first, seeds) = (first_seed(), crate::setting("SIMULATION_SEEDS", SEEDS));
    let lasts_s = crate::setting("SIMULATION_SECONDS", SECONDS);
    let rest_ms = crate::setting("SIMULATION_REST_MS", REST_MS);
    let plan = Plan { lasts: Duration::from_secs(lasts_s as u64), rest_ms: rest_ms as u64, ..PLAN };
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let threads = crate::setting("SIMULATION_THREADS", cores);
    let next = AtomicUsize::new(0);
    let begun = std::time::Instant::now();
    let work = || {
        let (mut operations, mut simulated, mut failed) = (0, Duration::ZERO, Vec::new());
        loop {
            let at = next.fetch_add(1, Ordering::SeqCst);
            if at >= seeds {
                return (operations, simulated, failed);
            }
            let seed = first + at as u64;
            match run(seed, plan) {
                Ok(ran) => {
                    operations += ran.history.operations.len();
                    simulated += ran.simulated;
                }
                Err(what) => failed.push(format!(
                    "seed {seed}: {what}\n  again: SIMULATION_SEED={seed} SIMULATION_SEEDS=1 SIMULATION_SECONDS={lasts_s} \
                     SIMULATION_REST_MS={rest_ms} cargo test -p orchd-store --test safety simulated_cluster"
                )),
            }
        }
    };
    let done: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it catches what panics")).collect()
    });
    let operations: usize = done.iter().map(|(operations, ..)| operations).sum();
    let simulated: Duration = done.iter().map(|(_, simulated, _)| *simulated).sum();
    println!("figure simulation: {seeds} seeds, {operations} operations, {simulated:.0?} simulated in {:.1?}", begun.elapsed());
    let failed: Vec<_> = done.into_iter().flat_map(|(.., failed)| failed).collect();
    assert!(failed.is_empty(), "{} of {seeds} seeds failed\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [first_seed(), first_seed() + 1] {
        let plan = Plan { lasts: Duration::from_secs(8), keep_trace: true, ..PLAN };
        let [one, two] = [(); 2].map(|()| run(seed, plan).unwrap());
        let differs = one.traced.lines.iter().zip(&two.traced.lines).position(|(one, two)| one != two);
        if let Some(at) = differs {
            let shown = at.saturating_sub(5)..at + 3;
            panic!("seed {seed}: event {at} differs\n{:#?}\n{:#?}", &one.traced.lines[shown.clone()], &two.traced.lines[shown]);
        }
        assert_eq!(one.traced, two.traced);
        assert_eq!(one.history, two.history);
        assert!(one.traced.events > 1000, "hardly anything happened");
    }
}

/// Some seed among a few must catch a defect.
fn caught(plan: Plan, complaints: &[&str]) {
    let mut met = Vec::new();
    for seed in first_seed()..first_seed() + 20 {
        if let Err(what) = run(seed, plan) {
            if complaints.iter().any(|complaint| what.contains(complaint)) {
                return;
            }
            met.push(what);
        }
    }
    panic!("nobody noticed; what was met instead: {met:?}");
}

#[test]
fn disks_that_sync_too_late_are_caught() {
    caught(Plan { lying_disks: true, ..PLAN }, &["lost", "saw different things", "applied twice", "stale"]);
}

#[test]
fn reads_of_any_replica_as_it_stands_are_caught() {
    caught(Plan { stale_reads: true, ..PLAN }, &["stale"]);
}
