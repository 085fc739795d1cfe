//! What locks and elections share: a queue of keys under a prefix, each tied to a lease; the oldest is first. The layout is
//! that of etcd's own clients, so that both sides can mix. May import: `command`, `error`, `etcd`, `handle`, `watch`.

use super::status::Status;
use crate::command::{
    Compare, CompareResult, CompareTarget, Filter, KeyRange, KeyValue, Op, OpResponse, RangeRequest, RangeResponse, Revision, SortOrder,
    SortTarget, Txn, TxnResponse,
};
use crate::error::StoreError;
use crate::handle::Store;
use crate::watch::WatchEvent;
use bytes::Bytes;

/// Seconds of a lease that the server makes for a caller without one.
const TTL_S: i64 = 60;

/// The key of whoever waits under a name with a lease.
pub fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

pub fn own_key(name: &[u8], lease: i64) -> Bytes {
    [name, b"/", format!("{lease:x}").as_bytes()].concat().into()
}

/// The caller's lease, or one made for it.
///
/// # Errors
/// As a grant.
pub async fn lease_of(store: &Store, lease: i64) -> Result<i64, StoreError> {
    if lease != 0 { Ok(lease) } else { store.lease_grant(0, TTL_S).await }
}

pub fn created_at(key: Bytes, revision: Revision) -> Compare {
    Compare { range: KeyRange::key(key), target: CompareTarget::CreateRevision(revision), result: CompareResult::Equal }
}

/// The oldest key under a prefix.
pub fn first(prefix: Bytes) -> RangeRequest {
    RangeRequest { limit: 1, sort_order: SortOrder::Ascend, sort_target: SortTarget::Create, ..RangeRequest::new(KeyRange::prefix(prefix)) }
}

/// A place in the queue.
pub struct Place {
    pub key: Bytes,
    pub created: Revision,
    /// Its value before, if it was there already.
    pub held: Option<KeyValue>,
    pub revision: Revision,
}

/// Takes a place in the queue, or finds the one that the lease has already.
///
/// # Errors
/// As a transaction: `LeaseNotFound` above all.
pub async fn enqueue(store: &Store, name: &[u8], lease: i64, value: Bytes) -> Result<Place, StoreError> {
    let key = own_key(name, lease);
    let put = Op::Put { key: key.clone(), value, lease, prev_kv: false };
    let txn = Txn {
        compare: vec![created_at(key.clone(), 0)],
        success: vec![put],
        failure: vec![Op::Range(RangeRequest::new(KeyRange::key(key.clone())))],
    };
    let done = store.txn(txn).await?;
    let held = if done.succeeded { None } else { Some(only(&done)?) };
    let created = held.as_ref().map_or(done.revision, |held| held.create_revision);
    Ok(Place { key, created, held, revision: done.revision })
}

fn only(done: &TxnResponse) -> Result<KeyValue, StoreError> {
    match done.responses.first() {
        Some(OpResponse::Range(RangeResponse { kvs, .. })) if !kvs.is_empty() => Ok(kvs[0].clone()),
        other => Err(StoreError::Failed(format!("a key that was there cannot be read: {other:?}"))),
    }
}

/// Waits until nobody under the prefix is older than `created`.
///
/// # Errors
/// The store does not serve, or history was compacted too soon.
pub async fn wait_for_turn(store: &Store, prefix: Bytes, created: Revision) -> Result<(), StoreError> {
    loop {
        let older = RangeRequest {
            limit: 1,
            sort_order: SortOrder::Descend,
            sort_target: SortTarget::Create,
            filter: Filter { max_create: created - 1, ..Filter::default() },
            ..RangeRequest::new(KeyRange::prefix(prefix.clone()))
        };
        let found = store.range(older).await?;
        let Some(ahead) = found.kvs.into_iter().next() else { return Ok(()) };
        let mut watcher = store.watch(KeyRange::key(ahead.key), found.revision)?;
        'gone: loop {
            for event in watcher.next().await?.events.iter() {
                if let WatchEvent::Delete { .. } = event {
                    break 'gone;
                }
            }
        }
    }
}

/// Gives a place up when its caller goes away while waiting.
pub struct GiveUp<'a> {
    store: &'a Store,
    place: Option<(Bytes, Revision)>,
}

impl<'a> GiveUp<'a> {
    pub fn new(store: &'a Store, place: &Place) -> Self {
        Self { store, place: Some((place.key.clone(), place.created)) }
    }

    pub fn keep(mut self) {
        self.place = None;
    }
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        let Some((key, created)) = self.place.take() else { return };
        let store = self.store.clone();
        tokio::spawn(async move {
            let txn = Txn { compare: vec![created_at(key.clone(), created)], success: vec![Op::delete(key)], ..Txn::default() };
            if let Err(error) = store.txn(txn).await {
                tracing::warn!(%error, "a place in a queue of locks could not be given up; it goes with its lease");
            }
        });
    }
}

/// # Errors
/// Its texts are etcd's.
pub fn lost(what: &'static str) -> Status {
    Status::new(super::Code::Unknown, what)
}
