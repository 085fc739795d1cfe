//! The log's next segment, made ahead by a thread of its own, so that neither the writer nor whoever asks for room waits for
//! zeros to be written.

use super::segment;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How long to wait for space before looking again: a disk tells nobody when it has some.
pub const RETRY: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
enum Stage {
    /// Nobody needs one yet.
    #[default]
    Unwanted,
    Wanted,
    /// There is no space for it; it is tried again and again.
    Short,
    Ready(File),
    /// It is being given its name: until it has, none may be made in its place.
    Leaving,
    /// The disk failed for another reason.
    Failed(io::Error),
    Closed,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Spare(Arc<Shared>);

struct Shared {
    stage: Mutex<Stage>,
    changed: Condvar,
    /// Told of what `changed` is told, and of room in the log.
    told: Notify,
}

/// What of a next segment there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    Ready,
    /// Asked for, and not yet known to be impossible.
    Coming,
    Short,
}

impl Spare {
    /// Starts the thread, which ends with `close`.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(dir: &Path) -> io::Result<Self> {
        let spare = Self(Arc::new(Shared { stage: Mutex::default(), changed: Condvar::new(), told: Notify::new() }));
        let (preparing, dir) = (spare.clone(), dir.to_owned());
        std::thread::Builder::new().name("store-segment".into()).spawn(move || preparing.prepare(&dir))?;
        Ok(spare)
    }

    /// Asks for one, if none is there or being made, and tells how it stands.
    pub fn want(&self) -> Prospect {
        let mut stage = self.0.stage.lock();
        match &*stage {
            Stage::Unwanted => {
                self.set(&mut stage, Stage::Wanted);
                Prospect::Coming
            }
            Stage::Wanted | Stage::Leaving => Prospect::Coming,
            Stage::Short => Prospect::Short,
            // Whatever else has happened, the writer tells.
            Stage::Ready(_) | Stage::Failed(_) | Stage::Closed => Prospect::Ready,
        }
    }

    /// Whether there is no space for it.
    pub fn is_short(&self) -> bool {
        matches!(*self.0.stage.lock(), Stage::Short)
    }

    /// Takes it, once `adopt` has given it its name; waits for it, and for space if need be.
    ///
    /// # Errors
    /// It could not be made, for another reason than space, or not be named.
    pub fn take(&self, adopt: impl FnOnce() -> io::Result<PathBuf>) -> io::Result<(File, PathBuf)> {
        self.want();
        let mut stage = self.0.stage.lock();
        loop {
            match std::mem::replace(&mut *stage, Stage::Leaving) {
                Stage::Ready(file) => {
                    let adopted = MutexGuard::unlocked(&mut stage, adopt);
                    self.set(&mut stage, Stage::Unwanted);
                    return Ok((file, adopted?));
                }
                Stage::Failed(error) => return Err(error),
                Stage::Closed => return Err(io::Error::other("the log is closed")),
                unfinished => *stage = unfinished,
            }
            self.0.changed.wait(&mut stage);
        }
    }

    /// Ends the thread.
    pub fn close(&self) {
        self.set(&mut self.0.stage.lock(), Stage::Closed);
    }

    /// Told when the stage may have changed, and by others of room.
    pub fn told(&self) -> &Notify {
        &self.0.told
    }

    fn set(&self, stage: &mut Stage, next: Stage) {
        *stage = next;
        self.0.changed.notify_all();
        self.0.told.notify_waiters();
    }

    fn prepare(&self, dir: &Path) {
        let dir: PathBuf = dir.to_owned();
        let mut stage = self.0.stage.lock();
        loop {
            match &*stage {
                Stage::Closed => return,
                Stage::Wanted | Stage::Short => {}
                Stage::Unwanted | Stage::Ready(_) | Stage::Leaving | Stage::Failed(_) => {
                    self.0.changed.wait(&mut stage);
                    continue;
                }
            }
            let made = MutexGuard::unlocked(&mut stage, || segment::prepare(&dir, segment::SIZE));
            if matches!(*stage, Stage::Closed) {
                return;
            }
            match made {
                Ok(file) => self.set(&mut stage, Stage::Ready(file)),
                Err(error) if super::no_space(&error) => {
                    if !matches!(*stage, Stage::Short) {
                        tracing::error!(%error, "no space for the log's next segment");
                        self.set(&mut stage, Stage::Short);
                    }
                    // Only its closing ends this wait early; whether it did is looked at next.
                    let _ = self.0.changed.wait_for(&mut stage, RETRY);
                }
                Err(error) => {
                    tracing::error!(%error, "the log's next segment cannot be prepared");
                    self.set(&mut stage, Stage::Failed(error));
                }
            }
        }
    }
}
