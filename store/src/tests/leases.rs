//! Leases end by the leader's clock.

use super::{all, get, put};
use crate::clock::Clock;
use crate::{Op, Options, Store, StoreError, Txn};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A clock that stands until it is set.
#[derive(Clone)]
struct Hands(Arc<Mutex<watch::Sender<Duration>>>);

impl Hands {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(watch::Sender::new(Duration::ZERO))))
    }

    fn advance(&self, seconds: u64) {
        self.0.lock().send_modify(|now| *now += Duration::from_secs(seconds));
    }
}

impl Clock for Hands {
    fn now(&self) -> Duration {
        *self.0.lock().borrow()
    }

    fn sleep_until(&self, moment: Duration) -> BoxFuture<'static, ()> {
        let mut hands = self.0.lock().subscribe();
        Box::pin(async move {
            // The clock outlives the store.
            let _ = hands.wait_for(|now| *now >= moment).await;
        })
    }
}

async fn open(dir: &std::path::Path, hands: &Hands) -> Store {
    Store::open_with(Options { dir: dir.to_owned(), quota_bytes: 0, group: None }, Arc::new(hands.clone())).await.unwrap()
}

fn leased(key: &str, lease: i64) -> Txn {
    let op = Op::Put { key: key.to_owned().into(), value: "".into(), lease, prev_kv: false };
    Txn { success: vec![op], ..Txn::default() }
}

async fn gone(store: &Store, key: &str) {
    let mut watcher = store.watch(crate::KeyRange::key(key.to_owned()), 0).unwrap();
    if store.range(get(key)).await.unwrap().count > 0 {
        tokio::time::timeout(Duration::from_secs(10), watcher.next()).await.expect("the lease does not end").unwrap();
    }
    assert_eq!(store.range(get(key)).await.unwrap().count, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_go_with_their_lease_and_keep_alives_put_it_off() {
    let dir = tempfile::tempdir().unwrap();
    let hands = Hands::new();
    let store = open(dir.path(), &hands).await;
    assert_eq!(store.txn(leased("a", 7)).await, Err(StoreError::LeaseNotFound));
    assert_eq!(store.lease_grant(7, 10).await, Ok(7));
    assert_eq!(store.lease_grant(7, 10).await, Err(StoreError::LeaseExists));
    let other = store.lease_grant(0, 60).await.unwrap();
    assert!(other > 0);
    for (key, lease) in [("a", 7), ("b", 7), ("c", other)] {
        store.txn(leased(key, lease)).await.unwrap();
    }
    store.txn(put("b", "no longer leased")).await.unwrap();
    hands.advance(8);
    assert_eq!(store.lease_keep_alive(7).await, Ok(10));
    hands.advance(8);
    assert_eq!(store.lease_keep_alive(7).await, Ok(10));
    assert_eq!(store.range(all()).await.unwrap().count, 3);
    hands.advance(11);
    gone(&store, "a").await;
    assert_eq!(store.lease_keep_alive(7).await, Err(StoreError::LeaseNotFound));
    assert_eq!(store.range(all()).await.unwrap().count, 2);
    store.lease_revoke(other).await.unwrap();
    assert_eq!(store.lease_revoke(other).await, Err(StoreError::LeaseNotFound));
    assert_eq!(store.range(all()).await.unwrap().count, 1);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_gives_leases_their_whole_time_and_then_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let hands = Hands::new();
    let store = open(dir.path(), &hands).await;
    store.lease_grant(5, 30).await.unwrap();
    store.txn(leased("k", 5)).await.unwrap();
    hands.advance(29);
    store.close().await;
    let store = open(dir.path(), &hands).await;
    hands.advance(29);
    assert_eq!(store.range(get("k")).await.unwrap().count, 1);
    assert_eq!(store.lease_keep_alive(5).await, Ok(30));
    hands.advance(31);
    gone(&store, "k").await;
    store.close().await;
}
