//! Locks and elections kept by the server.

use super::{Served, delete, get};
use futures::FutureExt;
use orchd_store::etcd::client::Connection;
use orchd_store::etcd::pb::etcdserverpb as pb;
use orchd_store::etcd::pb::v3electionpb::election_client::ElectionClient;
use orchd_store::etcd::pb::v3lockpb::lock_client::LockClient;
use orchd_store::etcd::pb::{v3electionpb, v3lockpb};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

async fn granted(served: &Served, ttl: i64) -> i64 {
    served.lease().await.lease_grant(pb::LeaseGrantRequest { ttl, id: 0 }).await.unwrap().into_inner().id
}

async fn lock(served: &Served, lease: i64) -> Result<v3lockpb::LockResponse, tonic::Status> {
    let mut client = LockClient::with_origin(served.connect().await, Connection::origin());
    client.lock(v3lockpb::LockRequest { name: "l".into(), lease }).await.map(tonic::Response::into_inner)
}

async fn waiting(served: &Served) -> i64 {
    let range = pb::RangeRequest { range_end: "l0".into(), count_only: true, ..get("l/") };
    served.kv().await.range(range).await.unwrap().into_inner().count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_goes_to_one_after_the_other() {
    let served = Served::start().await;
    let (first, second, third) = (granted(&served, 60).await, granted(&served, 60).await, granted(&served, 60).await);
    let held = lock(&served, first).await.unwrap();
    // Whoever holds it gets it again.
    assert_eq!(lock(&served, first).await.unwrap().key, held.key);
    let mut next = Box::pin(lock(&served, second));
    let mut last = Box::pin(lock(&served, third));
    while waiting(&served).await < 3 {
        assert!((&mut next).now_or_never().is_none());
        assert!((&mut last).now_or_never().is_none());
    }
    // One that goes away gives its place up.
    drop(next);
    while waiting(&served).await > 2 {
        tokio::task::yield_now().await;
    }
    assert!((&mut last).now_or_never().is_none());
    let mut client = LockClient::with_origin(served.connect().await, Connection::origin());
    client.unlock(v3lockpb::UnlockRequest { key: held.key }).await.unwrap();
    let held = tokio::time::timeout(SOON, last).await.unwrap().unwrap();
    assert!(held.key.starts_with(b"l/"));
    // With its lease the lock goes.
    served.lease().await.lease_revoke(pb::LeaseRevokeRequest { id: third }).await.unwrap();
    assert_eq!(waiting(&served).await, 0);
    assert_eq!(lock(&served, 4711).await.unwrap_err().message(), "etcdserver: requested lease not found");
    served.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_has_one_leader_at_a_time() {
    let served = Served::start().await;
    let client = || async { ElectionClient::with_origin(served.connect().await, Connection::origin()) };
    let (mut one, mut two) = (client().await, client().await);
    let (lease_one, lease_two) = (granted(&served, 60).await, granted(&served, 60).await);
    let none = one.leader(v3electionpb::LeaderRequest { name: "e".into() }).await.unwrap_err();
    assert_eq!(none.message(), "election: no leader");
    let mut observed = two.observe(v3electionpb::LeaderRequest { name: "e".into() }).await.unwrap().into_inner();
    let campaign = |lease, value: &'static str| v3electionpb::CampaignRequest { name: "e".into(), lease, value: value.into() };
    let leader = one.campaign(campaign(lease_one, "one")).await.unwrap().into_inner().leader.unwrap();
    let mut seen = async || tokio::time::timeout(SOON, observed.message()).await.unwrap().unwrap().unwrap().kv.unwrap().value;
    assert_eq!(seen().await, "one");
    let proclaim = |value: &'static str| v3electionpb::ProclaimRequest { leader: Some(leader.clone()), value: value.into() };
    one.proclaim(proclaim("still one")).await.unwrap();
    assert_eq!(seen().await, "still one");
    let mut next = Box::pin(two.campaign(campaign(lease_two, "two")));
    assert!((&mut next).now_or_never().is_none());
    one.resign(v3electionpb::ResignRequest { leader: Some(leader.clone()) }).await.unwrap();
    tokio::time::timeout(SOON, next).await.unwrap().unwrap();
    assert_eq!(seen().await, "two");
    assert_eq!(one.proclaim(proclaim("me again")).await.unwrap_err().message(), "election: not leader");
    served.kv().await.delete_range(delete("x")).await.unwrap();
    served.finish().await;
}
