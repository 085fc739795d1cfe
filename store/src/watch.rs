//! Watches: every change of a range from a revision on, in order, without gaps, whole revisions only.
//!
//! A watcher that keeps up is fed from one dispatcher through a bounded buffer. One that does not, or that begins in the
//! past, reads the machine's history until it has caught up; nothing grows for it. May import: `command`, `error`,
//! `machine`, `state`.

use crate::command::{KeyRange, KeyValue, Revision};
use crate::error::StoreError;
use crate::machine::{Change, Machine};
use crate::state::State;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Changes looked at while the machine's lock is held.
const SLICE: usize = 1024;
/// Events that wait for a watcher before it has to read history.
const BUFFER: usize = 1024;
/// Bytes of keys and values in them: they stay in memory for it even when compaction has let them go.
const BUFFER_BYTES: usize = 8 << 20;
/// Waking a watcher to tell it one event costs as much as telling it ten. After many were woken, what comes next is
/// gathered, for so long by each of them, so that each gets it in one piece.
const REST_EACH: Duration = Duration::from_micros(10);
/// Shorter rests are not taken, longer ones cut.
const REST: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(10);

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    Put {
        kv: KeyValue,
        prev: Option<KeyValue>,
    },
    /// `key` and `mod_revision` (that of the deletion) are what counts; `prev` is the key's last state.
    Delete {
        key: Bytes,
        mod_revision: Revision,
        prev: Option<KeyValue>,
    },
}

impl WatchEvent {
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { kv, .. } => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// Bytes of keys and values that it keeps in memory, each once as it is and once as it goes out.
    fn bytes(&self) -> usize {
        let held = |kv: &KeyValue| kv.key.len() + kv.value.len();
        2 * match self {
            Self::Put { kv, prev } => held(kv) + prev.as_ref().map_or(0, held),
            Self::Delete { key, prev, .. } => key.len() + prev.as_ref().map_or(0, held),
        }
    }

    fn of(machine: &Machine, change: &Change) -> Option<Self> {
        let (version, before) = machine.version(change)?;
        let prev = before.map(|before| before.kv(&change.key));
        Some(match version.value {
            Some(_) => Self::Put { kv: version.kv(&change.key), prev },
            None => Self::Delete { key: change.key.clone(), mod_revision: change.revision, prev },
        })
    }
}

/// Everything that happened to the watched keys at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    pub revision: Revision,
    pub events: WatchEvents,
}

/// Events that many watchers are told of: shared, together with what is made of them to tell it on. Cheap to clone.
#[derive(Clone)]
pub struct WatchEvents(Arc<Events>);

struct Events {
    list: Box<[WatchEvent]>,
    /// As they go out, without and with what was there before.
    encoded: [OnceLock<Bytes>; 2],
}

impl WatchEvents {
    /// All of them as they go out, with what was there before or without; made by the first that wants it, for all.
    pub(crate) fn encoded(&self, prev: bool, encode: impl FnOnce(&[WatchEvent]) -> Bytes) -> Bytes {
        self.0.encoded[usize::from(prev)].get_or_init(|| encode(&self.0.list)).clone()
    }
}

impl std::ops::Deref for WatchEvents {
    type Target = [WatchEvent];

    fn deref(&self) -> &[WatchEvent] {
        &self.0.list
    }
}

impl From<Vec<WatchEvent>> for WatchEvents {
    fn from(events: Vec<WatchEvent>) -> Self {
        Self(Arc::new(Events { list: events.into(), encoded: Default::default() }))
    }
}

impl FromIterator<WatchEvent> for WatchEvents {
    fn from_iter<I: IntoIterator<Item = WatchEvent>>(events: I) -> Self {
        Vec::from_iter(events).into()
    }
}

impl std::fmt::Debug for WatchEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.list.fmt(f)
    }
}

impl PartialEq for WatchEvents {
    fn eq(&self, other: &Self) -> bool {
        self.0.list == other.0.list
    }
}

impl Eq for WatchEvents {}

/// A stretch of history, read under one lock.
struct Stretch {
    batches: Vec<WatchBatch>,
    /// Where the next one begins.
    next: Revision,
}

/// Changes of a range from `next` on, about `SLICE` changes of it, whole revisions.
fn stretch(machine: &Machine, range: Option<&KeyRange>, next: Revision) -> Result<Stretch, StoreError> {
    if next < machine.compacted() {
        return Err(StoreError::Compacted { compacted: machine.compacted() });
    }
    let mut batches = Vec::new();
    let mut events = Vec::new();
    let mut at = next;
    for (seen, change) in machine.changes_from(next).enumerate() {
        if change.revision != at {
            close_batch(&mut batches, at, &mut events);
            if seen >= SLICE {
                return Ok(Stretch { batches, next: change.revision });
            }
            at = change.revision;
        }
        if range.is_none_or(|range| range.contains(&change.key)) {
            events.extend(WatchEvent::of(machine, change));
        }
    }
    close_batch(&mut batches, at, &mut events);
    Ok(Stretch { batches, next: next.max(machine.revision() + 1) })
}

fn close_batch(batches: &mut Vec<WatchBatch>, revision: Revision, events: &mut Vec<WatchEvent>) {
    if !events.is_empty() {
        batches.push(WatchBatch { revision, events: std::mem::take(events).into() });
    }
}

/// What a caught-up watcher is fed through.
struct Feed {
    id: u64,
    range: KeyRange,
    /// Earlier revisions are not its business.
    from: Revision,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<(WatchBatch, usize)>,
    events: usize,
    bytes: usize,
    /// The buffer was full: go on in history from here.
    behind: Option<Revision>,
    closed: bool,
    /// Who waits for what comes next.
    waiting: Option<Waker>,
}

/// What a live watcher finds.
enum Taken {
    Batch(WatchBatch),
    Nothing,
    /// Its buffer was full: it goes on in history.
    Behind(Revision),
    Closed,
}

impl Feed {
    /// Takes what there is; if that is nothing, `waiting` is woken by what comes.
    fn take(&self, waiting: &Waker) -> Taken {
        let mut queue = self.queue.lock();
        if let Some((batch, bytes)) = queue.batches.pop_front() {
            queue.events -= batch.events.len();
            queue.bytes -= bytes;
            return Taken::Batch(batch);
        }
        match queue.behind {
            _ if queue.closed => Taken::Closed,
            Some(behind) => Taken::Behind(behind.max(self.from)),
            None => {
                if !queue.waiting.as_ref().is_some_and(|held| held.will_wake(waiting)) {
                    queue.waiting = Some(waiting.clone());
                }
                Taken::Nothing
            }
        }
    }

    /// Changes the queue, and wakes whoever waits for that; true: somebody did.
    fn tell(&self, change: impl FnOnce(&mut Queue)) -> bool {
        let mut queue = self.queue.lock();
        change(&mut queue);
        let waiting = queue.waiting.take();
        drop(queue);
        waiting.map(Waker::wake).is_some()
    }

    /// False: it does not keep up, and is not fed any more. `bytes` are those of the whole batch; `woken` counts.
    fn offer(&self, batch: &WatchBatch, bytes: usize, woken: &mut u32) -> bool {
        if batch.revision < self.from {
            return true;
        }
        let batch = if batch.events.iter().all(|event| self.range.contains(event.key())) {
            batch.clone()
        } else {
            let events: WatchEvents = batch.events.iter().filter(|event| self.range.contains(event.key())).cloned().collect();
            if events.is_empty() {
                return true;
            }
            WatchBatch { revision: batch.revision, events }
        };
        let mut kept = true;
        let told = self.tell(|queue| {
            let fits = queue.events + batch.events.len() <= BUFFER && queue.bytes + bytes <= BUFFER_BYTES;
            kept = queue.events == 0 || fits;
            if kept {
                queue.events += batch.events.len();
                queue.bytes += bytes;
                queue.batches.push_back((batch, bytes));
            } else {
                queue.behind = Some(batch.revision);
            }
        });
        *woken += u32::from(told);
        kept
    }
}

/// Caught-up watchers: those of one key by key, the others in a list.
#[derive(Default)]
struct Feeds {
    /// Every revision up to this one has been handed out.
    dispatched: Revision,
    next_id: u64,
    keys: HashMap<Bytes, Vec<Arc<Feed>>>,
    ranges: Vec<Arc<Feed>>,
    closed: bool,
}

impl Feeds {
    fn offer(&mut self, batch: &WatchBatch, woken: &mut u32) {
        let bytes = batch.events.iter().map(WatchEvent::bytes).sum();
        self.ranges.retain(|feed| feed.offer(batch, bytes, woken));
        if self.keys.is_empty() {
            return;
        }
        let mut offered: Vec<u64> = Vec::new();
        for event in batch.events.iter() {
            let Some(feeds) = self.keys.get_mut(event.key()) else { continue };
            feeds.retain(|feed| {
                if offered.contains(&feed.id) {
                    return true;
                }
                offered.push(feed.id);
                feed.offer(batch, bytes, woken)
            });
            if feeds.is_empty() {
                self.keys.remove(event.key());
            }
        }
    }

    /// Every one, the oldest first.
    fn all(&self) -> Vec<&Arc<Feed>> {
        let mut all: Vec<_> = self.ranges.iter().chain(self.keys.values().flatten()).collect();
        all.sort_unstable_by_key(|feed| feed.id);
        all
    }

    fn remove(&mut self, feed: &Feed) {
        if feed.range.end.is_some() {
            self.ranges.retain(|held| held.id != feed.id);
        } else if let Some(feeds) = self.keys.get_mut(&feed.range.start) {
            feeds.retain(|held| held.id != feed.id);
            if feeds.is_empty() {
                self.keys.remove(&feed.range.start);
            }
        }
    }
}

/// What handing changes out has come to.
#[derive(Default)]
struct Handed {
    more: bool,
    woken: u32,
}

/// Hands changes out to watchers.
pub struct Hub {
    state: Arc<State>,
    feeds: Mutex<Feeds>,
    /// `Feeds::dispatched`, for those who wait for it.
    dispatched: tokio::sync::watch::Sender<Revision>,
}

impl Hub {
    /// Starts the dispatcher; it ends with `close`.
    pub fn start(state: Arc<State>) -> Arc<Self> {
        let progress = state.progress();
        let feeds = Feeds { dispatched: state.revision(), ..Feeds::default() };
        let dispatched = tokio::sync::watch::Sender::new(feeds.dispatched);
        let hub = Arc::new(Self { state, feeds: Mutex::new(feeds), dispatched });
        tokio::spawn(dispatch(Arc::downgrade(&hub), progress));
        hub
    }

    /// Opens a watch; `start` 0: from now on.
    ///
    /// # Errors
    /// `Compacted` if history does not reach back to `start`; `Closed`.
    pub fn watch(self: &Arc<Self>, range: KeyRange, start: Revision) -> Result<Watcher, StoreError> {
        let next = if start > 0 { start } else { self.state.revision() + 1 };
        let compacted = self.state.compacted();
        if next < compacted {
            return Err(StoreError::Compacted { compacted });
        }
        let mut watcher = Watcher { hub: self.clone(), range, mode: Mode::History(next), ready: VecDeque::new() };
        watcher.join()?;
        Ok(watcher)
    }

    /// Ends every watch.
    pub fn close(&self) {
        let mut feeds = self.feeds.lock();
        feeds.closed = true;
        for feed in feeds.all() {
            feed.tell(|queue| queue.closed = true);
        }
    }

    /// Hands out what has happened since.
    fn dispatch(&self) -> Handed {
        let handed = self.hand_out();
        let dispatched = self.feeds.lock().dispatched;
        self.dispatched.send_if_modified(|told| std::mem::replace(told, dispatched) != dispatched);
        handed
    }

    fn hand_out(&self) -> Handed {
        let next = {
            let mut feeds = self.feeds.lock();
            if feeds.ranges.is_empty() && feeds.keys.is_empty() {
                // Whoever joins later reads history up to here.
                feeds.dispatched = feeds.dispatched.max(self.state.revision());
                return Handed::default();
            }
            feeds.dispatched + 1
        };
        let found = self.state.read(|machine| stretch(machine, None, next));
        let mut feeds = self.feeds.lock();
        let mut woken = 0;
        match found {
            Ok(stretch) => {
                for batch in &stretch.batches {
                    feeds.offer(batch, &mut woken);
                }
                feeds.dispatched = stretch.next - 1;
            }
            Err(_) => {
                // Compaction was faster: let each find out by itself what that means for it.
                for feed in feeds.all() {
                    feed.tell(|queue| queue.behind = Some(next));
                }
                feeds.ranges.clear();
                feeds.keys.clear();
                feeds.dispatched = self.state.revision();
            }
        }
        Handed { more: feeds.dispatched < self.state.revision(), woken }
    }
}

async fn dispatch(hub: std::sync::Weak<Hub>, mut progress: tokio::sync::watch::Receiver<Revision>) {
    while progress.changed().await.is_ok() {
        loop {
            let Some(hub) = hub.upgrade() else { return };
            if hub.feeds.lock().closed {
                return;
            }
            let handed = hub.dispatch();
            drop(hub);
            let rest = (REST_EACH * handed.woken).min(*REST.end());
            if REST.contains(&rest) {
                tokio::time::sleep(rest).await;
            } else if handed.more {
                tokio::task::yield_now().await;
            }
            if !handed.more {
                break;
            }
        }
    }
}

/// An open watch; dropping it ends it.
pub struct Watcher {
    hub: Arc<Hub>,
    range: KeyRange,
    mode: Mode,
    ready: VecDeque<WatchBatch>,
}

enum Mode {
    /// Reading history, from this revision on.
    History(Revision),
    Live(Arc<Feed>),
}

impl Watcher {
    /// The next revision that touched the watched keys. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// `Compacted` if the watch fell behind what is retained; `Closed` at shutdown.
    pub async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As `next`, for whoever polls many watchers from one task.
    ///
    /// # Errors
    /// As `next`.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<WatchBatch, StoreError>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Poll::Ready(Ok(batch));
            }
            self.join()?;
            match &mut self.mode {
                Mode::History(next) => {
                    let found = self.hub.state.read(|machine| stretch(machine, Some(&self.range), *next))?;
                    *next = found.next;
                    self.ready.extend(found.batches);
                    if self.ready.is_empty() {
                        // A long history that holds nothing of the range: others have their turn between its stretches.
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Mode::Live(feed) => match feed.take(context.waker()) {
                    Taken::Batch(batch) => return Poll::Ready(Ok(batch)),
                    Taken::Closed => return Poll::Ready(Err(StoreError::Closed)),
                    Taken::Behind(from) => self.mode = Mode::History(from),
                    Taken::Nothing => return Poll::Pending,
                },
            }
        }
    }

    /// The revision up to which everything has been taken from this watcher; None if it lags, or begins later.
    pub fn synced(&self) -> Option<Revision> {
        let Mode::Live(feed) = &self.mode else { return None };
        if !self.ready.is_empty() {
            return None;
        }
        // Under this lock batches are handed out: none comes between the two looks.
        let feeds = self.hub.feeds.lock();
        let queue = feed.queue.lock();
        let lags = !queue.batches.is_empty() || queue.behind.is_some() || feed.from > feeds.dispatched + 1;
        (!lags).then_some(feeds.dispatched)
    }

    /// Tells of every revision that has been handed to the watchers that keep up.
    pub fn dispatched(&self) -> tokio::sync::watch::Receiver<Revision> {
        self.hub.dispatched.subscribe()
    }

    /// Goes live if history is read to its end.
    fn join(&mut self) -> Result<(), StoreError> {
        let Mode::History(next) = self.mode else { return Ok(()) };
        let mut feeds = self.hub.feeds.lock();
        if feeds.closed {
            return Err(StoreError::Closed);
        }
        if next <= feeds.dispatched {
            return Ok(());
        }
        feeds.next_id += 1;
        let feed = Arc::new(Feed { id: feeds.next_id, range: self.range.clone(), from: next, queue: Mutex::new(Queue::default()) });
        if feed.range.end.is_some() {
            feeds.ranges.push(feed.clone());
        } else {
            feeds.keys.entry(feed.range.start.clone()).or_default().push(feed.clone());
        }
        self.mode = Mode::Live(feed);
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Mode::Live(feed) = &self.mode {
            self.hub.feeds.lock().remove(feed);
        }
    }
}
