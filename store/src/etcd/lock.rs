//! Locks kept by the server: the lock is held for as long as its key exists. May import: `command`, `etcd`.

use super::Face;
use super::pb::v3lockpb as pb;
use super::session::{GiveUp, enqueue, lease_of, lost, prefix, wait_for_turn};
use super::status::{EMPTY_KEY, Status};
use crate::command::{KeyRange, Op, RangeRequest, Txn};
use bytes::Bytes;

impl Face {
    /// Waits until the lock is the caller's. A caller that goes away gives its place up.
    pub async fn lock(&self, request: pb::LockRequest) -> Result<pb::LockResponse, Status> {
        self.needs_voter()?;
        let lease = lease_of(&self.store, request.lease).await?;
        let place = enqueue(&self.store, &request.name, lease, Bytes::new()).await?;
        let give_up = GiveUp::new(&self.store, &place);
        wait_for_turn(&self.store, prefix(&request.name), place.created).await?;
        let held = self.store.range(RangeRequest::new(KeyRange::key(place.key.clone()))).await?;
        if held.kvs.first().is_none_or(|kv| kv.create_revision != place.created) {
            return Err(lost("mutex: session is expired"));
        }
        give_up.keep();
        Ok(pb::LockResponse { header: self.header(held.revision), key: place.key })
    }

    pub async fn unlock(&self, request: pb::UnlockRequest) -> Result<pb::UnlockResponse, Status> {
        self.needs_voter()?;
        if request.key.is_empty() {
            return Err(EMPTY_KEY);
        }
        let done = self.store.txn(Txn { success: vec![Op::delete(request.key)], ..Txn::default() }).await?;
        Ok(pb::UnlockResponse { header: self.header(done.revision) })
    }
}
