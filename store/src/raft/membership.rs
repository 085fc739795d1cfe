//! Who belongs to the group, and changes of it. The leader carries them out; every other member passes them on to it.
//!
//! A change is decided on the membership as it stands, and made only if it stands so still: what was decided before another
//! change could bring a member back that has been removed, or give two of them one name.

use super::link::CallError;
use super::member::{Info, new_id};
use super::node::{Node, READ};
use super::wire::{Answer, Call, Change};
use super::{LogId, Membership};
use crate::cluster::{Group, Member};
use crate::dir::Identity;
use crate::error::StoreError;
use futures::FutureExt;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, Precondition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a change may take.
const CHANGE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(50);
/// How long the others may take to hear who leads now.
const TRANSFER: Duration = Duration::from_secs(5);
/// How often a member looks after what is its own in the membership.
const LOOK_AFTER: Duration = Duration::from_millis(200);
/// Looks after which nobody can still be at a change: each takes less than `CHANGE`.
const ABANDONED: u32 = 75;
/// Entries that a learner may lack when it is given its vote.
const LAG: u64 = 64;

/// A change that is to be made, if one is, and what is to be answered then.
type Decision<T> = Result<(Option<ChangeMembers<u64, Info>>, T), StoreError>;

/// One whose vote counts only before or after the change that is under way is told as a learner: until it is over, the
/// group does not stand on it.
fn members_of(membership: &Membership) -> impl Iterator<Item = Member> {
    membership.nodes().map(move |(id, info)| info.member(*id, !votes(membership, *id)))
}

/// Whether a member votes, now and after a change that is under way.
fn votes(membership: &Membership, id: u64) -> bool {
    membership.get_joint_config().iter().all(|voters| voters.contains(&id))
}

/// The member that whoever comes forward under this name is: the one that is called so, or else the only one that was added
/// without a name, as etcdctl does it, and that nobody has been yet.
fn meant<'a>(membership: &'a Membership, name: &str, id: Option<u64>) -> Option<(u64, &'a Info)> {
    let nodes = || membership.nodes().map(|(id, info)| (*id, info));
    let named = nodes().filter(|(member, info)| info.name == name && id.is_none_or(|id| id == *member));
    let mut unnamed = nodes().filter(|(_, info)| info.name.is_empty() && info.instance == 0 && id.is_none());
    named.max_by_key(|(_, info)| info.instance == 0).or_else(|| unnamed.next().filter(|_| unnamed.next().is_none()))
}

/// Whether a change of votes has been begun and not ended.
fn is_halfway(membership: &Membership) -> bool {
    membership.get_joint_config().len() > 1
}

impl Node {
    /// The membership as it stands, and the entry that made it so.
    fn membership(&self) -> Arc<Membership> {
        self.raft.metrics().borrow_watched().membership_config.clone()
    }

    /// The members, by id.
    pub fn members(&self) -> Vec<Member> {
        members_of(&self.membership()).collect()
    }

    pub(super) fn info(&self, id: u64) -> Option<Info> {
        self.membership().get_node(&id).cloned()
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
                let update = |membership: &Membership| {
                    let info = membership.get_node(&id).ok_or(StoreError::MemberNotFound)?;
                    let mut changed = info.clone();
                    changed.peer_addresses = peer_addresses.clone().unwrap_or(changed.peer_addresses);
                    changed.client_addresses = client_addresses.clone().unwrap_or(changed.client_addresses);
                    Ok(((changed != *info).then(|| ChangeMembers::SetNodes(BTreeMap::from([(id, changed)]))), None))
                };
                self.decide(update).await
            }
        }
    }

    async fn add(&self, name: String, peer_addresses: Vec<String>, learner: bool) -> Result<Member, StoreError> {
        let info = Info { name, peer_addresses, wants_vote: !learner, ..Info::default() };
        let id = new_id();
        let taken = |member: &Member| {
            (!info.name.is_empty() && member.name == info.name)
                || member.peer_addresses.iter().any(|address| info.peer_addresses.contains(address))
        };
        let decision = |membership: &Membership| {
            if members_of(membership).any(|member| taken(&member)) {
                return Err(StoreError::MemberExists);
            }
            Ok((Some(ChangeMembers::AddNodes(BTreeMap::from([(id, info.clone())]))), info.member(id, true)))
        };
        self.decide(decision).await
    }

    pub(super) async fn remove(&self, id: u64) -> Result<(), StoreError> {
        self.info(id).ok_or(StoreError::MemberNotFound)?;
        let vote = |membership: &Membership| {
            if !membership.voter_ids().any(|voter| voter == id) {
                return Ok((None, ()));
            }
            if membership.voter_ids().count() == 1 {
                return Err(StoreError::LastVoter);
            }
            Ok((Some(ChangeMembers::RemoveVoters(BTreeSet::from([id]))), ()))
        };
        self.decide(vote).await?;
        // A voter goes as a whole with its vote; a learner is still there.
        let node = |membership: &Membership| Ok((membership.get_node(&id).map(|_| ChangeMembers::RemoveNodes(BTreeSet::from([id]))), ()));
        self.decide(node).await
    }

    async fn promote(&self, id: u64) -> Result<(), StoreError> {
        let decision = |membership: &Membership| {
            membership.get_node(&id).ok_or(StoreError::MemberNotFound)?;
            if votes(membership, id) {
                return Err(StoreError::NotLearner);
            }
            if !self.caught_up(id) {
                return Err(StoreError::LearnerNotReady);
            }
            Ok((Some(ChangeMembers::AddVoterIds(BTreeSet::from([id]))), ()))
        };
        self.decide(decision).await
    }

    /// Whether a member lacks a few entries at most.
    fn caught_up(&self, id: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref().and_then(|replication| replication.get(&id)).and_then(|matched| *matched);
        matched.is_some_and(|matched| matched.index + LAG >= metrics.last_log_index.unwrap_or(0))
    }

    /// Decides on the membership as it stands, and changes it if it stands so still; decides anew if it does not, or while
    /// another change is under way.
    pub(super) async fn decide<T>(&self, decision: impl Fn(&Membership) -> Decision<T>) -> Result<T, StoreError> {
        let deadline = Instant::now() + CHANGE;
        loop {
            let membership = self.membership();
            let (change, answer) = decision(&membership)?;
            let seen: Option<LogId> = *membership.log_id();
            let Some(change) = change else { return Ok(answer) };
            let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: seen };
            match tokio::time::timeout_at(deadline, self.raft.change_membership_if(change, false, [unchanged])).await {
                Ok(Ok(_)) => return Ok(answer),
                Ok(Err(RaftError::APIError(
                    ClientWriteError::PreconditionFailed(_) | ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)),
                ))) if Instant::now() < deadline => tokio::time::sleep(RETRY).await,
                Ok(Err(error)) => return Err(super::node::failure(error)),
                Err(_) => return Err(StoreError::Timeout),
            }
        }
    }

    /// A member comes forward: takes down which data directory it has. Returns its id.
    pub(super) async fn join_here(&self, name: &str, id: Option<u64>, instance: u64) -> Result<u64, StoreError> {
        let decision = |membership: &Membership| {
            let Some((id, info)) = meant(membership, name, id) else {
                return Err(StoreError::MemberRefused(format!(
                    "no member is called {name:?}: add it with 'orchd member add {name} ADDRESS'"
                )));
            };
            if info.instance == 0 {
                let info = Info { name: name.to_owned(), instance, ..info.clone() };
                return Ok((Some(ChangeMembers::SetNodes(BTreeMap::from([(id, info)]))), id));
            }
            if info.instance == instance {
                return Ok((None, id));
            }
            Err(StoreError::MemberRefused(format!(
                "member {name:?} has been part of this cluster with another data directory, and must not come back empty: \
                 remove it with 'orchd member remove {id:x}', then add it anew with 'orchd member add {name} ADDRESS'"
            )))
        };
        self.decide(decision).await
    }

    /// Ends a change of votes that whoever began it has left halfway: a leader that is gone, or one whose patience ended.
    /// Until then it takes a majority of the voters before and of those after it to go on.
    async fn end_halfway(&self, left: &mut Halfway) {
        let membership = self.membership();
        let begun = if is_halfway(&membership) { *membership.log_id() } else { None };
        *left = Halfway { begun, looks: if begun == left.begun { left.looks + 1 } else { 0 } };
        let Some(id) = begun else { return };
        if self.leadership() == Some(id.leader_id.term) && left.looks < ABANDONED {
            return;
        }
        let end = |membership: &Membership| {
            let still = *membership.log_id() == begun;
            // To take nobody's vote ends what is halfway.
            Ok((still.then(|| ChangeMembers::RemoveVoters(BTreeSet::new())), ()))
        };
        match self.decide(end).await {
            Ok(()) => tracing::info!("a change of votes that was left halfway has been ended"),
            Err(error) => tracing::info!(%error, "a change of votes that was left halfway could not be ended yet"),
        }
    }

    /// Gives their votes to learners that want one and have caught up.
    async fn promote_ready(&self) {
        let membership = self.membership();
        if is_halfway(&membership) {
            return;
        }
        let wants = |id: u64, info: &Info| info.wants_vote && info.instance != 0 && !votes(&membership, id);
        let wanting: Vec<u64> = membership.nodes().filter(|(id, info)| wants(**id, info)).map(|(id, _)| *id).collect();
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

/// A change of votes that has been begun: its entry, and for how many looks in a row it has been seen.
#[derive(Default)]
struct Halfway {
    begun: Option<LogId>,
    looks: u32,
}

/// Keeps what the membership says of this member true; while it leads, ends changes that others have left halfway, and
/// promotes learners that are ready.
pub(super) async fn look_after(node: Node, group: Group, identity: Identity) {
    let mut stopped = node.stop.subscribe();
    let mut halfway = Halfway::default();
    let mut tick = tokio::time::interval(LOOK_AFTER);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopped.wait_for(|stop| *stop).map(drop) => return,
        }
        if node.leads() {
            node.end_halfway(&mut halfway).await;
            node.promote_ready().await;
        }
        let Some(info) = node.info(identity.id) else { continue };
        let outcome = if info.instance == 0 {
            let call = Call::Join { name: info.name, id: Some(identity.id), instance: identity.instance };
            node.ask_leader(call, READ).await.map(drop)
        } else if info.instance != identity.instance {
            tracing::error!(name = info.name, "this member's place in the group belongs to another data directory; it stops");
            node.shutdown().await;
            return;
        } else if info.client_addresses != group.client_addresses || info.address() != group.peer_address {
            let change = Change::Update {
                id: identity.id,
                peer_addresses: Some(vec![group.peer_address.clone()]),
                client_addresses: Some(group.client_addresses.clone()),
            };
            node.change(change).await.map(drop)
        } else {
            Ok(())
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "this member's entry in the membership could not be brought up to date yet");
        }
    }
}
