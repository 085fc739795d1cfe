//! A full disk and a full quota: writes are refused, reads go on, and it recovers by itself.

use super::{all, get, open, put};
use crate::{Op, Options, Store, StoreError, Txn};
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes until refused, or `most` times.
async fn until_refused(store: &Store, most: usize) -> Option<StoreError> {
    for at in 0..most {
        if let Err(error) = store.txn(put(format!("filler-{at}"), vec![1; 400_000])).await {
            return Some(error);
        }
    }
    None
}

async fn until_taken(store: &Store, key: &str) {
    let begun = Instant::now();
    while let Err(error) = store.txn(put(key.to_owned(), "")).await {
        assert!(matches!(error, StoreError::NoSpace(_)), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not recover: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_is_kept_and_deleting_makes_room_again() {
    let dir = tempfile::tempdir().unwrap();
    // Three segments of log, the smallest checkpoint and a snapshot take about 60 MiB whatever the store holds.
    let store = Store::open(Options { dir: dir.path().to_owned(), quota_bytes: 160 << 20, group: None }).await.unwrap();
    let refused = until_refused(&store, 400).await;
    assert!(matches!(refused, Some(StoreError::NoSpace(_))), "{refused:?}");
    assert!(store.status().no_space);
    let count = store.range(all()).await.unwrap().count;
    assert!(count > 20);
    let delete = Op::Delete { range: crate::KeyRange::prefix("filler-"), prev_kv: false };
    store.txn(Txn { success: vec![delete], ..Txn::default() }).await.unwrap();
    store.compact(store.revision()).await.unwrap();
    until_taken(&store, "small").await;
    while store.status().no_space {
        until_taken(&store, "until there is room for as much as was refused").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.close().await;
}

/// A small file system of its own, in a mount namespace of this thread, which ends with it.
fn small_disk(at: &Path, bytes: u64) -> bool {
    use nix::mount::{MsFlags, mount};
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: a full disk needs root, to mount a small one");
        return false;
    }
    let none = None::<&str>;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(&*format!("size={bytes}"))).unwrap();
    true
}

/// Runs on a thread of its own whose children, the runtime's workers, inherit its mount namespace.
#[test]
fn a_full_disk_refuses_writes_and_recovers() {
    let thread = std::thread::spawn(|| {
        let dir = tempfile::tempdir().unwrap();
        if !small_disk(dir.path(), 96 << 20) {
            return;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(full_disk(dir.path()));
        drop(runtime);
        nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
    thread.join().unwrap();
}

async fn full_disk(disk: &Path) {
    let data = disk.join("data");
    let store = open(&data).await;
    store.txn(put("before", "1")).await.unwrap();
    // Others fill the disk to the last byte.
    let hog = disk.join("hog");
    fill_up(&hog);
    let refused = until_refused(&store, 100).await;
    assert!(matches!(refused, Some(StoreError::NoSpace(_))), "{refused:?}");
    let kept = store.range(all()).await.unwrap();
    assert_eq!(store.range(get("before")).await.unwrap().kvs[0].value, "1");
    // What makes room is still taken: the log has space set aside.
    store.txn(Txn { success: vec![Op::delete("filler-0")], ..Txn::default() }).await.unwrap();
    store.compact(store.revision()).await.unwrap();
    std::fs::remove_file(&hog).unwrap();
    until_taken(&store, "after").await;
    // And under load, until the store itself has filled it: refused again, nothing lost, nothing dead.
    let refused = until_refused(&store, 400).await;
    assert!(matches!(refused, Some(StoreError::NoSpace(_))), "{refused:?}");
    let before = store.range(all()).await.unwrap();
    assert!(before.count >= kept.count);
    store.close().await;
    let store = open(&data).await;
    assert_eq!(store.range(all()).await.unwrap().kvs, before.kvs);
    store.close().await;
}

fn fill_up(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    while file.write_all(&[1; 1 << 16]).is_ok() {}
    while file.write_all(&[1; 512]).is_ok() {}
}
