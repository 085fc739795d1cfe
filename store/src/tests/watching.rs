//! Watches under load: ordered, without gaps or repeats, whole revisions.

use super::{fill, open, put};
use crate::{KeyRange, Op, Revision, Store, Txn, WatchEvent, Watcher};

const WRITERS: usize = 8;
const WRITES: usize = 150;

/// Reads until `last`, checking order; returns the revisions seen.
async fn follow(mut watcher: Watcher, last: Revision) -> Vec<Revision> {
    let mut seen: Vec<Revision> = Vec::new();
    while seen.last().is_none_or(|seen| *seen < last) {
        let batch = watcher.next().await.unwrap();
        assert!(seen.last().is_none_or(|seen| *seen < batch.revision), "{} after {seen:?}", batch.revision);
        assert_eq!(batch.events.len(), 2, "both keys of a transaction come together");
        for event in batch.events.iter() {
            let WatchEvent::Put { kv, prev } = event else { panic!("{event:?}") };
            assert_eq!(kv.mod_revision, batch.revision);
            assert_eq!(prev.as_ref().map_or(0, |prev| prev.version) + 1, kv.version);
        }
        seen.push(batch.revision);
    }
    seen
}

async fn write(store: &Store, writer: usize) {
    for at in 0..WRITES {
        let success = vec![Op::put(format!("a/{writer}"), at.to_string()), Op::put(format!("a/{writer}+"), ""), Op::put("other", "")];
        store.txn(Txn { success, ..Txn::default() }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_sees_every_revision_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let last = 1 + (WRITERS * WRITES) as Revision;
    let writing: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move { write(&store, writer).await })
        })
        .collect();
    let mut watching = Vec::new();
    for _ in 0..6 {
        watching.push(tokio::spawn(follow(store.watch(KeyRange::prefix("a/"), 2).unwrap(), last)));
        tokio::task::yield_now().await;
    }
    let lazy = store.watch(KeyRange::prefix("a/"), 2).unwrap();
    for writer in writing {
        writer.await.unwrap();
    }
    assert_eq!(store.revision(), last);
    watching.push(tokio::spawn(follow(lazy, last)));
    for watcher in watching {
        assert_eq!(watcher.await.unwrap(), (2..=last).collect::<Vec<_>>());
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_falls_back_to_history_and_then_to_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut slow = store.watch(KeyRange::prefix("k"), 0).unwrap();
    let mut slower = store.watch(KeyRange::prefix("k"), 0).unwrap();
    fill(&store, "k", 3000).await;
    for revision in 2..=3001 {
        assert_eq!(slow.next().await.unwrap().revision, revision);
    }
    store.txn(put("k", "")).await.unwrap();
    assert_eq!(slow.next().await.unwrap().revision, 3002);
    // What is in its buffer it still gets; what was not kept for it is gone.
    store.compact(3000).await.unwrap();
    let mut last = 1;
    let error = loop {
        match slower.next().await {
            Ok(batch) => {
                assert_eq!(batch.revision, last + 1);
                last = batch.revision;
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error, crate::StoreError::Compacted { compacted: 3000 });
    assert!(last < 2000);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_from_the_future_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut watcher = store.watch(KeyRange::key("k"), 4).unwrap();
    for _ in 0..4 {
        store.txn(put("k", "")).await.unwrap();
    }
    assert_eq!(watcher.next().await.unwrap().revision, 4);
    assert_eq!(watcher.next().await.unwrap().revision, 5);
    drop(watcher);
    store.close().await;
}
