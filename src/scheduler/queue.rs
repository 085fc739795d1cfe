//! Pods that wait for a node: by priority, then by age; those that found none wait for a change that could help them.

use super::wanted::Wanted;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

const BACKOFF_BASE_MS: i64 = 100;
const BACKOFF_MAX_MS: i64 = 10_000;
/// A pod that no change has helped for this long is tried all the same.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// Higher priority first, then the earlier, then the order of arrival.
type Place = (Reverse<i32>, Timestamp, u64);

enum State {
    Active(Place),
    /// Waits until then at the earliest: `helped` says whether it is tried then, or only once something helps.
    Waiting {
        until: Timestamp,
        helped: bool,
        since: Timestamp,
    },
    /// Being decided or bound.
    Taken,
}

struct Entry {
    wanted: Wanted,
    state: State,
    attempts: u32,
}

/// Every pod without a node, by uid.
#[derive(Default)]
pub struct Queue {
    pods: HashMap<String, Entry>,
    active: BTreeMap<Place, String>,
    arrivals: u64,
}

impl Queue {
    /// A pod that wants a node now: a new one, or one that was changed.
    pub fn add(&mut self, wanted: Wanted) {
        let uid = wanted.uid().to_owned();
        let attempts = match self.pods.get_mut(&uid) {
            Some(entry) if matches!(entry.state, State::Taken) => {
                entry.wanted = wanted;
                return;
            }
            Some(entry) => entry.attempts,
            None => 0,
        };
        self.remove(&uid);
        let place = self.place_of(&wanted);
        self.active.insert(place, uid.clone());
        self.pods.insert(uid, Entry { wanted, state: State::Active(place), attempts });
    }

    /// The pod in its present state, without waking it.
    pub fn refresh(&mut self, wanted: Wanted) {
        if let Some(entry) = self.pods.get_mut(wanted.uid()) {
            entry.wanted = wanted;
        }
    }

    pub fn contains(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// Drops pods that `keep` does not vouch for.
    pub fn retain(&mut self, keep: impl Fn(&Wanted) -> bool) {
        let gone: Vec<String> = self.pods.iter().filter(|(_, e)| !keep(&e.wanted)).map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.remove(&uid);
        }
    }

    /// A pod that needs no node any more.
    pub fn remove(&mut self, uid: &str) {
        if let Some(Entry { state: State::Active(place), .. }) = self.pods.remove(uid) {
            self.active.remove(&place);
        }
    }

    /// The next pod to decide on; it stays known as taken.
    pub fn pop(&mut self) -> Option<Wanted> {
        let (_, uid) = self.active.pop_first()?;
        let entry = self.pods.get_mut(&uid)?;
        entry.state = State::Taken;
        entry.attempts = entry.attempts.saturating_add(1);
        Some(entry.wanted.clone())
    }

    /// No node was found: the pod waits for help.
    pub fn park(&mut self, uid: &str, now: Timestamp) {
        self.wait(uid, now, false);
    }

    /// Binding failed: the pod is tried again after its back-off.
    pub fn retry(&mut self, uid: &str, now: Timestamp) {
        self.wait(uid, now, true);
    }

    fn wait(&mut self, uid: &str, now: Timestamp, helped: bool) {
        if let Some(entry) = self.pods.get_mut(uid) {
            let shift = entry.attempts.saturating_sub(1).min(20);
            let delay = BACKOFF_BASE_MS.saturating_mul(1 << shift).min(BACKOFF_MAX_MS);
            entry.state = State::Waiting { until: now + SignedDuration::from_millis(delay), helped, since: now };
        }
    }

    /// Something changed that could help: parked pods are tried again, each after its back-off.
    pub fn help_all(&mut self) {
        for entry in self.pods.values_mut() {
            if let State::Waiting { helped, .. } = &mut entry.state {
                *helped = true;
            }
        }
    }

    /// Makes active what has waited long enough.
    pub fn wake(&mut self, now: Timestamp) {
        let is_due = |e: &Entry| due(&e.state).is_some_and(|at| at <= now);
        let uids: Vec<String> = self.pods.iter().filter(|(_, e)| is_due(e)).map(|(uid, _)| uid.clone()).collect();
        for uid in uids {
            let Some(wanted) = self.pods.get(&uid).map(|e| e.wanted.clone()) else { continue };
            self.add(wanted);
        }
    }

    /// When a waiting pod is next due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.pods.values().filter_map(|e| due(&e.state)).min()
    }

    fn place_of(&mut self, wanted: &Wanted) -> Place {
        self.arrivals += 1;
        let priority = wanted.spec().and_then(|s| s.priority).unwrap_or(0);
        let created = wanted.pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        (Reverse(priority), created, self.arrivals)
    }
}

fn due(state: &State) -> Option<Timestamp> {
    match *state {
        State::Waiting { until, helped: true, .. } => Some(until),
        State::Waiting { since, .. } => Some(since + PATIENCE),
        State::Active(_) | State::Taken => None,
    }
}
