//! The state machine: what the log's commands make of the store. Pure: no IO, no clock, no randomness; the same commands
//! give the same state on every replica.
//!
//! Multi-version: each key has its history, each transaction that writes has one revision, each write in it a
//! sub-revision. Compaction takes effect at once; the memory behind it comes back in slices (`collect`), which changes
//! nothing that can be read. May import: `command`, `error`.
//!
//! Invariants: `changes` is ascending by (revision, sub); every change at or above `compacted` is in it and its version
//! is in the key's history; a key in `keys` has at least one version; a lease's keys are those whose last version names it.

mod compact;
mod hash;
mod history;
mod image;
mod lease;
#[cfg(test)]
mod model;
mod range;
mod txn;

pub use hash::{Hash, Hashing};
pub use history::{Change, Version};
pub use image::{Delta, Row, RowKey};
pub use range::Scan;
pub use txn::check;

use crate::command::{Command, KeyRange, KeyValue, Output, Revision};
use crate::error::StoreError;
use bytes::Bytes;
use history::History;
use lease::Lease;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The store's whole applied state.
pub struct Machine {
    keys: BTreeMap<Bytes, History>,
    changes: VecDeque<Change>,
    revision: Revision,
    compacted: Revision,
    /// Changes at the compacted revision whose keys have been trimmed; they stay in `changes`.
    trimmed: usize,
    leases: BTreeMap<i64, Lease>,
    /// Leases granted or gone since the last checkpoint took them.
    touched_leases: BTreeSet<i64>,
    /// The checkpoint has every version up to this revision; later ones are found through `changes`, which keeps them.
    saved: Revision,
    /// A checkpoint is reading: nothing is freed.
    being_read: bool,
    /// Bytes of keys and values in memory, history included.
    bytes: u64,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            keys: BTreeMap::new(),
            changes: VecDeque::new(),
            revision: 1,
            compacted: 0,
            trimmed: 0,
            leases: BTreeMap::new(),
            touched_leases: BTreeSet::new(),
            saved: 1,
            being_read: false,
            bytes: 0,
        }
    }
}

/// Where the next write of a transaction goes.
struct Stamp {
    revision: Revision,
    sub: u32,
}

impl Machine {
    /// The last revision; 1 when nothing has been written.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Reads below this revision are refused; 0: never compacted.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Bytes of keys and values held, history included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keys held, deleted ones that compaction has not freed yet included.
    pub fn key_count(&self) -> u64 {
        self.keys.len() as u64
    }

    /// Carries out one command.
    ///
    /// # Errors
    /// The command is refused; the state is as before.
    pub fn apply(&mut self, command: &Command) -> Result<Output, StoreError> {
        match command {
            Command::Txn(txn) => self.txn(txn).map(Output::Txn),
            Command::LeaseGrant { id, ttl_s } => self.lease_grant(*id, *ttl_s),
            Command::LeaseRevoke { id } => self.lease_revoke(*id),
            Command::Compact { revision } => self.compact(*revision),
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp { revision: self.revision + 1, sub: 0 }
    }

    /// Makes what was written under the stamp the store's revision.
    fn commit(&mut self, stamp: &Stamp) {
        if stamp.sub > 0 {
            self.revision = stamp.revision;
        }
    }

    /// Writes a key's next version; returns the state before. The value is copied, so that no larger buffer stays alive.
    fn put(&mut self, stamp: &mut Stamp, key: &Bytes, value: &Bytes, lease: i64) -> Option<KeyValue> {
        let value = Bytes::copy_from_slice(value);
        // One search where the key is known: each costs a miss of the cache for every level of the tree.
        let (key, history) = match self.keys.entry(key.clone()) {
            Entry::Occupied(held) => (held.key().clone(), held.into_mut()),
            Entry::Vacant(_) => {
                let key = Bytes::copy_from_slice(key);
                (key.clone(), self.keys.entry(key).or_default())
            }
        };
        let before = history.live().map(|version| version.kv(&key));
        let (create, version) = before.as_ref().map_or((stamp.revision, 1), |kv| (kv.create_revision, kv.version + 1));
        self.bytes += (key.len() + value.len()) as u64;
        history.push(Version { modified: stamp.revision, sub: stamp.sub, create, version, lease, value: Some(value) });
        self.changed(stamp, &key);
        let old_lease = before.as_ref().map_or(0, |kv| kv.lease);
        if old_lease != lease {
            self.detach(old_lease, &key);
            self.attach(lease, &key);
        }
        before
    }

    /// Writes tombstones over every live key of the range; returns the states before, in key order.
    fn delete(&mut self, stamp: &mut Stamp, range: &KeyRange) -> Vec<KeyValue> {
        let mut gone = Vec::new();
        self.scan(range, Revision::MAX, None, usize::MAX, |key, version| gone.push(version.kv(key)));
        for kv in &gone {
            let history = self.keys.get_mut(&kv.key).expect("the scan has just seen it");
            self.bytes += kv.key.len() as u64;
            history.push(Version { modified: stamp.revision, sub: stamp.sub, create: 0, version: 0, lease: 0, value: None });
            self.changed(stamp, &kv.key);
            self.detach(kv.lease, &kv.key);
        }
        gone
    }

    fn changed(&mut self, stamp: &mut Stamp, key: &Bytes) {
        self.changes.push_back(Change { revision: stamp.revision, sub: stamp.sub, key: key.clone() });
        stamp.sub += 1;
    }
}
