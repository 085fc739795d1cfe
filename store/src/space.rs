//! Room on the disk: whether a write may still be taken. Asked before it is proposed, so that Raft itself never meets a full
//! disk; looked at anew at most every `AGE`, so that it costs nothing. May import: `command`, `error`, `log`.

use crate::command::Command;
use crate::error::StoreError;
use crate::log::Log;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How old an answer may be.
const AGE: Duration = Duration::from_millis(200);
/// Free bytes below which nothing that grows is taken: what is left is for the log's next segments and the checkpoint.
const RESERVE_BYTES: u64 = 24 << 20;

pub struct Space {
    dir: PathBuf,
    quota_bytes: u64,
    log: Arc<Log>,
    seen: Mutex<Seen>,
}

struct Seen {
    at: Option<Instant>,
    /// Why nothing that grows is taken.
    tight: Option<String>,
}

impl Space {
    /// `quota_bytes` 0: as much as the disk has.
    pub fn new(dir: PathBuf, quota_bytes: u64, log: Arc<Log>) -> Self {
        Self { dir, quota_bytes, log, seen: Mutex::new(Seen { at: None, tight: None }) }
    }

    /// # Errors
    /// `NoSpace`: the command would grow the store and there is no room, or the log can take nothing at all.
    pub fn admit(&self, command: &Command) -> Result<(), StoreError> {
        if let Some(why) = self.log.refuses() {
            return Err(StoreError::NoSpace(why.into()));
        }
        if !command.grows() {
            return Ok(());
        }
        match self.tight() {
            Some(why) => Err(StoreError::NoSpace(why)),
            None => Ok(()),
        }
    }

    /// Why nothing that grows is taken at present, if so.
    pub fn tight(&self) -> Option<String> {
        let mut seen = self.seen.lock();
        if seen.at.is_none_or(|at| at.elapsed() >= AGE) {
            let tight = self.look();
            if tight != seen.tight {
                match &tight {
                    Some(why) => tracing::error!(dir = %self.dir.display(), %why, "no space: writes are refused"),
                    None => tracing::info!(dir = %self.dir.display(), "there is space again: writes are taken"),
                }
            }
            *seen = Seen { at: Some(Instant::now()), tight };
        }
        seen.tight.clone()
    }

    fn look(&self) -> Option<String> {
        if self.quota_bytes > 0 && size_of(&self.dir) >= self.quota_bytes {
            return Some(format!("the quota of {} bytes is used up", self.quota_bytes));
        }
        match nix::sys::statvfs::statvfs(&self.dir) {
            Ok(stat) if stat.blocks_available().saturating_mul(stat.fragment_size()) < RESERVE_BYTES => {
                Some(format!("less than {RESERVE_BYTES} bytes are free on the disk"))
            }
            Ok(_) => None,
            // A disk that cannot be asked is found out by the write itself.
            Err(errno) => {
                tracing::warn!(dir = %self.dir.display(), %errno, "the free space of the disk cannot be told");
                None
            }
        }
    }
}

/// Bytes that the files below a directory take. Files that go while it looks do not count.
pub fn size_of(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
