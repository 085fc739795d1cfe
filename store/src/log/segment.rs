//! Segment files: made full of zeros, synced, and named by the sequence number of their first frame.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a segment. The first one is small, so that a new store opens fast.
pub const SIZE: u64 = 8 << 20;
pub const FIRST_SIZE: u64 = 512 << 10;
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
pub fn prepare(dir: &Path, size: u64) -> io::Result<File> {
    let path = dir.join(SPARE);
    let made = fill(&path, size);
    if made.is_err() {
        // What there was of it would only take space.
        std::fs::remove_file(&path).or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    }
    made
}

fn fill(path: &Path, size: u64) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let zeros = vec![0; 256 << 10];
    let mut left = size;
    while left > 0 {
        let part = left.min(zeros.len() as u64);
        file.write_all(&zeros[..part as usize])?;
        left -= part;
    }
    file.sync_all()?;
    Ok(file)
}

/// Gives the prepared segment its name.
pub fn adopt(dir: &Path, first: u64) -> io::Result<PathBuf> {
    let path = path(dir, first);
    std::fs::rename(dir.join(SPARE), &path)?;
    sync_dir(dir)?;
    Ok(path)
}

pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes a prepared segment that was never used: its zeros may not have reached the disk.
pub fn discard_spare(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(dir.join(SPARE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub fn open(path: &Path) -> io::Result<Arc<File>> {
    Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
}
