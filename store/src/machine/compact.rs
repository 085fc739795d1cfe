//! Compaction: history is given up at once, its memory comes back in slices.

use super::Machine;
use crate::command::{Output, Revision};
use crate::error::StoreError;
use bytes::Bytes;

impl Machine {
    pub(super) fn compact(&mut self, revision: Revision) -> Result<Output, StoreError> {
        if revision <= self.compacted {
            return Err(StoreError::Compacted { compacted: self.compacted });
        }
        if revision > self.revision {
            return Err(StoreError::Future { current: self.revision });
        }
        (self.compacted, self.trimmed) = (revision, 0);
        Ok(Output::Compacted)
    }

    /// Frees what compaction has made unreachable, looking at `budget` changes at most; true: more is left. Only keys
    /// written since the last compaction can hold anything to free, so this costs by what changed, not by what is stored.
    pub fn collect(&mut self, budget: usize) -> bool {
        // What the checkpoint lacks stays: it may be what tells there that an older version has ended.
        if self.being_read || self.saved < self.compacted {
            return false;
        }
        for _ in 0..budget {
            let Some(key) = self.next_to_trim() else { return false };
            let Some(history) = self.keys.get_mut(&key) else { continue };
            for version in history.trim(self.compacted) {
                self.bytes -= (key.len() + version.value.as_ref().map_or(0, |value| value.len())) as u64;
            }
            if history.is_empty() {
                self.keys.remove(&key);
            }
        }
        self.changes.get(self.trimmed).is_some_and(|change| change.revision <= self.compacted)
    }

    /// The key of the next change that compaction has reached. What it is past leaves; the changes of the compacted revision
    /// itself stay, for a watch from there, and only what they replaced is freed.
    fn next_to_trim(&mut self) -> Option<Bytes> {
        if let Some(change) = self.changes.pop_front_if(|change| change.revision < self.compacted) {
            return Some(change.key);
        }
        let change = self.changes.get(self.trimmed).filter(|change| change.revision == self.compacted)?;
        self.trimmed += 1;
        Some(change.key.clone())
    }

    /// Tells that the checkpoint holds everything up to this revision.
    pub fn saved(&mut self, revision: Revision) {
        self.saved = revision;
        self.being_read = false;
    }

    /// Tells that the checkpoint that was being read did not come about.
    pub fn abandon(&mut self) {
        self.being_read = false;
    }
}
