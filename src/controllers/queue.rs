//! The work queue: every key at most once, delayed keys by time, back-off by failures. Pure; the driver owns one.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;

const BACKOFF_BASE_MS: i64 = 5;
const BACKOFF_MAX_MS: i64 = 60_000;

/// A queue of keys. A key that runs is not handed out again before `done`; what was added meanwhile follows then.
pub struct WorkQueue<K> {
    ready: VecDeque<K>,
    queued: HashSet<K>,
    running: HashSet<K>,
    /// Added while running.
    again: HashSet<K>,
    delayed: BTreeSet<(Timestamp, K)>,
    due: HashMap<K, Timestamp>,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Eq + Hash + Ord> Default for WorkQueue<K> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            delayed: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> WorkQueue<K> {
    /// Wants `key` run as soon as may be.
    pub fn add(&mut self, key: K) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// Wants `key` run at `at`; the earlier of two times counts.
    pub fn add_at(&mut self, key: K, at: Timestamp) {
        match self.due.get(&key) {
            Some(&before) if before <= at => return,
            Some(&before) => {
                self.delayed.remove(&(before, key.clone()));
            }
            None => {}
        }
        self.due.insert(key.clone(), at);
        self.delayed.insert((at, key));
    }

    /// Wants a key that failed run again, later with each failure.
    pub fn add_failed(&mut self, key: K, now: Timestamp) {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let delay = BACKOFF_BASE_MS.saturating_mul(1 << (*failures).min(20)).min(BACKOFF_MAX_MS);
        *failures = failures.saturating_add(1);
        self.add_at(key, now + SignedDuration::from_millis(delay));
    }

    /// Forgets the failures of a key that succeeded.
    pub fn succeeded(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// Moves what is due to the ready ones.
    pub fn wake(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.delayed.first().cloned() {
            if at > now {
                return;
            }
            self.delayed.pop_first();
            self.due.remove(&key);
            self.add(key);
        }
    }

    /// When the next delayed key is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.delayed.first().map(|(at, _)| *at)
    }

    /// The next key to run; it counts as running until `done`.
    pub fn pop(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    pub fn done(&mut self, key: &K) {
        self.running.remove(key);
        if self.again.remove(key) {
            self.add(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    #[test]
    fn a_key_is_queued_once_and_never_runs_twice_at_a_time() {
        let mut q = WorkQueue::default();
        q.add("a");
        q.add("a");
        assert_eq!(q.pop(), Some("a"));
        q.add("a");
        assert_eq!(q.pop(), None);
        q.done(&"a");
        assert_eq!(q.pop(), Some("a"));
        q.done(&"a");
        assert_eq!(q.pop(), None);
    }

    #[test]
    fn the_earliest_time_of_a_key_counts() {
        let mut q = WorkQueue::default();
        q.add_at("a", at(50));
        q.add_at("a", at(20));
        q.add_at("a", at(90));
        assert_eq!(q.next_due(), Some(at(20)));
        q.wake(at(19));
        assert_eq!(q.pop(), None);
        q.wake(at(20));
        assert_eq!(q.pop(), Some("a"));
        assert_eq!(q.next_due(), None);
    }

    #[test]
    fn back_off_doubles_up_to_a_minute_and_starts_over_after_success() {
        let mut q = WorkQueue::default();
        let mut delays = Vec::new();
        for _ in 0..16 {
            q.add_failed("a", at(0));
            delays.push(q.next_due().unwrap().as_millisecond());
            q.wake(at(i64::MAX / 10_000_000));
            q.pop();
            q.done(&"a");
        }
        assert_eq!(&delays[..4], &[5, 10, 20, 40]);
        assert_eq!(delays[15], 60_000);
        q.succeeded(&"a");
        q.add_failed("a", at(0));
        assert_eq!(q.next_due(), Some(at(5)));
    }
}
