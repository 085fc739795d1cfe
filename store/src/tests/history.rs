//! History, compaction and paging, through restarts.

use super::{all, fill, get, open, put};
use crate::{KeyRange, Op, RangeRequest, StoreError, Txn};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_lasts_over_restarts_until_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    for value in 0..5 {
        store.txn(put("k", value.to_string())).await.unwrap();
    }
    store.txn(Txn { success: vec![Op::delete("k")], ..Txn::default() }).await.unwrap();
    store.close().await;
    let store = open(dir.path()).await;
    for revision in 2..=6 {
        let found = store.range(RangeRequest { revision, ..get("k") }).await.unwrap();
        assert_eq!(found.kvs[0].value, (revision - 2).to_string());
        assert_eq!(found.revision, 7);
    }
    assert_eq!(store.range(get("k")).await.unwrap().count, 0);
    store.compact(5).await.unwrap();
    store.close().await;
    let store = open(dir.path()).await;
    assert_eq!(store.compacted_revision(), 5);
    assert_eq!(store.range(RangeRequest { revision: 4, ..get("k") }).await, Err(StoreError::Compacted { compacted: 5 }));
    assert_eq!(store.range(RangeRequest { revision: 5, ..get("k") }).await.unwrap().kvs[0].value, "3");
    assert_eq!(store.range(RangeRequest { revision: 8, ..get("k") }).await, Err(StoreError::Future { current: 7 }));
    let mut watcher = store.watch(KeyRange::key("k"), 6).unwrap();
    assert_eq!(watcher.next().await.unwrap().revision, 6);
    assert_eq!(watcher.next().await.unwrap().revision, 7);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_at_one_revision_fit_together_whatever_is_written_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    fill(&store, "k", 2500).await;
    let first = store.range(RangeRequest { limit: 1000, ..all() }).await.unwrap();
    assert!(first.more && first.count == 2500);
    store.txn(Txn { success: vec![Op::Delete { range: KeyRange::prefix("k"), prev_kv: false }], ..Txn::default() }).await.unwrap();
    let mut keys: Vec<_> = first.kvs.iter().map(|kv| kv.key.clone()).collect();
    loop {
        let mut start = keys.last().unwrap().to_vec();
        start.push(0);
        let range = KeyRange { start: start.into(), end: Some("l".into()) };
        let page = store.range(RangeRequest { limit: 1000, revision: first.revision, ..RangeRequest::new(range) }).await.unwrap();
        keys.extend(page.kvs.iter().map(|kv| kv.key.clone()));
        if !page.more {
            break;
        }
    }
    assert_eq!(keys.len(), 2500);
    assert!(keys.is_sorted());
    assert_eq!(store.range(all()).await.unwrap().count, 0);
    store.close().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store.txn(put("k", vec![7; 1_500_000])).await.unwrap();
    assert!(matches!(store.txn(put("k", vec![7; 1_600_000])).await, Err(StoreError::TooLarge(_))));
    assert_eq!(store.txn(Txn { success: vec![Op::put("k", ""), Op::put("k", "")], ..Txn::default() }).await, Err(StoreError::DuplicateKey));
    store.close().await;
    let store = open(dir.path()).await;
    assert_eq!(store.range(get("k")).await.unwrap().kvs[0].value, vec![7; 1_500_000]);
    store.close().await;
}
