//! Reads: a range of keys at a revision, in pages if wanted.

use super::{Change, Machine, Version};
use crate::command::{KeyRange, KeyValue, RangeRequest, RangeResponse, Revision, SortOrder, SortTarget};
use crate::error::StoreError;
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::Bound;

impl Machine {
    /// # Errors
    /// `Compacted` or `Future`.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        let mut scan = Scan::new(self, request)?;
        scan.page(self, usize::MAX)?;
        Ok(scan.finish())
    }

    /// Whether a read at this revision (0: the present) can be answered.
    ///
    /// # Errors
    /// `Compacted` or `Future`.
    pub fn readable(&self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::Future { current: self.revision });
        }
        if revision > 0 && revision < self.compacted {
            return Err(StoreError::Compacted { compacted: self.compacted });
        }
        Ok(())
    }

    /// Visits the keys of a range that exist at a revision, in order, beginning behind `after`, looking at `budget` keys at
    /// most. Returns the last key looked at if there may be more.
    pub(super) fn scan(
        &self,
        range: &KeyRange,
        at: Revision,
        after: Option<&Bytes>,
        budget: usize,
        mut visit: impl FnMut(&Bytes, &Version),
    ) -> Option<Bytes> {
        let Some(end) = &range.end else {
            if let Some((key, history)) = self.keys.get_key_value(&range.start)
                && let Some(version) = history.at(at)
            {
                visit(key, version);
            }
            return None;
        };
        let lower = match after {
            Some(after) => Bound::Excluded(&after[..]),
            None => Bound::Included(&range.start[..]),
        };
        let upper = if end[..] == [0] { Bound::Unbounded } else { Bound::Excluded(&end[..]) };
        if let (Bound::Included(low) | Bound::Excluded(low), Bound::Excluded(high)) = (lower, upper)
            && low >= high
        {
            return None;
        }
        let mut left = budget;
        for (key, history) in self.keys.range::<[u8], _>((lower, upper)) {
            if let Some(version) = history.at(at) {
                visit(key, version);
            }
            left -= 1;
            if left == 0 {
                return Some(key.clone());
            }
        }
        None
    }

    /// The present state of a key.
    pub(super) fn live(&self, key: &Bytes) -> Option<&Version> {
        self.keys.get(key)?.live()
    }

    /// The changes from a revision on, oldest first. What has been compacted may be missing from it.
    pub fn changes_from(&self, revision: Revision) -> impl Iterator<Item = &Change> {
        let start = self.changes.partition_point(|change| change.revision < revision);
        self.changes.range(start..)
    }

    /// The version that a change wrote, and the state before it.
    pub fn version(&self, change: &Change) -> Option<(&Version, Option<&Version>)> {
        self.keys.get(&change.key)?.find(change.revision, change.sub)
    }
}

/// A range read in progress. Pages may be read with the machine's lock let go in between: the revision is fixed.
pub struct Scan<'a> {
    request: &'a RangeRequest,
    at: Revision,
    now: Revision,
    after: Option<Bytes>,
    kvs: Vec<KeyValue>,
    /// Keys in the range, and those of them that pass the filter.
    count: usize,
    passed: usize,
}

impl<'a> Scan<'a> {
    /// # Errors
    /// `Compacted` or `Future`.
    pub fn new(machine: &Machine, request: &'a RangeRequest) -> Result<Self, StoreError> {
        machine.readable(request.revision)?;
        let now = machine.revision();
        let at = if request.revision > 0 { request.revision } else { now };
        Ok(Self { request, at, now, after: None, kvs: Vec::new(), count: 0, passed: 0 })
    }

    /// As `new`, but seeing what the transaction in progress has written so far.
    pub(super) fn within(machine: &Machine, request: &'a RangeRequest, now: Revision) -> Result<Self, StoreError> {
        let mut scan = Self::new(machine, request)?;
        scan.now = now;
        scan.at = if request.revision > 0 { request.revision } else { now };
        Ok(scan)
    }

    /// Looks at the next `budget` keys; true: there may be more.
    ///
    /// # Errors
    /// `Compacted` if the revision was compacted between two pages.
    pub fn page(&mut self, machine: &Machine, budget: usize) -> Result<bool, StoreError> {
        if self.at < machine.compacted() {
            return Err(StoreError::Compacted { compacted: machine.compacted() });
        }
        let request = self.request;
        let wanted = if request.count_only {
            0
        } else if request.limit == 0 || sorts(request) {
            usize::MAX
        } else {
            request.limit
        };
        let (kvs, count, passed) = (&mut self.kvs, &mut self.count, &mut self.passed);
        let keys_only = request.keys_only && request.sort_target != SortTarget::Value;
        self.after = machine.scan(&request.range, self.at, self.after.as_ref(), budget, |key, version| {
            *count += 1;
            if !request.filter.passes(version.create, version.modified) {
                return;
            }
            *passed += 1;
            if kvs.len() < wanted {
                let mut kv = version.kv(key);
                if keys_only {
                    kv.value = Bytes::new();
                }
                kvs.push(kv);
            }
        });
        Ok(self.after.is_some())
    }

    /// Sorts, cuts and hands out.
    pub fn finish(mut self) -> RangeResponse {
        let request = self.request;
        if sorts(request) {
            self.kvs.sort_by(|a, b| {
                let order = compare(request.sort_target, a, b);
                if request.sort_order == SortOrder::Descend { order.reverse() } else { order }
            });
        }
        if request.limit > 0 {
            self.kvs.truncate(request.limit);
        }
        if request.keys_only {
            for kv in &mut self.kvs {
                kv.value = Bytes::new();
            }
        }
        let more = !request.count_only && self.passed > self.kvs.len();
        RangeResponse { revision: self.now, kvs: self.kvs, more, count: self.count }
    }
}

/// Whether the answer's order differs from the keys' own.
fn sorts(request: &RangeRequest) -> bool {
    request.sort_target != SortTarget::Key || request.sort_order == SortOrder::Descend
}

fn compare(target: SortTarget, a: &KeyValue, b: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}
