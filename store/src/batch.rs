//! Group commit: one log entry carries every command that waits at that moment. There is no timer: while entries are being
//! written and applied, the next one gathers. May import: `command`, `error`, `raft`.

use crate::command::{Command, Output};
use crate::error::StoreError;
use crate::raft::{Batch, Item, Node};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Commands that may wait.
const QUEUE: usize = 8192;
/// Bounds of one entry: larger ones would hold heartbeats up.
const ENTRY_COMMANDS: usize = 4096;
const ENTRY_BYTES: usize = 1 << 20;
/// Entries on their way: one being written while another is being applied.
const IN_FLIGHT: usize = 2;
/// A command as large as etcd takes it.
const COMMAND_BYTES: usize = 1536 << 10;
/// After this long the outcome is left open.
const TIMEOUT: Duration = Duration::from_secs(10);

struct Pending {
    item: Item,
    answer: oneshot::Sender<Result<Output, StoreError>>,
}

/// The queue in front of Raft. Cheap to clone.
#[derive(Clone)]
pub struct Batcher {
    queue: mpsc::Sender<Pending>,
}

impl Batcher {
    /// Starts gathering; ends once every clone is gone.
    pub fn start(node: Node) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(gather(node, waiting));
        Self { queue }
    }

    /// Carries a command out.
    ///
    /// # Errors
    /// `TooLarge`; `Timeout`: the outcome is open; what the replica and the machine answer.
    pub async fn submit(&self, command: Command) -> Result<Output, StoreError> {
        let item = Item::new(command)?;
        if item.encoded.len() > COMMAND_BYTES {
            return Err(StoreError::TooLarge(format!("{} bytes; the most is {COMMAND_BYTES}", item.encoded.len())));
        }
        let (answer, answered) = oneshot::channel();
        let carried = async {
            self.queue.send(Pending { item, answer }).await.map_err(|_| StoreError::Closed)?;
            answered.await.map_err(|_| StoreError::Closed)?
        };
        tokio::time::timeout(TIMEOUT, carried).await.map_err(|_| StoreError::Timeout)?
    }
}

async fn gather(node: Node, mut waiting: mpsc::Receiver<Pending>) {
    let slots = Arc::new(Semaphore::new(IN_FLIGHT));
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let Some(first) = waiting.recv().await else { return };
        let mut bytes = first.item.encoded.len();
        let mut items = vec![first.item];
        let mut answers = vec![first.answer];
        while items.len() < ENTRY_COMMANDS && bytes < ENTRY_BYTES {
            let Ok(next) = waiting.try_recv() else { break };
            bytes += next.item.encoded.len();
            items.push(next.item);
            answers.push(next.answer);
        }
        let node = node.clone();
        tokio::spawn(async move {
            let outcome = node.propose(Batch(items.into())).await;
            drop(slot);
            answer(outcome.map(|reply| reply.0), answers);
        });
    }
}

fn answer(outcome: Result<Vec<Result<Output, StoreError>>, StoreError>, answers: Vec<oneshot::Sender<Result<Output, StoreError>>>) {
    match outcome {
        Ok(outputs) => {
            for (answer, output) in answers.into_iter().zip(outputs) {
                // Whoever asked may have stopped waiting.
                let _ = answer.send(output);
            }
        }
        Err(error) => {
            for answer in answers {
                // As above.
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}
