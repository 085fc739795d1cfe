//! What clients asked, what they heard and when: the material of every checker.
//!
//! Time is a counter that every call and every answer takes one number of, so that "before" is what a client could see.
//! A request that failed in a way that leaves its outcome open has no end: it may have happened at any time after its
//! call, or never.

use orchd_store::{KeyRange, RangeRequest, RangeResponse, Revision, StoreError, Txn, TxnResponse, WatchBatch};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a client asks. Every value that is put is put once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    Txn(Txn),
    /// Linearizable.
    Range(RangeRequest),
    /// Of one replica as it stands.
    RangeLocal(RangeRequest),
    Compact(Revision),
    LeaseGrant {
        id: i64,
        ttl_s: i64,
    },
    LeaseKeepAlive {
        id: i64,
    },
    LeaseRevoke {
        id: i64,
    },
}

/// What it hears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Txn(TxnResponse),
    Range(RangeResponse),
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered(Answer),
    /// Nothing happened, the store says.
    Refused(StoreError),
    /// It may have happened, or may happen yet.
    Unknown,
}

/// One request of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: usize,
    pub call: u64,
    /// None while the outcome is open.
    pub ret: Option<u64>,
    pub request: Request,
    pub outcome: Outcome,
}

/// What a watch delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Batch(WatchBatch),
    /// "You have everything up to here."
    Bookmark(Revision),
}

/// How a watch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// Whoever watched let it go, or the store went away.
    Dropped,
    Cancelled(StoreError),
}

/// One watch from its opening to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRecord {
    pub range: KeyRange,
    /// As asked; 0: from now.
    pub start: Revision,
    /// Every change at or after this revision is its business: `start`, or what was known right after opening, plus one.
    pub begins: Revision,
    pub seen: Vec<Seen>,
    pub end: WatchEnd,
}

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub operations: Vec<Operation>,
    pub watches: Vec<WatchRecord>,
    /// Revision at the beginning: changes up to here are not this history's.
    pub since: Revision,
}

/// Collects a history from many clients.
#[derive(Clone, Default)]
pub struct Recorder {
    time: Arc<AtomicU64>,
    operations: Arc<Mutex<Vec<Operation>>>,
    watches: Arc<Mutex<Vec<WatchRecord>>>,
}

impl Recorder {
    /// The next moment.
    pub fn now(&self) -> u64 {
        self.time.fetch_add(1, Ordering::SeqCst)
    }

    /// Takes an operation in; its end is now.
    pub fn ended(&self, client: usize, call: u64, request: Request, outcome: Outcome) {
        let ret = (outcome != Outcome::Unknown).then(|| self.now());
        self.operations.lock().push(Operation { client, call, ret, request, outcome });
    }

    pub fn watched(&self, record: WatchRecord) {
        self.watches.lock().push(record);
    }

    /// Hands everything out, and begins anew.
    pub fn take(&self, since: Revision) -> History {
        let mut operations = std::mem::take(&mut *self.operations.lock());
        operations.sort_by_key(|operation| operation.call);
        History { operations, watches: std::mem::take(&mut *self.watches.lock()), since }
    }
}

/// What an error means for the operation that met it.
pub fn outcome(error: StoreError) -> Outcome {
    match error {
        StoreError::Timeout | StoreError::Closed | StoreError::Failed(_) => Outcome::Unknown,
        refused => Outcome::Refused(refused),
    }
}
