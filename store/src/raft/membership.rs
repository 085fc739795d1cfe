//! Who belongs to the group, and changes of it. The leader carries them out; every other member passes them on to it.

use super::link::CallError;
use super::member::{Info, new_id};
use super::node::Node;
use super::wire::{Answer, Call, Change};
use crate::cluster::Member;
use crate::error::StoreError;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// How long a change may take.
const CHANGE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(50);
/// How long the others may take to hear who leads now.
const TRANSFER: Duration = Duration::from_secs(5);
/// Entries that a learner may lack when it is given its vote.
const LAG: u64 = 64;

impl Node {
    /// The members, by id.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        membership.nodes().map(|(id, info)| info.member(*id, !voters.contains(id))).collect()
    }

    pub(super) fn info(&self, id: u64) -> Option<Info> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&id).cloned()
    }

    fn is_voter(&self, id: u64) -> bool {
        self.raft.voter_ids().any(|voter| voter == id)
    }

    /// Changes the membership; returns the member that was added.
    ///
    /// # Errors
    /// `MemberNotFound`, `MemberExists`, `LearnerNotReady`, `NotLearner`, `NoLeader`, `Timeout`.
    pub async fn change(&self, change: Change) -> Result<Option<Member>, StoreError> {
        match self.ask_leader(Call::Change(change), CHANGE).await? {
            Answer::Changed(member) => Ok(member),
            other => Err(StoreError::Failed(format!("an answer to another question: {other:?}"))),
        }
    }

    /// Has another member lead.
    ///
    /// # Errors
    /// `MemberNotFound`, `NotVoter`, `NoLeader`, `Timeout`.
    pub async fn move_leader(&self, target: u64) -> Result<(), StoreError> {
        self.ask_leader(Call::MoveLeader(target), TRANSFER).await.map(drop)
    }

    /// Has the leader answer, be it this member or another.
    pub(super) async fn ask_leader(&self, call: Call, within: Duration) -> Result<Answer, StoreError> {
        let deadline = Instant::now() + within;
        loop {
            let outcome = if self.leads() {
                Box::pin(self.answer(call.clone())).await
            } else if let Some(address) = self.leader_address() {
                match self.peers.call(&address, &call, within).await {
                    Ok(Answer::Failed(error)) => Err(error),
                    Ok(answer) => Ok(answer),
                    Err(CallError::NotSent(_)) => Err(StoreError::NoLeader),
                    Err(CallError::Unanswered(_)) => Err(StoreError::Timeout),
                }
            } else {
                Err(StoreError::NoLeader)
            };
            match outcome {
                Err(StoreError::NoLeader) if Instant::now() < deadline => tokio::time::sleep(RETRY).await,
                outcome => return outcome,
            }
        }
    }

    /// Carries a change out; on the leader alone.
    pub(super) async fn change_here(&self, change: Change) -> Result<Option<Member>, StoreError> {
        match change {
            Change::Add { name, peer_addresses, learner } => self.add(name, peer_addresses, learner).await.map(Some),
            Change::Remove(id) => self.remove(id).await.map(|()| None),
            Change::Promote(id) => self.promote(id).await.map(|()| None),
            Change::Update { id, peer_addresses, client_addresses } => {
                let mut info = self.info(id).ok_or(StoreError::MemberNotFound)?;
                info.peer_addresses = peer_addresses.unwrap_or(info.peer_addresses);
                info.client_addresses = client_addresses.unwrap_or(info.client_addresses);
                self.set_info(id, info).await.map(|()| None)
            }
        }
    }

    async fn add(&self, name: String, peer_addresses: Vec<String>, learner: bool) -> Result<Member, StoreError> {
        let taken = |member: &Member| {
            (!name.is_empty() && member.name == name) || member.peer_addresses.iter().any(|address| peer_addresses.contains(address))
        };
        if self.members().iter().any(taken) {
            return Err(StoreError::MemberExists);
        }
        let info = Info { name, peer_addresses, wants_vote: !learner, ..Info::default() };
        let id = new_id();
        self.change_membership(ChangeMembers::AddNodes(BTreeMap::from([(id, info.clone())]))).await?;
        Ok(info.member(id, true))
    }

    async fn remove(&self, id: u64) -> Result<(), StoreError> {
        self.info(id).ok_or(StoreError::MemberNotFound)?;
        if self.is_voter(id) {
            if self.raft.voter_ids().count() == 1 {
                return Err(StoreError::LastVoter);
            }
            self.change_membership(ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await?;
        }
        match self.change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await {
            // Removing a voter without keeping it as a learner has removed the node.
            Err(_) if self.info(id).is_none() => Ok(()),
            outcome => outcome,
        }
    }

    async fn promote(&self, id: u64) -> Result<(), StoreError> {
        self.info(id).ok_or(StoreError::MemberNotFound)?;
        if self.is_voter(id) {
            return Err(StoreError::NotLearner);
        }
        if !self.caught_up(id) {
            return Err(StoreError::LearnerNotReady);
        }
        self.change_membership(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    }

    /// Whether a member lacks a few entries at most.
    fn caught_up(&self, id: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref().and_then(|replication| replication.get(&id)).and_then(|matched| *matched);
        matched.is_some_and(|matched| matched.index + LAG >= metrics.last_log_index.unwrap_or(0))
    }

    pub(super) async fn set_info(&self, id: u64, info: Info) -> Result<(), StoreError> {
        if self.info(id).as_ref() == Some(&info) {
            return Ok(());
        }
        self.change_membership(ChangeMembers::SetNodes(BTreeMap::from([(id, info)]))).await
    }

    /// One change at a time: another one under way is waited for.
    async fn change_membership(&self, change: ChangeMembers<u64, Info>) -> Result<(), StoreError> {
        let deadline = Instant::now() + CHANGE;
        loop {
            match tokio::time::timeout_at(deadline, self.raft.change_membership(change.clone(), false)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)))))
                    if Instant::now() < deadline =>
                {
                    tokio::time::sleep(RETRY).await;
                }
                Ok(Err(error)) => return Err(super::node::failure(error)),
                Err(_) => return Err(StoreError::Timeout),
            }
        }
    }

    /// A member comes forward: takes down which data directory it has. Returns its id.
    pub(super) async fn join_here(&self, name: &str, instance: u64) -> Result<u64, StoreError> {
        let member = self.members().into_iter().filter(|member| member.name == name).max_by_key(|member| !member.started);
        let Some(member) = member else {
            return Err(StoreError::MemberRefused(format!("no member is called {name:?}: add it with 'orchd member add {name} ADDRESS'")));
        };
        let info = self.info(member.id).ok_or(StoreError::MemberNotFound)?;
        if info.instance == 0 {
            self.set_info(member.id, Info { instance, ..info }).await?;
            return Ok(member.id);
        }
        if info.instance == instance {
            return Ok(member.id);
        }
        Err(StoreError::MemberRefused(format!(
            "member {name:?} has been part of this cluster with another data directory, and must not come back empty: \
             remove it with 'orchd member remove {:x}', then add it anew with 'orchd member add {name} ADDRESS'",
            member.id
        )))
    }

    /// Gives their votes to learners that want one and have caught up.
    pub(super) async fn promote_ready(&self) {
        let wanting: Vec<u64> = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let membership = metrics.membership_config.membership();
            membership
                .learner_ids()
                .filter(|id| membership.get_node(id).is_some_and(|info| info.wants_vote && info.instance != 0))
                .collect()
        };
        for id in wanting.into_iter().filter(|id| self.caught_up(*id)) {
            if let Err(error) = self.promote(id).await {
                tracing::info!(member = format!("{id:x}"), %error, "a member that has caught up could not be given its vote yet");
            }
        }
    }

    /// The member, other than this one, that has most of the log.
    fn successor(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
        let replication = metrics.replication.as_ref()?;
        let others = replication.iter().filter(|(id, _)| **id != metrics.id && voters.contains(*id));
        others.filter(|(_, matched)| matched.is_some()).max_by_key(|(_, matched)| matched.map(|id| id.index)).map(|(id, _)| *id)
    }

    /// Hands leadership on, if this member has it and there is another one; returns once another leads, or after a while.
    pub async fn hand_over(&self) {
        let Some(target) = self.successor().filter(|_| self.leads()) else { return };
        if let Err(error) = self.transfer(target).await {
            tracing::warn!(%error, "leadership could not be handed over; the others elect");
        }
    }

    /// Makes `target` the leader; on the leader alone.
    pub(super) async fn transfer(&self, target: u64) -> Result<(), StoreError> {
        self.info(target).ok_or(StoreError::MemberNotFound)?;
        if !self.is_voter(target) {
            return Err(StoreError::NotVoter);
        }
        if target == self.id {
            return Ok(());
        }
        self.raft.trigger().transfer_leader(target).await.map_err(|error| StoreError::Failed(error.to_string()))?;
        let mut metrics = self.raft.server_metrics();
        let moved = metrics.wait_until(|metrics| metrics.current_leader == Some(target));
        match tokio::time::timeout(TRANSFER, moved).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(StoreError::Closed),
            Err(_) => Err(StoreError::Timeout),
        }
    }
}
