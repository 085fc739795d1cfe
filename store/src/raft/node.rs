//! A running replica.

use super::founding::{self, Found};
use super::link::{CallError, Dialer};
use super::member::{Info, new_id};
use super::membership::look_after;
use super::network::{Network, Peers};
use super::quorum::{Quorum, watch_quorum};
use super::serve::{Door, Phase};
use super::wire::{Answer, Call, Place};
use super::{Batch, Reply, Types, Vote, log_store::LogStore, state_machine::SnapshotData, state_machine::StateMachine};
use crate::cluster::Group;
use crate::dir::{Dir, Identity};
use crate::disk::Disk;
use crate::error::{OpenError, StoreError};
use crate::log::Log;
use crate::snapshot::Snapshots;
use crate::state::State;
use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use openraft::type_config::alias::SnapshotOf;
use openraft::{Config, Raft, ReadPolicy, SnapshotPolicy};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A follower lets its leader's word stand for the longer of these, and then waits for a time between them before it asks
/// to be elected: many times what a message takes, and short enough that writes go on within a second of a leader's death.
const ELECTION_MIN_MS: u64 = 250;
const ELECTION_MAX_MS: u64 = 400;
const HEARTBEAT_MS: u64 = 100;
/// How long a lone start may take until the log is replayed.
const START: Duration = Duration::from_secs(120);
/// Entries kept behind a snapshot for members that lag a little. Each may hold a thousand commands.
pub const KEEP_ENTRIES: u64 = 16;
/// How long a command waits for a leader that takes it, and then for its outcome.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a read-index round may take; it may be asked again.
pub(super) const READ: Duration = Duration::from_secs(2);
/// How long a leader that has been replaced is still waited for.
const LAST_WORD: Duration = Duration::from_millis(300);
/// Pause before a leader that could not be reached is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// What the leader does for members that pass requests on; implemented above Raft.
pub trait Office: Send + Sync {
    /// Carries encoded commands out; returns the entry's index and the answers.
    fn propose(&self, commands: Vec<Bytes>) -> BoxFuture<'_, Result<(u64, Reply), StoreError>>;
    /// Gives a lease its whole time anew; returns its seconds.
    ///
    /// # Errors
    /// `NoLeader`, `LeaseNotFound`.
    fn keep_alive(&self, id: i64) -> Result<i64, StoreError>;
    /// Seconds granted and left of a lease.
    ///
    /// # Errors
    /// `NoLeader`, `LeaseNotFound`.
    fn time_to_live(&self, id: i64) -> Result<(i64, i64), StoreError>;
}

/// What a replica is made of.
pub struct Parts {
    pub disk: Arc<dyn Disk>,
    pub log: Arc<Log>,
    pub state: Arc<State>,
    pub snapshots: Arc<Snapshots>,
}

#[derive(Clone)]
pub struct Node {
    pub(super) id: u64,
    pub(super) raft: Raft<Types, StateMachine>,
    pub(super) peers: Arc<Peers>,
    state: Arc<State>,
    log: Arc<Log>,
    office: Arc<OnceLock<Weak<dyn Office>>>,
    pub(super) quorum: Quorum,
    pub(super) stop: watch::Sender<bool>,
    pub(super) cluster: u64,
    /// No other member can be reached, so that nobody else can have written anything.
    alone: bool,
}

fn failed(error: &dyn std::fmt::Display) -> OpenError {
    OpenError::Damaged(error.to_string())
}

fn config() -> Result<Arc<Config>, OpenError> {
    let config = Config {
        cluster_name: "orchd".into(),
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        heartbeat_interval: HEARTBEAT_MS,
        install_snapshot_timeout: 300_000,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: KEEP_ENTRIES,
        enable_pre_vote: Some(true),
        // A restarted leader asks for its office again: its term then tells its writes from those before.
        enable_leader_restore: Some(false),
        // The others' disks write while this one's does.
        broadcast_submitted_on_append: Some(true),
        api_channel_size: Some(1024),
        notification_channel_size: Some(4096),
        ..Config::default()
    };
    Ok(Arc::new(config.validate().map_err(|error| failed(&error))?))
}

impl Node {
    /// Starts the replica: alone, or in a group. Returns once everything committed is applied and a leader is known.
    ///
    /// # Errors
    /// `Refused`: the group has no place for this member. `Damaged` if log, snapshot and checkpoint do not fit together.
    pub async fn start(dir: &Dir, group: Option<Group>, parts: Parts) -> Result<Self, OpenError> {
        match group {
            None => Self::start_alone(dir, parts).await,
            Some(group) => Self::start_in_group(dir, group, parts).await,
        }
    }

    async fn start_alone(dir: &Dir, parts: Parts) -> Result<Self, OpenError> {
        let identity = match dir.identity()? {
            Some(identity) => identity,
            None => dir.assign(new_id())?,
        };
        let node = Self::run(identity.id, identity.id, Peers::new(None), parts).await?;
        let info = Info { name: "default".into(), instance: identity.instance, wants_vote: true, ..Info::default() };
        let ready = async {
            if node.is_initialized().await? {
                if node.raft.voter_ids().eq([node.id]) {
                    node.raft.trigger().elect(false).await.map_err(|error| failed(&error))?;
                }
            } else {
                node.initialize(BTreeMap::from([(node.id, info)])).await?;
            }
            node.raft.wait_for_recovery(Some(START)).await.map_err(|error| failed(&error)).map(drop)
        };
        let outcome = ready.await;
        node.ready(outcome).await
    }

    async fn start_in_group(dir: &Dir, group: Group, parts: Parts) -> Result<Self, OpenError> {
        let dialer = Dialer { transport: group.transport.clone(), cluster: group.cluster };
        let peers = Peers::new(Some(Arc::new(dialer)));
        let identity = dir.identity()?;
        let place = if identity.is_some() { Place::Formed } else { Place::Empty };
        let (phase, phases) = watch::channel(Phase::Founding(place));
        let (stop, stopped) = watch::channel(false);
        let (transport, disk) = (group.transport.clone(), parts.disk.clone());
        let door = Door { transport, cluster: group.cluster, disk, dir: dir.path().to_owned(), phase: phases };
        tokio::spawn(door.run(stopped));
        let started = async {
            let (identity, founders) = match identity {
                Some(identity) => (identity, Some(founding::founders(&group)).filter(|founders| founders.contains_key(&identity.id))),
                None => settle(dir, &group, &peers, &phase).await?,
            };
            if group.force_new_cluster {
                super::force::strike_off_others(identity, &group, &parts.log).await?;
            }
            let mut node = Self::run(identity.id, group.cluster, peers, parts).await?;
            node.stop = stop.clone();
            let ready = async {
                // A founder that stopped before it had written the founding membership founds again.
                if let Some(founders) = founders
                    && !node.is_initialized().await?
                {
                    node.initialize(founders).await?;
                }
                phase.send_replace(Phase::Running(node.clone()));
                node.raft.wait_for_recovery(None).await.map_err(|error| failed(&error)).map(drop)
            };
            let outcome = ready.await;
            let node = node.ready(outcome).await?;
            tokio::spawn(watch_quorum(node.clone()));
            tokio::spawn(look_after(node.clone(), group, identity));
            Ok(node)
        };
        let node = started.await;
        if node.is_err() {
            stop.send_replace(true);
        }
        node
    }

    async fn run(id: u64, cluster: u64, peers: Arc<Peers>, parts: Parts) -> Result<Self, OpenError> {
        let alone = peers.is_alone();
        let log_store = LogStore::new(parts.log.clone());
        let machine = StateMachine::new(parts.state.clone(), parts.snapshots, log_store.clone());
        let raft = Raft::new(id, config()?, Network(peers.clone()), log_store, machine).await.map_err(|error| failed(&error))?;
        Ok(Self {
            id,
            raft,
            peers,
            state: parts.state,
            log: parts.log,
            office: Arc::default(),
            quorum: Quorum::default(),
            stop: watch::Sender::new(false),
            cluster,
            alone,
        })
    }

    async fn is_initialized(&self) -> Result<bool, OpenError> {
        self.raft.is_initialized().await.map_err(|error| failed(&error))
    }

    async fn initialize(&self, members: BTreeMap<u64, Info>) -> Result<(), OpenError> {
        self.raft.initialize(members).await.map_err(|error| failed(&error))
    }

    async fn ready(self, outcome: Result<(), OpenError>) -> Result<Self, OpenError> {
        match outcome {
            Ok(()) => Ok(self),
            Err(error) => {
                self.shutdown().await;
                Err(error)
            }
        }
    }

    /// Tells who does the leader's work above Raft.
    pub fn open_office(&self, office: &Arc<dyn Office>) {
        // Only the first one counts; there is only one.
        let _ = self.office.set(Arc::downgrade(office));
    }

    /// Writes a batch and returns its answers once it is durable at a quorum and applied here. `fence`: only if this member
    /// leads, and in this term.
    ///
    /// # Errors
    /// `NoLeader`: it was not proposed. `Timeout`: the outcome is open. `Failed`, `Closed`: the replica has stopped.
    pub async fn carry(&self, batch: Batch, fence: Option<u64>) -> Result<(u64, Reply), StoreError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.is_cut_off() {
                return Err(StoreError::NoLeader);
            }
            let outcome = match (self.leadership(), fence) {
                (Some(term), None) => self.propose(batch.clone(), term).await,
                (Some(term), Some(fence)) if term == fence => return self.propose(batch, term).await,
                (_, Some(_)) => return Err(StoreError::NoLeader),
                (None, None) => self.pass_on(&batch, deadline).await,
            };
            match outcome {
                Err(StoreError::NoLeader) if Instant::now() < deadline => self.wait_for_leader(deadline).await?,
                outcome => return outcome,
            }
        }
    }

    /// Proposes as the leader of this term.
    async fn propose(&self, batch: Batch, term: u64) -> Result<(u64, Reply), StoreError> {
        let leader = match self.raft.as_leader() {
            Ok(leader) if leader.term() == term => leader.to_committed_leader_id(),
            Ok(_) | Err(_) => return Err(StoreError::NoLeader),
        };
        let room = self.log.room_for(batch.bytes(), batch.grows()).await.map_err(|why| StoreError::NoSpace(why.into()))?;
        let (responder, written) = ProgressResponder::complete_only();
        self.raft.write(batch).with_leader(leader).responder(responder).await.map_err(|error| stopped(&error))?;
        let outcome = tokio::select! {
            outcome = written => outcome,
            () = self.quorum.lost() => return Err(StoreError::Timeout),
        };
        drop(room);
        match outcome {
            Ok(Ok(response)) => Ok((response.log_id.index, response.data)),
            Ok(Err(error)) => Err(failure(RaftError::APIError(error))),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    /// Has the leader carry a batch out, and waits until this member has applied it too.
    async fn pass_on(&self, batch: &Batch, deadline: Instant) -> Result<(u64, Reply), StoreError> {
        let address = self.leader_address().ok_or(StoreError::NoLeader)?;
        let call = Call::Propose(batch.0.iter().map(|item| item.encoded.clone()).collect());
        let mut metrics = self.raft.server_metrics();
        let leader = metrics.borrow_watched().current_leader;
        let outcome = tokio::select! {
            outcome = self.peers.call(&address, &call, deadline - Instant::now()) => outcome,
            // It may have taken the batch before it was deposed, and if it lives it says so.
            () = async {
                let deposed = metrics.wait_until(|metrics| metrics.current_leader != leader).await;
                if deposed.is_ok() {
                    tokio::time::sleep(LAST_WORD).await;
                }
            } => return Err(StoreError::Timeout),
        };
        match outcome {
            Ok(Answer::Done { index, reply }) => {
                self.applied(index, deadline).await?;
                Ok((index, reply))
            }
            // It is the leader that closes, not this member, and it may have the batch in its log.
            Ok(Answer::Failed(StoreError::Closed)) => Err(StoreError::Timeout),
            Ok(Answer::Failed(error)) => Err(error),
            Ok(other) => Err(StoreError::Failed(format!("an answer to another question: {other:?}"))),
            Err(CallError::NotSent(_)) => Err(StoreError::NoLeader),
            Err(CallError::Unanswered(_)) => Err(StoreError::Timeout),
        }
    }

    async fn applied(&self, index: u64, deadline: Instant) -> Result<(), StoreError> {
        tokio::time::timeout_at(deadline, self.state.wait_applied(index)).await.map_err(|_| StoreError::Timeout)
    }

    /// Where the leader, if it is another member, is reached.
    pub(super) fn leader_address(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader.filter(|leader| *leader != self.id)?;
        metrics.membership_config.membership().get_node(&leader).map(|info| info.address().to_owned())
    }

    /// Returns when another leader is known, or soon.
    ///
    /// # Errors
    /// `Closed`, `Failed`: the replica has stopped, and will know of no leader any more.
    async fn wait_for_leader(&self, deadline: Instant) -> Result<(), StoreError> {
        let mut metrics = self.raft.server_metrics();
        let before = metrics.borrow_watched().current_leader;
        let soon = if before.is_some() { Instant::now() + RETRY } else { deadline };
        let changed = metrics.wait_until(|metrics| metrics.current_leader.is_some() && metrics.current_leader != before);
        match tokio::time::timeout_at(soon.min(deadline), changed).await {
            // Whether it is a new leader or time to look again makes no difference.
            Ok(Ok(_)) | Err(_) => Ok(()),
            Ok(Err(_)) => {
                let metrics = self.raft.metrics();
                let running = metrics.borrow_watched().running_state.clone();
                Err(running.map_or_else(|error| stopped(&error), |()| StoreError::Closed))
            }
        }
    }

    /// Returns once the replica has stopped, and says why: it was told to (`Closed`), or its disk failed (`Failed`).
    pub async fn stopped(&self) -> StoreError {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(error) = &metrics.borrow_watched().running_state {
                return stopped(error);
            }
            if metrics.changed().await.is_err() {
                return StoreError::Closed;
            }
        }
    }

    /// Whether this member has no way to others: what it has applied is all there is.
    pub fn alone(&self) -> bool {
        self.alone
    }

    /// Returns once a read of this replica is as new as any write acknowledged before the call.
    ///
    /// # Errors
    /// `NoLeader`: no leader answers. `Failed`, `Closed`: the replica has stopped.
    pub async fn read_barrier(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let outcome = if self.is_cut_off() {
                return Err(StoreError::NoLeader);
            } else if self.leads() {
                self.read_index().await
            } else {
                match self.leader_address() {
                    None => Err(StoreError::NoLeader),
                    Some(address) => match self.peers.call(&address, &Call::ReadIndex, READ).await {
                        Ok(Answer::Index(index)) => Ok(index),
                        Ok(Answer::Failed(error)) => Err(error),
                        Ok(_) | Err(_) => Err(StoreError::NoLeader),
                    },
                }
            };
            match outcome {
                Ok(index) => return self.applied(index, deadline).await,
                Err(StoreError::NoLeader) if Instant::now() < deadline => self.wait_for_leader(deadline).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// What has to be applied before a linearizable read; as the leader alone.
    async fn read_index(&self) -> Result<u64, StoreError> {
        let asked = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(READ, asked) => outcome,
            () = self.quorum.lost() => return Err(StoreError::NoLeader),
        };
        match outcome {
            Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
            Err(_) => Err(StoreError::NoLeader),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_) | LinearizableReadError::QuorumNotEnough(_)))) => {
                Err(StoreError::NoLeader)
            }
            Ok(Err(RaftError::Fatal(error))) => Err(stopped(&error)),
        }
    }

    /// Answers another member's call.
    ///
    /// # Errors
    /// What the caller is told.
    pub(super) async fn answer(&self, call: Call) -> Result<Answer, StoreError> {
        let office = || self.office.get().and_then(Weak::upgrade).ok_or(StoreError::NoLeader);
        let led = || if self.leads() { Ok(()) } else { Err(StoreError::NoLeader) };
        if let Call::PreVote { to, .. } | Call::Vote { to, .. } | Call::Transfer { to, .. } = &call
            && *to != self.id
        {
            return Err(StoreError::MemberNotFound);
        }
        Ok(match call {
            Call::Place => Answer::Place(if self.state.applied().next > 1 { Place::Formed } else { Place::Founding }),
            Call::Join { .. } | Call::Exchange { .. } if !self.leads() => self.relay(&call).await?,
            Call::Join { name, id, instance } => Answer::Joined(self.join_here(&name, id, instance).await?),
            Call::Exchange { name, id, instance } => {
                self.exchange_here(&name, id, instance).await?;
                Answer::Exchanged
            }
            Call::PreVote { request, .. } => Answer::Vote(self.raft.pre_vote(request).await.map_err(refused)?),
            Call::Vote { request, .. } => Answer::Vote(self.raft.vote(request).await.map_err(refused)?),
            Call::Transfer { request, .. } => {
                Answer::Transfer(self.raft.handle_transfer_leader(request).await.map_err(|error| stopped(&error))?)
            }
            Call::ReadIndex => Answer::Index(self.read_index().await?),
            Call::Propose(commands) => {
                led()?;
                let (index, reply) = office()?.propose(commands).await?;
                Answer::Done { index, reply }
            }
            Call::KeepAlive(id) => office()?.keep_alive(id).map(|ttl_s| Answer::Lease(ttl_s, ttl_s))?,
            Call::TimeToLive(id) => office()?.time_to_live(id).map(|(granted, left)| Answer::Lease(granted, left))?,
            Call::Change(change) => {
                led()?;
                Answer::Changed(self.change_here(change).await?)
            }
            Call::MoveLeader(target) => {
                led()?;
                self.transfer(target).await?;
                Answer::Changed(None)
            }
        })
    }

    /// Passes on to the leader what came from one that is not a member yet: it knows some member, which need not lead.
    async fn relay(&self, call: &Call) -> Result<Answer, StoreError> {
        let address = self.leader_address().ok_or(StoreError::NoLeader)?;
        self.peers.call(&address, call, PATIENCE).await.map_err(|_| StoreError::NoLeader)
    }

    /// Starts a lease's time anew, wherever the leader is; returns its seconds.
    ///
    /// # Errors
    /// `LeaseNotFound`, `NoLeader`, `Timeout`.
    pub async fn keep_alive(&self, id: i64) -> Result<i64, StoreError> {
        self.lease_call(Call::KeepAlive(id)).await.map(|(ttl_s, _)| ttl_s)
    }

    /// Seconds granted and left of a lease.
    ///
    /// # Errors
    /// As `keep_alive`.
    pub async fn time_to_live(&self, id: i64) -> Result<(i64, i64), StoreError> {
        self.lease_call(Call::TimeToLive(id)).await
    }

    async fn lease_call(&self, call: Call) -> Result<(i64, i64), StoreError> {
        match self.ask_leader(call, PATIENCE).await? {
            Answer::Lease(granted, left) => Ok((granted, left)),
            other => Err(StoreError::Failed(format!("an answer to another question: {other:?}"))),
        }
    }

    pub(super) fn stream_append(
        &self,
        entries: impl Stream<Item = AppendEntriesRequest<Types>> + Send + 'static,
    ) -> impl Stream<Item = Result<StreamAppendResult<Types>, Fatal<Types>>> + Send + 'static {
        self.raft.stream_append(entries)
    }

    pub(super) async fn install(&self, vote: Vote, snapshot: SnapshotOf<Types, SnapshotData>) -> Result<Vote, Fatal<Types>> {
        self.raft.install_full_snapshot(vote, snapshot).await.map(|response| response.vote)
    }

    /// Whether this member leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.raft.is_leader()
    }

    /// Whether this member leads, and nobody follows.
    fn is_cut_off(&self) -> bool {
        self.quorum.is_lost() && self.leads()
    }

    /// Whether commands can be carried out now, as far as is known without asking anybody.
    ///
    /// # Errors
    /// `Failed`: raft has stopped, the text says why. `NoLeader`.
    pub fn serves(&self) -> Result<(), StoreError> {
        if self.is_cut_off() {
            return Err(StoreError::NoLeader);
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.running_state.as_ref().map_err(|e| StoreError::Failed(e.to_string()))?;
        metrics.current_leader.map(|_| ()).ok_or(StoreError::NoLeader)
    }

    /// This member's id, the leader's, the term, and the last index in the log.
    pub fn position(&self) -> (u64, Option<u64>, u64, u64) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (self.id, metrics.current_leader, metrics.current_term, metrics.last_log_index.unwrap_or(0))
    }

    /// Tells this group from all others.
    pub fn cluster_id(&self) -> u64 {
        self.cluster
    }

    /// The term that this member leads in, as it changes; None: it does not lead.
    pub fn leadership(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.state.is_leader().then_some(metrics.current_term)
    }

    /// Has a snapshot built in the background, after which the log before it can go.
    ///
    /// # Errors
    /// The replica has stopped.
    pub async fn snapshot(&self) -> Result<(), StoreError> {
        self.raft.trigger().snapshot().await.map_err(|_| StoreError::Closed)
    }

    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the replica did not end cleanly");
        }
    }
}

/// What a proposal's failure means to whoever asked.
pub(super) fn failure(error: RaftError<Types, ClientWriteError<Types>>) -> StoreError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => StoreError::NoLeader,
        // It was in a log, and may come to be committed by another leader.
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => StoreError::Timeout,
        RaftError::APIError(error) => StoreError::Failed(error.to_string()),
        RaftError::Fatal(error) => stopped(&error),
    }
}

fn stopped(error: &Fatal<Types>) -> StoreError {
    match error {
        Fatal::Stopped => StoreError::Closed,
        error => StoreError::Failed(error.to_string()),
    }
}

fn refused(error: RaftError<Types>) -> StoreError {
    StoreError::Failed(error.to_string())
}

/// Finds this member's place and writes it down.
async fn settle(
    dir: &Dir,
    group: &Group,
    peers: &Peers,
    phase: &watch::Sender<Phase>,
) -> Result<(Identity, Option<BTreeMap<u64, Info>>), OpenError> {
    let instance = dir.instance()?;
    Ok(match founding::find_place(group, instance, peers, phase).await? {
        Found::Founder(id, founders) => (dir.assign(id)?, Some(founders)),
        Found::Joined(id) => (dir.assign(id)?, None),
    })
}
