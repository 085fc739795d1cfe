//! Random histories of a store that is correct: every checker must pass them, and `seeded` spoils them one way at a time.

use crate::history::{Answer, History, Operation, Outcome, Request, Seen, WatchEnd, WatchRecord};
use crate::requests::{Asker, answer_range};
use crate::sequential::{Keys, run};
use orchd_store::{KeyRange, Revision, StoreError, TxnResponse, WatchBatch};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

/// A correct store with its whole past.
struct Perfect {
    keys: Keys,
    past: BTreeMap<Revision, Keys>,
    batches: Vec<WatchBatch>,
    revision: Revision,
}

impl Perfect {
    fn carry_out(&mut self, request: &Request) -> Outcome {
        match request {
            Request::Txn(txn) => Outcome::Answered(Answer::Txn(self.txn(txn))),
            Request::Range(request) | Request::RangeLocal(request) if request.revision > self.revision => {
                Outcome::Refused(StoreError::Future { current: self.revision })
            }
            Request::Range(request) | Request::RangeLocal(request) => {
                let at = if request.revision == 0 { self.revision } else { request.revision };
                Outcome::Answered(answer_range(&self.past[&at], request, self.revision))
            }
            _ => Outcome::Answered(Answer::Done),
        }
    }

    fn txn(&mut self, txn: &orchd_store::Txn) -> TxnResponse {
        let ran = run(&mut self.keys, txn, Some(self.revision + 1));
        if !ran.changes.is_empty() {
            self.revision += 1;
            let events = ran.changes.iter().map(|change| change.event(self.revision)).collect();
            self.batches.push(WatchBatch { revision: self.revision, events });
            self.past.insert(self.revision, self.keys.clone());
        }
        ran.response(self.revision)
    }
}

/// Where a request is on its way.
struct Going {
    client: usize,
    call: u64,
    request: Request,
    outcome: Option<Outcome>,
    /// Its client has given it up.
    lost: bool,
}

/// A run of `count` requests of some clients, from a seed.
pub fn history(seed: u64, clients: usize, count: usize) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut store = Perfect { keys: Keys::new(), past: BTreeMap::from([(1, Keys::new())]), batches: Vec::new(), revision: 1 };
    let mut askers: Vec<Asker> = (0..clients).map(Asker::new).collect();
    let (mut going, mut operations): (Vec<Going>, Vec<Operation>) = (Vec::new(), Vec::new());
    let (mut time, mut asked) = (0, 0);
    while asked < count || going.iter().any(|one| !one.lost) {
        time += 1;
        let free = (0..clients).find(|client| !going.iter().any(|one| one.client == *client && !one.lost));
        if let Some(client) = free.filter(|_| asked < count && rng.random_bool(0.6)) {
            asked += 1;
            let request = askers[client].next(&mut rng, 0);
            going.push(Going { client, call: time, request, outcome: None, lost: false });
            continue;
        }
        if going.is_empty() {
            continue;
        }
        let at = rng.random_range(0..going.len());
        if going[at].outcome.is_none() && rng.random_bool(0.7) {
            let outcome = store.carry_out(&going[at].request);
            going[at].outcome = Some(outcome);
        } else if !going[at].lost && rng.random_ratio(1, 40) {
            going[at].lost = true;
            operations.push(Operation {
                client: going[at].client,
                call: going[at].call,
                ret: None,
                request: going[at].request.clone(),
                outcome: Outcome::Unknown,
            });
        } else if let Some(outcome) = going[at].outcome.clone() {
            let one = going.swap_remove(at);
            if one.lost {
                continue;
            }
            if let Outcome::Answered(answer) = &outcome {
                askers[one.client].heard(&one.request, answer);
            }
            operations.push(Operation { client: one.client, call: one.call, ret: Some(time), request: one.request, outcome });
        }
    }
    operations.sort_by_key(|operation| operation.call);
    let watches = watches(&store, &mut rng);
    History { operations, watches, since: 1 }
}

fn watches(store: &Perfect, rng: &mut StdRng) -> Vec<WatchRecord> {
    let mut watches = vec![watch(store, KeyRange::prefix(""), 1, store.revision, rng)];
    for _ in 0..6 {
        let range = [KeyRange::prefix("single/"), KeyRange::key("single/1"), KeyRange::prefix("pair/"), KeyRange::prefix("")];
        let start = rng.random_range(1..=store.revision);
        let until = rng.random_range(start..=store.revision);
        watches.push(watch(store, range[rng.random_range(0..range.len())].clone(), start, until, rng));
    }
    watches
}

fn watch(store: &Perfect, range: KeyRange, start: Revision, until: Revision, rng: &mut StdRng) -> WatchRecord {
    let mut seen = Vec::new();
    for batch in store.batches.iter().filter(|batch| (start..=until).contains(&batch.revision)) {
        let events: Vec<_> = batch.events.iter().filter(|event| range.contains(event.key())).cloned().collect();
        if !events.is_empty() {
            seen.push(Seen::Batch(WatchBatch { revision: batch.revision, events: events.into() }));
        }
        if rng.random_ratio(1, 10) {
            seen.push(Seen::Bookmark(batch.revision));
        }
    }
    WatchRecord { range, start, begins: start, seen, end: WatchEnd::Dropped }
}
