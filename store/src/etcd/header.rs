//! The header of every answer, and what is known of the cluster without asking it. May import: `etcd`, `handle`.

use super::pb::etcdserverpb::ResponseHeader;
use super::status::{LEARNER, NO_LEADER, Status};
use super::{BUDGET_KIB, Face};
use crate::command::Revision;
use crate::handle::Store;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// How often term and leader are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Looks without a leader in a row, after which streams that want one end: etcd's three election timeouts.
const LOOKS: u32 = 30;

impl Face {
    pub fn new(store: Store, progress_interval: Duration, stop: CancellationToken) -> Arc<Self> {
        let status = store.status();
        Arc::new(Self {
            cluster_id: status.cluster_id,
            member_id: status.member_id,
            term: AtomicU64::new(status.term),
            learner: AtomicBool::new(status.learner),
            led: watch::Sender::new(true),
            budget: Arc::new(Semaphore::new(BUDGET_KIB)),
            progress_interval,
            stop,
            store,
        })
    }

    /// The header of an answer that stands for the store at `revision`.
    pub fn header(&self, revision: Revision) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision,
            raft_term: self.term.load(Ordering::Relaxed),
        })
    }

    /// The header of an answer of now.
    pub fn header_now(&self) -> Option<ResponseHeader> {
        self.header(self.store.revision())
    }

    /// # Errors
    /// `NO_LEADER`.
    pub fn needs_leader(&self) -> Result<(), Status> {
        if self.store.serves().is_err() { Err(NO_LEADER) } else { Ok(()) }
    }

    /// # Errors
    /// `LEARNER`: the member has no vote, and answers little.
    pub fn needs_voter(&self) -> Result<(), Status> {
        if self.learner.load(Ordering::Relaxed) { Err(LEARNER) } else { Ok(()) }
    }

    /// Waits until an answer of so many bytes may be made; small ones need not ask.
    pub async fn admit(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        const SMALL: usize = 64 << 10;
        if bytes <= SMALL {
            return None;
        }
        let kib = (bytes >> 10).min(BUDGET_KIB);
        // The semaphore is never closed.
        self.budget.clone().acquire_many_owned(kib as u32).await.ok()
    }

    /// Keeps term and leader known, until stopped.
    pub async fn look(self: Arc<Self>) {
        let mut tick = tokio::time::interval(LOOK);
        let mut without = 0;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.stop.cancelled() => return,
            }
            let (term, leader) = self.store.term_and_leader();
            self.term.store(term, Ordering::Relaxed);
            self.learner.store(self.store.members().iter().any(|member| member.id == self.member_id && member.learner), Ordering::Relaxed);
            without = if leader == 0 { without + 1 } else { 0 };
            self.led.send_if_modified(|led| std::mem::replace(led, without < LOOKS) != (without < LOOKS));
        }
    }
}
