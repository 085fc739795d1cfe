//! Open, write, read, watch, compact, close, open again.

use super::{all, get, open, put};
use crate::{Compare, KeyRange, Op, OpenError, Options, Store, StoreError, Txn, WatchEvent};
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let store = open(dir.path()).await;
    println!("open on an empty directory: {:?}", begun.elapsed());
    assert_eq!(store.revision(), 1);
    assert_eq!(store.serves(), Ok(()));
    assert_eq!(store.txn(put("a", "1")).await.unwrap().revision, 2);
    assert_eq!(store.txn(put("b", "2")).await.unwrap().revision, 3);
    let refused = Txn { compare: vec![Compare::mod_revision_is("a", 7)], ..put("a", "3") };
    assert!(!store.txn(refused).await.unwrap().succeeded);
    assert_eq!(store.range(all()).await.unwrap().count, 2);
    assert_eq!(store.range_local(&get("a")).unwrap().kvs[0].mod_revision, 2);
    store.close().await;
    assert_eq!(store.serves(), Err(StoreError::Closed));
    assert_eq!(store.txn(put("a", "1")).await, Err(StoreError::Closed));

    let begun = Instant::now();
    let store = open(dir.path()).await;
    println!("open on a small store: {:?}", begun.elapsed());
    assert_eq!(store.revision(), 3);
    assert_eq!(store.range(get("b")).await.unwrap().kvs[0].value, "2");
    assert_eq!(store.txn(put("b", "4")).await.unwrap().revision, 4);
    store.close().await;
}

#[tokio::test]
async fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { dir: dir.path().to_owned(), quota_bytes: 0, group: None };
    let store = Store::open(options.clone()).await.unwrap();
    assert!(matches!(Store::open(options.clone()).await, Err(OpenError::InUse { .. })));
    store.close().await;
    Store::open(options.clone()).await.unwrap().close().await;
    std::fs::write(dir.path().join("FORMAT"), "2\n").unwrap();
    assert!(matches!(Store::open(options).await, Err(OpenError::NewerFormat { found: 2, known: 1, .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_begin_in_the_past_and_go_on_in_the_present() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store.txn(put("w/1", "1")).await.unwrap();
    store.txn(put("x", "1")).await.unwrap();
    store.txn(Txn { success: vec![Op::put("w/2", "2"), Op::put("w/3", "3"), Op::put("y", "")], ..Txn::default() }).await.unwrap();
    let mut past = store.watch(KeyRange::prefix("w/"), 1).unwrap();
    let mut now = store.watch(KeyRange::key("w/1"), 0).unwrap();
    assert_eq!(past.next().await.unwrap().revision, 2);
    let batch = past.next().await.unwrap();
    assert_eq!((batch.revision, batch.events.len()), (4, 2));
    store.txn(Txn { success: vec![Op::delete("w/1")], ..Txn::default() }).await.unwrap();
    for watcher in [&mut past, &mut now] {
        let batch = watcher.next().await.unwrap();
        assert_eq!(batch.revision, 5);
        let WatchEvent::Delete { key, mod_revision, prev } = &batch.events[0] else { panic!("{batch:?}") };
        assert_eq!((&key[..], *mod_revision, &prev.as_ref().unwrap().value[..]), (&b"w/1"[..], 5, &b"1"[..]));
    }
    store.compact(5).await.unwrap();
    assert_eq!(store.compact(5).await, Err(StoreError::Compacted { compacted: 5 }));
    assert_eq!(store.compact(6).await, Err(StoreError::Future { current: 5 }));
    assert!(matches!(store.watch(KeyRange::prefix(""), 4), Err(StoreError::Compacted { compacted: 5 })));
    assert_eq!(store.watch(KeyRange::prefix(""), 5).unwrap().next().await.unwrap().revision, 5);
    store.close().await;
    assert_eq!(past.next().await, Err(StoreError::Closed));
}
