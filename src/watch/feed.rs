//! `Feed`: what whoever acts on changes reads, be it the cache of a master or a test.

use super::{Event, Snapshot};
use std::sync::Arc;
use tokio::sync::broadcast;

/// The subscriber was too slow and has missed events; it takes a new snapshot and starts over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("missed {0} batches of events")]
pub struct Lagged(pub u64);

/// Events, a batch for each revision (or several), in order.
pub struct Subscription {
    receiver: broadcast::Receiver<Arc<[Event]>>,
}

impl Subscription {
    pub fn new(receiver: broadcast::Receiver<Arc<[Event]>>) -> Self {
        Self { receiver }
    }

    /// The next batch; None once the feed has ended.
    ///
    /// # Errors
    /// `Lagged`: take a snapshot anew.
    pub async fn next(&mut self) -> Result<Option<Arc<[Event]>>, Lagged> {
        match self.receiver.recv().await {
            Ok(events) => Ok(Some(events)),
            Err(broadcast::error::RecvError::Closed) => Ok(None),
            Err(broadcast::error::RecvError::Lagged(n)) => Err(Lagged(n)),
        }
    }
}

/// A source of snapshots and of the events between them.
pub trait Feed: Send + Sync {
    /// The newest whole view.
    fn snapshot(&self) -> Snapshot;
    /// Every event after the returned snapshot.
    fn subscribe(&self) -> (Snapshot, Subscription);
}
