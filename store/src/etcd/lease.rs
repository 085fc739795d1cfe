//! Lease: grant, revoke, keep alive, time to live, list. May import: `error`, `etcd`, `lease`.

use super::Face;
use super::pb::etcdserverpb as pb;
use super::status::{LEASE_TTL_TOO_LARGE, Status};
use super::wire::Messages;
use crate::error::StoreError;
use crate::lease::{MAX_TTL_S, MIN_TTL_S};
use futures::{Stream, StreamExt};
use std::sync::Arc;

impl Face {
    pub async fn lease_grant(&self, request: pb::LeaseGrantRequest) -> Result<pb::LeaseGrantResponse, Status> {
        self.needs_voter()?;
        if request.ttl > MAX_TTL_S {
            return Err(LEASE_TTL_TOO_LARGE);
        }
        let id = self.store.lease_grant(request.id, request.ttl).await?;
        Ok(pb::LeaseGrantResponse { header: self.header_now(), id, ttl: request.ttl.max(MIN_TTL_S), error: String::new() })
    }

    pub async fn lease_revoke(&self, request: pb::LeaseRevokeRequest) -> Result<pb::LeaseRevokeResponse, Status> {
        self.needs_voter()?;
        self.store.lease_revoke(request.id).await?;
        Ok(pb::LeaseRevokeResponse { header: self.header_now() })
    }

    pub async fn lease_time_to_live(&self, request: pb::LeaseTimeToLiveRequest) -> Result<pb::LeaseTimeToLiveResponse, Status> {
        self.needs_voter()?;
        let id = request.id;
        let (granted_ttl, ttl, keys) = match self.store.lease_time_to_live(id).await {
            Ok((granted, left)) => (granted, left, if request.keys { self.store.lease_keys(id) } else { Vec::new() }),
            Err(StoreError::LeaseNotFound) => (0, -1, Vec::new()),
            Err(error) => return Err(error.into()),
        };
        Ok(pb::LeaseTimeToLiveResponse { header: self.header_now(), id, ttl, granted_ttl, keys })
    }

    pub async fn lease_leases(&self, _: pb::LeaseLeasesRequest) -> Result<pb::LeaseLeasesResponse, Status> {
        self.needs_voter()?;
        let leases = self.store.leases().into_iter().map(|id| pb::LeaseStatus { id }).collect();
        Ok(pb::LeaseLeasesResponse { header: self.header_now(), leases })
    }

    /// Answers keep-alives one after the other.
    pub fn keep_alives(
        self: Arc<Self>,
        requests: Messages<pb::LeaseKeepAliveRequest>,
    ) -> impl Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> {
        requests.then(move |request| {
            let face = self.clone();
            async move { face.keep_alive(request?.id).await }
        })
    }

    async fn keep_alive(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, Status> {
        // The header is older than the renewal, so that no client takes a lease for alive at a revision that ended it.
        let header = self.header_now();
        match self.store.lease_keep_alive(id).await {
            Ok(ttl) => Ok(pb::LeaseKeepAliveResponse { header, id, ttl }),
            Err(StoreError::LeaseNotFound) => Ok(pb::LeaseKeepAliveResponse { header, id, ttl: 0 }),
            Err(error) => Err(error.into()),
        }
    }
}
