//! Room on the disk: whether a write that grows the store may still be taken. Asked before it is proposed (the log's own
//! promise of room comes after, and is what keeps Raft from meeting a full disk); looked at anew at most every `AGE`, so
//! that it costs nothing. May import: `disk`, `error`, `log`, `raft`, `state`.

use crate::disk::Disk;
use crate::error::StoreError;
use crate::log::Log;
use crate::raft::Item;
use crate::state::State;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How old an answer may be.
const AGE: Duration = Duration::from_millis(200);
/// Bytes kept free for the log's next segments and the checkpoint, beside those that a snapshot would take.
const RESERVE_BYTES: u64 = 24 << 20;
/// What a byte written takes: in the log, in the checkpoint, and what its engine adds.
const AMPLIFICATION: u64 = 3;
/// Bytes left below which log and checkpoint are shortened early.
const PRESSED_BYTES: u64 = 64 << 20;

pub struct Space {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    quota_bytes: u64,
    log: Arc<Log>,
    state: Arc<State>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    /// Bytes that may still be taken.
    left: u64,
    /// What leaves no more.
    bound: Bound,
    /// Bytes that what was refused last would have taken, and that are not there yet; 0: nothing is refused.
    refused: u64,
}

#[derive(Clone, Copy, Default)]
enum Bound {
    #[default]
    Disk,
    Quota,
    /// The log has no next segment, or cannot write; the text says which.
    Log(&'static str),
}

impl Space {
    /// `quota_bytes` 0: as much as the disk has.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, quota_bytes: u64, log: Arc<Log>, state: Arc<State>) -> Self {
        Self { disk, dir, quota_bytes, log, state, seen: Mutex::default() }
    }

    /// # Errors
    /// `NoSpace`: the command would grow the store and there is no room.
    pub fn admit(&self, item: &Item) -> Result<(), StoreError> {
        if !item.command.grows() {
            return Ok(());
        }
        let takes = item.encoded.len() as u64 * AMPLIFICATION;
        let mut seen = self.seen.lock();
        if seen.left < takes || seen.at.is_none_or(|at| at.elapsed() >= AGE) {
            self.look(&mut seen);
        }
        match seen.left.checked_sub(takes) {
            Some(left) => {
                seen.left = left;
                Ok(())
            }
            None => Err(self.refusal(&mut seen, takes)),
        }
    }

    fn refusal(&self, seen: &mut Seen, takes: u64) -> StoreError {
        let why = match seen.bound {
            Bound::Disk => "the disk is nearly full".into(),
            Bound::Quota => format!("the quota of {} bytes is nearly used up", self.quota_bytes),
            Bound::Log(why) => why.into(),
        };
        if seen.refused == 0 {
            tracing::error!(dir = %self.dir.display(), why, "no space left: writes are refused until there is some");
        }
        seen.refused = takes;
        StoreError::NoSpace(why)
    }

    /// Whether what was refused last would be refused still.
    pub fn short(&self) -> bool {
        let mut seen = self.seen.lock();
        if seen.refused > 0 {
            self.look(&mut seen);
        }
        seen.refused > 0
    }

    /// The most bytes that the store may take; 0: as much as the disk has.
    pub fn quota_bytes(&self) -> u64 {
        self.quota_bytes
    }

    /// Whether log and checkpoint had better be short.
    pub fn pressed(&self) -> bool {
        let mut seen = self.seen.lock();
        self.look(&mut seen);
        seen.left < PRESSED_BYTES
    }

    fn look(&self, seen: &mut Seen) {
        let reserve = RESERVE_BYTES + self.state.read(|machine| machine.bytes());
        let (mut left, mut bound) = (u64::MAX, Bound::Disk);
        if self.quota_bytes > 0 {
            (left, bound) = (self.quota_bytes.saturating_sub(self.disk.used_bytes(&self.dir)), Bound::Quota);
        }
        match self.disk.free_bytes(&self.dir) {
            Ok(free) => {
                let room = free.saturating_sub(reserve);
                if room < left {
                    (left, bound) = (room, Bound::Disk);
                }
            }
            // A disk that cannot be asked is found out by the write itself.
            Err(error) => tracing::warn!(dir = %self.dir.display(), %error, "the free space of the disk cannot be told"),
        }
        if let Some(why) = self.log.refuses() {
            (left, bound) = (0, Bound::Log(why));
        }
        let mut refused = seen.refused;
        if refused > 0 && left >= refused {
            tracing::info!(dir = %self.dir.display(), "there is space again: writes are taken");
            refused = 0;
        }
        *seen = Seen { at: Some(Instant::now()), left, bound, refused };
    }
}
