//! `Cache`: every object of the store, decoded once, followed revision by revision.
//!
//! One task takes in what the store's watch brings: it decodes a change (or takes the object that the writer left with
//! `offer`), swaps in the next snapshot, and hands the change to the feed and to the watchers that it may concern. Whoever
//! registers does so under the lock that the task holds meanwhile, so that nobody misses or repeats a revision.

use super::history::History;
use super::keys;
use super::load::{self, Loaded};
use super::record::{Record, change_of};
use super::snapshot::{TableId, table_id};
use super::watchers::{Scope, Sink, Watchers};
use super::{Change, Event, Feed, Snapshot, Subscription};
use crate::kinds::{AnyObject, Object, ObjectKey, Resource};
use bytes::Bytes;
use orchd_store::{KeyRange, KeyValue, Store, StoreError, WatchBatch, WatchEvent, Watcher};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;

/// Batches that a subscriber of the feed may lag behind.
const FEED_CAPACITY: usize = 4096;
/// The longest that `wait_for` waits.
const WAIT: Duration = Duration::from_secs(10);
/// How often watchers are told of progress (bookmarks), as kube-apiserver does.
const PROGRESS_EVERY: Duration = Duration::from_secs(60);
/// The pause after a failure of the store before it is read anew.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The revision did not arrive in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("revision {wanted} has not arrived here; the present one is {present}")]
pub struct NotYet {
    pub wanted: i64,
    pub present: i64,
}

/// The changes since a revision are not all known any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {wanted} ({oldest})")]
pub struct TooOld {
    pub wanted: i64,
    pub oldest: i64,
}

/// The decoded store. Dropping the last handle ends its task.
pub struct Cache {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    store: Store,
    revision: AtomicI64,
    snapshot: RwLock<Snapshot>,
    live: Mutex<Live>,
    offers: Mutex<HashMap<Bytes, (Bytes, Box<dyn AnyObject>)>>,
    waiters: Mutex<BTreeMap<i64, Vec<oneshot::Sender<()>>>>,
}

/// What changes with every revision, beside the snapshot. The feed is gone once the store has closed.
struct Live {
    watchers: Watchers,
    histories: HashMap<TableId, History>,
    /// The revision that was loaded: nothing is known of what happened before.
    floor: i64,
    feed: Option<broadcast::Sender<Arc<[Event]>>>,
}

/// A lock is only poisoned by a panic, which leaves our state as consistent as before: each step is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    /// Loads every object and follows the store from there.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(store: Store) -> Result<Arc<Self>, StoreError> {
        let Loaded { snapshot, .. } = load::load(&store, &Snapshot::default())?;
        let watcher = store.watch(everything(), snapshot.revision() + 1)?;
        let (feed, _) = broadcast::channel(FEED_CAPACITY);
        let floor = snapshot.revision();
        let shared = Arc::new(Shared {
            store,
            revision: AtomicI64::new(floor),
            snapshot: RwLock::new(snapshot),
            live: Mutex::new(Live { watchers: Watchers::default(), histories: HashMap::new(), floor, feed: Some(feed) }),
            offers: Mutex::default(),
            waiters: Mutex::default(),
        });
        let task = tokio::spawn(follow(shared.clone(), watcher));
        Ok(Arc::new(Self { shared, task }))
    }

    pub fn revision(&self) -> i64 {
        self.shared.revision.load(Ordering::Acquire)
    }

    /// Returns once the snapshot shows `revision`.
    ///
    /// # Errors
    /// It has not come within ten seconds.
    pub async fn wait_for(&self, revision: i64) -> Result<(), NotYet> {
        self.wait_at_most(revision, WAIT).await
    }

    /// As `wait_for`, with another bound.
    ///
    /// # Errors
    /// It has not come in time.
    pub async fn wait_at_most(&self, revision: i64, bound: Duration) -> Result<(), NotYet> {
        let Some(arrival) = self.arrival(revision) else { return Ok(()) };
        match tokio::time::timeout(bound, arrival).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(NotYet { wanted: revision, present: self.revision() }),
        }
    }

    fn arrival(&self, revision: i64) -> Option<oneshot::Receiver<()>> {
        if self.revision() >= revision {
            return None;
        }
        let mut waiters = lock(&self.shared.waiters);
        // Again, under the lock that the task takes before it wakes anyone: else a wake could be missed.
        if self.revision() >= revision {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        waiters.entry(revision).or_default().push(sender);
        Some(receiver)
    }

    /// Leaves the object whose JSON is about to be written, so that it need not be decoded when the change comes.
    pub fn offer(&self, key: Bytes, value: Bytes, typed: Box<dyn AnyObject>) {
        lock(&self.shared.offers).insert(key, (value, typed));
    }

    /// Takes back what was offered for a write that did not happen, unless somebody else's offer stands there by now.
    pub fn withdraw(&self, key: &Bytes, value: &Bytes) {
        let mut offers = lock(&self.shared.offers);
        if offers.get(key).is_some_and(|(offered, _)| offered == value) {
            offers.remove(key);
        }
    }

    /// Opens a watch of a stored resource. `open` is given the present state, and the changes after `after` (none if that
    /// is None), and makes the sink of all that follows; None if there is no more use for one.
    ///
    /// # Errors
    /// The changes since `after` are not known any more.
    pub fn watch(
        &self,
        resource: &'static dyn Resource,
        scope: Scope,
        after: Option<i64>,
        open: impl FnOnce(&Snapshot, Vec<Arc<Record>>) -> Option<Box<dyn Sink>>,
    ) -> Result<(), TooOld> {
        let table = table_id(resource);
        let mut live = lock(&self.shared.live);
        let changes = match after {
            None => Vec::new(),
            Some(revision) => live.changes(table, revision)?,
        };
        let snapshot = self.snapshot();
        if let Some(sink) = open(&snapshot, changes) {
            live.watchers.add(table, scope, sink);
        }
        Ok(())
    }

    /// Open watches.
    pub fn watcher_count(&self) -> usize {
        lock(&self.shared.live).watchers.count()
    }
}

impl Live {
    fn changes(&self, table: TableId, revision: i64) -> Result<Vec<Arc<Record>>, TooOld> {
        let too_old = |oldest| TooOld { wanted: revision, oldest };
        match self.histories.get(&table) {
            Some(history) => Ok(history.after(revision).map_err(too_old)?.cloned().collect()),
            None if revision < self.floor => Err(too_old(self.floor)),
            None => Ok(Vec::new()),
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Feed for Cache {
    fn snapshot(&self) -> Snapshot {
        self.shared.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn subscribe(&self) -> (Snapshot, Subscription) {
        let live = lock(&self.shared.live);
        let receiver = match &live.feed {
            Some(feed) => feed.subscribe(),
            // The store has closed: a subscription that ends at once.
            None => broadcast::channel(1).1,
        };
        (self.snapshot(), Subscription::new(receiver))
    }
}

/// The whole keyspace: revisions that touch no object move the cache forward too.
fn everything() -> KeyRange {
    KeyRange::prefix(Bytes::new())
}

async fn follow(shared: Arc<Shared>, mut watcher: Watcher) {
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            batch = watcher.next() => match batch {
                Ok(batch) => shared.take_in(&batch),
                Err(StoreError::Closed) => break,
                Err(error) => {
                    tracing::warn!(%error, "the watch cache reads the store anew");
                    match shared.reload().await {
                        Some(next) => watcher = next,
                        None => break,
                    }
                }
            },
            _ = tick.tick() => {
                let revision = shared.revision.load(Ordering::Acquire);
                lock(&shared.live).watchers.progress(revision);
            }
        }
    }
    let mut live = lock(&shared.live);
    live.watchers = Watchers::default();
    live.feed = None;
}

impl Shared {
    fn present(&self) -> Snapshot {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take_in(&self, batch: &WatchBatch) {
        let mut next = self.present();
        let mut records = Vec::with_capacity(batch.events.len());
        for event in batch.events.iter() {
            let record = match event {
                WatchEvent::Put { kv, .. } => self.put(&mut next, kv),
                WatchEvent::Delete { key, mod_revision, .. } => delete(&mut next, key, *mod_revision),
            };
            records.extend(record.map(Arc::new));
        }
        next.advance(batch.revision);
        self.publish(next, &records);
    }

    fn put(&self, next: &mut Snapshot, kv: &KeyValue) -> Option<Record> {
        let (resource, key) = keys::parse(&kv.key)?;
        let object = self.object(resource, kv)?;
        let previous = next.object(resource, &key).cloned();
        next.insert(object.clone());
        let event = Event { change: change_of(previous.as_ref()), object, previous };
        Some(Record::new(event, kv.mod_revision, kv.value.len()))
    }

    /// The object of a value: the one offered by the writer if the value is the same, else decoded.
    fn object(&self, resource: &'static dyn Resource, kv: &KeyValue) -> Option<Arc<Object>> {
        let offered = lock(&self.offers).remove(&kv.key);
        if let Some((value, typed)) = offered
            && value == kv.value
        {
            return Some(Arc::new(Object::new(resource, typed, kv.mod_revision)));
        }
        load::decode(resource, kv)
    }

    fn publish(&self, next: Snapshot, records: &[Arc<Record>]) {
        let revision = next.revision();
        let mut live = lock(&self.live);
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = next;
        self.revision.store(revision, Ordering::Release);
        self.wake(revision);
        if records.is_empty() {
            return;
        }
        if let Some(feed) = &live.feed
            && feed.receiver_count() > 0
        {
            let events: Arc<[Event]> = records.iter().map(|r| r.event().clone()).collect();
            // An error says that nobody listens any more, which is no failure.
            let _nobody = feed.send(events);
        }
        let floor = live.floor;
        for record in records {
            let object = &record.event().object;
            let table = table_id(object.resource());
            live.histories.entry(table).or_insert_with(|| History::new(floor)).push(record.clone());
            live.watchers.change(table, &object.key(), record);
        }
    }

    fn wake(&self, revision: i64) {
        let reached = {
            let mut waiters = lock(&self.waiters);
            if waiters.first_key_value().is_none_or(|(first, _)| *first > revision) {
                return;
            }
            let later = waiters.split_off(&(revision + 1));
            std::mem::replace(&mut *waiters, later)
        };
        for waiter in reached.into_values().flatten() {
            // A waiter that has given up is gone: nothing to tell.
            let _gave_up = waiter.send(());
        }
    }

    /// Reads the store anew and tells of what has changed meanwhile; the histories start over. None: the store closed.
    async fn reload(&self) -> Option<Watcher> {
        loop {
            match self.try_reload() {
                Ok(watcher) => return Some(watcher),
                Err(StoreError::Closed) => return None,
                Err(error) => {
                    tracing::warn!(%error, "the watch cache cannot read the store");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    fn try_reload(&self) -> Result<Watcher, StoreError> {
        let Loaded { snapshot, records } = load::load(&self.store, &self.present())?;
        let watcher = self.store.watch(everything(), snapshot.revision() + 1)?;
        {
            let mut live = lock(&self.live);
            live.floor = snapshot.revision();
            live.histories.clear();
        }
        // What is published now lies at or below the new floor, so no watch can start among it.
        let floor = snapshot.revision();
        self.publish(snapshot, &records);
        lock(&self.live).histories.values_mut().for_each(|h| *h = History::new(floor));
        Ok(watcher)
    }
}

fn delete(next: &mut Snapshot, key: &[u8], revision: i64) -> Option<Record> {
    let (resource, key) = keys::parse(key)?;
    let previous = next.remove(resource, &key, revision)?;
    Some(departure(previous, revision))
}

/// The deletion, at `revision`, of what stood there.
pub(super) fn departure(previous: Arc<Object>, revision: i64) -> Record {
    let object = Arc::new(Object::new(previous.resource(), previous.any().clone_box(), revision));
    Record::new(Event { change: Change::Deleted, object, previous: Some(previous) }, revision, 0)
}

/// The present object of a resource, a view or a stored one.
pub fn object_of(snapshot: &Snapshot, resource: &'static dyn Resource, key: &ObjectKey) -> Option<Arc<Object>> {
    let stored = keys::stored(resource);
    let object = snapshot.object(stored, key)?;
    if stored.names() == resource.names() {
        return Some(object.clone());
    }
    super::record::view(resource, object)
}
