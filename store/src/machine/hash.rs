//! A hash over what the store holds at a revision, the same on every member whatever its memory has been freed of yet.
//! Taken in slices, so that nothing waits for it.

use super::Machine;
use crate::command::Revision;
use crate::error::StoreError;
use bytes::Bytes;
use std::ops::Bound;

/// Keys looked at under one lock.
pub const SLICE: usize = 512;

/// What was hashed, and to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    pub revision: Revision,
    pub compacted: Revision,
    pub hash: u32,
}

/// A hash in progress.
pub struct Hashing {
    revision: Revision,
    compacted: Revision,
    after: Option<Bytes>,
    hasher: crc32fast::Hasher,
}

impl Hashing {
    /// `revision` 0: the present.
    ///
    /// # Errors
    /// `Compacted` or `Future`.
    pub fn new(machine: &Machine, revision: Revision) -> Result<Self, StoreError> {
        machine.readable(revision)?;
        let at = if revision > 0 { revision } else { machine.revision() };
        Ok(Self { revision: at, compacted: machine.compacted(), after: None, hasher: crc32fast::Hasher::new() })
    }

    /// Takes in the next `SLICE` keys; the hash, when there are no more.
    ///
    /// # Errors
    /// `Compacted`: that has happened meanwhile, and the hash would be of neither before nor after.
    pub fn slice(&mut self, machine: &Machine) -> Result<Option<Hash>, StoreError> {
        if machine.compacted() != self.compacted {
            return Err(StoreError::Compacted { compacted: machine.compacted() });
        }
        let lower = self.after.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(&after[..]));
        let mut last = None;
        for (key, history) in machine.keys.range::<[u8], _>((lower, Bound::Unbounded)).take(SLICE) {
            last = Some(key);
            let versions = history.versions();
            let upto = versions.partition_point(|version| version.modified <= self.revision);
            // Of what compaction has left behind, the state that it left readable counts.
            let from = versions.partition_point(|version| version.modified <= self.compacted);
            let kept = from.checked_sub(1).filter(|at| versions[*at].value.is_some()).unwrap_or(from);
            for version in versions.get(kept..upto).unwrap_or_default() {
                self.hasher.update(&(key.len() as u64).to_le_bytes());
                self.hasher.update(key);
                for number in [version.modified, i64::from(version.sub), version.create, version.version, version.lease] {
                    self.hasher.update(&number.to_le_bytes());
                }
                self.hasher.update(&version.value.as_ref().map_or(-1, |value| value.len() as i64).to_le_bytes());
                self.hasher.update(version.value.as_deref().unwrap_or_default());
            }
        }
        if let Some(last) = last {
            self.after = Some(last.clone());
            return Ok(None);
        }
        Ok(Some(Hash { revision: self.revision, compacted: self.compacted, hash: self.hasher.clone().finalize() }))
    }
}
