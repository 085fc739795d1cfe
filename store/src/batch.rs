//! Group commit: one log entry carries every command that waits at that moment. There is no timer: while entries are being
//! written and applied, the next one gathers. May import: `command`, `error`, `raft`.

use crate::command::Output;
use crate::error::StoreError;
use crate::raft::{Batch, Item, Node, Reply};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

/// Commands, or groups of them, that may wait.
const QUEUE: usize = 8192;
/// Bounds of one entry: larger ones would hold heartbeats up.
const ENTRY_COMMANDS: usize = 4096;
const ENTRY_BYTES: usize = 1 << 20;
/// Entries on their way: one being written while another is being applied.
const IN_FLIGHT: usize = 2;
/// A command as large as etcd takes it.
const COMMAND_BYTES: usize = 1536 << 10;
/// After this long an entry's outcome is left open. Commands that have waited as long for their turn are not tried any more.
/// One timer for an entry, not for each command: a command costs less than a timer does.
const TIMEOUT: Duration = Duration::from_secs(12);

type Outcome = Result<Output, StoreError>;
type Answered<T> = oneshot::Receiver<Result<T, StoreError>>;

/// What is asked, and who waits for the answer.
enum Asked {
    One(Item, oneshot::Sender<Outcome>),
    /// Commands that came together; whoever waits hears the entry's index too.
    Group(Vec<Item>, oneshot::Sender<Result<(u64, Reply), StoreError>>),
}

struct Pending {
    asked: Asked,
    fence: Option<u64>,
    since: Instant,
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
    /// `TooLarge`; `Timeout`: the outcome is open; what the replica and the machine answer. Within some multiples of
    /// `TIMEOUT`.
    pub async fn submit(&self, item: Item, fence: Option<u64>) -> Outcome {
        if item.encoded.len() > COMMAND_BYTES {
            return Err(StoreError::TooLarge(format!("{} bytes; the most is {COMMAND_BYTES}", item.encoded.len())));
        }
        let (answer, answered) = oneshot::channel();
        self.carry(Asked::One(item, answer), fence, answered).await
    }

    /// Carries out commands that another member gathered; they go into one entry. Returns its index and their answers.
    ///
    /// # Errors
    /// As `submit`, for all of them.
    pub async fn submit_group(&self, items: Vec<Item>) -> Result<(u64, Reply), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.carry(Asked::Group(items, answer), None, answered).await
    }

    async fn carry<T>(&self, asked: Asked, fence: Option<u64>, answered: Answered<T>) -> Result<T, StoreError> {
        let pending = Pending { asked, fence, since: Instant::now() };
        self.queue.send(pending).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

/// Who waits for how many of an entry's answers.
enum Waiter {
    One(oneshot::Sender<Outcome>),
    Group(usize, oneshot::Sender<Result<(u64, Reply), StoreError>>),
}

impl Waiter {
    fn refuse(self, error: StoreError) {
        // Whoever asked may have stopped waiting.
        match self {
            Self::One(answer) => drop(answer.send(Err(error))),
            Self::Group(_, answer) => drop(answer.send(Err(error))),
        }
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
        let from = self.items.len();
        let waiter = match pending.asked {
            Asked::One(item, answer) => {
                self.items.push(item);
                Waiter::One(answer)
            }
            Asked::Group(items, answer) => {
                self.items.extend(items);
                Waiter::Group(self.items.len() - from, answer)
            }
        };
        if pending.since.elapsed() >= TIMEOUT {
            self.items.truncate(from);
            return waiter.refuse(StoreError::Timeout);
        }
        self.bytes += self.items[from..].iter().map(|item| item.encoded.len()).sum::<usize>();
        self.waiters.push(waiter);
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
        if gathered.items.is_empty() {
            continue;
        }
        let node = node.clone();
        tokio::spawn(async move {
            let carried = node.carry(Batch(gathered.items.into()), gathered.fence);
            let outcome = tokio::time::timeout(TIMEOUT, carried).await.unwrap_or(Err(StoreError::Timeout));
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
                waiter.refuse(error.clone());
            }
        }
    }
}
