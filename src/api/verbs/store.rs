//! One write, one transaction: it holds only if the object still stands where the write was made from, and is answered
//! once the cache shows it.

use super::Verbs;
use crate::kinds::{self, AnyObject, Object, ObjectKey, Resource};
use crate::meta::{Reason, Status};
use crate::watch::{Feed, keys, load};
use bytes::Bytes;
use orchd_store::{Compare, KeyRange, Op, OpResponse, RangeRequest, StoreError, Txn, TxnResponse};
use std::sync::Arc;

/// A write of one object, and what must hold for it.
pub(super) struct Write {
    pub stored: &'static dyn Resource,
    pub key: ObjectKey,
    /// The revision at which the object stands; 0: it must not exist.
    pub expect: i64,
    pub guards: Vec<Compare>,
    /// What else is written with it.
    pub also: Vec<Op>,
}

pub(super) enum Put {
    Done(Arc<Object>),
    /// What was expected does not hold; how the object stands now.
    Clash(Option<Arc<Object>>),
}

pub(super) enum Removal {
    Done,
    Clash(Option<Arc<Object>>),
}

/// The API's answer to a failure of the store.
pub(super) fn failure(error: &StoreError) -> Status {
    let text = error.to_string();
    match error {
        StoreError::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        StoreError::TooLarge(_) => Status::new(Reason::RequestEntityTooLarge, text),
        StoreError::NoSpace(_) => Status { code: 507, ..Status::internal(text) },
        StoreError::Timeout => Status::new(Reason::Timeout, text),
        StoreError::NoLeader => Status::new(Reason::ServiceUnavailable, text).retry_after(1),
        StoreError::Closed => Status::new(Reason::ServiceUnavailable, text),
        StoreError::Future { .. }
        | StoreError::DuplicateKey
        | StoreError::LeaseNotFound
        | StoreError::LeaseExists
        | StoreError::KeyNotFound
        | StoreError::MemberNotFound
        | StoreError::MemberExists
        | StoreError::NotLearner
        | StoreError::LearnerNotReady
        | StoreError::NotVoter
        | StoreError::LastVoter
        | StoreError::MemberRefused(_)
        | StoreError::Failed(_) => Status::internal(text),
    }
}

impl Verbs {
    /// Writes `object`, whose resourceVersion is left out of what is stored.
    pub(super) async fn put(&self, write: Write, mut object: Box<dyn AnyObject>) -> Result<Put, Status> {
        object.meta_mut().resource_version = None;
        let (key, value) = (keys::key(write.stored, &write.key), Bytes::from(object.to_json()));
        let lease = self.lease_of(write.stored).await?;
        self.cache.offer(key.clone(), value.clone(), object);
        let op = Op::Put { key: key.clone(), value: value.clone(), lease, prev_kv: false };
        let answer = self.transact(&write, &key, op).await.inspect_err(|_| self.cache.withdraw(&key, &value))?;
        if !answer.succeeded {
            self.cache.withdraw(&key, &value);
            return Ok(Put::Clash(present_in(write.stored, &answer)));
        }
        self.object_at(write.stored, &write.key, answer.revision, &value).await.map(Put::Done)
    }

    /// Takes the object out.
    pub(super) async fn remove(&self, write: Write) -> Result<Removal, Status> {
        let key = keys::key(write.stored, &write.key);
        let op = Op::Delete { range: KeyRange::key(key.clone()), prev_kv: false };
        let answer = self.transact(&write, &key, op).await?;
        if !answer.succeeded {
            return Ok(Removal::Clash(present_in(write.stored, &answer)));
        }
        self.shown_by_cache(answer.revision).await;
        Ok(Removal::Done)
    }

    async fn transact(&self, write: &Write, key: &Bytes, op: Op) -> Result<TxnResponse, Status> {
        let mut compare = write.guards.clone();
        compare.push(Compare::mod_revision_is(key.clone(), write.expect));
        let mut success = write.also.clone();
        success.push(op);
        let failure_ops = vec![Op::Range(RangeRequest::new(KeyRange::key(key.clone())))];
        self.store.txn(Txn { compare, success, failure: failure_ops }).await.map_err(|e| failure(&e))
    }

    /// The object as of the write at `revision`: the cache's own if it still stands, so that its JSON is made once.
    async fn object_at(&self, stored: &'static dyn Resource, key: &ObjectKey, revision: i64, value: &[u8]) -> Result<Arc<Object>, Status> {
        self.shown_by_cache(revision).await;
        match self.cache.snapshot().object(stored, key) {
            Some(object) if object.revision() == revision => Ok(object.clone()),
            _ => kinds::load(stored, value, revision).map_err(Status::internal),
        }
    }

    /// The write is done whatever the cache does: if it lags badly, the answer goes out anyway.
    async fn shown_by_cache(&self, revision: i64) {
        if let Err(late) = self.cache.wait_for(revision).await {
            tracing::warn!(%late, "a write is answered before the cache shows it");
        }
    }

    /// The object as the store has it now.
    pub(super) async fn fetch(&self, stored: &'static dyn Resource, key: &ObjectKey) -> Result<Option<Arc<Object>>, Status> {
        let request = RangeRequest::new(KeyRange::key(keys::key(stored, key)));
        let answer = self.store.range(request).await.map_err(|e| failure(&e))?;
        Ok(answer.kvs.first().and_then(|kv| load::decode(stored, kv)))
    }
}

/// The object that a failed transaction found.
fn present_in(stored: &'static dyn Resource, answer: &TxnResponse) -> Option<Arc<Object>> {
    match answer.responses.first() {
        Some(OpResponse::Range(range)) => range.kvs.first().and_then(|kv| load::decode(stored, kv)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_leader_clients_are_told_to_ask_again() {
        let status = failure(&StoreError::NoLeader);
        assert_eq!((status.code, status.details.unwrap().retry_after_seconds), (503, Some(1)));
        // It may have been carried out.
        assert!(failure(&StoreError::Timeout).details.is_none());
    }
}
