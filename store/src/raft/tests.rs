//! openraft's own conformance suite over our log and state machine, and what it does not ask.

use super::link::Dialer;
use super::network::{Network, Peers};
use super::wire::{Answer, Call, Change, Hello, Purpose, SnapshotHead, VERSION, frames};
use super::{Batch, Entry, Info, Item, LogId, Membership, Reply, Types, Vote, log_store::LogStore, state_machine::StateMachine};
use crate::checkpoint::Checkpoint;
use crate::codec;
use crate::disk::System;
use crate::engine::memory::Memory;
use crate::log::{Log, Record};
use crate::machine::Machine;
use crate::snapshot::Snapshots;
use crate::state::{Applied, State};
use crate::tests::fuzz::{fuzz, samples};
use crate::transport::Transport;
use crate::transport::memory::Mesh;
use crate::world::World;
use crate::{Group, Options, Store, StoreError};
use futures::{SinkExt, StreamExt};
use openraft::entry::RaftEntry;
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult, VoteRequest};
use openraft::storage::{RaftLogStorage, SnapshotMeta};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, RaftNetworkFactory, RaftNetworkV2, RaftTypeConfig, StorageError};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const WAIT: Duration = Duration::from_secs(5);

struct Builder;

impl StoreBuilder<Types, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let log = LogStore::new(Arc::new(Log::open(&World::default(), &dir.path().join("log")).unwrap()));
        let state = Arc::new(State::new(Machine::default(), Applied::default()));
        let checkpoint = Checkpoint::new(Box::new(Memory::default()));
        let snapshots = Arc::new(Snapshots::new(Arc::new(System), dir.path().to_owned(), checkpoint, None));
        let machine = StateMachine::new(state, snapshots, log.clone());
        Ok((dir, log, machine))
    }
}

fn blank(index: u64) -> Entry {
    let leader = <Types as RaftTypeConfig>::LeaderId::new(1, 1).to_committed();
    Entry::new(LogId::new(leader, index), EntryPayload::Blank)
}

/// The power may fail between a committed index and its entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_index_without_its_entry_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(Log::open(&World::default(), dir.path()).unwrap());
    let log = open();
    let mut store = LogStore::new(log.clone());
    assert_eq!(store.read_committed().await.unwrap(), None);
    store.save_committed(Some(blank(7).log_id)).await.unwrap();
    let write = async |log: &Log, indexes: std::ops::Range<u64>| {
        for index in indexes {
            let record = Record::Entry { index, payload: codec::encode(&blank(index)).unwrap() };
            log.write(vec![record]).await.unwrap();
        }
    };
    write(&log, 0..7).await;
    log.close().await;
    let log = open();
    assert_eq!(LogStore::new(log.clone()).read_committed().await.unwrap(), None);
    write(&log, 7..9).await;
    assert_eq!(LogStore::new(log.clone()).read_committed().await.unwrap(), Some(blank(7).log_id));
    log.close().await;
}

/// A member that was removed may have had the address that another one has now, which must not vote for both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_for_another_member_is_refused() {
    let (mesh, dir) = (Mesh::default(), tempfile::tempdir().unwrap());
    let group = Group {
        name: "m1".into(),
        peers: vec![("m1".into(), "m1".into())],
        peer_address: "m1".into(),
        client_addresses: Vec::new(),
        cluster: 3,
        transport: mesh.listen("m1"),
        force_new_cluster: false,
    };
    let store = Store::open(Options { dir: dir.path().to_owned(), quota_bytes: 0, group: Some(group) }).await.unwrap();
    let (id, dialer) = (store.member_id(), Arc::new(Dialer { transport: mesh.listen("other"), cluster: 3 }));
    for purpose in [|to| Purpose::Append { to }, |to| Purpose::Snapshot { to }] {
        dialer.dial("m1", purpose(id)).await.unwrap();
        let refused = dialer.dial("m1", purpose(id + 1)).await.err().unwrap();
        assert!(refused.to_string().contains("is not here"), "{refused}");
    }
    let request = VoteRequest::new(Vote::new(1, id + 2), None);
    let peers = Peers::new(Some(dialer));
    for call in [|to, request| Call::PreVote { to, request }, |to, request| Call::Vote { to, request }] {
        let ask = |to| call(to, request.clone());
        let answers = [peers.call("m1", &ask(id), WAIT).await.unwrap(), peers.call("m1", &ask(id + 1), WAIT).await.unwrap()];
        assert!(matches!(answers, [Answer::Vote(_), Answer::Failed(StoreError::MemberNotFound)]), "{answers:?}");
    }
    store.close().await;
}

/// A yes to the first of two requests that end with the same entry must not count for the second, which may never arrive: a
/// leader that has been cut off would take itself for one, and answer a read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_yes_does_not_count_for_a_later_request() {
    let mesh = Mesh::default();
    let port = mesh.listen("m2");
    let peers = Peers::new(Some(Arc::new(Dialer { transport: mesh.listen("m1"), cluster: 3 })));
    let info = Info { peer_addresses: vec!["m2".into()], ..Info::default() };
    let mut peer = Network(peers).new_client(2, &info).await;
    let entry = blank(5);
    let request = |entries: Vec<Entry>, prev: u64| AppendEntriesRequest::<Types> {
        vote: Vote::new(1, 1),
        prev_log_id: Some(blank(prev).log_id),
        entries,
        leader_commit: None,
    };
    let requests = futures::stream::iter([request(vec![entry.clone()], 4), request(Vec::new(), 5)]);
    let other = tokio::spawn(async move {
        let mut connection = frames(port.accept().await.unwrap());
        connection.next().await.unwrap().unwrap();
        connection.send(codec::encode(&None::<String>).unwrap()).await.unwrap();
        for _ in 0..2 {
            connection.next().await.unwrap().unwrap();
        }
        connection
    });
    let mut answers = peer.stream_append(requests, RPCOption::new(WAIT)).await.unwrap();
    let yes = codec::encode(&StreamAppendResult::<Types>::Ok(Some(entry.log_id))).unwrap();
    // What was sent is on its way only while somebody waits for answers.
    let (early, mut connection) = tokio::join!(tokio::time::timeout(WAIT / 10, answers.next()), async {
        let mut connection = other.await.unwrap();
        connection.send(yes.clone()).await.unwrap();
        connection
    });
    assert!(early.is_err(), "{early:?}");
    connection.send(yes).await.unwrap();
    let answer = tokio::time::timeout(WAIT, answers.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.ok(), Some(Some(entry.log_id)));
    assert!(answers.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_of_storage_tests_holds() {
    Suite::test_all(Builder).await.unwrap();
}

/// Asks what a member takes for one of these messages.
fn heard<T: serde::Serialize + serde::de::DeserializeOwned>(target: &str, seeds: &[T]) {
    let seeds: Vec<_> = seeds.iter().map(|seed| codec::encode(seed).unwrap().into()).collect();
    fuzz(target, &seeds, |bytes| {
        let Ok(message) = codec::decode::<T>(bytes) else { return false };
        let again = codec::encode(&message).unwrap();
        assert_eq!(codec::encode(&codec::decode::<T>(&again).unwrap()).unwrap(), again);
        true
    });
}

#[test]
fn a_greeting_of_any_bytes() {
    let purposes = [Purpose::Calls, Purpose::Append { to: 1 << 40 }, Purpose::Snapshot { to: 2 }];
    heard("greeting", &purposes.map(|purpose| Hello { version: VERSION, cluster: 3, purpose }));
}

#[test]
fn a_call_of_any_bytes() {
    let vote = |to| (to, VoteRequest::new(Vote::new(3, 1), Some(blank(7).log_id)));
    let commands = samples().iter().map(|command| codec::encode(command).unwrap()).collect();
    let calls = [
        Call::Join { name: "m1".into(), id: Some(7), instance: 1 << 50 },
        Call::PreVote { to: vote(1).0, request: vote(1).1 },
        Call::Propose(commands),
        Call::KeepAlive(-1),
        Call::Change(Change::Add { name: "m4".into(), peer_addresses: vec!["m4:1".into(), "m4:2".into()], learner: true }),
        Call::Change(Change::Update { id: 9, peer_addresses: Some(Vec::new()), client_addresses: None }),
        Call::Exchange { name: "m2".into(), id: 1, instance: 2 },
    ];
    heard("call", &calls);
}

#[test]
fn an_answer_of_any_bytes() {
    let mut machine = Machine::default();
    let reply = Reply(samples().iter().map(|command| machine.apply(command)).collect());
    let answers = [
        Answer::Done { index: 8, reply },
        Answer::Lease(60, 7),
        Answer::Changed(Some(Info { name: "m1".into(), ..Info::default() }.member(5, true))),
        Answer::Failed(StoreError::TooLarge("why".into())),
    ];
    heard("answer", &answers);
}

#[test]
fn entries_of_any_bytes() {
    let items = samples().into_iter().map(|command| Item::new(command).unwrap()).collect();
    let batch = Entry::new(blank(6).log_id, EntryPayload::Normal(Batch(items)));
    let request = |entries| AppendEntriesRequest::<Types> {
        vote: Vote::new(1, 1),
        prev_log_id: Some(blank(4).log_id),
        entries,
        leader_commit: Some(blank(4).log_id),
    };
    heard("entries", &[request(vec![blank(5), batch]), request(Vec::new())]);
}

#[test]
fn a_snapshots_head_of_any_bytes() {
    let members = std::collections::BTreeMap::from([(1, Info { peer_addresses: vec!["m1:1".into()], ..Info::default() })]);
    let membership = openraft::Membership::new(vec![[1].into()], members).unwrap();
    let meta = SnapshotMeta { last_log_id: Some(blank(9).log_id), last_membership: Membership::new(Some(blank(2).log_id), membership) };
    heard("head", &[SnapshotHead { vote: Vote::new(2, 1), meta }]);
}
