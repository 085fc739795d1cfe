//! The disk, as the store needs it: files that are written at an offset, names that are changed as a whole, and a place for
//! the checkpoint's engine. The machine's own is [`System`]; a simulation brings another. May import: `engine`.
//!
//! Nothing is durable before it is synced: contents by the file, names by their directory.

mod system;

use crate::engine::Place;
use futures::future::BoxFuture;
use std::any::Any;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
pub use system::System;
pub(crate) use system::size_of;

/// What is to be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    Read,
    /// It exists.
    Write,
    /// It is made, or made empty; readable by its owner alone.
    Create,
}

/// Held for as long as this is not dropped.
pub type Lock = Box<dyn Any + Send + Sync>;

/// A disk with directories.
pub trait Disk: Send + Sync + 'static {
    /// # Errors
    /// The disk's; `NotFound`.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;

    /// Gives a file another name; a file that has it already is gone.
    ///
    /// # Errors
    /// The disk's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. One that is open stays readable.
    ///
    /// # Errors
    /// The disk's; `NotFound`.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory, and those above it, if missing. Returns those in which it, and the others that were made, have
    /// their names.
    ///
    /// # Errors
    /// The disk's.
    fn make_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>>;

    /// The files in a directory.
    ///
    /// # Errors
    /// The disk's.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Returns once the names in a directory are on disk.
    ///
    /// # Errors
    /// They may not be.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Keeps everybody else from the file at `path`, which is made if missing.
    ///
    /// # Errors
    /// The disk's; `WouldBlock`: somebody has it.
    fn lock(&self, path: &Path) -> io::Result<Lock>;

    /// Bytes that may still be written below a directory.
    ///
    /// # Errors
    /// The disk's.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// Bytes that the files below a directory take.
    fn used_bytes(&self, dir: &Path) -> u64;

    /// Where a checkpoint's engine has its files.
    fn engine(&self, dir: &Path) -> Box<dyn Place>;
}

/// An open file.
pub trait File: Send + Sync {
    /// Bytes.
    ///
    /// # Errors
    /// The disk's.
    fn size(&self) -> io::Result<u64>;

    /// Reads from `offset` on; returns the bytes read, fewer than asked for at the end alone.
    ///
    /// # Errors
    /// The disk's.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The disk's; any part of it may be written then.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns once everything written is on disk.
    ///
    /// # Errors
    /// It may not be.
    fn sync_all(&self) -> io::Result<()>;

    /// As `sync_all`, of a file whose size has not changed, and for the log, which has others waiting for it.
    fn sync_data(&self) -> BoxFuture<'_, io::Result<()>>;
}

/// Fills `bytes` from `offset` on.
///
/// # Errors
/// The disk's; `UnexpectedEof`.
pub fn read_exact_at(file: &dyn File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    if file.read_at(bytes, offset)? < bytes.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Removes a file; that it is not there is as good.
///
/// # Errors
/// The disk's.
pub fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The whole of a file.
///
/// # Errors
/// The disk's.
pub fn read(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let mut bytes = vec![0; file.size()? as usize];
    read_exact_at(&*file, &mut bytes, 0)?;
    Ok(bytes)
}

/// A file that is read, or written, from its beginning on.
pub struct Stream {
    pub file: Arc<dyn File>,
    offset: u64,
}

impl Stream {
    pub fn new(file: Arc<dyn File>) -> Self {
        Self { file, offset: 0 }
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
