//! The checkpoint's engine on a simulated disk: a map in two halves, as the disk is. After a power failure the batches that
//! were not synced are there up to some point, or the engine does not open at all, as sled may not.

use orchd_store::engine::{Batch, Change, Engine, EngineError, Place};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
type Changes = Vec<(Vec<u8>, Change)>;

pub type Rows = Arc<Mutex<Halves>>;

#[derive(Default)]
pub struct Halves {
    seen: Map,
    kept: Map,
    pending: Vec<Changes>,
    broken: bool,
}

fn apply(map: &mut Map, changes: &Changes) {
    for (key, change) in changes {
        match change {
            Change::Add(value) => assert!(map.insert(key.clone(), value.clone()).is_none(), "a key that was to be new"),
            Change::Put(value) => drop(map.insert(key.clone(), value.clone())),
            Change::Remove => drop(map.remove(key)),
        };
    }
}

impl Halves {
    /// The power fails.
    pub fn fail(&mut self, rng: &mut StdRng) {
        let pending = std::mem::take(&mut self.pending);
        self.broken |= !pending.is_empty() && rng.random_bool(0.3);
        let survive = rng.random_range(0..=pending.len());
        pending[..survive].iter().for_each(|changes| apply(&mut self.kept, changes));
        self.seen = self.kept.clone();
    }
}

/// Fails once the disk has been taken away.
type Mounted = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

#[derive(Clone)]
pub struct SimulatedPlace {
    pub rows: Rows,
    pub mounted: Mounted,
}

impl Place for SimulatedPlace {
    fn exists(&self) -> bool {
        let rows = self.rows.lock();
        rows.broken || !rows.seen.is_empty()
    }

    fn open(&self) -> Result<Box<dyn Engine>, EngineError> {
        (self.mounted)()?;
        if self.rows.lock().broken {
            return Err(EngineError::Damaged("it was being written when the power failed".into()));
        }
        Ok(Box::new(self.clone()))
    }

    fn bytes(&self) -> u64 {
        self.rows.lock().seen.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }

    fn wipe(&self) -> io::Result<()> {
        (self.mounted)()?;
        *self.rows.lock() = Halves::default();
        Ok(())
    }
}

impl Engine for SimulatedPlace {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.rows.lock().seen.get(key).cloned())
    }

    fn scan(&self, visit: &mut dyn FnMut(&[u8], Vec<u8>) -> Result<(), EngineError>) -> Result<(), EngineError> {
        self.rows.lock().seen.iter().try_for_each(|(key, value)| visit(key, value.clone()))
    }

    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        (self.mounted)()?;
        let mut rows = self.rows.lock();
        apply(&mut rows.seen, &batch.changes);
        rows.pending.push(batch.changes);
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        (self.mounted)()?;
        let mut rows = self.rows.lock();
        for changes in std::mem::take(&mut rows.pending) {
            apply(&mut rows.kept, &changes);
        }
        Ok(())
    }
}
