//! A running replica.

use super::{Batch, Reply, Types, log_store::LogStore, network::Network, state_machine::StateMachine};
use crate::error::{OpenError, StoreError};
use crate::log::Log;
use crate::snapshot::Snapshots;
use crate::state::State;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{BasicNode, Config, Raft, ReadPolicy, SnapshotPolicy};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// An election begins after this long without a leader: many times what a slow disk takes for an append.
const ELECTION_MIN_MS: u64 = 1500;
const ELECTION_MAX_MS: u64 = 3000;
const HEARTBEAT_MS: u64 = 300;
/// How long a start may take until the log is replayed and a leader is known.
const START: Duration = Duration::from_secs(120);
/// Entries kept behind a snapshot for members that lag a little. Each may hold a thousand commands.
pub const KEEP_ENTRIES: u64 = 16;

#[derive(Clone)]
pub struct Node {
    raft: Raft<Types, StateMachine>,
}

impl Node {
    /// Starts the replica, makes a group of one of a new store, and returns once everything committed is applied.
    ///
    /// # Errors
    /// `Damaged` if log, snapshot and checkpoint do not fit together; else `Damaged` with the cause.
    pub async fn start(id: u64, log: Arc<Log>, state: Arc<State>, snapshots: Arc<Snapshots>) -> Result<Self, OpenError> {
        let failed = |error: &dyn std::fmt::Display| OpenError::Damaged(error.to_string());
        let config = Config {
            cluster_name: "orchd".into(),
            election_timeout_min: ELECTION_MIN_MS,
            election_timeout_max: ELECTION_MAX_MS,
            heartbeat_interval: HEARTBEAT_MS,
            install_snapshot_timeout: 60_000,
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: KEEP_ENTRIES,
            enable_pre_vote: Some(true),
            // A restarted leader asks for its office again: its term then tells its writes from those before.
            enable_leader_restore: Some(false),
            api_channel_size: Some(1024),
            notification_channel_size: Some(4096),
            ..Config::default()
        };
        let config = Arc::new(config.validate().map_err(|error| failed(&error))?);
        let log_store = LogStore::new(log);
        let machine = StateMachine::new(state, snapshots, log_store.clone());
        let raft = Raft::new(id, config, Network, log_store, machine).await.map_err(|error| failed(&error))?;
        let node = Self { raft };
        if let Err(error) = node.lead_if_alone(id).await {
            node.shutdown().await;
            return Err(error);
        }
        Ok(node)
    }

    async fn lead_if_alone(&self, id: u64) -> Result<(), OpenError> {
        let failed = |error: &dyn std::fmt::Display| OpenError::Damaged(error.to_string());
        if self.raft.is_initialized().await.map_err(|error| failed(&error))? {
            let alone = self.raft.voter_ids().eq([id]);
            if alone {
                self.raft.trigger().elect(false).await.map_err(|error| failed(&error))?;
            }
        } else {
            let members = BTreeMap::from([(id, BasicNode::default())]);
            self.raft.initialize(members).await.map_err(|error| failed(&error))?;
        }
        self.raft.wait_for_recovery(Some(START)).await.map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Writes a batch and returns its answers once it is durable at a quorum and applied here.
    ///
    /// # Errors
    /// `NoLeader`: it was not proposed. `Failed`, `Closed`: the replica has stopped.
    pub async fn propose(&self, batch: Batch) -> Result<Reply, StoreError> {
        match self.raft.client_write(batch).await {
            Ok(response) => Ok(response.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(StoreError::NoLeader),
            Err(RaftError::APIError(error)) => Err(StoreError::Failed(error.to_string())),
            Err(RaftError::Fatal(openraft::errors::Fatal::Stopped)) => Err(StoreError::Closed),
            Err(RaftError::Fatal(error)) => Err(StoreError::Failed(error.to_string())),
        }
    }

    /// Returns once a read of this replica is as new as any write acknowledged before the call.
    ///
    /// # Errors
    /// `NoLeader`: this member does not lead, or cannot tell that it does. `Failed`, `Closed`: the replica has stopped.
    pub async fn read_barrier(&self) -> Result<(), StoreError> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_) | LinearizableReadError::QuorumNotEnough(_))) => {
                Err(StoreError::NoLeader)
            }
            Err(RaftError::Fatal(openraft::errors::Fatal::Stopped)) => Err(StoreError::Closed),
            Err(RaftError::Fatal(error)) => Err(StoreError::Failed(error.to_string())),
        }
    }

    /// Whether this member leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.raft.is_leader()
    }

    /// Whether commands can be carried out now, as far as is known without asking anybody.
    ///
    /// # Errors
    /// `Failed`: raft has stopped, the text says why. `NoLeader`.
    pub fn serves(&self) -> Result<(), StoreError> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.running_state.as_ref().map_err(|e| StoreError::Failed(e.to_string()))?;
        metrics.current_leader.map(|_| ()).ok_or(StoreError::NoLeader)
    }

    /// The term that this member leads in, as it changes; None: it does not lead.
    pub fn leadership(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.state.is_leader().then_some(metrics.current_term)
    }

    /// Tells when this member takes or leaves office, or the replica stops.
    pub fn watch_leadership(&self) -> Leadership {
        let leads = self.leadership();
        Leadership { metrics: self.raft.server_metrics(), leads, node: self.clone() }
    }

    /// Has a snapshot built in the background, after which the log before it can go.
    ///
    /// # Errors
    /// The replica has stopped.
    pub async fn snapshot(&self) -> Result<(), StoreError> {
        self.raft.trigger().snapshot().await.map_err(|_| StoreError::Closed)
    }

    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the replica did not end cleanly");
        }
    }
}

/// Changes of this member's office.
pub struct Leadership {
    metrics: WatchReceiverOf<Types, RaftServerMetrics<Types>>,
    leads: Option<u64>,
    node: Node,
}

impl Leadership {
    /// Returns at the next change; false: the replica has stopped.
    pub async fn changed(&mut self) -> bool {
        while self.node.leadership() == self.leads {
            if self.metrics.changed().await.is_err() {
                return false;
            }
        }
        self.leads = self.node.leadership();
        true
    }
}
