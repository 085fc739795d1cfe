//! Segment files: made full of zeros, synced, and named by the sequence number of their first frame.

use crate::disk::{Disk, File, Open, remove_if_there};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Room in a full log that is left to Raft's own entries.
pub const MARGIN: u64 = 32 << 10;
/// Room beyond that, left to commands that make room.
pub const RELIEF: u64 = 96 << 10;
/// The prepared segment, before it has a name.
const SPARE: &str = "spare";

pub fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:016x}.log"))
}

/// The sequence number in a segment's name.
pub fn number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".log")?;
    (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok()).flatten()
}

/// A file of zeros of this size, really on disk.
///
/// # Errors
/// The disk is full or fails; nothing is left of the file then.
pub fn prepare(disk: &dyn Disk, dir: &Path, size: u64) -> io::Result<Arc<dyn File>> {
    let made = fill(disk, &dir.join(SPARE), size);
    if made.is_err() {
        // What there was of it would only take space.
        discard_spare(disk, dir)?;
    }
    made
}

fn fill(disk: &dyn Disk, path: &Path, size: u64) -> io::Result<Arc<dyn File>> {
    let file = disk.open(path, Open::Create)?;
    let zeros = vec![0; 256 << 10];
    let mut done = 0;
    while done < size {
        let part = (size - done).min(zeros.len() as u64);
        file.write_at(&zeros[..part as usize], done)?;
        done += part;
    }
    file.sync_all()?;
    Ok(file)
}

/// Gives the prepared segment its name.
pub fn adopt(disk: &dyn Disk, dir: &Path, first: u64) -> io::Result<PathBuf> {
    let path = path(dir, first);
    disk.rename(&dir.join(SPARE), &path)?;
    disk.sync_dir(dir)?;
    Ok(path)
}

/// Removes a prepared segment that was never used: its zeros may not have reached the disk.
pub fn discard_spare(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    remove_if_there(disk, &dir.join(SPARE))
}
