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

/// What the disk held when the power came back, and how often.
#[derive(Debug, Default)]
struct Met {
    cuts: usize,
    while_starting: usize,
    while_closing: usize,
    checkpoints: usize,
    snapshots: usize,
    purged_logs: usize,
}

impl Met {
    fn note(&mut self, medium: &Medium) {
        self.cuts += 1;
        self.checkpoints += usize::from(medium.holds(&["data", "checkpoint"]));
        self.snapshots += usize::from(medium.holds(&["data", "snapshot"]));
        self.purged_logs += usize::from(!medium.holds(&["data", "log", "0000000000000001.log"]));
    }
}

/// A disk that is cut again and again, with a store on it.
struct Cuts {
    dir: PathBuf,
    rng: StdRng,
    run: Run,
    met: Met,
}

impl Cuts {
    fn new(dir: &Path, seed: u64) -> Self {
        let run = Run::new(Load { large: 30, ..LOAD }, seed);
        Self { dir: dir.to_owned(), rng: StdRng::seed_from_u64(seed), run, met: Met::default() }
    }

    fn mount(&self, medium: Medium) -> (Mounted, PathBuf) {
        let disk = self.dir.join("disk");
        std::fs::create_dir_all(&disk).unwrap();
        (Mounted::new(medium, &disk).unwrap(), disk)
    }

    /// One life between two cuts: what is left of the disk.
    ///
    /// # Errors
    /// The store does not start.
    async fn life(&mut self, name: usize, medium: Medium) -> Result<Medium, String> {
        let (mounted, disk) = self.mount(medium);
        // Some cuts come while it still starts, some while it closes, most under load.
        let starting = self.rng.random_ratio(1, 8).then(|| Duration::from_millis(self.rng.random_range(5..80)));
        let started = start(&disk, self.dir.join(format!("s{name}")));
        let left = if let Some(wait) = starting {
            let started = tokio::spawn(started);
            tokio::time::sleep(wait).await;
            let left = mounted.cut(&mut self.rng);
            // It may have been quick enough to serve, or failed as it must.
            drop(started.await.unwrap());
            self.met.while_starting += 1;
            left
        } else {
            match started.await {
                Ok(process) => self.under_load(process, &mounted).await,
                Err(error) => {
                    mounted.unmount();
                    return Err(format!("after cut {name} it does not start: {error}"));
                }
            }
        };
        mounted.unmount();
        self.met.note(&left);
        Ok(left)
    }

    async fn under_load(&mut self, mut process: Process, mounted: &Mounted) -> Medium {
        let process_target = process.target.clone();
        let target = &process_target;
        let rng = &mut self.rng;
        let (load, closing) = (rng.random_range(0..1400), rng.random_ratio(1, 4));
        let wait = rng.random_range(0..120);
        self.met.while_closing += usize::from(closing);
        let until = async {
            tokio::time::sleep(Duration::from_millis(load)).await;
            if closing {
                target.close().await;
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            let left = mounted.cut(rng);
            process.kill();
            left
        };
        self.run.round(std::slice::from_ref(&process_target), until).await
    }

    /// Cuts `count` times, and returns what the clients saw.
    ///
    /// # Errors
    /// A start fails.
    async fn history(mut self, mut medium: Medium, count: usize) -> Result<(History, Met), String> {
        for round in 0..count {
            medium = self.life(round, medium).await?;
        }
        let (mounted, disk) = self.mount(medium);
        let history = match start(&disk, self.dir.join("last")).await {
            Ok(process) => Ok(self.run.finish(std::slice::from_ref(&process.target)).await),
            Err(error) => Err(format!("after the last cut it does not start: {error}")),
        };
        mounted.unmount();
        Ok((history?, self.met))
    }
}

/// `SAFETY_CUTS` sets how often.
#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut() {
    apart(|dir| async move {
        let wanted = crate::setting("SAFETY_CUTS", 6);
        let (mut left, mut seed) = (wanted, crate::setting("SAFETY_SEED", 1) as u64);
        let (begun, mut operations) = (Instant::now(), 0);
        while left > 0 {
            let rounds = left.min(ROUNDS);
            let (history, met) = Cuts::new(&dir, seed).history(Medium::new(FREE, None), rounds).await.unwrap();
            println!("figure power (seed {seed}): {met:?}");
            judged("power", &history);
            operations += history.operations.len();
            (left, seed) = (left - rounds, seed + 1);
        }
        println!("figure power_cuts {wanted} ({operations} operations) in {:.1?}", begun.elapsed());
    });
}

/// The log's sync removed, by a disk that says yes and does nothing: the log is damaged, or what was acknowledged is gone.
#[test]
fn a_log_that_does_not_sync_is_caught() {
    apart(|dir| async move {
        let caught = match Cuts::new(&dir, 7).history(Medium::new(FREE, Some(".log")), 4).await {
            Ok((history, _)) => crate::checks::judge(&history).expect_err("lost writes went unnoticed"),
            Err(damaged) => damaged,
        };
        println!("caught: {caught:.200}");
        let known = ["is damaged at byte", "lost:", "stale:", "saw different things", "written at", "nobody saw", "written by nobody"];
        assert!(known.iter().any(|known| caught.contains(known)), "{caught}");
    });
}
