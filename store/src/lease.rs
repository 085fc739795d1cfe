//! When leases end. The leader keeps the deadlines, by its own clock, in memory: a keep-alive costs no write; a new leader
//! gives every lease its whole time anew, so that none ends early. May import: `batch`, `clock`, `command`, `error`,
//! `raft`, `state`.

use crate::batch::Batcher;
use crate::clock::Clock;
use crate::command::Command;
use crate::error::StoreError;
use crate::raft::{Item, Node};
use crate::state::State;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Shortest time to live: longer than an election takes, so that a change of leaders ends no lease.
pub const MIN_TTL_S: i64 = 2;
/// etcd's longest.
pub const MAX_TTL_S: i64 = 9_000_000_000;
/// How soon a revocation that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

pub struct Leases {
    state: Arc<State>,
    node: Node,
    clock: Arc<dyn Clock>,
    deadlines: Mutex<Deadlines>,
}

/// Invariant: `ordered` and `by_id` hold the same pairs.
#[derive(Default)]
struct Deadlines {
    /// The term in which this member leads, and these were set.
    term: Option<u64>,
    by_id: HashMap<i64, Duration>,
    ordered: BTreeSet<(Duration, i64)>,
}

impl Deadlines {
    fn set(&mut self, id: i64, deadline: Duration) {
        self.forget(id);
        self.by_id.insert(id, deadline);
        self.ordered.insert((deadline, id));
    }

    fn forget(&mut self, id: i64) {
        if let Some(deadline) = self.by_id.remove(&id) {
            self.ordered.remove(&(deadline, id));
        }
    }
}

impl Leases {
    /// Starts ending leases; stops once the last handle is gone, or the replica has stopped.
    pub fn start(state: Arc<State>, node: Node, batcher: Batcher, clock: Arc<dyn Clock>) -> Arc<Self> {
        let leases = Arc::new(Self { state, node, clock, deadlines: Mutex::default() });
        leases.catch_up();
        tokio::spawn(expire(Arc::downgrade(&leases), batcher));
        leases
    }

    /// Takes note of leases just granted, by whichever member.
    pub fn note_granted(&self) {
        let granted = self.state.granted().take();
        let now = self.clock.now();
        let mut deadlines = self.deadlines.lock();
        if deadlines.term.is_some() {
            for (id, ttl_s) in granted {
                deadlines.set(id, now + seconds(ttl_s));
            }
        }
    }

    /// Gives a lease its whole time anew; returns its seconds.
    ///
    /// # Errors
    /// `NoLeader`; `LeaseNotFound`, also of a lease whose time is up but whose keys are still there.
    pub fn keep_alive(&self, id: i64) -> Result<i64, StoreError> {
        let ttl_s = self.known(id)?;
        let now = self.clock.now();
        let mut deadlines = self.deadlines.lock();
        if deadlines.by_id.get(&id).is_some_and(|deadline| *deadline <= now) {
            return Err(StoreError::LeaseNotFound);
        }
        deadlines.set(id, now + seconds(ttl_s));
        Ok(ttl_s)
    }

    /// Seconds granted, and seconds left.
    ///
    /// # Errors
    /// `NoLeader`, `LeaseNotFound`.
    pub fn time_to_live(&self, id: i64) -> Result<(i64, i64), StoreError> {
        let ttl_s = self.known(id)?;
        let now = self.clock.now();
        let left = self.deadlines.lock().by_id.get(&id).map_or(seconds(ttl_s), |deadline| deadline.saturating_sub(now));
        Ok((ttl_s, left.as_secs() as i64))
    }

    fn known(&self, id: i64) -> Result<i64, StoreError> {
        if !self.node.leads() {
            return Err(StoreError::NoLeader);
        }
        self.catch_up();
        self.state.read(|machine| machine.lease_ttl(id)).ok_or(StoreError::LeaseNotFound)
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
        *deadlines = Deadlines { term, ..Deadlines::default() };
        for (id, ttl_s) in leases {
            deadlines.set(id, now + seconds(ttl_s));
        }
    }

    /// Leases whose time is up, and when the next one's is.
    fn due(&self) -> (Vec<i64>, Option<Duration>) {
        let now = self.clock.now();
        let mut deadlines = self.deadlines.lock();
        let due: Vec<i64> = deadlines.ordered.range(..=(now, i64::MAX)).map(|(_, id)| *id).collect();
        // Those revoked by their owner are gone from the machine.
        let (due, gone): (Vec<i64>, Vec<i64>) = self.state.read(|machine| due.into_iter().partition(|id| machine.lease_ttl(*id).is_some()));
        for id in gone {
            deadlines.forget(id);
        }
        let next = deadlines.ordered.range((now, i64::MAX)..).find(|(deadline, _)| *deadline > now).map(|(deadline, _)| *deadline);
        (due, next)
    }
}

fn seconds(ttl_s: i64) -> Duration {
    Duration::from_secs(ttl_s.clamp(0, MAX_TTL_S) as u64)
}

async fn revoke(batcher: &Batcher, id: i64, term: Option<u64>) -> Result<(), StoreError> {
    // A member that leads no more, or again, knows nothing of this lease's time.
    let term = term.ok_or(StoreError::NoLeader)?;
    batcher.submit(Item::new(Command::LeaseRevoke { id })?, Some(term)).await.map(drop)
}

async fn expire(leases: Weak<Leases>, batcher: Batcher) {
    loop {
        let Some(held) = leases.upgrade() else { return };
        held.catch_up();
        held.note_granted();
        let term = held.deadlines.lock().term;
        let (due, next) = held.due();
        let mut wake = next;
        for id in due {
            match revoke(&batcher, id, term).await {
                Ok(()) | Err(StoreError::LeaseNotFound) => held.deadlines.lock().forget(id),
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(id, %error, "a lease whose time is up could not be revoked yet");
                    let again = held.clock.now() + RETRY;
                    wake = Some(wake.map_or(again, |wake| wake.min(again)));
                }
            }
        }
        let mut leadership = held.node.watch_leadership();
        let sleep = match wake {
            Some(moment) => held.clock.sleep_until(moment),
            None => Box::pin(std::future::pending()),
        };
        tokio::select! {
            () = sleep => {}
            () = held.state.granted().told() => {}
            running = leadership.changed() => if !running { return },
        }
    }
}
