//! Several members in one process, over a network in memory.

use super::{all, get, put};
use crate::transport::memory::Mesh;
use crate::{Group, Op, OpenError, Options, RangeRequest, Store, StoreError, Txn};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const NAMES: [&str; 3] = ["m1", "m2", "m3"];
const CLUSTER: u64 = 77;
const WAIT: Duration = Duration::from_secs(20);

fn options(mesh: &Mesh, dir: &Path, name: &str) -> Options {
    let group = Group {
        name: name.into(),
        peers: NAMES.map(|name| (name.to_owned(), name.to_owned())).into(),
        peer_address: name.into(),
        client_addresses: vec![format!("http://{name}")],
        cluster: CLUSTER,
        transport: mesh.listen(name),
        force_new_cluster: false,
    };
    Options { dir: dir.join(name), quota_bytes: 0, group: Some(group) }
}

async fn open(mesh: &Mesh, dir: &Path, name: &str) -> Store {
    Store::open(options(mesh, dir, name)).await.unwrap()
}

struct Trio {
    mesh: Mesh,
    dir: TempDir,
    stores: Vec<Store>,
}

impl Trio {
    async fn open() -> Self {
        let (mesh, dir) = (Mesh::default(), tempfile::tempdir().unwrap());
        let stores = futures::future::join_all(NAMES.map(|name| open(&mesh, dir.path(), name))).await;
        Self { mesh, dir, stores }
    }

    fn leader(&self) -> usize {
        self.stores.iter().position(|store| store.leads_in().is_some()).unwrap()
    }

    async fn close(self) {
        futures::future::join_all(self.stores.iter().map(Store::close)).await;
    }
}

/// Waits for something that must come to be.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WAIT, waited).await.unwrap_or_else(|_| panic!("never came to be: {what}"));
}

async fn value(store: &Store, key: &str) -> Option<String> {
    let response = store.range(get(key)).await.unwrap();
    response.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}

async fn write(store: &Store, key: &str, value: &str) {
    store.txn(put(key.to_owned(), value.to_owned())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_member_writes_every_member_reads() {
    let trio = Trio::open().await;
    for (at, writer) in trio.stores.iter().enumerate() {
        let key = format!("k{at}");
        write(writer, &key, "v").await;
        // Applied here already, without asking anybody.
        assert_eq!(writer.range_local(&get(&key)).unwrap().kvs.len(), 1);
        for reader in &trio.stores {
            assert_eq!(value(reader, &key).await.as_deref(), Some("v"));
        }
    }
    let whole = trio.stores[0].range(all()).await.unwrap();
    assert_eq!(whole.kvs, trio.stores[2].range(all()).await.unwrap().kvs);
    assert_eq!(trio.stores[1].members().iter().map(|member| &member.name[..]).collect::<std::collections::BTreeSet<_>>(), NAMES.into());
    until("every member has come forward", || {
        trio.stores[0].members().iter().all(|member| member.started && !member.client_addresses.is_empty())
    })
    .await;
    trio.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_may_be_missing_and_comes_later() {
    let (mesh, dir) = (Mesh::default(), tempfile::tempdir().unwrap());
    let first = tokio::join!(open(&mesh, dir.path(), "m3"), open(&mesh, dir.path(), "m1"));
    write(&first.0, "early", "1").await;
    let late = tokio::time::timeout(WAIT, open(&mesh, dir.path(), "m2")).await.unwrap();
    assert_eq!(value(&late, "early").await.as_deref(), Some("1"));
    Trio { mesh, dir, stores: vec![first.0, first.1, late] }.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_when_the_leader_is_cut_off_and_it_serves_nothing_stale() {
    let trio = Trio::open().await;
    let old = trio.leader();
    write(&trio.stores[old], "k", "before").await;
    trio.mesh.isolate(NAMES[old]);
    let others: Vec<&Store> = trio.stores.iter().enumerate().filter(|(at, _)| *at != old).map(|(_, store)| store).collect();
    // What was on its way to the leader that is gone may be lost; the next attempt finds the new one.
    let first = others[0].txn(put("k", "after")).await;
    assert!(matches!(first, Ok(_) | Err(StoreError::Timeout)), "{first:?}");
    write(others[0], "k", "after").await;
    assert_eq!(value(others[1], "k").await.as_deref(), Some("after"));
    trio.mesh.heal();
    until("it follows", || trio.stores[old].leads_in().is_none()).await;
    assert_eq!(value(&trio.stores[old], "k").await.as_deref(), Some("after"));
    trio.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_nobody_follows_says_so() {
    let trio = Trio::open().await;
    let old = trio.leader();
    let cut_off = &trio.stores[old];
    write(cut_off, "k", "before").await;
    trio.mesh.isolate(NAMES[old]);
    // Which of these is answered how depends on when they are asked: never with a value, and soon.
    let (written, read) =
        tokio::time::timeout(WAIT, futures::future::join(cut_off.txn(put("k", "lost")), cut_off.range(get("k")))).await.unwrap();
    assert!(matches!(written, Err(StoreError::Timeout)), "{written:?}");
    assert!(matches!(read, Err(StoreError::NoLeader)), "{read:?}");
    assert_eq!(cut_off.serves(), Err(StoreError::NoLeader));
    // It leads, as far as it can know, and refuses at once what it could only let wait.
    assert!(cut_off.leads_in().is_some());
    assert_eq!(cut_off.txn(put("k", "refused")).await, Err(StoreError::NoLeader));
    trio.mesh.heal();
    until("it serves again", || cut_off.serves().is_ok()).await;
    write(cut_off, "k", "after").await;
    assert_eq!(value(cut_off, "k").await.as_deref(), Some("after"));
    trio.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_changes_nothing_through_its_fence() {
    let trio = Trio::open().await;
    let old = trio.leader();
    let term = trio.stores[old].leads_in().unwrap();
    let fenced = trio.stores[old].fenced(term);
    fenced.txn(put("k", "led")).await.unwrap();
    let next = (old + 1) % 3;
    let members = trio.stores[old].members();
    let target = members.iter().find(|member| member.name == NAMES[next]).unwrap().id;
    trio.stores[(old + 2) % 3].move_leader(target).await.unwrap();
    until("the named one leads", || trio.stores[next].leads_in().is_some()).await;
    assert_eq!(fenced.txn(put("k", "deposed")).await, Err(StoreError::NoLeader));
    assert_eq!(value(&trio.stores[old], "k").await.as_deref(), Some("led"));
    // Back in office, but in another term.
    trio.stores[next].move_leader(trio.stores[old].member_id()).await.unwrap();
    until("the first one leads again", || trio.stores[old].leads_in().is_some()).await;
    assert_eq!(fenced.txn(put("k", "deposed")).await, Err(StoreError::NoLeader));
    trio.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_catches_up_from_the_log_or_from_a_snapshot() {
    let mut trio = Trio::open().await;
    let away = (trio.leader() + 1) % 3;
    write(&trio.stores[away], "first", "1").await;
    let closed = trio.stores.remove(away);
    closed.close().await;
    drop(closed);
    super::fill(&trio.stores[0], "k", 500).await;
    // One entry each, more than a leader keeps behind a snapshot.
    for at in 0..40 {
        write(&trio.stores[0], &format!("one{at}"), "x").await;
    }
    for store in &trio.stores {
        // What the log had before is gone.
        store.shared.snapshots.clone().prepare(store.shared.state.clone()).await.unwrap();
        store.shared.node.snapshot().await.unwrap();
        until("the log is purged", || store.shared.log.state().purged.is_some()).await;
    }
    for at in 0..20 {
        write(&trio.stores[0], &format!("after{at}"), "x").await;
    }
    let back = tokio::time::timeout(WAIT, open(&trio.mesh, trio.dir.path(), NAMES[away])).await.unwrap();
    assert_eq!(back.range(all()).await.unwrap().kvs, trio.stores[0].range(all()).await.unwrap().kvs);
    trio.stores.push(back);
    trio.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_member_is_refused_until_it_is_added_anew() {
    let mut trio = Trio::open().await;
    until("every member has come forward", || trio.stores[0].members().iter().all(|member| member.started)).await;
    let wiped = trio.stores.pop().unwrap();
    let id = wiped.member_id();
    wiped.close().await;
    drop(wiped);
    std::fs::remove_dir_all(trio.dir.path().join("m3")).unwrap();
    let refused = Store::open(options(&trio.mesh, trio.dir.path(), "m3")).await;
    let Err(OpenError::Refused(why)) = refused else { panic!("a wiped member was let in") };
    assert!(why.contains(&format!("orchd member remove {id:x}")), "{why}");
    trio.stores[0].member_remove(id).await.unwrap();
    assert_eq!(trio.stores[1].member_remove(id).await, Err(StoreError::MemberNotFound));
    let added = trio.stores[0].member_add("m3", vec!["m3".into()], false).await.unwrap();
    assert!(added.id != id && added.learner);
    assert_eq!(trio.stores[1].member_add("m3", vec!["elsewhere".into()], false).await, Err(StoreError::MemberExists));
    let anew = tokio::time::timeout(WAIT, open(&trio.mesh, trio.dir.path(), "m3")).await.unwrap();
    assert_eq!(anew.member_id(), added.id);
    until("it votes once it has caught up", || anew.members().iter().any(|member| member.id == added.id && !member.learner)).await;
    trio.stores.push(anew);
    trio.close().await;
}

fn damage(dir: &Path) {
    let segment = std::fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some());
    let segment = segment.unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[100] ^= 1;
    std::fs::write(segment, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_files_are_damaged_repairs_itself_from_the_others() {
    let mut trio = Trio::open().await;
    until("every member has come forward", || trio.stores[0].members().iter().all(|member| member.started)).await;
    for at in 0..50 {
        write(&trio.stores[0], &format!("k{at}"), "v").await;
    }
    let damaged = trio.stores.pop().unwrap();
    let id = damaged.member_id();
    damaged.close().await;
    drop(damaged);
    damage(&trio.dir.path().join("m3"));
    let repaired = tokio::time::timeout(WAIT, open(&trio.mesh, trio.dir.path(), "m3")).await.unwrap();
    assert!(repaired.member_id() != id, "what it has acknowledged, and who it voted for, it does not know any more");
    assert_eq!(repaired.range(all()).await.unwrap(), trio.stores[0].range(all()).await.unwrap());
    until("it votes again, and is one of three", || {
        let members = trio.stores[0].members();
        members.len() == 3 && members.iter().any(|member| member.id == repaired.member_id() && !member.learner && member.started)
    })
    .await;
    trio.stores.push(repaired);

    // One that was removed has nothing to give in exchange.
    let removed = trio.stores.pop().unwrap();
    let id = removed.member_id();
    removed.close().await;
    drop(removed);
    trio.stores[0].member_remove(id).await.unwrap();
    damage(&trio.dir.path().join("m3"));
    let refused = Store::open(options(&trio.mesh, trio.dir.path(), "m3")).await;
    let Err(OpenError::Damaged(why)) = refused else { panic!("a removed member was let in") };
    assert!(why.contains("no member \"m3\" with this data directory"), "{why}");
    trio.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_repairs_itself_is_a_learner_still() {
    let trio = Trio::open().await;
    trio.stores[0].member_add("m4", vec!["m4".into()], true).await.unwrap();
    let learner = tokio::time::timeout(WAIT, open(&trio.mesh, trio.dir.path(), "m4")).await.unwrap();
    write(&trio.stores[0], "k", "v").await;
    learner.close().await;
    drop(learner);
    damage(&trio.dir.path().join("m4"));
    let repaired = tokio::time::timeout(WAIT, open(&trio.mesh, trio.dir.path(), "m4")).await.unwrap();
    until("it has everything", || repaired.range_local(&get("k")).unwrap().count == 1).await;
    // One that wants its vote gets it by itself as soon as it may have it.
    let promoted = async {
        loop {
            match trio.stores[0].member_promote(repaired.member_id()).await {
                Err(StoreError::LearnerNotReady) => tokio::time::sleep(Duration::from_millis(500)).await,
                outcome => return outcome,
            }
        }
    };
    assert_eq!(tokio::time::timeout(WAIT, promoted).await.unwrap(), Ok(()));
    repaired.close().await;
    trio.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_member_is_turned_away() {
    let (mesh, dir) = (Mesh::default(), tempfile::tempdir().unwrap());
    let trio = futures::future::join_all(NAMES.map(|name| open(&mesh, dir.path(), name))).await;
    let mut foreign = options(&mesh, dir.path(), "m4");
    foreign.group.as_mut().unwrap().cluster = CLUSTER + 1;
    let waits = tokio::time::timeout(Duration::from_millis(700), Store::open(foreign)).await;
    assert!(waits.is_err(), "a member of another cluster was let in");
    assert_eq!(trio[0].members().len(), 3);
    Trio { mesh, dir, stores: trio }.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_kept_through_any_member_and_outlive_their_leader() {
    let trio = Trio::open().await;
    let leader = trio.leader();
    let follower = &trio.stores[(leader + 1) % 3];
    let id = follower.lease_grant(0, 3).await.unwrap();
    let bound = Op::Put { key: "mine".into(), value: "v".into(), lease: id, prev_kv: false };
    follower.txn(Txn { success: vec![bound], ..Txn::default() }).await.unwrap();
    let target = follower.member_id();
    trio.stores[leader].move_leader(target).await.unwrap();
    for store in &trio.stores {
        assert_eq!(store.lease_keep_alive(id).await, Ok(3));
        assert_eq!(store.lease_time_to_live(id).await.unwrap().0, 3);
        assert_eq!(store.lease_keep_alive(id + 1).await, Err(StoreError::LeaseNotFound));
    }
    assert_eq!(follower.lease_keys(id), vec![bytes::Bytes::from("mine")]);
    let mut watcher = trio.stores[leader].watch(crate::KeyRange::key("mine"), 0).unwrap();
    let gone = tokio::time::timeout(WAIT, watcher.next()).await.expect("the lease ends").unwrap();
    assert!(matches!(gone.events[0], crate::WatchEvent::Delete { .. }), "{gone:?}");
    trio.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_left_goes_on_alone_when_told_to() {
    let mut trio = Trio::open().await;
    super::fill(&trio.stores[0], "k", 50).await;
    let left = trio.stores.remove(1);
    let before = left.range(RangeRequest { count_only: true, ..all() }).await.unwrap().count;
    futures::future::join_all(trio.stores.iter().chain([&left]).map(Store::close)).await;
    drop((left, trio.stores));
    let mut alone = options(&trio.mesh, trio.dir.path(), "m2");
    alone.group.as_mut().unwrap().force_new_cluster = true;
    let alone = tokio::time::timeout(WAIT, Store::open(alone)).await.unwrap().unwrap();
    assert_eq!(alone.range(RangeRequest { count_only: true, ..all() }).await.unwrap().count, before);
    write(&alone, "more", "1").await;
    assert_eq!(alone.members().len(), 1);
    alone.close().await;
}
