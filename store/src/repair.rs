//! A member whose files are damaged repairs itself. It has acknowledged what it cannot read any more, so it must not go on
//! as who it was: it has the others give it a new place in exchange for its own, which takes a majority that has everything
//! without it, and only then lets its files go. It then comes as a new member comes, and gets everything from them. May
//! import: `cluster`, `dir`, `disk`, `error`, `raft`, `snapshot`.

use crate::cluster::Group;
use crate::dir::Dir;
use crate::disk::{Disk, remove_if_there};
use crate::error::OpenError;
use crate::raft;
use crate::snapshot::Snapshots;
use std::io;
use std::path::Path;

/// Returns once the directory is that of a member that begins anew.
///
/// # Errors
/// `Damaged`, with `what` was found: the others do not answer in time, or have no place to give in exchange.
pub async fn exchange_place(dir: &Dir, group: &Group, what: &str) -> Result<(), OpenError> {
    if let Some(identity) = dir.identity()? {
        tracing::error!(what, "this member's data is damaged: it asks the others for a new place, to get everything from them");
        raft::exchange(group, identity).await.map_err(|why| OpenError::Damaged(format!("{what}; and it cannot be repaired: {why}")))?;
        dir.unassign()?;
    }
    // Nobody lives here any more: what is left belongs to nobody.
    wipe(&**dir.disk(), dir.path()).map_err(|source| OpenError::Io { path: dir.path().to_owned(), source })
}

fn wipe(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.engine(&dir.join("checkpoint")).wipe()?;
    remove_if_there(disk, &Snapshots::path(dir))?;
    let log = dir.join("log");
    for segment in disk.list(&log)? {
        remove_if_there(disk, &segment)?;
    }
    disk.sync_dir(&log)?;
    disk.sync_dir(dir)
}
