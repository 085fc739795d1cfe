//! The log's next segment, made ahead by a worker of its own, so that neither the writer nor whoever asks for room waits for
//! zeros to be written.

use super::{RETRY, no_space, segment};
use crate::disk::{Disk, File};
use crate::work::Worker;
use parking_lot::Mutex;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Notify;

#[derive(Default)]
enum Stage {
    /// Nobody needs one yet.
    #[default]
    Unwanted,
    Wanted,
    /// There is no space for it; it is tried again and again.
    Short,
    Ready(Arc<dyn File>),
    /// It is being given its name: until it has, none may be made in its place.
    Leaving,
    /// The disk failed for another reason.
    Failed(io::Error),
    Closed,
}

/// What of a next segment there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    Ready,
    /// Asked for, and not yet known to be impossible.
    Coming,
    Short,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Spare(Arc<Shared>);

struct Shared {
    stage: Mutex<Stage>,
    changed: Notify,
    /// Told of what `changed` is told, and by others of room in the log.
    told: Notify,
}

impl Spare {
    /// Starts the worker, which ends with `close`.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(disk: Arc<dyn Disk>, dir: PathBuf, size: u64) -> io::Result<Self> {
        let spare = Self(Arc::new(Shared { stage: Mutex::default(), changed: Notify::new(), told: Notify::new() }));
        Worker::start("store-segment", spare.clone().prepare(disk, dir, size))?;
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
    pub async fn take(&self, adopt: impl FnOnce() -> io::Result<PathBuf>) -> io::Result<(Arc<dyn File>, PathBuf)> {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.want();
            if let Some(file) = self.leaving()? {
                let adopted = adopt();
                self.set(&mut self.0.stage.lock(), Stage::Unwanted);
                return Ok((file, adopted?));
            }
            changed.await;
        }
    }

    /// The segment, if there is one: it then leaves.
    fn leaving(&self) -> io::Result<Option<Arc<dyn File>>> {
        let mut stage = self.0.stage.lock();
        match std::mem::replace(&mut *stage, Stage::Leaving) {
            Stage::Ready(file) => Ok(Some(file)),
            Stage::Failed(error) => Err(error),
            Stage::Closed => Err(io::Error::other("the log is closed")),
            unfinished => {
                *stage = unfinished;
                Ok(None)
            }
        }
    }

    /// Ends the worker.
    pub fn close(&self) {
        self.set(&mut self.0.stage.lock(), Stage::Closed);
    }

    /// Told when the stage may have changed, and by others of room.
    pub fn told(&self) -> &Notify {
        &self.0.told
    }

    fn set(&self, stage: &mut Stage, next: Stage) {
        *stage = next;
        self.0.changed.notify_waiters();
        self.0.told.notify_waiters();
    }

    async fn prepare(self, disk: Arc<dyn Disk>, dir: PathBuf, size: u64) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let wanted = match *self.0.stage.lock() {
                Stage::Closed => return,
                Stage::Wanted | Stage::Short => true,
                Stage::Unwanted | Stage::Ready(_) | Stage::Leaving | Stage::Failed(_) => false,
            };
            if !wanted {
                changed.await;
                continue;
            }
            let made = segment::prepare(&*disk, &dir, size);
            if !self.made(made) {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Takes note of what came of an attempt; false: there was no space.
    fn made(&self, made: io::Result<Arc<dyn File>>) -> bool {
        let mut stage = self.0.stage.lock();
        match made {
            _ if matches!(*stage, Stage::Closed) => {}
            Ok(file) => self.set(&mut stage, Stage::Ready(file)),
            Err(error) if no_space(&error) => {
                if !matches!(*stage, Stage::Short) {
                    tracing::error!(%error, "no space for the log's next segment");
                    self.set(&mut stage, Stage::Short);
                }
                return false;
            }
            Err(error) => {
                tracing::error!(%error, "the log's next segment cannot be prepared");
                self.set(&mut stage, Stage::Failed(error));
            }
        }
        true
    }
}
