//! A key's versions, oldest first.

use crate::command::{KeyValue, Revision};
use bytes::Bytes;

/// One state of a key. `value` None: a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub modified: Revision,
    pub sub: u32,
    pub create: Revision,
    pub version: i64,
    pub lease: i64,
    pub value: Option<Bytes>,
}

impl Version {
    /// The state as clients see it; of a tombstone, an empty value.
    pub fn kv(&self, key: &Bytes) -> KeyValue {
        KeyValue {
            key: key.clone(),
            value: self.value.clone().unwrap_or_default(),
            create_revision: self.create,
            mod_revision: self.modified,
            version: self.version,
            lease: self.lease,
        }
    }
}

/// One write, in the order of writing: which key, and where in its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: Revision,
    pub sub: u32,
    pub key: Bytes,
}

/// Versions ascending by (modified, sub).
#[derive(Default)]
pub struct History(Vec<Version>);

impl History {
    pub fn push(&mut self, version: Version) {
        debug_assert!(self.0.last().is_none_or(|last| (last.modified, last.sub) < (version.modified, version.sub)));
        if self.0.is_empty() {
            self.0.reserve_exact(1);
        }
        self.0.push(version);
    }

    /// The present state, unless the key is gone.
    pub fn live(&self) -> Option<&Version> {
        self.0.last().filter(|version| version.value.is_some())
    }

    /// The state at a revision, unless the key was not there.
    pub fn at(&self, revision: Revision) -> Option<&Version> {
        let end = self.0.partition_point(|version| version.modified <= revision);
        self.0[..end].last().filter(|version| version.value.is_some())
    }

    /// The version written by a change, and the one before it unless that is a tombstone.
    pub fn find(&self, revision: Revision, sub: u32) -> Option<(&Version, Option<&Version>)> {
        let at = self.0.binary_search_by_key(&(revision, sub), |version| (version.modified, version.sub)).ok()?;
        let before = at.checked_sub(1).map(|before| &self.0[before]).filter(|version| version.value.is_some());
        Some((&self.0[at], before))
    }

    /// Drops what no read at or above `revision` can see, and hands it out. A tombstone at exactly `revision` stays, so
    /// that a watch from there still tells of it.
    pub fn trim(&mut self, revision: Revision) -> std::vec::Drain<'_, Version> {
        let upto = self.0.partition_point(|version| version.modified <= revision);
        let dead = match self.0[..upto].last() {
            Some(last) if last.value.is_none() && last.modified < revision => upto,
            _ => upto.saturating_sub(1),
        };
        self.0.drain(..dead)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn versions(&self) -> &[Version] {
        &self.0
    }
}
