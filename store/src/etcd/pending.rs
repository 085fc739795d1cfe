//! What the store does not tell yet, as a lone member answers it. Goes when `Store` has these itself.

use crate::error::StoreError;
use crate::handle::Store;
use bytes::Bytes;

pub struct Status {
    pub cluster_id: u64,
    pub member_id: u64,
    pub leader_id: u64,
    pub term: u64,
    pub log_index: u64,
    pub applied_index: u64,
    pub learner: bool,
    pub db_bytes: u64,
    pub db_in_use_bytes: u64,
    pub errors: Vec<String>,
}

#[derive(Clone)]
pub struct Member {
    pub id: u64,
    pub name: String,
    pub peer_addresses: Vec<String>,
    pub client_addresses: Vec<String>,
    pub learner: bool,
}

impl Store {
    pub fn status(&self) -> Status {
        let applied = self.shared.state.applied().next;
        Status {
            cluster_id: 1,
            member_id: 1,
            leader_id: u64::from(self.serves().is_ok()),
            term: self.shared.node.leadership().unwrap_or_default(),
            log_index: applied,
            applied_index: applied,
            learner: false,
            db_bytes: self.shared.log.bytes() + self.shared.snapshots.checkpoint_bytes(),
            db_in_use_bytes: self.shared.state.read(|machine| machine.bytes()),
            errors: Vec::new(),
        }
    }

    pub fn members(&self) -> Vec<Member> {
        vec![Member { id: 1, name: "default".into(), peer_addresses: vec![], client_addresses: vec![], learner: false }]
    }

    pub async fn member_add(&self, _: &str, _: Vec<String>, _: bool) -> Result<Member, StoreError> {
        Err(StoreError::Failed("a lone member".into()))
    }

    pub async fn member_remove(&self, _: u64) -> Result<(), StoreError> {
        Err(StoreError::Failed("a lone member".into()))
    }

    pub async fn member_promote(&self, _: u64) -> Result<(), StoreError> {
        Err(StoreError::Failed("a lone member".into()))
    }

    pub async fn member_update(&self, _: u64, _: Vec<String>) -> Result<(), StoreError> {
        Err(StoreError::Failed("a lone member".into()))
    }

    pub async fn move_leader(&self, _: u64) -> Result<(), StoreError> {
        Err(StoreError::Failed("a lone member".into()))
    }

    pub async fn read_barrier(&self) -> Result<(), StoreError> {
        self.range(crate::command::RangeRequest::new(crate::command::KeyRange::key("health"))).await.map(drop)
    }

    pub async fn lease_time_to_live(&self, id: i64) -> Result<(i64, i64), StoreError> {
        let ttl = self.shared.state.read(|machine| machine.lease_ttl(id)).ok_or(StoreError::LeaseNotFound)?;
        Ok((ttl, ttl))
    }

    pub fn leases(&self) -> Vec<i64> {
        self.shared.state.read(|machine| machine.leases().map(|(id, _)| id).collect())
    }

    pub fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        self.shared.state.read(|machine| machine.lease_keys(id))
    }

    pub async fn snapshot_file(&self) -> Result<std::fs::File, StoreError> {
        let (state, snapshots) = (self.shared.state.clone(), self.shared.snapshots.clone());
        let made = tokio::task::spawn_blocking(move || std::fs::File::open(snapshots.build(&state)?.path()));
        let failed = |error: &dyn std::fmt::Display| StoreError::Failed(error.to_string());
        made.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }
}
