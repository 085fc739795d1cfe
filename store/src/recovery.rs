//! From the files to a machine: which of checkpoint and snapshot a start begins with. What the log holds beyond it, Raft
//! applies. May import: `checkpoint`, `disk`, `engine`, `error`, `log`, `machine`, `snapshot`, `state`.

use crate::checkpoint::Checkpoint;
use crate::disk::Disk;
use crate::engine::EngineError;
use crate::error::OpenError;
use crate::log::Log;
use crate::machine::Machine;
use crate::snapshot::{Image, Snapshots};
use crate::state::{Applied, State};
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

/// # Errors
/// `Damaged`: the log has been purged beyond what checkpoint and snapshot hold. `Io`.
pub fn recover(disk: Arc<dyn Disk>, dir: &Path, log: &Log) -> Result<(State, Snapshots), OpenError> {
    Snapshots::discard_unfinished(&*disk, dir).map_err(|source| OpenError::Io { path: dir.to_owned(), source })?;
    // Entries before this one are not in the log any more.
    let begins = log.state().purged.map_or(0, |(upto, _)| upto + 1);
    let mut checkpoint = Checkpoint::new(disk.engine(&dir.join("checkpoint")));
    let path = Snapshots::path(dir);
    let image = Image::open(disk.clone(), &path).unwrap_or_else(|error| {
        tracing::error!(path = %path.display(), %error, "the snapshot cannot be read");
        None
    });
    let (machine, applied) = match usable(&mut checkpoint, begins) {
        Some(loaded) => loaded,
        None => {
            let loaded = from_image(image.as_ref(), begins)?;
            if loaded.1 != Applied::default() {
                checkpoint.distrust();
            }
            loaded
        }
    };
    let (state, snapshots) = (State::new(machine, applied), Snapshots::new(disk, dir.to_owned(), checkpoint, image));
    let ends = log.range().map_or(begins, |(_, last)| last + 1);
    keep_unlogged(&state, &snapshots, ends).map_err(|source| OpenError::Io { path, source })?;
    Ok((state, snapshots))
}

/// What a quorum has on its disks may be applied, and saved, before it is in this member's log; the power may fail then. Raft
/// gives up the log before such a state, as it may only where a snapshot stands for it.
fn keep_unlogged(state: &State, snapshots: &Snapshots, ends: u64) -> io::Result<()> {
    let next = state.applied().next;
    let covered = snapshots.current().map_or(0, |image| image.applied().next);
    if next > ends.max(covered) {
        tracing::info!(applied = next, logged = ends, "the checkpoint is ahead of the log; writing a snapshot of it");
        snapshots.build(state)?;
    }
    Ok(())
}

/// The checkpoint's state, if the log goes on from it.
fn usable(checkpoint: &mut Checkpoint, begins: u64) -> Option<(Machine, Applied)> {
    // sled panics on some of the files that it cannot read.
    let loaded = std::panic::catch_unwind(AssertUnwindSafe(|| checkpoint.load()))
        .unwrap_or_else(|_| Err(EngineError::Damaged("its engine gave up on it".into())));
    match loaded {
        Ok(Some((machine, applied))) if applied.next >= begins => return Some((machine, applied)),
        Ok(Some((_, applied))) => {
            tracing::error!(
                has = applied.next,
                begins,
                "the checkpoint is older than the log's beginning; making it anew from the snapshot"
            );
        }
        Ok(None) => return None,
        Err(error) => tracing::error!(%error, "the checkpoint cannot be used; making it anew from snapshot and log"),
    }
    checkpoint.distrust();
    None
}

fn from_image(image: Option<&Image>, begins: u64) -> Result<(Machine, Applied), OpenError> {
    let Some(image) = image else {
        if begins == 0 {
            return Ok((Machine::default(), Applied::default()));
        }
        return Err(OpenError::Damaged(format!(
            "the log begins at entry {begins}, and neither checkpoint nor snapshot holds what was before"
        )));
    };
    let applied = image.applied().clone();
    if applied.next < begins {
        return Err(OpenError::Damaged(format!("the log begins at entry {begins}, the snapshot ends before entry {}", applied.next)));
    }
    let machine = image.load().map_err(|error| OpenError::Damaged(format!("the snapshot cannot be used: {error}")))?;
    Ok((machine, applied))
}
