//! The machine as rows: what checkpoint and snapshot hold, and how a machine is made from them. History is part of it, so
//! that a watch can resume over a restart.

use super::{Change, Machine, Version};
use crate::command::{KeyValue, Revision};
use crate::machine::lease::Lease;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ops::Bound;

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

/// What a checkpoint has to write to be brought from one revision to another, beside the rows that its reading brings.
#[derive(Default)]
pub struct Delta {
    pub revision: Revision,
    pub compacted: Revision,
    /// None: the lease is gone.
    pub leases: Vec<(i64, Option<i64>)>,
}

impl Row {
    /// Puts rows in the order of writing, as the reading of a whole machine does not bring them.
    pub fn sort(rows: &mut [Self]) {
        rows.sort_unstable_by_key(|row| match row {
            Self::Version { sub, kv, .. } => (kv.mod_revision, *sub),
            Self::Lease { .. } => (0, 0),
        });
    }

    /// Bytes of key and value.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Version { kv, .. } => (kv.key.len() + kv.value.len()) as u64,
            Self::Lease { .. } => 0,
        }
    }

    fn version(key: &Bytes, version: &Version) -> Self {
        Self::Version { sub: version.sub, deleted: version.value.is_none(), kv: version.kv(key) }
    }
}

/// How far a checkpoint has read the machine.
enum Place {
    /// Changes above a revision, in the order of writing, up to this one; sub-revisions of it included.
    Changes(Option<(Revision, u32)>),
    /// All versions, by key, up to this one.
    Keys(Option<Bytes>),
}

/// The rows of a delta being read, in slices, by [`Machine::read`]: writes go on in between. What compaction frees meanwhile
/// is kept until the reading has ended.
pub struct Reading {
    since: Revision,
    upto: Revision,
    place: Option<Place>,
}

impl Machine {
    /// Begins a delta of everything that changed after revision `since` (None: of everything), the leases of since the last
    /// call included. What compaction has freed is not part of it: whoever loads an image frees it again. Its rows come by
    /// `read`; until `saved` or `abandon`, nothing is freed.
    pub fn delta(&mut self, since: Option<Revision>) -> (Delta, Reading) {
        self.being_read = true;
        let touched = std::mem::take(&mut self.touched_leases);
        let leases = match since {
            Some(_) => touched.into_iter().map(|id| (id, self.lease_ttl(id))).collect(),
            None => self.leases().map(|(id, ttl_s)| (id, Some(ttl_s))).collect(),
        };
        let place = if since.is_some() { Place::Changes(None) } else { Place::Keys(None) };
        let reading = Reading { since: since.unwrap_or_default(), upto: self.revision, place: Some(place) };
        (Delta { revision: self.revision, compacted: self.compacted, leases }, reading)
    }

    /// The next rows of a reading, looking at `budget` changes or keys at most; None: there are no more. Values are shared,
    /// not copied.
    pub fn read(&self, reading: &mut Reading, budget: usize) -> Option<Vec<Row>> {
        let mut rows = Vec::new();
        reading.place = match reading.place.take()? {
            Place::Changes(after) => self.read_changes(reading, after, &mut rows, budget).map(|at| Place::Changes(Some(at))),
            Place::Keys(after) => self.read_keys(reading, after.as_ref(), &mut rows, budget).map(|at| Place::Keys(Some(at))),
        };
        Some(rows)
    }

    /// In the order of writing.
    fn read_changes(
        &self,
        reading: &Reading,
        after: Option<(Revision, u32)>,
        rows: &mut Vec<Row>,
        budget: usize,
    ) -> Option<(Revision, u32)> {
        let after = after.unwrap_or((reading.since, u32::MAX));
        let mut last = None;
        let changes = self.changes_from(after.0).skip_while(|change| (change.revision, change.sub) <= after);
        for (seen, change) in changes.take_while(|change| change.revision <= reading.upto).enumerate() {
            if seen == budget {
                return last;
            }
            rows.extend(self.version(change).map(|(version, _)| Row::version(&change.key, version)));
            last = Some((change.revision, change.sub));
        }
        None
    }

    /// In the order of keys.
    fn read_keys(&self, reading: &Reading, after: Option<&Bytes>, rows: &mut Vec<Row>, budget: usize) -> Option<Bytes> {
        let lower = after.map_or(Bound::Unbounded, |after| Bound::Excluded(&after[..]));
        let mut last = None;
        for (seen, (key, history)) in self.keys.range::<[u8], _>((lower, Bound::Unbounded)).enumerate() {
            if seen == budget {
                return last;
            }
            let versions = history.versions().iter().filter(|version| version.modified <= reading.upto);
            rows.extend(versions.map(|version| Row::version(key, version)));
            last = Some(key.clone());
        }
        None
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
