//! One member in this process: load, compaction, leases, closing and opening again.

use crate::target::Target;
use crate::workload::{LOAD, Load, Run, judged};
use orchd_store::{Options, Store};
use std::path::Path;
use std::time::{Duration, Instant};

async fn open(dir: &Path) -> Store {
    Store::open(Options { dir: dir.to_owned(), quota_bytes: 0, group: None }).await.unwrap()
}

/// `SAFETY_OPERATIONS` sets how many operations are checked, in histories of at most 20,000.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_member_that_is_closed_and_opened() {
    let wanted = crate::setting("SAFETY_OPERATIONS", 10_000);
    let (mut checked, mut seed) = (0, crate::setting("SAFETY_SEED", 1) as u64);
    let begun = Instant::now();
    while checked < wanted {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run::new(Load { leases: 4, ..LOAD }, seed);
        for _ in 0..4 {
            let store = open(dir.path()).await;
            run.round(&[Target::Here(store.clone())], tokio::time::sleep(Duration::from_millis(600))).await;
            store.close().await;
        }
        let store = open(dir.path()).await;
        let history = run.finish(&[Target::Here(store.clone())]).await;
        store.close().await;
        judged("lone", &history);
        assert!(history.operations.len() > 100, "the clients have hardly asked anything");
        checked += history.operations.len();
        seed += 1;
    }
    println!("figure checked_operations {checked} in {:.1?}", begun.elapsed());
}
