//! The etcd v3 face: gRPC services and HTTP endpoints that unmodified etcd clients talk to, over [`Store`].
//!
//! One port serves it all ([`serve()`]). A connection, a stream and an answer each hold a bounded share of memory; whoever
//! does not read is waited for, not buffered for. May import: `command`, `error`, `handle`, `watch`, `lease`, `snapshot`.
//!
//! Invariants: every answer's header carries cluster, member, revision and term; an error carries etcd's code and text.

pub mod client;
mod cluster;
mod election;
mod gather;
mod header;
mod http;
mod kv;
mod lease;
mod lock;
mod maintenance;
/// Messages and clients, generated from `proto/`.
pub mod pb;
mod routes;
mod serve;
mod session;
mod status;
#[cfg(test)]
mod tests;
mod txn;
mod watch;
mod wire;

pub use serve::{Authorize, Listener, Options, serve};
pub use status::{Code, Status};

use crate::handle::Store;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// The version that clients are told: what they find here is etcd 3.6's.
pub const VERSION: &str = "3.6.0";
/// Kilobytes of large answers that may be on their way to clients together.
const BUDGET_KIB: usize = 256 << 10;

/// What every connection shares.
pub struct Face {
    store: Store,
    cluster_id: u64,
    member_id: u64,
    term: AtomicU64,
    learner: AtomicBool,
    /// Whether a leader is known, for streams that end without one.
    led: tokio::sync::watch::Sender<bool>,
    budget: Arc<Semaphore>,
    progress_interval: Duration,
    stop: CancellationToken,
}
