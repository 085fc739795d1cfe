//! A disk that fails for good: the replica stops, says so, and nothing acknowledged is lost.

use super::{get, open, put};
use crate::disk::{Disk, File, Lock, Open, System};
use crate::engine::Place;
use crate::world::World;
use crate::{Options, Store, StoreError};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The machine's disk, whose files cannot be synced once it has failed.
#[derive(Clone, Default)]
struct Failing(Arc<AtomicBool>);

struct FailingFile(Arc<dyn File>, Failing);

impl Failing {
    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
    }
}

impl File for FailingFile {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.1.check()?;
        self.0.sync_all()
    }

    fn sync_data(&self) -> BoxFuture<'_, io::Result<()>> {
        match self.1.check() {
            Ok(()) => self.0.sync_data(),
            failed => std::future::ready(failed).boxed(),
        }
    }
}

impl Disk for Failing {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(FailingFile(System.open(path, how)?, self.clone())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        System.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        System.remove(path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        System.make_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        System.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        System.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        System.lock(path)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        System.free_bytes(dir)
    }

    fn used_bytes(&self, dir: &Path) -> u64 {
        System.used_bytes(dir)
    }

    fn engine(&self, dir: &Path) -> Box<dyn Place> {
        System.engine(dir)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_disk_fails_stops_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Failing::default();
    let world = World { disk: Arc::new(disk.clone()), ..World::default() };
    let options = Options { dir: dir.path().to_owned(), quota_bytes: 0, group: None };
    let store = Store::open_in(options, world).await.unwrap();
    store.txn(put("before", "1")).await.unwrap();
    let mut end = Box::pin(store.stopped());
    assert!((&mut end).now_or_never().is_none());
    disk.0.store(true, Ordering::Relaxed);
    let refused = store.txn(put("after", "2")).await;
    assert!(matches!(refused, Err(StoreError::Failed(_) | StoreError::Closed | StoreError::Timeout)), "{refused:?}");
    let why = tokio::time::timeout(Duration::from_secs(10), end).await.unwrap();
    assert!(matches!(&why, StoreError::Failed(text) if text.contains("the disk is gone")), "{why:?}");
    assert!(store.serves().is_err());
    assert_eq!(store.range_local(&get("before")).unwrap().kvs[0].value, "1");
    store.close().await;
    let again = open(dir.path()).await;
    assert_eq!(again.range(get("before")).await.unwrap().kvs[0].value, "1");
    let end = tokio::spawn({
        let again = again.clone();
        async move { again.stopped().await }
    });
    again.close().await;
    let why = tokio::time::timeout(Duration::from_secs(10), end).await.unwrap().unwrap();
    assert!(matches!(why, StoreError::Closed), "{why:?}");
}
