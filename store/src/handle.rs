//! `Store`: what the rest of orchd and the etcd face call.

use crate::command::{KeyRange, KeyValue, RangeRequest, RangeResponse, Revision, Txn, TxnResponse};
use std::path::PathBuf;
use thiserror::Error;

/// How a store is opened. A lone store is a Raft group of one voter.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the log, the checkpoint and the member's identity; made if missing.
    pub dir: PathBuf,
    /// The most bytes that log and checkpoint may take; beyond it growth is refused with `NoSpace`. 0: no quota.
    pub quota_bytes: u64,
}

/// Why a store does not open.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} was written by a newer orchd (format {found}, this one knows {known})")]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error("{path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

/// Why the store does not answer as asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The revision has been compacted; the oldest that can be read is one above.
    #[error("mvcc: required revision has been compacted")]
    Compacted { compacted: Revision },
    #[error("mvcc: required revision is a future revision")]
    Future { current: Revision },
    #[error("the request is too large: {0}")]
    TooLarge(String),
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    #[error("lease not found")]
    LeaseNotFound,
    #[error("lease already exists")]
    LeaseExists,
    #[error("no space left in the data directory: {0}")]
    NoSpace(String),
    #[error("no leader")]
    NoLeader,
    #[error("the request timed out; it may or may not have been carried out")]
    Timeout,
    #[error("the store is shutting down")]
    Closed,
    #[error("the store failed: {0}")]
    Failed(String),
}

/// A replica of the store. Cheap to clone.
#[derive(Clone)]
pub struct Store {}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    Put {
        kv: KeyValue,
        prev: Option<KeyValue>,
    },
    /// `kv` is the key's last state; `key` and `mod_revision` (that of the deletion) are what counts.
    Delete {
        key: bytes::Bytes,
        mod_revision: Revision,
        prev: Option<KeyValue>,
    },
}

/// Everything that happened to the watched keys at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    pub revision: Revision,
    pub events: std::sync::Arc<[WatchEvent]>,
}

/// An open watch; dropping it ends it.
pub struct Watcher {}

impl Watcher {
    /// The next revision that touched the watched keys.
    ///
    /// # Errors
    /// `Compacted` if the watch fell behind what is retained; `Closed` at shutdown.
    pub async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        unimplemented!("the store")
    }
}

impl Store {
    /// Opens or makes the store, and returns once it can serve (its own log replayed, a leader known).
    ///
    /// # Errors
    /// See `OpenError`; nothing is half made then.
    pub async fn open(_options: Options) -> Result<Self, OpenError> {
        unimplemented!("the store")
    }

    /// The last revision applied here.
    pub fn revision(&self) -> Revision {
        unimplemented!("the store")
    }

    /// Revisions up to this one cannot be read any more.
    pub fn compacted_revision(&self) -> Revision {
        unimplemented!("the store")
    }

    /// Carries out a transaction; returns once it is durable at a quorum and applied here.
    ///
    /// # Errors
    /// `Timeout` leaves the outcome open; all others mean that nothing was written.
    pub async fn txn(&self, _txn: Txn) -> Result<TxnResponse, StoreError> {
        unimplemented!("the store")
    }

    /// A linearizable read.
    ///
    /// # Errors
    /// `Compacted`, `Future`, or the store does not serve.
    pub async fn range(&self, _request: RangeRequest) -> Result<RangeResponse, StoreError> {
        unimplemented!("the store")
    }

    /// Reads this replica as it stands.
    ///
    /// # Errors
    /// `Compacted` or `Future`.
    pub fn range_local(&self, _request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        unimplemented!("the store")
    }

    /// Changes to the range from `start_revision` (inclusive; 0: from now) on.
    ///
    /// # Errors
    /// `Compacted`.
    pub fn watch(&self, _range: KeyRange, _start_revision: Revision) -> Result<Watcher, StoreError> {
        unimplemented!("the store")
    }

    /// Gives up history up to and including `revision`; the present state of every key stays.
    ///
    /// # Errors
    /// `Compacted` if it already is; `Future`.
    pub async fn compact(&self, _revision: Revision) -> Result<(), StoreError> {
        unimplemented!("the store")
    }

    /// Grants a lease of `ttl_s` seconds; `id` 0 lets the store choose. Returns its id.
    ///
    /// # Errors
    /// `LeaseExists`.
    pub async fn lease_grant(&self, _id: i64, _ttl_s: i64) -> Result<i64, StoreError> {
        unimplemented!("the store")
    }

    /// Starts the lease's time anew; returns its seconds.
    ///
    /// # Errors
    /// `LeaseNotFound`.
    pub async fn lease_keep_alive(&self, _id: i64) -> Result<i64, StoreError> {
        unimplemented!("the store")
    }

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// `LeaseNotFound`.
    pub async fn lease_revoke(&self, _id: i64) -> Result<(), StoreError> {
        unimplemented!("the store")
    }

    /// Writes what is pending, closes the files. Every clone answers `Closed` from then on.
    pub async fn close(&self) {
        unimplemented!("the store")
    }
}
