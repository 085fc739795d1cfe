//! Snapshots that leave the store, and come back as a new one.

use super::{Served, put};
use orchd_store::etcd::pb::etcdserverpb as pb;
use orchd_store::saved::{SavedError, inspect, restore};
use orchd_store::{KeyRange, Op, Options, RangeRequest, Store, Txn};
use std::path::Path;

async fn save(served: &Served, path: &Path) {
    let mut pieces = served.connect().await.maintenance().snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let mut whole = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        whole.extend_from_slice(&piece.blob);
    }
    assert_eq!(whole.len() % 512, 32, "etcdctl tells by this that a checksum is at the end");
    std::fs::write(path, whole).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_becomes_a_store_with_the_same_history() {
    let served = Served::start().await;
    let mut kv = served.kv().await;
    served.store.lease_grant(7, 600).await.unwrap();
    for at in 0..300 {
        kv.put(put(&format!("k{at}"), vec![b'x'; 1000])).await.unwrap();
    }
    kv.put(pb::PutRequest { lease: 7, ..put("leased", "") }).await.unwrap();
    kv.put(put("k1", "again")).await.unwrap();
    kv.compact(pb::CompactionRequest { revision: 100, physical: false }).await.unwrap();
    let file = served.dir.path().join("saved");
    save(&served, &file).await;
    let summary = inspect(&file).unwrap();
    assert_eq!((summary.revision, summary.compacted, summary.keys), (303, 100, 301));
    let hash = served.connect().await.maintenance().hash_kv(pb::HashKvRequest { revision: 0 }).await.unwrap().into_inner();
    assert_eq!((hash.hash, hash.hash_revision), (summary.hash, 303));

    let dir = served.dir.path().join("restored");
    assert_eq!(restore(&file, &dir, "default").await.unwrap(), summary);
    assert!(matches!(restore(&file, &dir, "default").await, Err(SavedError::Exists { .. })));
    let options = Options { dir: dir.clone(), quota_bytes: 0, group: None };
    let read = |revision| RangeRequest { revision, ..RangeRequest::new(KeyRange::key("k1")) };
    for round in 0..2 {
        let store = Store::open(options.clone()).await.unwrap();
        assert_ne!(store.member_id(), served.store.member_id());
        assert_eq!(store.revision(), 303 + round);
        assert_eq!(store.range(read(302)).await.unwrap().kvs[0].mod_revision, 3);
        assert_eq!(store.range(read(0)).await.unwrap().kvs[0].value, "again");
        assert_eq!(store.leases(), [7]);
        assert_eq!(store.lease_keys(7).len(), 1);
        store.txn(Txn { success: vec![Op::put("new", "")], ..Txn::default() }).await.unwrap();
        store.close().await;
    }
    served.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_was_changed_or_cut_is_found_out() {
    let served = Served::start().await;
    served.kv().await.put(put("k", vec![b'x'; 100_000])).await.unwrap();
    let file = served.dir.path().join("saved");
    save(&served, &file).await;
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[50_000] ^= 1;
    for wrong in [&flipped[..], &whole[..whole.len() - 1], &whole[..10], b""] {
        std::fs::write(&file, wrong).unwrap();
        assert!(matches!(inspect(&file), Err(SavedError::Checksum { .. })), "{} bytes", wrong.len());
    }
    assert!(matches!(restore(&file, &served.dir.path().join("r"), "m").await, Err(SavedError::Checksum { .. })));
    assert!(!served.dir.path().join("r").exists());
    served.finish().await;
}
