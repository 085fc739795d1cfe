//! `Store`: what the rest of orchd and the etcd face call.

use crate::batch::Batcher;
use crate::clock::Clock;
use crate::cluster::Group;
use crate::command::{Command, KeyRange, Output, RangeRequest, RangeResponse, Revision, Txn, TxnResponse};
use crate::dir::Dir;
use crate::keeper::Keeper;
use crate::lease::{self, Leases};
use crate::log::{Log, LogError};
use crate::machine;
use crate::office::Leader;
use crate::raft::{Item, Node, Office, Parts};
use crate::random;
use crate::reads::Barrier;
use crate::recovery;
use crate::repair;
use crate::snapshot::Snapshots;
use crate::space::Space;
use crate::state::State;
use crate::threads::Threads;
use crate::watch::Hub;
use crate::work::blocking;
use crate::world::World;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;

pub use crate::error::{OpenError, StoreError};
pub use crate::watch::{WatchBatch, WatchEvent, WatchEvents, Watcher};

/// How long closing may take; a disk that is full may keep the log from writing.
const CLOSE: Duration = Duration::from_secs(10);

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the log, the checkpoint and the member's identity; made if missing.
    pub dir: PathBuf,
    /// The most bytes that log and checkpoint may take; beyond it growth is refused with `NoSpace`. 0: no quota.
    pub quota_bytes: u64,
    /// The members that replicate it; None: a lone store, which is a Raft group of one voter.
    pub group: Option<Group>,
}

/// A replica of the store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    /// Writes go through only while this member leads in this term.
    pub(crate) fence: Option<u64>,
}

/// What every clone of a handle shares.
pub(crate) struct Shared {
    pub(crate) state: Arc<State>,
    pub(crate) log: Arc<Log>,
    pub(crate) node: Node,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) space: Arc<Space>,
    batcher: Batcher,
    pub(crate) barrier: Barrier,
    hub: Arc<Hub>,
    leases: Arc<Leases>,
    /// What Raft holds weakly.
    _office: Arc<dyn Office>,
    closed: AtomicBool,
    running: Mutex<Option<Running>>,
}

/// What is let go at close.
struct Running {
    stop: watch::Sender<bool>,
    keeper: tokio::task::JoinHandle<()>,
    /// Its lock.
    _dir: Dir,
    threads: Option<Threads>,
}

/// The opening of a store, which ends if nobody waits for it any more.
struct Opening(tokio::task::JoinHandle<Result<Shared, OpenError>>);

impl Future for Opening {
    type Output = Result<Shared, OpenError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let opened = std::task::ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(opened.unwrap_or_else(|error| Err(OpenError::Damaged(error.to_string()))))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn failed(error: LogError) -> OpenError {
    match error {
        LogError::Io { path, source } => OpenError::Io { path, source },
        damaged @ LogError::Damaged { .. } => OpenError::Damaged(damaged.to_string()),
    }
}

/// What log, checkpoint and snapshot hold.
async fn recovered(world: &World, dir: &Path) -> Result<(Arc<Log>, Arc<State>, Arc<Snapshots>), OpenError> {
    let (world, dir) = (world.clone(), dir.to_owned());
    let recovered = blocking(move || {
        let log = Log::open(&world, &dir.join("log")).map_err(failed)?;
        let (state, snapshots) = recovery::recover(world.disk, &dir, &log)?;
        Ok((Arc::new(log), Arc::new(state), Arc::new(snapshots)))
    });
    recovered.await.map_err(|error| OpenError::Damaged(error.to_string()))?
}

impl Store {
    /// Opens or makes the store, and returns once it can serve (its own log replayed, a leader known).
    ///
    /// # Errors
    /// See `OpenError`; nothing is half made then.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        Self::open_on_threads(options, World::default()).await
    }

    /// As `open`, with another clock for leases.
    ///
    /// # Errors
    /// As `open`.
    pub async fn open_with(options: Options, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_on_threads(options, World { clock, ..World::default() }).await
    }

    /// Opens the store in this world, on the present runtime. If that has one thread only, the store has no other, and does
    /// everything in an order that follows from time, network and disk.
    ///
    /// # Errors
    /// As `open`.
    pub async fn open_in(options: Options, world: World) -> Result<Self, OpenError> {
        Ok(Self { shared: Arc::new(Self::open_here(options, world).await?), fence: None })
    }

    async fn open_on_threads(options: Options, world: World) -> Result<Self, OpenError> {
        let path = options.dir.clone();
        let threads = Threads::start().map_err(|source| OpenError::Io { path, source })?;
        let opening = threads.handle().spawn(Self::open_here(options, world));
        let opening = Opening(opening);
        let shared = opening.await?;
        shared.running.lock().as_mut().expect("nobody has closed it yet").threads = Some(threads);
        Ok(Self { shared: Arc::new(shared), fence: None })
    }

    /// All of the store's tasks then run on the present runtime.
    async fn open_here(options: Options, world: World) -> Result<Shared, OpenError> {
        let Options { dir, quota_bytes, group } = options;
        let World { disk, clock, sizes } = world.clone();
        let held = Dir::open(disk.clone(), &dir)?;
        let (log, state, snapshots) = match recovered(&world, held.path()).await {
            Err(OpenError::Damaged(what)) => match &group {
                Some(group) if !group.force_new_cluster => {
                    repair::exchange_place(&held, group, &what).await?;
                    recovered(&world, held.path()).await?
                }
                _ => return Err(OpenError::Damaged(what)),
            },
            recovered => recovered?,
        };
        let dir = held;
        let parts = Parts { disk: disk.clone(), log: log.clone(), state: state.clone(), snapshots: snapshots.clone() };
        let node = match Node::start(&dir, group, parts).await {
            Ok(node) => node,
            Err(error) => {
                log.close().await;
                snapshots.close();
                return Err(error);
            }
        };
        let space = Arc::new(Space::new(disk, dir.path().to_owned(), quota_bytes, log.clone(), state.clone()));
        let (stop, stopped) = watch::channel(false);
        let keeper = Keeper {
            state: state.clone(),
            log: log.clone(),
            snapshots: snapshots.clone(),
            space: space.clone(),
            node: node.clone(),
            log_bytes: sizes.log,
        };
        let running = Running { stop, keeper: tokio::spawn(keeper.run(stopped)), _dir: dir, threads: None };
        let batcher = Batcher::start(node.clone());
        let leases = Leases::start(state.clone(), node.clone(), batcher.clone(), clock);
        let office: Arc<dyn Office> = Arc::new(Leader { batcher: batcher.clone(), leases: leases.clone(), space: space.clone() });
        node.open_office(&office);
        Ok(Shared {
            hub: Hub::start(state.clone()),
            leases,
            _office: office,
            barrier: Barrier::start(node.clone()),
            state,
            log,
            node,
            snapshots,
            space,
            batcher,
            closed: AtomicBool::new(false),
            running: Mutex::new(Some(running)),
        })
    }

    pub(crate) fn open_still(&self) -> Result<&Shared, StoreError> {
        if self.shared.closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(&self.shared) }
    }

    /// Whether the store serves, as far as this replica knows without waiting.
    ///
    /// # Errors
    /// `NoLeader`, `Closed`, `Failed`.
    pub fn serves(&self) -> Result<(), StoreError> {
        self.open_still()?.node.serves()
    }

    /// The last revision applied here.
    pub fn revision(&self) -> Revision {
        self.shared.state.revision()
    }

    /// Returns once the replica has stopped, and says why: `Closed`, or `Failed` if its disk has. It serves nothing any more;
    /// a new process may.
    pub async fn stopped(&self) -> StoreError {
        self.shared.node.stopped().await
    }

    /// Revisions below this one cannot be read any more; 0: all can.
    pub fn compacted_revision(&self) -> Revision {
        self.shared.state.compacted()
    }

    /// Carries out a transaction; returns once it is durable at a quorum and applied here.
    ///
    /// # Errors
    /// `Timeout`, `Closed` and `Failed` leave the outcome open; all others mean that nothing was written.
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
        self.read_barrier().await?;
        self.shared.state.range(&request)
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
            // An id is positive.
            let chosen = if id != 0 { id } else { ((random::id() >> 1) as i64).max(1) };
            match self.submit(Command::LeaseGrant { id: chosen, ttl_s }).await {
                Ok(Output::LeaseGranted { id, .. }) => {
                    self.shared.leases.note_granted();
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
        let shared = self.open_still()?;
        if shared.node.leads() { shared.leases.keep_alive(id) } else { shared.node.keep_alive(id).await }
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
        let shared = self.open_still()?;
        let item = Item::new(command)?;
        shared.space.admit(&item)?;
        shared.batcher.submit(item, self.fence).await
    }

    /// Writes what is pending, closes the files. Every clone answers `Closed` from then on.
    pub async fn close(&self) {
        let shared = &self.shared;
        shared.closed.store(true, Ordering::Release);
        shared.hub.close();
        let running = shared.running.lock().take();
        if let Some(running) = running {
            wind_up(running, shared.node.clone(), shared.state.clone(), shared.snapshots.clone(), shared.log.clone()).await;
        }
    }
}

impl Drop for Shared {
    /// A store that was not closed winds up in the background.
    fn drop(&mut self) {
        let Some(running) = self.running.lock().take() else { return };
        self.hub.close();
        if let Some(threads) = running.threads.as_ref().map(Threads::handle) {
            threads.spawn(wind_up(running, self.node.clone(), self.state.clone(), self.snapshots.clone(), self.log.clone()));
        }
    }
}

async fn wind_up(running: Running, node: Node, state: Arc<State>, snapshots: Arc<Snapshots>, log: Arc<Log>) {
    // The threads go last: what is wound up runs on them.
    let Running { stop, keeper, _dir: dir, threads: _threads } = running;
    stop.send_replace(true);
    if let Err(error) = keeper.await {
        tracing::warn!(%error, "the keeper of checkpoints did not end cleanly");
    }
    node.hand_over().await;
    node.shutdown().await;
    let saved = blocking(move || {
        let saved = snapshots.save(&state);
        snapshots.close();
        saved
    });
    match saved.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "no checkpoint was written at close; the next start replays the log"),
        Err(error) => tracing::warn!(%error, "the checkpoint did not end cleanly"),
    }
    if tokio::time::timeout(CLOSE, log.close()).await.is_err() {
        tracing::warn!("the log did not close in time; what it had not acknowledged may be lost");
    }
    drop(dir);
}

fn unexpected(output: &Output) -> StoreError {
    StoreError::Failed(format!("an answer to another question: {output:?}"))
}
