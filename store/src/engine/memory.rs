//! An engine for tests: a map that can be told to fail.

use super::{Batch, Change, Engine, EngineError, Place};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Clone)]
pub struct Memory {
    pub map: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    /// Writes until they fail.
    pub takes: Arc<AtomicUsize>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { map: Arc::default(), takes: Arc::new(AtomicUsize::new(usize::MAX)) }
    }
}

impl Place for Memory {
    fn exists(&self) -> bool {
        !self.map.lock().is_empty()
    }

    fn open(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(self.clone()))
    }

    fn bytes(&self) -> u64 {
        self.map.lock().iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }

    fn wipe(&self) -> io::Result<()> {
        self.map.lock().clear();
        Ok(())
    }
}

impl Engine for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.map.lock().get(key).cloned())
    }

    fn scan(&self, visit: &mut dyn FnMut(&[u8], Vec<u8>) -> Result<(), EngineError>) -> Result<(), EngineError> {
        let map = self.map.lock().clone();
        map.iter().try_for_each(|(key, value)| visit(key, value.clone()))
    }

    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        if self.takes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        let mut map = self.map.lock();
        for (key, change) in batch.changes {
            match change {
                Change::Add(value) => assert!(map.insert(key, value).is_none(), "a key that was to be new"),
                Change::Put(value) => drop(map.insert(key, value)),
                Change::Remove => drop(map.remove(&key)),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        Ok(())
    }
}
