//! The store through its own handle, in process, as the API server uses it: durable puts and linearizable reads.
//!
//! `cargo bench --bench store`; prints `figure <name> <value> <unit>` lines.

mod support;

use orchd_store::{KeyRange, Op, Options, RangeRequest, Store, Txn};
use std::time::{Duration, Instant};
use support::cluster::Dir;
use support::{figure, percentile};

const VALUE_BYTES: usize = 256;
const KEYS: usize = 100_000;
const SPAN: Duration = Duration::from_secs(5);
const QUOTA_BYTES: u64 = 8 << 30;

#[tokio::main]
async fn main() {
    let dir = Dir::new("bench-store");
    let store = Store::open(Options { dir: dir.0.join("store"), quota_bytes: QUOTA_BYTES, group: None }).await.unwrap();
    for callers in [1, 100, 1000, 4000] {
        measure(&store, &format!("store_put_{callers}_callers"), callers, |store, key| async move {
            let txn = Txn { success: vec![Op::put(key, vec![b'v'; VALUE_BYTES])], ..Txn::default() };
            store.txn(txn).await.unwrap();
        })
        .await;
    }
    measure(&store, "store_get_1000_callers", 1000, |store, key| async move {
        store.range(RangeRequest::new(KeyRange::key(key))).await.unwrap();
    })
    .await;
    store.close().await;
}

/// Lets every caller act on one key after the other for a while.
async fn measure<F: Future<Output = ()> + Send>(
    store: &Store,
    name: &str,
    callers: usize,
    act: impl Fn(Store, String) -> F + Copy + Send + 'static,
) {
    let began = Instant::now();
    let tasks = (0..callers).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            while began.elapsed() < SPAN {
                let key = format!("key-{:06}", (caller + times.len() * callers) % KEYS);
                let asked = Instant::now();
                act(store.clone(), key).await;
                times.push(asked.elapsed().as_secs_f64() * 1e3);
            }
            times
        })
    });
    let mut times = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        times.extend(task.await.unwrap());
    }
    figure(&format!("{name}_rate"), times.len() as f64 / began.elapsed().as_secs_f64(), "per_second");
    figure(&format!("{name}_p99"), percentile(&mut times, 0.99), "ms");
}
