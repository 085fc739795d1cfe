//! Checkpoint, snapshot and log stand in for one another.

use super::{all, fill, open};
use crate::checkpoint::Checkpoint;
use crate::command::{Command, Op, Txn};
use crate::disk::System;
use crate::engine::{EngineError, Place, memory::Memory, sled::SledPlace};
use crate::log::Log;
use crate::machine::Machine;
use crate::recovery::recover;
use crate::snapshot::{Image, Snapshots};
use crate::state::{Applied, State};
use crate::world::World;
use crate::{KeyRange, OpenError, Options, RangeResponse, Revision, Store};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn contents(state: &State) -> RangeResponse {
    state.range(&all()).unwrap()
}

pub fn commands(state: &State, index: &mut u64, commands: &[Command]) {
    state.apply(commands.iter(), |applied| {
        *index += 1;
        *applied = Applied { next: *index, log_id: Some(index.to_string().into()), membership: None };
    });
}

pub fn write(key: u8, size: usize) -> Command {
    Command::Txn(Txn { success: vec![Op::put(format!("key-{key}"), vec![key; size])], ..Txn::default() })
}

pub fn state() -> State {
    State::new(Machine::default(), Applied::default())
}

/// Loads what a place holds.
fn loaded(place: Box<dyn Place>) -> State {
    let mut checkpoint = Checkpoint::new(place);
    let (machine, applied) = checkpoint.load().unwrap().unwrap();
    checkpoint.close();
    State::new(machine, applied)
}

/// Writes, compacts and saves at random; what is loaded is what was saved, history included.
fn saves_and_loads(place: impl Fn() -> Box<dyn Place>, steps: &[(u8, u8, usize)]) {
    let state = state();
    let mut index = 0;
    let mut checkpoint = Checkpoint::new(place());
    for (kind, key, size) in steps {
        match kind {
            0..=4 => commands(&state, &mut index, &[write(*key, *size), write(key / 2, size / 2)]),
            5 => {
                let delete = Op::Delete { range: KeyRange::prefix(format!("key-{key}")), prev_kv: false };
                commands(&state, &mut index, &[Command::Txn(Txn { success: vec![delete], ..Txn::default() })]);
            }
            6 => commands(&state, &mut index, &[Command::LeaseGrant { id: (*key).into(), ttl_s: 9 }]),
            7 => commands(&state, &mut index, &[Command::LeaseRevoke { id: (*key).into() }]),
            8 => commands(&state, &mut index, &[Command::Compact { revision: state.revision() - Revision::from(key % 3) }]),
            _ => checkpoint.save(&state).unwrap(),
        }
    }
    checkpoint.save(&state).unwrap();
    checkpoint.close();
    let again = loaded(place());
    assert_eq!(again.applied(), state.applied());
    assert_eq!(again.compacted(), state.compacted());
    for revision in state.compacted()..=state.revision() {
        let request = crate::RangeRequest { revision, ..all() };
        assert_eq!(again.range(&request), state.range(&request));
    }
    assert_eq!(again.read(|machine| machine.leases().collect::<Vec<_>>()), state.read(|machine| machine.leases().collect::<Vec<_>>()));
}

fn steps() -> impl Strategy<Value = Vec<(u8, u8, usize)>> {
    prop::collection::vec((0..12_u8, 0..6_u8, prop_oneof![4 => 0..200_usize, 1 => 3_000..20_000_usize]), 1..40)
}

proptest! {
    #![proptest_config(super::cases(200))]

    #[test]
    fn a_checkpoint_is_what_was_applied(steps in steps()) {
        let memory = Memory::default();
        saves_and_loads(|| Box::new(memory.clone()), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn and_so_it_is_in_sled(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        saves_and_loads(|| Box::new(SledPlace::new(dir.path().join("sled"))), &steps);
    }
}

#[test]
fn an_engine_that_fails_or_forgets_is_made_anew() {
    let memory = Memory::default();
    let state = state();
    let mut index = 0;
    let mut checkpoint = Checkpoint::new(Box::new(memory.clone()));
    commands(&state, &mut index, &[write(1, 100), write(2, 5000)]);
    checkpoint.save(&state).unwrap();
    memory.takes.store(0, Ordering::Relaxed);
    commands(&state, &mut index, &[write(3, 100)]);
    assert!(checkpoint.save(&state).is_err());
    memory.takes.store(usize::MAX, Ordering::Relaxed);
    checkpoint.save(&state).unwrap();
    assert_eq!(contents(&loaded(Box::new(memory.clone()))), contents(&state));
    // One byte of one value.
    let mut map = memory.map.lock();
    let last = map.values_mut().next_back().unwrap();
    let at = last.len() - 2;
    last[at] ^= 1;
    drop(map);
    assert!(Checkpoint::new(Box::new(memory.clone())).load().is_err(), "the hash must differ");

    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::new(Arc::new(System), dir.path().to_owned(), checkpoint, None);
    let image = snapshots.build(&state).unwrap();
    assert_eq!(State::new(image.load().unwrap(), image.applied().clone()).range(&all()), state.range(&all()));
    assert_eq!(contents(&loaded(Box::new(memory))), contents(&state));
}

#[test]
fn an_engine_that_was_read_through_is_let_go() {
    let memory = Memory::default();
    // Whoever has it open holds the map.
    let open = || Arc::strong_count(&memory.map) > 2;
    let state = state();
    let mut index = 0;
    let mut checkpoint = Checkpoint::new(Box::new(memory.clone()));
    commands(&state, &mut index, &[write(1, 5000)]);
    checkpoint.save(&state).unwrap();
    assert!(open(), "it stays open between saves");
    checkpoint.entries(&mut |_, _| Ok(())).unwrap();
    assert!(!open());
    commands(&state, &mut index, &[write(2, 5000)]);
    checkpoint.save(&state).unwrap();
    assert!(checkpoint.entries(&mut |_, _| Err(EngineError::Damaged("the reader had enough".into()))).is_err());
    assert!(!open());
    let bytes = checkpoint.bytes();
    assert!(bytes > 10_000, "{bytes}");
    checkpoint.load().unwrap().unwrap();
    assert!(!open());
    assert_eq!(checkpoint.bytes(), bytes);
}

#[test]
fn a_save_that_was_cut_short_is_nothing() {
    let memory = Memory::default();
    let state = state();
    let mut index = 0;
    let mut checkpoint = Checkpoint::new(Box::new(memory.clone()));
    commands(&state, &mut index, &[write(1, 5000)]);
    checkpoint.save(&state).unwrap();
    let (saved, blocks) = (contents(&state), memory.map.lock().len());
    for key in 2..8 {
        commands(&state, &mut index, &[write(key, 1 << 20)]);
    }
    memory.takes.store(2, Ordering::Relaxed);
    assert!(checkpoint.save(&state).is_err());
    assert!(memory.map.lock().len() > blocks, "it was to be cut short in the middle");
    memory.takes.store(usize::MAX, Ordering::Relaxed);

    let mut checkpoint = Checkpoint::new(Box::new(memory.clone()));
    let (machine, applied) = checkpoint.load().unwrap().unwrap();
    let state = State::new(machine, applied);
    assert_eq!(contents(&state), saved);
    assert_eq!(memory.map.lock().len(), blocks, "what it left is gone");
    // Other blocks come in the place of those.
    commands(&state, &mut index, &[write(9, 10), write(10, 1 << 20)]);
    checkpoint.save(&state).unwrap();
    assert_eq!(contents(&loaded(Box::new(memory))), contents(&state));
}

#[test]
fn a_snapshot_that_was_changed_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let state = state();
    let mut index = 0;
    for at in 0..50 {
        commands(&state, &mut index, &[write(at, 300)]);
    }
    let snapshots = Snapshots::new(Arc::new(System), dir.path().to_owned(), Checkpoint::new(Box::new(Memory::default())), None);
    snapshots.build(&state).unwrap();
    let path = Snapshots::path(dir.path());
    let whole = std::fs::read(&path).unwrap();
    let load = || Image::open(Arc::new(System), &path).and_then(|image| image.unwrap().load());
    assert_eq!(load().unwrap().revision(), state.revision());
    for at in (0..whole.len()).step_by(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        assert!(load().is_err(), "a flip at byte {at} went unnoticed");
    }
    std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    assert!(load().is_err());
    // Another member takes it in.
    std::fs::write(&path, &whole).unwrap();
    let other = State::new(Machine::default(), Applied::default());
    snapshots.install(&other, &Image::open(Arc::new(System), &path).unwrap().unwrap()).unwrap();
    assert_eq!(other.range(&all()), state.range(&all()));
    assert_eq!(other.applied(), state.applied());
}

fn generation(sled: &std::path::Path) -> std::path::PathBuf {
    std::fs::read_dir(sled).unwrap().next().unwrap().unwrap().path()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_outlives_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    fill(&store, "k", 300).await;
    let before = store.range(all()).await.unwrap();
    store.close().await;
    let sled = dir.path().join("checkpoint");
    assert!(sled.exists());
    for damage in 0..3 {
        match damage {
            0 => std::fs::remove_dir_all(&sled).unwrap(),
            1 => std::fs::write(generation(&sled).join("db"), vec![0x55; 100_000]).unwrap(),
            _ => std::fs::write(generation(&sled).join("conf"), "nonsense, and enough of it to be read").unwrap(),
        }
        let store = open(dir.path()).await;
        assert_eq!(store.range(all()).await.unwrap(), before, "damage {damage}");
        store.close().await;
    }
}

/// As after a power failure that took what was applied already from the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_is_ahead_of_the_log_becomes_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    fill(&store, "k", 20).await;
    store.close().await;
    drop(store);
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    let log = Log::open(&World::default(), &dir.path().join("log")).unwrap();
    let (state, snapshots) = recover(Arc::new(System), dir.path(), &log).unwrap();
    assert_eq!(contents(&state).count, 20);
    assert_eq!(*snapshots.current().unwrap().applied(), state.applied());
    snapshots.close();
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_snapshot_is_removed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.close().await;
    let left = ["snapshot.new", "snapshot.1f"].map(|name| dir.path().join(name));
    for path in &left {
        std::fs::write(path, "half").unwrap();
    }
    open(dir.path()).await.close().await;
    assert!(!left.iter().any(|path| path.exists()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purged_log_goes_on_from_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let value = vec![9_u8; 700_000];
    for round in 0..30 {
        let writes = (0..12).map(|at| store.txn(super::put(format!("k{at}"), value.clone())));
        for done in futures::future::join_all(writes).await {
            done.unwrap();
        }
        if round % 10 == 9 {
            store.compact(store.revision()).await.unwrap();
        }
    }
    store.shared.snapshots.clone().prepare(store.shared.state.clone()).await.unwrap();
    store.shared.node.snapshot().await.unwrap();
    let before = store.range(all()).await.unwrap();
    store.txn(super::put("after", "")).await.unwrap();
    let begun = std::time::Instant::now();
    while store.shared.log.state().purged.is_none() {
        assert!(begun.elapsed().as_secs() < 10, "the log is not purged");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    store.close().await;
    std::fs::remove_dir_all(dir.path().join("checkpoint")).unwrap();
    let store = open(dir.path()).await;
    let after = store.range(all()).await.unwrap();
    assert_eq!((after.count, after.revision), (before.count + 1, before.revision + 1));
    store.close().await;
    // Without either, it must not pretend to be empty.
    std::fs::remove_dir_all(dir.path().join("checkpoint")).unwrap();
    std::fs::remove_file(dir.path().join("snapshot")).unwrap();
    let refused = Store::open(Options { dir: dir.path().to_owned(), quota_bytes: 0, group: None }).await;
    assert!(matches!(refused, Err(OpenError::Damaged(_))));
}
