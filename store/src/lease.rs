//! When leases end. The leader keeps the deadlines, by its own clock, in memory: a keep-alive costs no write; a new leader
//! gives every lease its whole time anew, so that none ends early. May import: `batch`, `clock`, `command`, `error`,
//! `raft`, `state`.

use crate::batch::Batcher;
use crate::clock::Clock;
use crate::command::Command;
use crate::error::StoreError;
use crate::raft::Node;
use crate::state::State;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// Shortest time to live: that of an election, so that a change of leaders ends no lease.
pub const MIN_TTL_S: i64 = 3;
/// How soon a revocation that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

pub struct Leases {
    state: Arc<State>,
    node: Node,
    clock: Arc<dyn Clock>,
    deadlines: Mutex<Deadlines>,
    changed: Notify,
}

#[derive(Default)]
struct Deadlines {
    /// The term in which this member leads, and these were set.
    term: Option<u64>,
    by_id: HashMap<i64, Duration>,
}

impl Leases {
    /// Starts ending leases; stops once the last handle is gone, or the replica has stopped.
    pub fn start(state: Arc<State>, node: Node, batcher: Batcher, clock: Arc<dyn Clock>) -> Arc<Self> {
        let leases = Arc::new(Self { state, node, clock, deadlines: Mutex::default(), changed: Notify::new() });
        leases.catch_up();
        tokio::spawn(expire(Arc::downgrade(&leases), batcher));
        leases
    }

    /// Takes note of a lease just granted.
    pub fn granted(&self, id: i64, ttl_s: i64) {
        self.deadlines.lock().by_id.insert(id, self.clock.now() + seconds(ttl_s));
        self.changed.notify_one();
    }

    /// Gives a lease its whole time anew; returns its seconds.
    ///
    /// # Errors
    /// `NoLeader`; `LeaseNotFound`, also of a lease whose time is up but whose keys are still there.
    pub fn keep_alive(&self, id: i64) -> Result<i64, StoreError> {
        if !self.node.leads() {
            return Err(StoreError::NoLeader);
        }
        self.catch_up();
        let ttl_s = self.state.read(|machine| machine.lease_ttl(id)).ok_or(StoreError::LeaseNotFound)?;
        let now = self.clock.now();
        let mut deadlines = self.deadlines.lock();
        if deadlines.by_id.get(&id).is_some_and(|deadline| *deadline <= now) {
            return Err(StoreError::LeaseNotFound);
        }
        deadlines.by_id.insert(id, now + seconds(ttl_s));
        Ok(ttl_s)
    }

    /// On taking office, every lease begins anew.
    fn catch_up(&self) {
        let term = self.node.leadership();
        if self.deadlines.lock().term == term {
            return;
        }
        let leases: Vec<(i64, i64)> = if term.is_some() { self.state.read(|machine| machine.leases().collect()) } else { Vec::new() };
        let now = self.clock.now();
        let mut deadlines = self.deadlines.lock();
        deadlines.term = term;
        deadlines.by_id = leases.into_iter().map(|(id, ttl_s)| (id, now + seconds(ttl_s))).collect();
    }

    /// Leases whose time is up, and how long until the next one's is.
    fn due(&self) -> (Vec<i64>, Option<Duration>) {
        let now = self.clock.now();
        let mut deadlines = self.deadlines.lock();
        // Those revoked by their owner are gone from the machine.
        self.state.read(|machine| deadlines.by_id.retain(|id, deadline| *deadline > now || machine.lease_ttl(*id).is_some()));
        let due = deadlines.by_id.iter().filter(|(_, deadline)| **deadline <= now).map(|(id, _)| *id).collect();
        let next = deadlines.by_id.values().filter(|deadline| **deadline > now).min().map(|deadline| *deadline - now);
        (due, next)
    }
}

fn seconds(ttl_s: i64) -> Duration {
    Duration::from_secs(ttl_s.max(0) as u64)
}

async fn expire(leases: Weak<Leases>, batcher: Batcher) {
    loop {
        let Some(held) = leases.upgrade() else { return };
        held.catch_up();
        let (due, next) = held.due();
        let mut wait = next;
        for id in due {
            match batcher.submit(Command::LeaseRevoke { id }).await {
                Ok(_) | Err(StoreError::LeaseNotFound) => {
                    held.deadlines.lock().by_id.remove(&id);
                }
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(id, %error, "a lease whose time is up could not be revoked yet");
                    wait = Some(wait.map_or(RETRY, |wait| wait.min(RETRY)));
                }
            }
        }
        let mut leadership = held.node.watch_leadership();
        let sleep = match wait {
            Some(wait) => held.clock.sleep(wait),
            None => Box::pin(std::future::pending()),
        };
        tokio::select! {
            () = sleep => {}
            () = held.changed.notified() => {}
            running = leadership.changed() => if !running { return },
        }
    }
}
