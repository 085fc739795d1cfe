//! `Store`: what the rest of orchd and the etcd face call.

use crate::batch::Batcher;
use crate::clock::{Clock, SystemClock};
use crate::command::{Command, KeyRange, Output, RangeRequest, RangeResponse, Revision, Txn, TxnResponse};
use crate::dir::Dir;
use crate::lease::{self, Leases};
use crate::log::{Log, LogError};
use crate::machine::{self, Machine};
use crate::raft::Node;
use crate::reads::Barrier;
use crate::snapshot::Snapshots;
use crate::state::{Applied, State};
use crate::watch::Hub;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use crate::error::{OpenError, StoreError};
pub use crate::watch::{WatchBatch, WatchEvent, Watcher};

/// How long closing may take; a disk that is full may keep the log from writing.
const CLOSE: Duration = Duration::from_secs(10);

/// How a store is opened. A lone store is a Raft group of one voter.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the log, the checkpoint and the member's identity; made if missing.
    pub dir: PathBuf,
    /// The most bytes that log and checkpoint may take; beyond it growth is refused with `NoSpace`. 0: no quota.
    pub quota_bytes: u64,
}

/// A replica of the store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    state: Arc<State>,
    log: Arc<Log>,
    node: Node,
    batcher: Batcher,
    barrier: Barrier,
    hub: Arc<Hub>,
    leases: Arc<Leases>,
    closed: AtomicBool,
    /// Held until closed.
    dir: Mutex<Option<Dir>>,
}

fn failed(error: LogError) -> OpenError {
    match error {
        LogError::Io { path, source } => OpenError::Io { path, source },
        damaged @ LogError::Damaged { .. } => OpenError::Damaged(damaged.to_string()),
    }
}

impl Store {
    /// Opens or makes the store, and returns once it can serve (its own log replayed, a leader known).
    ///
    /// # Errors
    /// See `OpenError`; nothing is half made then.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        Self::open_with(options, Arc::new(SystemClock::default())).await
    }

    /// As `open`, with another clock for leases.
    ///
    /// # Errors
    /// As `open`.
    pub async fn open_with(options: Options, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let (dir, log) = tokio::task::spawn_blocking(move || {
            let dir = Dir::open(&options.dir)?;
            let log = Log::open(&dir.path().join("log")).map_err(failed)?;
            Ok::<_, OpenError>((dir, log))
        })
        .await
        .map_err(|error| OpenError::Damaged(error.to_string()))??;
        let log = Arc::new(log);
        let state = Arc::new(State::new(Machine::default(), Applied::default()));
        let snapshots = Arc::new(Snapshots::default());
        let node = match Node::start(dir.member()?, log.clone(), state.clone(), snapshots).await {
            Ok(node) => node,
            Err(error) => {
                log.close().await;
                return Err(error);
            }
        };
        let batcher = Batcher::start(node.clone());
        let shared = Shared {
            hub: Hub::start(state.clone()),
            leases: Leases::start(state.clone(), node.clone(), batcher.clone(), clock),
            barrier: Barrier::start(node.clone()),
            state,
            log,
            node,
            batcher,
            closed: AtomicBool::new(false),
            dir: Mutex::new(Some(dir)),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    fn open_still(&self) -> Result<&Shared, StoreError> {
        if self.shared.closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(&self.shared) }
    }

    /// The last revision applied here.
    pub fn revision(&self) -> Revision {
        self.shared.state.revision()
    }

    /// Revisions below this one cannot be read any more; 0: all can.
    pub fn compacted_revision(&self) -> Revision {
        self.shared.state.compacted()
    }

    /// Carries out a transaction; returns once it is durable at a quorum and applied here.
    ///
    /// # Errors
    /// `Timeout` leaves the outcome open; all others mean that nothing was written.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        machine::check(&txn)?;
        match self.submit(Command::Txn(txn)).await? {
            Output::Txn(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    /// A linearizable read.
    ///
    /// # Errors
    /// `Compacted`, `Future`, or the store does not serve.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let shared = self.open_still()?;
        shared.barrier.pass().await?;
        shared.state.range(&request)
    }

    /// Reads this replica as it stands.
    ///
    /// # Errors
    /// `Compacted` or `Future`.
    pub fn range_local(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        self.open_still()?.state.range(request)
    }

    /// Changes to the range from `start_revision` (inclusive; 0: from now) on.
    ///
    /// # Errors
    /// `Compacted`.
    pub fn watch(&self, range: KeyRange, start_revision: Revision) -> Result<Watcher, StoreError> {
        self.open_still()?.hub.watch(range, start_revision)
    }

    /// Gives up history below `revision`; the state at `revision` and after stays readable, and so does a watch from there.
    ///
    /// # Errors
    /// `Compacted` if it already is; `Future`.
    pub async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        match self.submit(Command::Compact { revision }).await? {
            Output::Compacted => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Grants a lease of `ttl_s` seconds; `id` 0 lets the store choose. Returns its id.
    ///
    /// # Errors
    /// `LeaseExists`.
    pub async fn lease_grant(&self, id: i64, ttl_s: i64) -> Result<i64, StoreError> {
        let ttl_s = ttl_s.max(lease::MIN_TTL_S);
        loop {
            let chosen = if id != 0 { id } else { rand::random_range(1..=i64::MAX) };
            match self.submit(Command::LeaseGrant { id: chosen, ttl_s }).await {
                Ok(Output::LeaseGranted { id, ttl_s }) => {
                    self.shared.leases.granted(id, ttl_s);
                    return Ok(id);
                }
                Ok(other) => return Err(unexpected(&other)),
                Err(StoreError::LeaseExists) if id == 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts the lease's time anew; returns its seconds.
    ///
    /// # Errors
    /// `LeaseNotFound`.
    pub async fn lease_keep_alive(&self, id: i64) -> Result<i64, StoreError> {
        self.open_still()?.leases.keep_alive(id)
    }

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// `LeaseNotFound`.
    pub async fn lease_revoke(&self, id: i64) -> Result<(), StoreError> {
        match self.submit(Command::LeaseRevoke { id }).await? {
            Output::LeaseRevoked => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn submit(&self, command: Command) -> Result<Output, StoreError> {
        self.open_still()?.batcher.submit(command).await
    }

    /// Writes what is pending, closes the files. Every clone answers `Closed` from then on.
    pub async fn close(&self) {
        let shared = &self.shared;
        if shared.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        shared.hub.close();
        shared.node.shutdown().await;
        if tokio::time::timeout(CLOSE, shared.log.close()).await.is_err() {
            tracing::warn!("the log did not close in time; what it had not acknowledged may be lost");
        }
        shared.dir.lock().take();
    }
}

fn unexpected(output: &Output) -> StoreError {
    StoreError::Failed(format!("an answer to another question: {output:?}"))
}
