//! Linearizable reads: one read-index round for every read that waits. May import: `error`, `raft`.

use crate::error::StoreError;
use crate::raft::Node;
use tokio::sync::{mpsc, oneshot};

/// Reads that may wait, and that one round serves at most.
const QUEUE: usize = 8192;

type Waiter = oneshot::Sender<Result<(), StoreError>>;

/// The queue in front of the read-index rounds. Cheap to clone.
#[derive(Clone)]
pub struct Barrier {
    queue: mpsc::Sender<Waiter>,
}

impl Barrier {
    /// Starts the rounds; ends once every clone is gone.
    pub fn start(node: Node) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Waiter>(QUEUE);
        tokio::spawn(async move {
            let mut round = Vec::new();
            while waiting.recv_many(&mut round, QUEUE).await > 0 {
                let outcome = node.read_barrier().await;
                for waiter in round.drain(..) {
                    // Whoever asked may have stopped waiting.
                    let _ = waiter.send(outcome.clone());
                }
            }
        });
        Self { queue }
    }

    /// Returns once a local read is linearizable: within two rounds, each of which is bounded.
    ///
    /// # Errors
    /// `NoLeader`, `Timeout`, `Closed`, `Failed`.
    pub async fn pass(&self) -> Result<(), StoreError> {
        let (told, hears) = oneshot::channel();
        self.queue.send(told).await.map_err(|_| StoreError::Closed)?;
        hears.await.map_err(|_| StoreError::Closed)?
    }
}
