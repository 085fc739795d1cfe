//! Elections kept by the server: the oldest key under the election's name leads. May import: `command`, `etcd`, `watch`.

use super::pb::v3electionpb as pb;
use super::session::{GiveUp, created_at, enqueue, first, lease_of, lost, prefix, wait_for_turn};
use super::status::Status;
use super::{Face, kv::key_value};
use crate::command::{KeyRange, KeyValue, Op, Revision, Txn, TxnResponse};
use crate::error::StoreError;
use crate::watch::{WatchEvent, Watcher};
use bytes::Bytes;
use futures::Stream;
use std::sync::Arc;

const NO_LEADER: &str = "election: no leader";
const NOT_LEADER: &str = "election: not leader";
const MISSING: &str = "\"leader\" field must be provided";

impl Face {
    /// Waits until the caller leads. A caller that goes away gives its place up.
    pub async fn campaign(&self, request: pb::CampaignRequest) -> Result<pb::CampaignResponse, Status> {
        self.needs_voter()?;
        let lease = lease_of(&self.store, request.lease).await?;
        let place = enqueue(&self.store, &request.name, lease, request.value.clone()).await?;
        let give_up = GiveUp::new(&self.store, &place);
        let leader = pb::LeaderKey { name: request.name.clone(), key: place.key.clone(), rev: place.created, lease };
        if place.held.as_ref().is_some_and(|held| held.value != request.value) {
            self.announce(&leader, request.value).await?;
        }
        wait_for_turn(&self.store, prefix(&request.name), place.created).await?;
        give_up.keep();
        Ok(pb::CampaignResponse { header: self.header(place.revision), leader: Some(leader) })
    }

    pub async fn proclaim(&self, request: pb::ProclaimRequest) -> Result<pb::ProclaimResponse, Status> {
        self.needs_voter()?;
        let leader = request.leader.ok_or(lost(MISSING))?;
        let done = self.announce(&leader, request.value).await?;
        Ok(pb::ProclaimResponse { header: self.header(done.revision) })
    }

    pub async fn leader(&self, request: pb::LeaderRequest) -> Result<pb::LeaderResponse, Status> {
        self.needs_voter()?;
        let found = self.store.range(first(prefix(&request.name))).await?;
        let leader = found.kvs.into_iter().next().ok_or(lost(NO_LEADER))?;
        Ok(pb::LeaderResponse { header: self.header(found.revision), kv: Some(key_value(leader)) })
    }

    pub async fn resign(&self, request: pb::ResignRequest) -> Result<pb::ResignResponse, Status> {
        self.needs_voter()?;
        let leader = request.leader.ok_or(lost(MISSING))?;
        let compare = vec![created_at(leader.key.clone(), leader.rev)];
        let done = self.store.txn(Txn { compare, success: vec![Op::delete(leader.key)], ..Txn::default() }).await?;
        Ok(pb::ResignResponse { header: self.header(done.revision) })
    }

    async fn announce(&self, leader: &pb::LeaderKey, value: Bytes) -> Result<TxnResponse, Status> {
        let put = Op::Put { key: leader.key.clone(), value, lease: leader.lease, prev_kv: false };
        let compare = vec![created_at(leader.key.clone(), leader.rev)];
        let done = self.store.txn(Txn { compare, success: vec![put], ..Txn::default() }).await?;
        if done.succeeded { Ok(done) } else { Err(lost(NOT_LEADER)) }
    }

    /// Tells of every leader, and of everything that it proclaims.
    pub fn observe(self: Arc<Self>, request: &pb::LeaderRequest) -> impl Stream<Item = Result<pb::LeaderResponse, Status>> + use<> {
        let observer = Observer { face: self, prefix: prefix(&request.name), leader: None };
        futures::stream::try_unfold(observer, |mut observer| async move {
            let (revision, kv) = observer.next().await?;
            let response = pb::LeaderResponse { header: observer.face.header(revision), kv: Some(key_value(kv)) };
            Ok(Some((response, observer)))
        })
    }
}

struct Observer {
    face: Arc<Face>,
    prefix: Bytes,
    /// The present leader's key, watched.
    leader: Option<Watcher>,
}

impl Observer {
    async fn next(&mut self) -> Result<(Revision, KeyValue), StoreError> {
        loop {
            let Some(watcher) = &mut self.leader else {
                let (revision, kv) = self.find().await?;
                self.leader = Some(self.face.store.watch(KeyRange::key(kv.key.clone()), revision + 1)?);
                return Ok((revision, kv));
            };
            let batch = watcher.next().await?;
            match batch.events.last() {
                Some(WatchEvent::Put { kv, .. }) => return Ok((batch.revision, kv.clone())),
                Some(WatchEvent::Delete { .. }) => self.leader = None,
                None => {}
            }
        }
    }

    /// The leader of now, or the first one to come.
    async fn find(&self) -> Result<(Revision, KeyValue), StoreError> {
        let store = &self.face.store;
        let found = store.range(first(self.prefix.clone())).await?;
        if let Some(kv) = found.kvs.into_iter().next() {
            return Ok((found.revision, kv));
        }
        let mut watcher = store.watch(KeyRange::prefix(self.prefix.clone()), found.revision + 1)?;
        loop {
            let batch = watcher.next().await?;
            for event in batch.events.iter() {
                if let WatchEvent::Put { kv, .. } = event {
                    return Ok((batch.revision, kv.clone()));
                }
            }
        }
    }
}
