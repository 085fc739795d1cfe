//! Group commit: one log entry carries every command that waits at that moment. There is no timer: while entries are being
//! written and applied, the next one gathers. May import: `command`, `error`, `raft`.

use crate::command::Output;
use crate::error::StoreError;
use crate::raft::{Batch, Item, Node, Reply};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Commands, or groups of them, that may wait.
const QUEUE: usize = 8192;
/// Bounds of one entry: larger ones would hold heartbeats up.
const ENTRY_COMMANDS: usize = 4096;
const ENTRY_BYTES: usize = 1 << 20;
/// Entries on their way: one being written while another is being applied.
const IN_FLIGHT: usize = 2;
/// A command as large as etcd takes it.
const COMMAND_BYTES: usize = 1536 << 10;
/// After this long the outcome is left open.
const TIMEOUT: Duration = Duration::from_secs(12);

type Outcome = Result<Output, StoreError>;

/// Who waits for what.
enum Waiter {
    One(oneshot::Sender<Outcome>),
    /// That many commands, which came together; hears the entry's index too.
    Group(usize, oneshot::Sender<Result<(u64, Reply), StoreError>>),
}

struct Pending {
    items: Vec<Item>,
    fence: Option<u64>,
    waiter: Waiter,
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

    /// Carries a command out. `fence`: only while this member leads, and in this term.
    ///
    /// # Errors
    /// `TooLarge`; `Timeout`: the outcome is open; what the replica and the machine answer.
    pub async fn submit(&self, item: Item, fence: Option<u64>) -> Outcome {
        if item.encoded.len() > COMMAND_BYTES {
            return Err(StoreError::TooLarge(format!("{} bytes; the most is {COMMAND_BYTES}", item.encoded.len())));
        }
        let (answer, answered) = oneshot::channel();
        self.wait(Pending { items: vec![item], fence, waiter: Waiter::One(answer) }, answered).await
    }

    /// Carries out commands that another member gathered; they go into one entry. Returns its index and their answers.
    ///
    /// # Errors
    /// As `submit`, for all of them.
    pub async fn submit_group(&self, items: Vec<Item>) -> Result<(u64, Reply), StoreError> {
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter::Group(items.len(), answer);
        self.wait(Pending { items, fence: None, waiter }, answered).await
    }

    async fn wait<T>(&self, pending: Pending, answered: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
        let carried = async {
            self.queue.send(pending).await.map_err(|_| StoreError::Closed)?;
            answered.await.map_err(|_| StoreError::Closed)?
        };
        tokio::time::timeout(TIMEOUT, carried).await.map_err(|_| StoreError::Timeout)?
    }
}

/// What goes into one entry.
#[derive(Default)]
struct Gathered {
    items: Vec<Item>,
    waiters: Vec<Waiter>,
    bytes: usize,
    fence: Option<u64>,
}

impl Gathered {
    fn add(&mut self, pending: Pending) {
        self.bytes += pending.items.iter().map(|item| item.encoded.len()).sum::<usize>();
        self.items.extend(pending.items);
        self.waiters.push(pending.waiter);
    }

    fn full(&self) -> bool {
        self.items.len() >= ENTRY_COMMANDS || self.bytes >= ENTRY_BYTES
    }
}

async fn gather(node: Node, mut waiting: mpsc::Receiver<Pending>) {
    let slots = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut held: Option<Pending> = None;
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let first = match held.take() {
            Some(first) => first,
            None => match waiting.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        let mut gathered = Gathered { fence: first.fence, ..Gathered::default() };
        gathered.add(first);
        while !gathered.full() {
            match waiting.try_recv() {
                Ok(next) if next.fence == gathered.fence => gathered.add(next),
                // It goes at the head of the next entry.
                Ok(next) => {
                    held = Some(next);
                    break;
                }
                Err(_) => break,
            }
        }
        let node = node.clone();
        tokio::spawn(async move {
            let outcome = node.carry(Batch(gathered.items.into()), gathered.fence).await;
            drop(slot);
            answer(outcome, gathered.waiters);
        });
    }
}

/// Gives each its share. Whoever asked may have stopped waiting, so that nobody minds who hears nothing.
fn answer(outcome: Result<(u64, Reply), StoreError>, waiters: Vec<Waiter>) {
    match outcome {
        Ok((index, Reply(outputs))) => {
            let mut outputs = outputs.into_iter();
            for waiter in waiters {
                match waiter {
                    Waiter::One(answer) => drop(outputs.next().map(|output| answer.send(output))),
                    Waiter::Group(count, answer) => drop(answer.send(Ok((index, Reply(outputs.by_ref().take(count).collect()))))),
                }
            }
        }
        Err(error) => {
            for waiter in waiters {
                match waiter {
                    Waiter::One(answer) => drop(answer.send(Err(error.clone()))),
                    Waiter::Group(_, answer) => drop(answer.send(Err(error.clone()))),
                }
            }
        }
    }
}
