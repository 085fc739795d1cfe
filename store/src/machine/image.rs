//! The machine as rows: what checkpoint and snapshot hold, and how a machine is made from them. History is part of it, so
//! that a watch can resume over a restart.

use super::{Change, Machine, Version};
use crate::command::{KeyValue, Revision};
use crate::machine::lease::Lease;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The name of a version's row; ascending in the order of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowKey {
    pub revision: Revision,
    pub sub: u32,
}

/// One piece of the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Row {
    /// A version of a key; `deleted`: a tombstone.
    Version {
        sub: u32,
        deleted: bool,
        kv: KeyValue,
    },
    Lease {
        id: i64,
        ttl_s: i64,
    },
}

/// What a checkpoint has to write to be brought from one revision to another.
#[derive(Default)]
pub struct Delta {
    pub revision: Revision,
    pub compacted: Revision,
    /// Versions in the order of writing.
    pub rows: Vec<Row>,
    pub removed: Vec<RowKey>,
    /// None: the lease is gone.
    pub leases: Vec<(i64, Option<i64>)>,
}

impl Row {
    fn version(key: &Bytes, version: &Version) -> Self {
        Self::Version { sub: version.sub, deleted: version.value.is_none(), kv: version.kv(key) }
    }
}

impl Machine {
    /// Everything that changed after revision `since`, the row removals and leases of since the last call included. Values
    /// are shared, not copied.
    pub fn delta(&mut self, since: Revision) -> Delta {
        let rows = self
            .changes_from(since + 1)
            .filter_map(|change| self.version(change).map(|(version, _)| Row::version(&change.key, version)))
            .collect();
        let removed = std::mem::take(&mut self.removed);
        let leases = std::mem::take(&mut self.touched_leases).into_iter().map(|id| (id, self.lease_ttl(id))).collect();
        Delta {
            revision: self.revision,
            compacted: self.compacted,
            rows,
            removed: removed.into_iter().filter(|row| row.revision <= since).collect(),
            leases,
        }
    }

    /// The whole state as a delta from nothing.
    pub fn whole(&mut self) -> Delta {
        self.removed.clear();
        self.touched_leases.clear();
        let mut versions: Vec<(&Bytes, &Version)> =
            self.keys.iter().flat_map(|(key, history)| history.versions().iter().map(move |version| (key, version))).collect();
        versions.sort_unstable_by_key(|(_, version)| (version.modified, version.sub));
        Delta {
            revision: self.revision,
            compacted: self.compacted,
            rows: versions.into_iter().map(|(key, version)| Row::version(key, version)).collect(),
            removed: Vec::new(),
            leases: self.leases().map(|(id, ttl_s)| (id, Some(ttl_s))).collect(),
        }
    }

    /// An empty machine at a revision, to be filled by `load`.
    pub fn at(revision: Revision, compacted: Revision) -> Self {
        Self { revision, compacted, saved: revision, ..Self::default() }
    }

    /// Takes in one row. Leases first, then versions in the order of writing; `loaded` ends it.
    pub fn load(&mut self, row: Row) {
        match row {
            Row::Lease { id, ttl_s } => {
                self.leases.insert(id, Lease { ttl_s, keys: BTreeSet::new() });
            }
            Row::Version { sub, deleted, kv } => {
                let key = match self.keys.get_key_value(&kv.key) {
                    Some((key, _)) => key.clone(),
                    None => kv.key,
                };
                self.bytes += (key.len() + kv.value.len()) as u64;
                if kv.mod_revision >= self.compacted {
                    self.changes.push_back(Change { revision: kv.mod_revision, sub, key: key.clone() });
                }
                self.keys.entry(key).or_default().push(Version {
                    modified: kv.mod_revision,
                    sub,
                    create: kv.create_revision,
                    version: kv.version,
                    lease: kv.lease,
                    value: (!deleted).then_some(kv.value),
                });
            }
        }
    }

    /// Ends loading: ties keys to their leases, and frees what compaction had left behind when the image was taken.
    pub fn loaded(&mut self) {
        let compacted = self.compacted;
        let mut empty = Vec::new();
        for (key, history) in &mut self.keys {
            for version in history.trim(compacted) {
                self.bytes -= (key.len() + version.value.as_ref().map_or(0, |value| value.len())) as u64;
                self.removed.push(RowKey { revision: version.modified, sub: version.sub });
            }
            match history.live() {
                Some(version) if version.lease != 0 => {
                    if let Some(lease) = self.leases.get_mut(&version.lease) {
                        lease.keys.insert(key.clone());
                    }
                }
                _ => {}
            }
            if history.is_empty() {
                empty.push(key.clone());
            }
        }
        for key in empty {
            self.keys.remove(&key);
        }
    }
}
