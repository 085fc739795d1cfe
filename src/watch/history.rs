//! The last changes of one resource, so that a watch can start at a revision that has passed.

use super::record::Record;
use std::collections::VecDeque;
use std::sync::Arc;

/// The most changes of one resource that are kept.
const MAX_RECORDS: usize = 4096;
/// The most bytes (of stored values) that the changes of one resource may hold on to.
const MAX_BYTES: usize = 4 << 20;

/// Changes after `floor`, without gaps, in revision order.
#[derive(Debug)]
pub struct History {
    floor: i64,
    records: VecDeque<Arc<Record>>,
    bytes: usize,
}

impl History {
    /// Nothing is known of what happened up to and including `floor`.
    pub fn new(floor: i64) -> Self {
        Self { floor, records: VecDeque::new(), bytes: 0 }
    }

    pub fn push(&mut self, record: Arc<Record>) {
        self.bytes += record.bytes();
        self.records.push_back(record);
        while self.records.len() > MAX_RECORDS || (self.bytes > MAX_BYTES && self.records.len() > 1) {
            let Some(old) = self.records.pop_front() else { break };
            self.bytes -= old.bytes();
            self.floor = old.revision();
        }
    }

    /// Every change after `revision`.
    ///
    /// # Errors
    /// They are not all here any more; the oldest revision to start from.
    pub fn after(&self, revision: i64) -> Result<impl Iterator<Item = &Arc<Record>>, i64> {
        if revision < self.floor {
            return Err(self.floor);
        }
        let start = self.records.partition_point(|r| r.revision() <= revision);
        Ok(self.records.range(start..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{ConfigMap, Object, Registered};
    use crate::watch::{Change, Event};
    use k8s_openapi::api::core::v1 as core;
    use proptest::prelude::*;

    fn record(revision: i64, bytes: usize) -> Arc<Record> {
        let object = Arc::new(Object::new(ConfigMap::resource(), Box::new(core::ConfigMap::default()), revision));
        Arc::new(Record::new(Event { change: Change::Added, object, previous: None }, revision, bytes))
    }

    proptest! {
        /// A start is either refused, or followed by every change since; what is kept is bounded.
        #[test]
        fn nothing_is_left_out(sizes in proptest::collection::vec(0usize..2_000_000, 1..40), start in 0i64..60) {
            let mut history = History::new(10);
            for (at, bytes) in sizes.iter().enumerate() {
                history.push(record(11 + i64::try_from(at).unwrap(), *bytes));
            }
            let last = 10 + i64::try_from(sizes.len()).unwrap();
            prop_assert!(history.records.len() == 1 || history.records.iter().map(|r| r.bytes()).sum::<usize>() <= MAX_BYTES);
            match history.after(start) {
                Err(floor) => prop_assert!(start < floor),
                Ok(records) => {
                    let revisions: Vec<i64> = records.map(|r| r.revision()).collect();
                    prop_assert_eq!(revisions, (start + 1..=last).collect::<Vec<_>>());
                }
            };
        }
    }
}
