//! The store as a model for `wgl`, and how a history is cut into parts that can be judged one by one.
//!
//! Linearizability is local: a history is linearizable if what happened to each object is. An object here is a set of keys
//! that some transaction touches together; most are a single key. A range read over several objects is judged as one read of
//! each. Revisions take part: an answer's revision can only rise along the order, and each write has its own.

use crate::history::{Answer, History, Operation, Outcome, Request};
use crate::sequential::{self, Keys, within};
use crate::wgl::{Bounds, Call, Model, Verdict, check};
use bytes::Bytes;
use orchd_store::{KeyRange, KeyValue, Op, OpResponse, RangeRequest, Revision, SortOrder, Txn, TxnResponse};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What a part's calls are.
pub enum PartOp {
    Txn {
        txn: Txn,
        /// None: the outcome is open.
        response: Option<TxnResponse>,
        /// Of its writes, if known or found out.
        revision: Option<Revision>,
    },
    Read {
        range: KeyRange,
        kvs: Vec<KeyValue>,
        revision: Revision,
    },
}

#[derive(Clone, Hash)]
pub struct PartState {
    keys: Keys,
    /// Of the last answer or write.
    revision: Revision,
}

pub struct Kv;

impl Model for Kv {
    type Op = PartOp;
    type State = PartState;

    fn step(&self, state: &PartState, op: &PartOp) -> Option<PartState> {
        match op {
            PartOp::Read { range, kvs, revision } => {
                let found: Vec<_> = within(&state.keys, range).collect();
                (*revision >= state.revision && sequential::shown(&found, kvs))
                    .then(|| PartState { keys: state.keys.clone(), revision: *revision })
            }
            PartOp::Txn { txn, response, revision } => {
                let mut keys = state.keys.clone();
                let ran = sequential::run(&mut keys, txn, *revision);
                let rises = match revision {
                    Some(revision) if ran.changes.is_empty() => *revision >= state.revision,
                    Some(revision) => *revision > state.revision,
                    None => true,
                };
                let answered = response.as_ref().is_none_or(|response| ran.answers(response));
                (rises && answered).then(|| PartState { keys, revision: revision.unwrap_or(state.revision) })
            }
        }
    }

    fn guess(&self, op: &PartOp) -> i64 {
        match op {
            PartOp::Read { revision, .. } => revision * 2 + 1,
            PartOp::Txn { revision, response, .. } => {
                let wrote = response.as_ref().is_none_or(wrote);
                revision.map_or(i64::MAX, |revision| revision * 2 + i64::from(!wrote))
            }
        }
    }
}

/// Whether a transaction that was answered so has written.
pub fn wrote(response: &TxnResponse) -> bool {
    response.responses.iter().any(|response| match response {
        OpResponse::Put { .. } => true,
        OpResponse::Delete { deleted, .. } => *deleted > 0,
        OpResponse::Range(_) => false,
        OpResponse::Txn(inner) => wrote(inner),
    })
}

/// Values that a transaction may put, whichever way it goes.
pub fn values(txn: &Txn) -> impl Iterator<Item = &Bytes> {
    txn.success.iter().chain(&txn.failure).filter_map(|op| match op {
        Op::Put { value, .. } => Some(value),
        Op::Delete { .. } | Op::Range(_) | Op::Txn(_) | Op::Update { .. } => None,
    })
}

/// Keys and ranges that a transaction looks at or writes.
fn touched(txn: &Txn) -> Vec<&KeyRange> {
    let compared = txn.compare.iter().map(|compare| &compare.range);
    let ops = txn.success.iter().chain(&txn.failure).filter_map(|op| match op {
        Op::Delete { range, .. } | Op::Range(RangeRequest { range, .. }) => Some(range),
        Op::Put { .. } | Op::Txn(_) | Op::Update { .. } => None,
    });
    compared.chain(ops).collect()
}

fn put_keys(txn: &Txn) -> impl Iterator<Item = &Bytes> {
    txn.success.iter().chain(&txn.failure).filter_map(|op| match op {
        Op::Put { key, .. } => Some(key),
        _ => None,
    })
}

/// Every key-value that anybody was shown.
fn shown(operations: &[Operation]) -> impl Iterator<Item = &KeyValue> {
    operations.iter().flat_map(|operation| match &operation.outcome {
        Outcome::Answered(Answer::Range(response)) => response.kvs.iter().collect(),
        Outcome::Answered(Answer::Txn(response)) => response
            .responses
            .iter()
            .flat_map(|response| match response {
                OpResponse::Put { prev_kv } => prev_kv.iter().collect(),
                OpResponse::Delete { prev_kvs, .. } => prev_kvs.iter().collect(),
                OpResponse::Range(range) => range.kvs.iter().collect::<Vec<_>>(),
                OpResponse::Txn(_) => Vec::new(),
            })
            .collect(),
        _ => Vec::new(),
    })
}

/// Revisions of values that were seen, by anybody: a value is put once, so that it tells when.
pub fn revisions(history: &History) -> HashMap<&Bytes, Revision> {
    let watched = history.watches.iter().flat_map(|watch| &watch.seen).flat_map(|seen| match seen {
        crate::history::Seen::Batch(batch) => batch.events.iter().collect::<Vec<_>>(),
        crate::history::Seen::Bookmark(_) => Vec::new(),
    });
    let events = watched.filter_map(|event| match event {
        orchd_store::WatchEvent::Put { kv, .. } => Some((&kv.value, kv.mod_revision)),
        orchd_store::WatchEvent::Delete { .. } => None,
    });
    shown(&history.operations).map(|kv| (&kv.value, kv.mod_revision)).chain(events).collect()
}

/// Sets that grow together.
struct Union(Vec<usize>);

impl Union {
    fn find(&mut self, at: usize) -> usize {
        if self.0[at] != at {
            let root = self.find(self.0[at]);
            self.0[at] = root;
        }
        self.0[at]
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        self.0[a] = b;
    }
}

/// One object with its calls.
pub struct Part {
    pub keys: BTreeSet<Bytes>,
    pub calls: Vec<Call<PartOp>>,
    /// Positions of the calls in the history.
    pub origins: Vec<usize>,
}

/// A read of the present, whole and in key order: what the model knows. Others are `replay`'s business.
fn plain(request: &RangeRequest) -> bool {
    request.revision == 0 && request.limit == 0 && !request.keys_only && !request.count_only && request.sort_order == SortOrder::None
}

/// Revisions of the operations whose outcome is open, where every change is known; those without one did nothing.
pub type Opened = BTreeMap<usize, Revision>;

/// Cuts a history into its objects. Keys that leases may take away by themselves are left out (`skip`).
pub fn parts(history: &History, skip: &KeyRange, opened: Option<&Opened>) -> Vec<Part> {
    let seen = revisions(history);
    let txns = || {
        history.operations.iter().filter_map(|operation| match &operation.request {
            Request::Txn(txn) => Some(txn),
            _ => None,
        })
    };
    let named = txns().flat_map(|txn| put_keys(txn).chain(touched(txn).into_iter().map(|range| &range.start)));
    let keys: BTreeMap<Bytes, usize> = named
        .chain(shown(&history.operations).map(|kv| &kv.key))
        .filter(|key| !skip.contains(key))
        .cloned()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .zip(0..)
        .collect();
    let mut union = Union((0..keys.len()).collect());
    let members = |range: &KeyRange| keys.iter().filter(|(key, _)| range.contains(key)).map(|(_, at)| *at).collect::<Vec<_>>();
    let of_txn =
        |txn: &Txn| {
            let mut all: Vec<usize> = put_keys(txn).filter_map(|key| keys.get(key)).copied().collect();
            all.extend(touched(txn).into_iter().flat_map(|range| {
                if range.end.is_none() { keys.get(&range.start).copied().into_iter().collect() } else { members(range) }
            }));
            all
        };
    for txn in txns() {
        let all = of_txn(txn);
        for pair in all.windows(2) {
            union.join(pair[0], pair[1]);
        }
    }
    let mut parts: BTreeMap<usize, Part> = BTreeMap::new();
    for (key, at) in &keys {
        let part = parts.entry(union.find(*at)).or_insert_with(|| Part { keys: BTreeSet::new(), calls: Vec::new(), origins: Vec::new() });
        part.keys.insert(key.clone());
    }
    for (origin, operation) in history.operations.iter().enumerate() {
        let mut add = |root: usize, op: PartOp| {
            let part = parts.get_mut(&root).expect("every root has a part");
            part.calls.push(Call { call: operation.call, ret: operation.ret, op });
            part.origins.push(origin);
        };
        match (&operation.request, &operation.outcome) {
            (_, Outcome::Refused(_)) => {}
            (Request::Txn(txn), outcome) => {
                let Some(first) = of_txn(txn).first().copied() else { continue };
                let response = match outcome {
                    Outcome::Answered(Answer::Txn(response)) => Some(response.clone()),
                    _ => None,
                };
                let told = opened.map(|opened| opened.get(&origin).copied());
                if response.is_none() && told == Some(None) {
                    continue;
                }
                let found = || told.flatten().or_else(|| values(txn).find_map(|value| seen.get(value)).copied());
                let revision = response.as_ref().map(|response| response.revision).or_else(found);
                add(union.find(first), PartOp::Txn { txn: txn.clone(), response, revision });
            }
            (Request::Range(request), Outcome::Answered(Answer::Range(response))) if plain(request) => {
                let roots: BTreeSet<usize> = members(&request.range).into_iter().map(|at| union.find(at)).collect();
                for root in roots {
                    let mine = |key: &Bytes| keys.get(key).is_some_and(|at| union_root(&union.0, *at) == root);
                    let kvs = response.kvs.iter().filter(|kv| mine(&kv.key)).cloned().collect();
                    add(root, PartOp::Read { range: request.range.clone(), kvs, revision: response.revision });
                }
            }
            _ => {}
        }
    }
    parts.into_values().collect()
}

fn union_root(parents: &[usize], mut at: usize) -> usize {
    while parents[at] != at {
        at = parents[at];
    }
    at
}

/// Judges every part of a history.
///
/// # Errors
/// The first part that is not linearizable, or not within the bounds, with what could not be placed.
pub fn linearizable(history: &History, skip: &KeyRange, opened: Option<&Opened>, bounds: Bounds) -> Result<(), String> {
    for part in parts(history, skip, opened) {
        let initial = PartState { keys: Keys::new(), revision: history.since };
        match check(&Kv, initial, &part.calls, bounds) {
            Verdict::Linearizable => {}
            Verdict::Undecided => return Err(format!("undecided within the bounds: keys {:?}, {} calls", part.keys, part.calls.len())),
            Verdict::Violated { placed, stuck } => {
                let stuck: Vec<String> = stuck.iter().take(8).map(|at| format!("{:?}", history.operations[part.origins[*at]])).collect();
                let (keys, calls) = (&part.keys, part.calls.len());
                return Err(format!(
                    "not linearizable: keys {keys:?}, {placed} of {calls} calls placed, then none of\n{}",
                    stuck.join("\n")
                ));
            }
        }
    }
    Ok(())
}
