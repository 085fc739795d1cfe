//! Where the checkpoint of the applied state rests. Narrow, so that another engine can be measured in sled's place, or
//! simulated. May import: `disk`.

#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod sled;

use std::io;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum EngineError {
    #[error("sled: {0}")]
    Sled(#[from] ::sled::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the checkpoint is damaged: {0}")]
    Damaged(String),
}

/// What becomes of a key.
pub enum Change {
    Put(Vec<u8>),
    /// A put of a key that is not there yet: nothing has to be looked for.
    Add(Vec<u8>),
    Remove,
}

/// Changes that become visible together or not at all.
#[derive(Default)]
pub struct Batch {
    pub changes: Vec<(Vec<u8>, Change)>,
}

impl Batch {
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.push((key, Change::Put(value)));
    }

    /// The caller knows that the key is not there.
    pub fn add(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.push((key, Change::Add(value)));
    }

    pub fn remove(&mut self, key: Vec<u8>) {
        self.changes.push((key, Change::Remove));
    }
}

/// An ordered map from byte keys to byte values of any size.
pub trait Engine: Send {
    /// # Errors
    /// The engine cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// Visits everything in key order until the visitor fails.
    ///
    /// # Errors
    /// The engine cannot be read, or the visitor's.
    fn scan(&self, visit: &mut dyn FnMut(&[u8], Vec<u8>) -> Result<(), EngineError>) -> Result<(), EngineError>;

    /// Writes atomically; durable only after `sync`.
    ///
    /// # Errors
    /// Nothing, or not all, was written: the engine is not to be used further.
    fn write(&self, batch: Batch) -> Result<(), EngineError>;

    /// Returns once everything written is on disk.
    ///
    /// # Errors
    /// It may not be.
    fn sync(&self) -> Result<(), EngineError>;
}

/// Where an engine's files are.
pub trait Place: Send {
    fn exists(&self) -> bool;

    /// # Errors
    /// The engine cannot be opened or made.
    fn open(&self) -> Result<Box<dyn Engine>, EngineError>;

    /// Bytes on disk.
    fn bytes(&self) -> u64;

    /// Removes everything.
    ///
    /// # Errors
    /// Not everything is gone.
    fn wipe(&self) -> io::Result<()>;
}
