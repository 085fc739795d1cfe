//! The store's group, as its users see it: who belongs to it, who leads, how this replica stands. May import: `cluster`,
//! `disk`, `error`, `handle`, `raft`.

use crate::cluster::{Member, Status};
use crate::disk::Stream;
use crate::error::StoreError;
use crate::handle::Store;
use crate::raft::{Change, Leadership};
use bytes::Bytes;

impl Store {
    /// How this replica stands. Looks at the files' sizes: not for every request.
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        let (member_id, leader, term, log_index) = shared.node.position();
        Status {
            cluster_id: shared.node.cluster_id(),
            member_id,
            leader_id: leader.unwrap_or(0),
            term,
            log_index,
            applied_index: shared.state.applied().next.saturating_sub(1),
            learner: self.members().iter().any(|member| member.id == member_id && member.learner),
            db_bytes: shared.log.bytes() + shared.snapshots.checkpoint_bytes() + shared.snapshots.image_bytes(),
            db_in_use_bytes: shared.state.read(|machine| machine.bytes()),
            quota_bytes: shared.space.quota_bytes(),
            no_space: shared.space.short(),
            errors: self.serves().err().map(|error| error.to_string()).into_iter().collect(),
        }
    }

    /// Tells this group from all others.
    pub fn cluster_id(&self) -> u64 {
        self.shared.node.cluster_id()
    }

    /// This member's id.
    pub fn member_id(&self) -> u64 {
        self.shared.node.position().0
    }

    /// The term that Raft is in, and who leads in it (0: none is known).
    pub fn term_and_leader(&self) -> (u64, u64) {
        let (_, leader, term, _) = self.shared.node.position();
        (term, leader.unwrap_or(0))
    }

    /// The members, by id, as far as this replica knows.
    pub fn members(&self) -> Vec<Member> {
        self.shared.node.members()
    }

    /// Adds a member, which learns first. Unless it is to remain a learner it votes as soon as it has started and caught up.
    ///
    /// # Errors
    /// `MemberExists`, `NoLeader`, `Timeout`.
    pub async fn member_add(&self, name: &str, peer_addresses: Vec<String>, learner: bool) -> Result<Member, StoreError> {
        let change = Change::Add { name: name.to_owned(), peer_addresses, learner };
        let added = self.shared.node.change(change).await?;
        added.ok_or_else(|| StoreError::Failed("the leader did not say which member it added".into()))
    }

    /// Removes a member for good: its id never comes back.
    ///
    /// # Errors
    /// `MemberNotFound`, `LastVoter`, `NoLeader`, `Timeout`.
    pub async fn member_remove(&self, id: u64) -> Result<(), StoreError> {
        self.shared.node.change(Change::Remove(id)).await.map(drop)
    }

    /// Gives a learner its vote.
    ///
    /// # Errors
    /// `MemberNotFound`, `NotLearner`, `LearnerNotReady`, `NoLeader`, `Timeout`.
    pub async fn member_promote(&self, id: u64) -> Result<(), StoreError> {
        self.shared.node.change(Change::Promote(id)).await.map(drop)
    }

    /// Takes down where a member is reached by the others. A member that runs puts its own address right by itself.
    ///
    /// # Errors
    /// `MemberNotFound`, `NoLeader`, `Timeout`.
    pub async fn member_update(&self, id: u64, peer_addresses: Vec<String>) -> Result<(), StoreError> {
        let change = Change::Update { id, peer_addresses: Some(peer_addresses), client_addresses: None };
        self.shared.node.change(change).await.map(drop)
    }

    /// Has another voting member lead; returns once it does.
    ///
    /// # Errors
    /// `MemberNotFound`, `NotVoter`, `NoLeader`, `Timeout`.
    pub async fn move_leader(&self, target: u64) -> Result<(), StoreError> {
        self.shared.node.move_leader(target).await
    }

    /// The term in which this member leads; None: it does not, as far as it knows.
    pub fn leads_in(&self) -> Option<u64> {
        self.shared.node.leadership()
    }

    /// Tells when this member takes or leaves office.
    pub fn watch_leadership(&self) -> Leadership {
        self.shared.node.watch_leadership()
    }

    /// A handle whose writes are carried out only while this member leads in `term`: a leader that has been deposed can
    /// change nothing through it.
    pub fn fenced(&self, term: u64) -> Self {
        Self { shared: self.shared.clone(), fence: Some(term) }
    }

    /// Returns once reads of this replica (`range_local`, watches) are as new as any write acknowledged before the call.
    ///
    /// # Errors
    /// `NoLeader`, `Timeout`, `Closed`, `Failed`.
    pub async fn read_barrier(&self) -> Result<(), StoreError> {
        let shared = self.open_still()?;
        if shared.node.alone() { shared.node.serves() } else { shared.barrier.pass().await }
    }

    /// Seconds granted to a lease, and seconds left of them, by the leader's clock.
    ///
    /// # Errors
    /// `LeaseNotFound`, `NoLeader`, `Timeout`.
    pub async fn lease_time_to_live(&self, id: i64) -> Result<(i64, i64), StoreError> {
        self.shared.node.time_to_live(id).await
    }

    /// Every lease, by id, as this replica has it.
    pub fn leases(&self) -> Vec<i64> {
        self.shared.state.read(|machine| machine.leases().map(|(id, _)| id).collect())
    }

    /// The keys that end with a lease, as this replica has them.
    pub fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        self.shared.state.read(|machine| machine.lease_keys(id))
    }

    /// A snapshot of now: its file, opened for reading.
    ///
    /// # Errors
    /// `Failed`: it could not be written.
    pub async fn snapshot_file(&self) -> Result<Stream, StoreError> {
        let image = self.shared.snapshots.clone().build_behind(self.shared.state.clone()).await;
        let file = image.and_then(|image| image.file());
        file.map(Stream::new).map_err(|error| StoreError::Failed(format!("no snapshot could be written: {error}")))
    }
}
