//! What a client may ask of the store: range, put, delete, transaction, lease, compaction (etcd v3's data model).

use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::cell::Cell;

/// Comparisons, or operations of a branch, that one transaction may have; nested ones count against it.
pub(crate) const MAX_OPS: usize = 128;

/// The store's global version; the first write makes revision 2, as in etcd.
pub type Revision = i64;

/// A key's present or past state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    /// Revision at which the key came into being (last).
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// Writes since it came into being, from 1.
    pub version: i64,
    /// 0: no lease.
    pub lease: i64,
}

/// One key, or a half-open range of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    pub start: Bytes,
    /// None: the key `start` alone. `Some(b"\0")`: every key from `start` on.
    pub end: Option<Bytes>,
}

impl KeyRange {
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self { start: key.into(), end: None }
    }

    /// Every key that begins with `prefix`; of an empty prefix, every key.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start: Bytes = prefix.into();
        let mut end = start.to_vec();
        while end.last() == Some(&0xff) {
            end.pop();
        }
        match end.last_mut() {
            Some(last) => *last += 1,
            None => end = vec![0],
        }
        Self { start, end: Some(end.into()) }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            None => self.start == key,
            Some(end) if end[..] == [0] => key >= &self.start[..],
            Some(end) => key >= &self.start[..] && key < &end[..],
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    Create,
    Mod,
    Value,
}

/// Which keys of a range a read hands out, by their revisions; 0: whatever it is. The count knows nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    pub min_mod: Revision,
    pub max_mod: Revision,
    pub min_create: Revision,
    pub max_create: Revision,
}

impl Filter {
    pub fn passes(&self, create: Revision, modified: Revision) -> bool {
        let within = |value: Revision, min: Revision, max: Revision| (min == 0 || value >= min) && (max == 0 || value <= max);
        within(modified, self.min_mod, self.max_mod) && within(create, self.min_create, self.max_create)
    }
}

/// A read. `limit` 0 means all; `revision` 0 means the present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeRequest {
    pub range: KeyRange,
    pub limit: usize,
    pub revision: Revision,
    pub keys_only: bool,
    pub count_only: bool,
    pub sort_order: SortOrder,
    pub sort_target: SortTarget,
    pub filter: Filter,
}

impl RangeRequest {
    pub fn new(range: KeyRange) -> Self {
        Self {
            range,
            limit: 0,
            revision: 0,
            keys_only: false,
            count_only: false,
            sort_order: SortOrder::None,
            sort_target: SortTarget::Key,
            filter: Filter::default(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeResponse {
    /// The store's revision when the read was done.
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
    /// More keys lie behind the limit.
    pub more: bool,
    /// Keys in the range, whatever the limit.
    pub count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompareResult {
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// What a comparison looks at. Of a key that is not there, every number is 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompareTarget {
    Version(i64),
    CreateRevision(Revision),
    ModRevision(Revision),
    Lease(i64),
    Value(Bytes),
}

/// Holds if every key of the range compares so; a single key that is missing compares by zeros, and never by value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    pub range: KeyRange,
    pub target: CompareTarget,
    pub result: CompareResult,
}

impl Compare {
    /// The key stands at exactly this revision; 0: it does not exist.
    pub fn mod_revision_is(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self { range: KeyRange::key(key), target: CompareTarget::ModRevision(revision), result: CompareResult::Equal }
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Put {
        key: Bytes,
        value: Bytes,
        lease: i64,
        prev_kv: bool,
    },
    Delete {
        range: KeyRange,
        prev_kv: bool,
    },
    Range(RangeRequest),
    Txn(#[serde(deserialize_with = "nested")] Box<Txn>),
    /// A put to a key that must exist; what is None stays as it is. Answered as a put.
    Update {
        key: Bytes,
        value: Option<Bytes>,
        lease: Option<i64>,
        prev_kv: bool,
    },
}

impl Op {
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: 0, prev_kv: false }
    }
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { range: KeyRange::key(key), prev_kv: false }
    }
}

/// If every comparison holds, `success` is done, else `failure`; all of it at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

thread_local! {
    /// Transactions, or answers to them, around the one that is being read.
    static AROUND: Cell<usize> = const { Cell::new(0) };
}

/// Reads a transaction in another one, or its answer, no deeper than any that is admitted: a few bytes a level must not be the
/// end of a stack.
fn nested<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    let around = AROUND.get();
    if around >= MAX_OPS {
        return Err(D::Error::custom("transactions are nested too deeply"));
    }
    AROUND.set(around + 1);
    let read = T::deserialize(deserializer);
    AROUND.set(around);
    read
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpResponse {
    Put { prev_kv: Option<KeyValue> },
    Delete { deleted: usize, prev_kvs: Vec<KeyValue> },
    Range(RangeResponse),
    Txn(#[serde(deserialize_with = "nested")] TxnResponse),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnResponse {
    /// The store's revision after the transaction; that of its writes, if it wrote.
    pub revision: Revision,
    pub succeeded: bool,
    pub responses: Vec<OpResponse>,
}

/// What goes through the log: everything that changes the store's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Txn(Txn),
    /// `id` is not 0 here: whoever proposes has chosen.
    LeaseGrant {
        id: i64,
        ttl_s: i64,
    },
    LeaseRevoke {
        id: i64,
    },
    Compact {
        revision: Revision,
    },
}

impl Command {
    /// Whether it can make the store larger: what is refused first when space runs out.
    pub fn grows(&self) -> bool {
        match self {
            Self::Txn(txn) => txn.puts(),
            Self::LeaseGrant { .. } => true,
            Self::LeaseRevoke { .. } | Self::Compact { .. } => false,
        }
    }
}

impl Txn {
    fn puts(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|op| match op {
            Op::Put { .. } | Op::Update { .. } => true,
            Op::Delete { .. } | Op::Range(_) => false,
            Op::Txn(inner) => inner.puts(),
        })
    }
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    Txn(TxnResponse),
    LeaseGranted { id: i64, ttl_s: i64 },
    LeaseRevoked,
    Compacted,
}
