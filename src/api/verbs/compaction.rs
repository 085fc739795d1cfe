//! History is given up after five minutes, as kube-apiserver does it: continue tokens and old revisions expire then.

use super::Verbs;
use orchd_store::StoreError;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long history is kept.
const KEEP: Duration = Duration::from_secs(5 * 60);
/// How often it is looked at: history is given up at most that much later.
const EVERY: Duration = Duration::from_secs(30);

/// Revisions with the time at which they were the newest.
#[derive(Default)]
struct Marks(VecDeque<(Instant, i64)>);

impl Marks {
    fn put(&mut self, now: Instant, revision: i64) {
        self.0.push_back((now, revision));
    }

    /// The newest revision that is older than `KEEP`.
    fn expired(&mut self, now: Instant) -> Option<i64> {
        let mut last = None;
        while self.0.front().is_some_and(|(at, _)| now.duration_since(*at) >= KEEP) {
            last = self.0.pop_front();
        }
        last.map(|(_, revision)| revision)
    }
}

impl Verbs {
    /// Compacts the store again and again; ends when the store closes. The master that leads starts it.
    pub async fn compact_loop(&self) {
        let (mut marks, mut tick) = (Marks::default(), tokio::time::interval(EVERY));
        loop {
            tick.tick().await;
            let now = Instant::now();
            marks.put(now, self.store.revision());
            let Some(revision) = marks.expired(now) else { continue };
            match self.store.compact(revision).await {
                Ok(()) => tracing::debug!(revision, "compacted"),
                // Nothing has been written since; or this master leads no more, and is about to hear of it.
                Err(StoreError::Compacted { .. } | StoreError::NoLeader) => {}
                Err(StoreError::Closed) => return,
                Err(error) => tracing::warn!(%error, revision, "compaction failed; it is tried again"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_five_minutes_goes() {
        let (start, mut marks) = (Instant::now(), Marks::default());
        for i in 0..12u64 {
            marks.put(start + EVERY * u32::try_from(i).unwrap(), 100 + i64::try_from(i).unwrap());
        }
        assert_eq!(marks.expired(start + KEEP - Duration::from_secs(1)), None);
        assert_eq!(marks.expired(start + KEEP + EVERY), Some(101));
        assert_eq!(marks.expired(start + KEEP + EVERY), None);
    }
}
