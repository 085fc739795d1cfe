//! The store as a sequential program: what each transaction does to a map, in the plainest words. The checkers compare
//! with it; it shares no code with the store's machine.

use bytes::Bytes;
use orchd_store::{Compare, CompareResult, CompareTarget, KeyRange, KeyValue, Op, OpResponse, Revision, Txn, TxnResponse, WatchEvent};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A key's state. Revisions that nobody has heard of are None.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    pub value: Bytes,
    pub create: Option<Revision>,
    pub modified: Option<Revision>,
    pub version: i64,
    pub lease: i64,
}

impl Held {
    pub fn of(kv: &KeyValue) -> Self {
        Self {
            value: kv.value.clone(),
            create: Some(kv.create_revision),
            modified: Some(kv.mod_revision),
            version: kv.version,
            lease: kv.lease,
        }
    }

    /// The key-value as a client would see it. Revisions that are not known are 0.
    pub fn kv(&self, key: &Bytes) -> KeyValue {
        KeyValue {
            key: key.clone(),
            value: self.value.clone(),
            create_revision: self.create.unwrap_or_default(),
            mod_revision: self.modified.unwrap_or_default(),
            version: self.version,
            lease: self.lease,
        }
    }

    /// Whether a client that sees `kv` can be looking at this. A write whose revision nobody knows has been seen by
    /// nobody; but what it created may have been seen later.
    pub fn shows(&self, kv: &KeyValue) -> bool {
        self.value == kv.value
            && self.modified == Some(kv.mod_revision)
            && self.version == kv.version
            && self.lease == kv.lease
            && self.create.is_none_or(|create| create == kv.create_revision)
    }
}

pub type Keys = BTreeMap<Bytes, Held>;

/// One write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Bytes,
    pub now: Option<Held>,
    pub before: Option<Held>,
}

impl Change {
    pub fn of(event: &WatchEvent) -> Self {
        match event {
            WatchEvent::Put { kv, prev } => Self { key: kv.key.clone(), now: Some(Held::of(kv)), before: prev.as_ref().map(Held::of) },
            WatchEvent::Delete { key, prev, .. } => Self { key: key.clone(), now: None, before: prev.as_ref().map(Held::of) },
        }
    }

    pub fn event(&self, revision: Revision) -> WatchEvent {
        let prev = self.before.as_ref().map(|held| held.kv(&self.key));
        match &self.now {
            Some(held) => WatchEvent::Put { kv: held.kv(&self.key), prev },
            None => WatchEvent::Delete { key: self.key.clone(), mod_revision: revision, prev },
        }
    }
}

enum Given {
    Put { key: Bytes, prev: Option<Held>, asked: bool },
    Deleted { prev: Vec<(Bytes, Held)>, asked: bool },
    Range { found: Vec<(Bytes, Held)>, limit: usize },
}

/// What a transaction comes to.
pub struct Ran {
    pub succeeded: bool,
    pub changes: Vec<Change>,
    given: Vec<Given>,
}

pub fn within<'a>(keys: &'a Keys, range: &'a KeyRange) -> impl Iterator<Item = (&'a Bytes, &'a Held)> {
    keys.range(range.start.clone()..).filter(|(key, _)| range.contains(key))
}

fn holds(keys: &Keys, compare: &Compare) -> bool {
    let held = keys.get(&compare.range.start);
    let number = |number: i64, of: fn(&Held) -> i64| held.map_or(0, of).cmp(&number);
    let ordering = match &compare.target {
        CompareTarget::Version(version) => number(*version, |held| held.version),
        CompareTarget::Lease(lease) => number(*lease, |held| held.lease),
        // A revision that nobody knows is none that a client can name.
        CompareTarget::CreateRevision(revision) => number(*revision, |held| held.create.unwrap_or(-1)),
        CompareTarget::ModRevision(revision) => number(*revision, |held| held.modified.unwrap_or(-1)),
        CompareTarget::Value(value) => match held {
            Some(held) => held.value.cmp(value),
            None => return false,
        },
    };
    match compare.result {
        CompareResult::Equal => ordering == Ordering::Equal,
        CompareResult::NotEqual => ordering != Ordering::Equal,
        CompareResult::Greater => ordering == Ordering::Greater,
        CompareResult::Less => ordering == Ordering::Less,
    }
}

/// Carries a transaction out at `revision` (that of its writes, if it writes).
pub fn run(keys: &mut Keys, txn: &Txn, revision: Option<Revision>) -> Ran {
    let succeeded = txn.compare.iter().all(|compare| holds(keys, compare));
    let mut ran = Ran { succeeded, changes: Vec::new(), given: Vec::new() };
    for op in if succeeded { &txn.success } else { &txn.failure } {
        match op {
            Op::Put { key, value, lease, prev_kv } => {
                let before = keys.get(key).cloned();
                let held = Held {
                    value: value.clone(),
                    create: before.as_ref().map_or(revision, |before| before.create),
                    modified: revision,
                    version: before.as_ref().map_or(0, |before| before.version) + 1,
                    lease: *lease,
                };
                keys.insert(key.clone(), held.clone());
                ran.changes.push(Change { key: key.clone(), now: Some(held), before: before.clone() });
                ran.given.push(Given::Put { key: key.clone(), prev: before, asked: *prev_kv });
            }
            Op::Delete { range, prev_kv } => {
                let gone: Vec<(Bytes, Held)> = within(keys, range).map(|(key, held)| (key.clone(), held.clone())).collect();
                for (key, held) in &gone {
                    keys.remove(key);
                    ran.changes.push(Change { key: key.clone(), now: None, before: Some(held.clone()) });
                }
                ran.given.push(Given::Deleted { prev: gone, asked: *prev_kv });
            }
            Op::Range(request) => {
                let found = within(keys, &request.range).map(|(key, held)| (key.clone(), held.clone())).collect();
                ran.given.push(Given::Range { found, limit: request.limit });
            }
            Op::Txn(_) | Op::Update { .. } => panic!("the checkers' workloads neither nest transactions nor update"),
        }
    }
    ran
}

/// Whether a client sees exactly these keys.
pub fn shown(found: &[(&Bytes, &Held)], kvs: &[KeyValue]) -> bool {
    found.len() == kvs.len() && found.iter().zip(kvs).all(|((key, held), kv)| **key == kv.key && held.shows(kv))
}

impl Ran {
    /// Whether this is what the client was told.
    pub fn answers(&self, response: &TxnResponse) -> bool {
        self.succeeded == response.succeeded
            && self.given.len() == response.responses.len()
            && self.given.iter().zip(&response.responses).all(|(given, told)| given.is(told))
    }

    /// The answer as the store would give it.
    pub fn response(&self, revision: Revision) -> TxnResponse {
        let responses = self.given.iter().map(|given| given.response(revision)).collect();
        TxnResponse { revision, succeeded: self.succeeded, responses }
    }
}

impl Given {
    fn is(&self, told: &OpResponse) -> bool {
        let pairs =
            |found: &[(Bytes, Held)], kvs: &[KeyValue]| shown(&found.iter().map(|(key, held)| (key, held)).collect::<Vec<_>>(), kvs);
        match (self, told) {
            (Self::Put { asked: false, .. }, OpResponse::Put { prev_kv: None }) => true,
            (Self::Put { prev, asked: true, .. }, OpResponse::Put { prev_kv }) => match (prev, prev_kv) {
                (None, None) => true,
                (Some(held), Some(kv)) => held.shows(kv),
                _ => false,
            },
            (Self::Deleted { prev, asked }, OpResponse::Delete { deleted, prev_kvs }) => {
                prev.len() == *deleted && if *asked { pairs(prev, prev_kvs) } else { prev_kvs.is_empty() }
            }
            (Self::Range { found, limit }, OpResponse::Range(told)) => {
                let kept = if *limit == 0 { found.len() } else { found.len().min(*limit) };
                told.count == found.len() && told.more == (kept < found.len()) && pairs(&found[..kept], &told.kvs)
            }
            _ => false,
        }
    }

    fn response(&self, revision: Revision) -> OpResponse {
        let kvs = |found: &[(Bytes, Held)]| found.iter().map(|(key, held)| held.kv(key)).collect::<Vec<_>>();
        match self {
            Self::Put { key, prev, asked } => OpResponse::Put { prev_kv: prev.as_ref().filter(|_| *asked).map(|held| held.kv(key)) },
            Self::Deleted { prev, asked } => {
                OpResponse::Delete { deleted: prev.len(), prev_kvs: if *asked { kvs(prev) } else { Vec::new() } }
            }
            Self::Range { found, limit } => {
                let kept = if *limit == 0 { found.len() } else { found.len().min(*limit) };
                OpResponse::Range(orchd_store::RangeResponse {
                    revision,
                    kvs: kvs(&found[..kept]),
                    more: kept < found.len(),
                    count: found.len(),
                })
            }
        }
    }
}
