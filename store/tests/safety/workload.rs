//! Concurrent clients and watchers against a store, all of it recorded.

use crate::checks::judge;
use crate::history::{Answer, History, Outcome, Recorder, Request, Seen, WatchEnd, WatchRecord, outcome};
use crate::requests::Asker;
use crate::target::{Connection, Target};
use orchd_store::{KeyRange, RangeRequest, Revision, StoreError, WatchBatch};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// How long anything may take that must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Watchers beside the one of everything.
const WATCHERS: usize = 3;

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub clients: usize,
    /// Percent of requests.
    pub leases: u32,
    /// A tenth of a percent of requests.
    pub compactions: u32,
    /// Percent of values that take up to 60 KB.
    pub large: u32,
    /// The longest that a client rests between two requests, in milliseconds.
    pub rest_ms: u64,
}

pub const LOAD: Load = Load { clients: 8, leases: 6, compactions: 1, large: 0, rest_ms: 0 };

/// A history in the making, over any number of rounds with the same store.
pub struct Run {
    load: Load,
    recorder: Recorder,
    rng: StdRng,
    /// Names given to clients; each round's are new, since a client whose request is open cannot ask another.
    named: usize,
    /// The revision up to which everything has been seen.
    witnessed: Arc<AtomicI64>,
}

impl Run {
    pub fn new(load: Load, seed: u64) -> Self {
        Self { load, recorder: Recorder::default(), rng: StdRng::seed_from_u64(seed), named: 0, witnessed: Arc::new(AtomicI64::new(1)) }
    }

    /// Has clients at work at `targets` until `until` ends, and returns what that came to once all have stopped.
    pub async fn round<T>(&mut self, targets: &[Target], until: impl Future<Output = T>) -> T {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        for _ in 0..self.load.clients {
            let mut asker = Asker::new(self.named);
            (asker.leases, asker.compactions, asker.large) = (self.load.leases, self.load.compactions, self.load.large);
            let (rng, recorder, rest_ms) = (StdRng::seed_from_u64(self.rng.random()), self.recorder.clone(), self.load.rest_ms);
            let client = Client { name: self.named, asker, rng, recorder, rest_ms };
            self.named += 1;
            let targets = targets.to_vec();
            tasks.push(tokio::spawn(client.work(targets, self.witnessed.clone(), stopped.clone())));
        }
        for target in targets {
            let witness = witness(target.clone(), self.witnessed.clone(), self.recorder.clone(), 0, stopped.clone());
            tasks.push(tokio::spawn(async move { witness.await.map_or((), drop) }));
        }
        for _ in 0..WATCHERS {
            let target = targets[self.rng.random_range(0..targets.len())].clone();
            let rng = StdRng::seed_from_u64(self.rng.random());
            tasks.push(tokio::spawn(look_on(target, rng, self.witnessed.clone(), self.recorder.clone(), stopped.clone())));
        }
        let ended = until.await;
        stop.send_replace(true);
        for task in tasks {
            tokio::time::timeout(PATIENCE, task).await.expect("a client does not stop").expect("a client panicked");
        }
        ended
    }

    /// Looks at everything once more, to the last revision, and hands the history out.
    pub async fn finish(mut self, targets: &[Target]) -> History {
        let mut last = 0;
        for target in targets {
            let mut connection = target.connect().await.expect("the store is there at the end");
            let request = Request::Range(RangeRequest::new(KeyRange::prefix("")));
            let call = self.recorder.now();
            let answer = connection.call(request.clone()).await.expect("the store answers at the end");
            let Answer::Range(response) = &answer else { panic!("{answer:?}") };
            last = last.max(response.revision);
            self.recorder.ended(self.named, call, request, Outcome::Answered(answer));
            self.named += 1;
        }
        let (_running, stopped) = watch::channel(false);
        for target in targets {
            // Once from where it was left, and once over all that there still is.
            let seen = Arc::new(AtomicI64::new(self.witnessed.load(Ordering::SeqCst)));
            for from in [seen, Arc::new(AtomicI64::new(1))] {
                let watching = witness(target.clone(), from, self.recorder.clone(), last, stopped.clone());
                tokio::time::timeout(PATIENCE, watching)
                    .await
                    .expect("the last revision does not come")
                    .expect("the store is there at the end");
            }
        }
        self.recorder.take(1)
    }
}

/// Watches everything from where it was left, until told to stop, or until `last` (0: never) has come. If that is compacted,
/// it begins with what there is. None: nobody was there.
async fn witness(target: Target, seen: Arc<AtomicI64>, recorder: Recorder, last: Revision, mut stop: watch::Receiver<bool>) -> Option<()> {
    let everything = KeyRange::prefix("");
    let mut start = seen.load(Ordering::SeqCst) + 1;
    let (mut watching, _) = match target.watch(everything.clone(), start).await? {
        Err(StoreError::Compacted { compacted }) => {
            start = compacted;
            target.watch(everything.clone(), start).await?.ok()?
        }
        opened => opened.ok()?,
    };
    let mut record = WatchRecord { range: everything, start, begins: start, seen: Vec::new(), end: WatchEnd::Dropped };
    if last > 0 && start > last {
        return Some(());
    }
    loop {
        let next = tokio::select! {
            next = watching.next() => next,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match next {
            Ok(what) => {
                let (Seen::Batch(WatchBatch { revision, .. }) | Seen::Bookmark(revision)) = what;
                if matches!(what, Seen::Batch(_)) {
                    seen.fetch_max(revision, Ordering::SeqCst);
                }
                record.seen.push(what);
                if last > 0 && revision >= last {
                    break;
                }
            }
            Err(StoreError::Closed) => break,
            Err(error) => {
                record.end = WatchEnd::Cancelled(error);
                break;
            }
        }
    }
    recorder.watched(record);
    Some(())
}

/// Opens watches of this and that, one after the other.
async fn look_on(target: Target, mut rng: StdRng, witnessed: Arc<AtomicI64>, recorder: Recorder, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow_and_update() {
        let ranges = [KeyRange::prefix("single/"), KeyRange::key("single/1"), KeyRange::prefix("pair/"), KeyRange::prefix("")];
        let range = ranges[rng.random_range(0..ranges.len())].clone();
        let known = witnessed.load(Ordering::SeqCst);
        let start = if rng.random_bool(0.3) { 0 } else { rng.random_range(known / 2 + 1..=known + 3) };
        let (mut watching, opened) = match target.watch(range.clone(), start).await {
            Some(Ok(opened)) => opened,
            Some(Err(StoreError::Compacted { .. })) => continue,
            _ => return,
        };
        let begins = if start == 0 { opened + 1 } else { start };
        let mut record = WatchRecord { range, start, begins, seen: Vec::new(), end: WatchEnd::Dropped };
        for _ in 0..rng.random_range(1..200) {
            let next = tokio::select! {
                next = watching.next() => next,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match next {
                Ok(what) => record.seen.push(what),
                Err(StoreError::Closed) => break,
                Err(error) => {
                    record.end = WatchEnd::Cancelled(error);
                    break;
                }
            }
        }
        recorder.watched(record);
    }
}

struct Client {
    name: usize,
    asker: Asker,
    rng: StdRng,
    recorder: Recorder,
    rest_ms: u64,
}

impl Client {
    async fn work(mut self, targets: Vec<Target>, witnessed: Arc<AtomicI64>, stop: watch::Receiver<bool>) {
        let mut connections: Vec<Connection> = Vec::new();
        for target in &targets {
            connections.extend(target.connect().await);
        }
        while !*stop.borrow() && !connections.is_empty() {
            let request = self.asker.next(&mut self.rng, witnessed.load(Ordering::SeqCst));
            let at = self.rng.random_range(0..connections.len());
            let call = self.recorder.now();
            let answer = connections[at].call(request.clone()).await;
            let (closed, resting) = (answer == Err(StoreError::Closed), matches!(answer, Err(StoreError::NoLeader | StoreError::Timeout)));
            let outcome = match answer {
                Ok(answer) => {
                    self.asker.heard(&request, &answer);
                    Outcome::Answered(answer)
                }
                Err(error) => outcome(error),
            };
            self.recorder.ended(self.name, call, request, outcome);
            if closed {
                // That member is gone; the others may be there.
                connections.swap_remove(at);
            }
            if resting {
                // Nobody leads at present: a client that asked at once again would only fill the history.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if self.rest_ms > 0 {
                tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..=self.rest_ms))).await;
            }
        }
    }
}

/// Judges a history, and tells how large it was.
pub fn judged(name: &str, history: &History) {
    let begun = std::time::Instant::now();
    let verdict = judge(history);
    let open = history.operations.iter().filter(|operation| operation.outcome == Outcome::Unknown).count();
    let events: usize = history.watches.iter().map(|watch| watch.seen.len()).sum();
    println!(
        "figure {name}: {} operations ({open} with an open outcome), {} watches with {events} batches, judged in {:.2?}",
        history.operations.len(),
        history.watches.len(),
        begun.elapsed()
    );
    if let Err(what) = verdict {
        panic!("{name}: {what}");
    }
}
