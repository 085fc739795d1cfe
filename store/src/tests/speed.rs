//! How fast it is, printed; nothing is asserted about it here. `SPEED_CALLERS` and `SPEED_WRITES` make it larger: in a release build,
//! `SPEED_CALLERS=2000 SPEED_WRITES=400000 cargo test --release -p orchd-store speed -- --nocapture --test-threads=1`.

use super::{all, open, put};
use std::time::{Duration, Instant};

fn setting(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn figure(name: &str, count: usize, took: Duration) {
    println!("figure {name} {:.0} per_second ({count} in {took:.2?})", count as f64 / took.as_secs_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durable_writes_and_linearizable_reads() {
    let (callers, writes) = (setting("SPEED_CALLERS", 64), setting("SPEED_WRITES", 2_000));
    let dir = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let store = open(dir.path()).await;
    println!("figure store_open_empty {:.1} ms", begun.elapsed().as_secs_f64() * 1000.0);
    let value = vec![7_u8; 256];
    let mut worst = Duration::ZERO;
    for (name, callers, count) in [("store_put_1_caller", 1, (writes / 100).max(20)), ("store_put_many", callers, writes)] {
        let begun = Instant::now();
        let tasks: Vec<_> = (0..callers)
            .map(|caller| {
                let (store, value) = (store.clone(), value.clone());
                tokio::spawn(async move {
                    let mut worst = Duration::ZERO;
                    for at in 0..count / callers {
                        let begun = Instant::now();
                        store.txn(put(format!("/registry/things/{caller}/{}", at % 50), value.clone())).await.unwrap();
                        worst = worst.max(begun.elapsed());
                    }
                    worst
                })
            })
            .collect();
        for task in tasks {
            worst = worst.max(task.await.unwrap());
        }
        figure(name, count / callers * callers, begun.elapsed());
        println!("figure {name}_worst {:.1} ms", worst.as_secs_f64() * 1000.0);
    }
    let begun = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..writes / callers {
                    store.range(super::get(&format!("/registry/things/{caller}/0"))).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    figure("store_linearizable_get", writes / callers * callers, begun.elapsed());
    let (revision, count) = (store.revision(), store.range(all()).await.unwrap().count);
    let begun = Instant::now();
    store.close().await;
    println!("figure store_close {:.1} ms", begun.elapsed().as_secs_f64() * 1000.0);
    let begun = Instant::now();
    let store = open(dir.path()).await;
    println!("figure store_open_again {:.1} ms ({count} keys, {revision} revisions)", begun.elapsed().as_secs_f64() * 1000.0);
    assert_eq!((store.revision(), store.range(all()).await.unwrap().count), (revision, count));
    store.close().await;
}
