//! Power cuts under load: nothing acknowledged is lost, every start is clean; and a log that does not sync is caught.

use crate::child::Process;
use crate::disk::medium::Medium;
use crate::disk::mount::Mounted;
use crate::history::History;
use crate::workload::{LOAD, Load, Run, judged};
use nix::mount::{MsFlags, mount};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Cuts in one history; more are spread over several.
const ROUNDS: usize = 20;
/// Bytes that the disk says are free: few enough that the store writes checkpoints and snapshots all the time.
const FREE: u64 = 76 << 20;

/// Runs on a thread with a mount namespace of its own, which ends with it, and with it whatever was mounted.
fn apart<F: Future<Output = ()>>(work: impl FnOnce(PathBuf) -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        println!("SKIPPED: a disk of our own needs root and /dev/fuse");
        return;
    }
    let thread = std::thread::spawn(|| {
        let dir = tempfile::tempdir().unwrap();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(work(dir.path().to_owned()));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn start(disk: &Path, socket: PathBuf) -> impl Future<Output = Result<Process, String>> + use<> {
    let data = disk.join("data");
    async move { tokio::task::spawn_blocking(move || Process::start(&data, socket, None)).await.unwrap() }
}

/// One life between two cuts: what is left of the disk.
async fn life(dir: &Path, name: usize, medium: Medium, run: &mut Run, rng: &mut StdRng) -> Medium {
    let disk = dir.join("disk");
    let mounted = Mounted::new(medium, &disk).unwrap();
    // Some cuts come while it still starts, some while it stops, most under load.
    let starting = rng.random_ratio(1, 8).then(|| Duration::from_millis(rng.random_range(5..80)));
    let started = start(&disk, dir.join(format!("s{name}")));
    let left = if let Some(wait) = starting {
        let started = tokio::spawn(started);
        tokio::time::sleep(wait).await;
        let left = mounted.cut(rng);
        // It may have been quick enough to serve, or failed as it must.
        drop(started.await.unwrap());
        left
    } else {
        let mut process = started.await.unwrap_or_else(|error| panic!("after cut {name} it does not start: {error}"));
        let target = process.target.clone();
        let (load, closing) = (rng.random_range(0..1400), rng.random_ratio(1, 4));
        let wait = rng.random_range(0..120);
        run.round(&[target.clone()], async {
            tokio::time::sleep(Duration::from_millis(load)).await;
            if closing {
                target.close().await;
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            let left = mounted.cut(rng);
            process.kill();
            left
        })
        .await
    };
    mounted.unmount();
    left
}

async fn cuts(dir: &Path, medium: Medium, rounds: usize, seed: u64) -> History {
    std::fs::create_dir_all(dir.join("disk")).unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut run = Run::new(Load { large: 30, ..LOAD }, seed);
    let mut medium = medium;
    for round in 0..rounds {
        medium = life(dir, round, medium, &mut run, &mut rng).await;
    }
    let mounted = Mounted::new(medium, &dir.join("disk")).unwrap();
    let process =
        start(&dir.join("disk"), dir.join("last")).await.unwrap_or_else(|error| panic!("after the last cut it does not start: {error}"));
    let history = run.finish(&[process.target.clone()]).await;
    drop(process);
    mounted.unmount();
    history
}

/// `SAFETY_CUTS` sets how often.
#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut() {
    apart(|dir| async move {
        let (mut left, mut seed) = (crate::setting("SAFETY_CUTS", 6), crate::setting("SAFETY_SEED", 1) as u64);
        let (begun, mut operations) = (Instant::now(), 0);
        while left > 0 {
            let rounds = left.min(ROUNDS);
            let history = cuts(&dir, Medium::new(FREE, None), rounds, seed).await;
            judged("power", &history);
            operations += history.operations.len();
            (left, seed) = (left - rounds, seed + 1);
        }
        println!("figure power_cuts {} ({operations} operations) in {:.1?}", crate::setting("SAFETY_CUTS", 6), begun.elapsed());
    });
}

/// The log's sync removed, by a disk that says yes and does nothing.
#[test]
fn a_log_that_does_not_sync_is_caught() {
    apart(|dir| async move {
        let lost = tokio::spawn(async move {
            let history = cuts(&dir, Medium::new(FREE, Some(".log")), 4, 7).await;
            crate::checks::judge(&history)
        });
        match lost.await {
            Ok(verdict) => println!("caught: {:.200}", verdict.expect_err("lost writes went unnoticed")),
            // The log was damaged so that it did not open, or the store went back behind what a watch had asked for.
            Err(panicked) => assert!(panicked.is_panic()),
        }
    });
}
