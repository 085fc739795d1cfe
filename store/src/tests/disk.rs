//! A disk for tests: files that are there, whole and at once.

use crate::disk::{Disk, File, Lock, Open};
use crate::engine::{Place, memory};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Bytes = Arc<Mutex<Vec<u8>>>;

#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<PathBuf, Bytes>>>);

impl Memory {
    /// Puts a file there.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        self.0.lock().insert(path.to_owned(), Arc::new(Mutex::new(bytes.to_vec())));
    }
}

impl Disk for Memory {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut files = self.0.lock();
        if how == Open::Create {
            files.insert(path.to_owned(), Bytes::default());
        }
        files.get(path).map(|file| Arc::new(file.clone()) as Arc<dyn File>).ok_or(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.lock();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn make_dir(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.0.lock().keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Lock> {
        Ok(Box::new(()))
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn used_bytes(&self, dir: &Path) -> u64 {
        self.0.lock().iter().filter(|(path, _)| path.starts_with(dir)).map(|(_, file)| file.lock().len() as u64).sum()
    }

    fn engine(&self, _: &Path) -> Box<dyn Place> {
        Box::new(memory::Memory::default())
    }
}

impl File for Bytes {
    fn size(&self) -> io::Result<u64> {
        Ok(self.lock().len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let held = self.lock();
        let rest = held.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(bytes.len());
        bytes[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut held = self.lock();
        let end = offset as usize + bytes.len();
        if held.len() < end {
            held.resize(end, 0);
        }
        held[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_data(&self) -> BoxFuture<'_, io::Result<()>> {
        ready(Ok(())).boxed()
    }
}
