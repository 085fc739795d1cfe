//! orchd's replicated, multi-version key-value store: etcd's data model on openraft, a log of our own and sled.
//!
//! Knows bytes, not Kubernetes. May import: nothing of ours; clock, disk and network come in through traits.
//!
//! A [`Store`] is a handle, cheap to clone. Writes are durable at a quorum before they are acknowledged; `range` is
//! linearizable, `range_local` reads this replica as it stands; a watch is ordered, without gaps, whole revisions only.

mod batch;
mod checkpoint;
pub mod clock;
pub mod cluster;
mod codec;
pub mod command;
mod dir;
pub mod disk;
pub mod engine;
mod error;
pub mod etcd;
mod group;
pub mod handle;
mod keeper;
mod lease;
mod log;
mod machine;
mod office;
mod raft;
pub mod random;
mod reads;
mod recovery;
mod repair;
mod rows;
pub mod saved;
mod snapshot;
mod space;
mod state;
mod threads;
pub mod transport;
mod watch;
mod work;
pub mod world;

pub use cluster::{Group, Member, Status};
pub use command::{
    Compare, CompareResult, CompareTarget, Filter, KeyRange, KeyValue, Op, OpResponse, RangeRequest, RangeResponse, Revision, SortOrder,
    SortTarget, Txn, TxnResponse,
};
pub use handle::{OpenError, Options, Store, StoreError, WatchBatch, WatchEvent, WatchEvents, Watcher};
pub use raft::Leadership;

#[cfg(test)]
mod tests;
