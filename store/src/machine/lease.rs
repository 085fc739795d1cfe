//! Leases: who holds which keys. When they end is the leader's business (`crate::lease`); here they are granted and revoked.

use super::Machine;
use crate::command::{KeyRange, Output};
use crate::error::StoreError;
use bytes::Bytes;
use std::collections::BTreeSet;

/// A lease's time to live and the keys that end with it.
pub struct Lease {
    pub ttl_s: i64,
    pub keys: BTreeSet<Bytes>,
}

impl Machine {
    /// Seconds of a lease's time to live.
    pub fn lease_ttl(&self, id: i64) -> Option<i64> {
        self.leases.get(&id).map(|lease| lease.ttl_s)
    }

    /// Every lease with its seconds.
    pub fn leases(&self) -> impl Iterator<Item = (i64, i64)> {
        self.leases.iter().map(|(id, lease)| (*id, lease.ttl_s))
    }

    /// Keys that end with the lease, in order.
    pub fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        self.leases.get(&id).map_or_else(Vec::new, |lease| lease.keys.iter().cloned().collect())
    }

    pub(super) fn lease_grant(&mut self, id: i64, ttl_s: i64) -> Result<Output, StoreError> {
        if self.leases.contains_key(&id) {
            return Err(StoreError::LeaseExists);
        }
        self.leases.insert(id, Lease { ttl_s, keys: BTreeSet::new() });
        self.touched_leases.insert(id);
        Ok(Output::LeaseGranted { id, ttl_s })
    }

    /// Deletes the lease's keys, in key order, at one revision.
    pub(super) fn lease_revoke(&mut self, id: i64) -> Result<Output, StoreError> {
        let lease = self.leases.remove(&id).ok_or(StoreError::LeaseNotFound)?;
        self.touched_leases.insert(id);
        let mut stamp = self.stamp();
        for key in lease.keys {
            self.delete(&mut stamp, &KeyRange::key(key));
        }
        self.commit(&stamp);
        Ok(Output::LeaseRevoked)
    }

    pub(super) fn attach(&mut self, id: i64, key: &Bytes) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key.clone());
        }
    }

    pub(super) fn detach(&mut self, id: i64, key: &Bytes) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }
}
