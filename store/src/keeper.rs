//! Keeps the store's files short: brings the checkpoint up in the background, writes a snapshot when the log has grown to
//! more than what it describes, and has the log before it purged. May import: `engine`, `log`, `raft`, `snapshot`, `space`,
//! `state`, `work`.

use crate::engine::EngineError;
use crate::log::Log;
use crate::raft::Node;
use crate::snapshot::Snapshots;
use crate::space::Space;
use crate::state::State;
use crate::work::blocking;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often it looks.
const TICK: Duration = Duration::from_millis(500);
/// Pause between slices of memory that are given back.
const PAUSE: Duration = Duration::from_millis(5);
/// Bytes of log, and time, that a restart may have to go through again.
const CHECKPOINT_BYTES: u64 = 16 << 20;
const CHECKPOINT_AGE: Duration = Duration::from_secs(15);
/// Bytes of log below which no snapshot is written when space is tight.
const SNAPSHOT_TIGHT_BYTES: u64 = 12 << 20;
/// Bytes that checkpoint and snapshot may waste before they are made anew; when space is tight, the smaller one.
const WASTE_BYTES: u64 = 128 << 20;
const WASTE_TIGHT_BYTES: u64 = 4 << 20;
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);

pub struct Keeper {
    pub state: Arc<State>,
    pub log: Arc<Log>,
    pub snapshots: Arc<Snapshots>,
    pub space: Arc<Space>,
    pub node: Node,
    /// Bytes of log below which no snapshot is written.
    pub log_bytes: u64,
}

/// What has been done up to now.
struct Progress {
    /// Bytes written to the log when the checkpoint was last brought up.
    written: u64,
    /// When the checkpoint began to lag.
    dirty: Option<Instant>,
    not_before: Instant,
    /// Bytes of the checkpoint when it had just been made anew, and what was held then: less it cannot take for that.
    compact: (u64, u64),
}

impl Progress {
    /// Bytes that a checkpoint of what is held may take before it is made anew.
    fn most(&self, held: u64, waste: u64) -> u64 {
        let (took, holding) = self.compact;
        let engine = u128::from(2 * took) * u128::from(held) / u128::from(holding.max(1 << 20));
        (3 * held).max(engine as u64) + waste
    }
}

impl Keeper {
    /// Works until told to stop.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        futures::join!(self.free(stop.clone()), self.shorten(stop));
    }

    /// Gives back the memory of what has been compacted; a little at a time, for whoever writes waits meanwhile.
    async fn free(&self, mut stop: watch::Receiver<bool>) {
        loop {
            let pause = if self.state.collect() { PAUSE } else { TICK };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn shorten(&self, mut stop: watch::Receiver<bool>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut progress = Progress { written: 0, dirty: None, not_before: Instant::now(), compact: (0, 0) };
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            if Instant::now() >= progress.not_before
                && let Err(error) = self.work(&mut progress).await
            {
                tracing::error!(%error, "checkpoint or snapshot could not be written; the log keeps everything meanwhile");
                progress.not_before = Instant::now() + RETRY;
            }
        }
    }

    async fn work(&self, progress: &mut Progress) -> Result<(), EngineError> {
        let tight = self.space.pressed();
        let written = self.log.written();
        let lags = self.state.applied().next != self.snapshots.saved();
        let since = *progress.dirty.get_or_insert_with(Instant::now);
        if !lags {
            progress.dirty = None;
        }
        if lags && (written - progress.written >= CHECKPOINT_BYTES || since.elapsed() >= CHECKPOINT_AGE || tight) {
            self.blocking(|state, snapshots| snapshots.save(state)).await?;
            progress.written = written;
            progress.dirty = None;
        }
        let held = self.state.read(|machine| machine.bytes());
        let least = if tight { SNAPSHOT_TIGHT_BYTES } else { self.log_bytes.max(2 * held) };
        let waste = if tight { WASTE_TIGHT_BYTES } else { WASTE_BYTES };
        if (self.log.bytes() > least && self.snapshot_lags(crate::raft::KEEP_ENTRIES))
            || (self.snapshots.image_bytes() > 2 * held + waste && self.snapshot_lags(0))
        {
            self.snapshots.clone().prepare(self.state.clone()).await?;
            if self.node.snapshot().await.is_err() {
                tracing::debug!("the replica has stopped: the log is not purged");
            }
        }
        if self.snapshots.checkpoint_bytes() > progress.most(held, waste) {
            tracing::info!("the checkpoint takes much more space than what it holds; making it anew");
            self.blocking(|state, snapshots| snapshots.rewrite(state)).await?;
            progress.compact = (self.snapshots.checkpoint_bytes(), held);
        }
        Ok(())
    }

    /// Whether a new snapshot would cover more than `beyond` entries that the current one does not.
    fn snapshot_lags(&self, beyond: u64) -> bool {
        let covered = self.snapshots.current().map_or(0, |image| image.applied().next);
        self.state.applied().next > covered + beyond
    }

    async fn blocking(&self, work: impl FnOnce(&State, &Snapshots) -> Result<(), EngineError> + Send + 'static) -> Result<(), EngineError> {
        let (state, snapshots) = (self.state.clone(), self.snapshots.clone());
        blocking(move || work(&state, &snapshots)).await?
    }
}
