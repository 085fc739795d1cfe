//! Watches over the wire: order, filters, progress, ids, cancellation.

use super::{Served, delete, put};
use futures::channel::mpsc;
use orchd_store::etcd::client::Connection;
use orchd_store::etcd::pb::etcdserverpb as pb;
use orchd_store::etcd::pb::etcdserverpb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// An open stream.
struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: tonic::Streaming<pb::WatchResponse>,
}

impl Stream {
    async fn open(served: &Served) -> Self {
        let (requests, sent) = mpsc::channel(16);
        let mut client = WatchClient::with_origin(served.connect().await, Connection::origin());
        let answers = client.watch(sent).await.unwrap().into_inner();
        Self { requests, answers }
    }

    fn send(&mut self, union: RequestUnion) {
        self.requests.try_send(pb::WatchRequest { request_union: Some(union) }).unwrap();
    }

    async fn next(&mut self) -> pb::WatchResponse {
        tokio::time::timeout(SOON, self.answers.message()).await.expect("an answer in time").unwrap().unwrap()
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.send(RequestUnion::CreateRequest(create));
        let created = self.next().await;
        assert!(created.created);
        created
    }

    /// The next `count` events: type, key, revision.
    async fn events(&mut self, count: usize) -> Vec<(i32, String, i64)> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let answer = self.next().await;
            let header = answer.header.unwrap();
            for event in answer.events {
                let kv = event.kv.unwrap();
                assert!(kv.mod_revision <= header.revision);
                seen.push((event.r#type, String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision));
            }
        }
        seen
    }
}

fn all() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: "w".into(), range_end: "x".into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_in_order_filtered_and_with_what_was_before() {
    let served = Served::start().await;
    let (mut kv, mut stream) = (served.kv().await, Stream::open(&served).await);
    kv.put(put("w1", "a")).await.unwrap();
    kv.put(put("w1", "b")).await.unwrap();
    kv.delete_range(delete("w1")).await.unwrap();
    assert_eq!(stream.create(pb::WatchCreateRequest { start_revision: 2, prev_kv: true, ..all() }).await.watch_id, 0);
    let first = stream.next().await;
    let before: Vec<_> = first.events.iter().map(|event| event.prev_kv.as_ref().map(|kv| kv.value.clone())).collect();
    assert_eq!(before, [None, Some("a".into()), Some("b".into())]);
    let gone = first.events[2].kv.as_ref().unwrap();
    assert_eq!((gone.mod_revision, gone.create_revision, gone.version, &gone.value[..]), (4, 0, 0, &b""[..]));
    // Of two watches on one stream each says its own.
    let no_put = pb::WatchCreateRequest { watch_id: 9, filters: vec![0], start_revision: 2, ..all() };
    assert_eq!(stream.create(no_put).await.watch_id, 9);
    let answer = stream.next().await;
    assert_eq!((answer.watch_id, answer.events.len(), answer.events[0].r#type), (9, 1, 1));
    assert!(answer.events[0].prev_kv.is_none());
    let no_delete = pb::WatchCreateRequest { filters: vec![1], start_revision: 2, ..all() };
    assert_eq!(stream.create(no_delete).await.watch_id, 1);
    assert_eq!(stream.events(2).await, [(0, "w1".into(), 2), (0, "w1".into(), 3)]);
    served.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_are_refused_cancelled_and_outrun() {
    let served = Served::start().await;
    let (mut kv, mut stream) = (served.kv().await, Stream::open(&served).await);
    for at in 0..5 {
        kv.put(put("w", at.to_string())).await.unwrap();
    }
    kv.compact(pb::CompactionRequest { revision: 4, physical: true }).await.unwrap();
    assert!(!stream.create(pb::WatchCreateRequest { start_revision: 3, ..all() }).await.canceled);
    let ended = stream.next().await;
    assert_eq!((ended.watch_id, ended.canceled, ended.compact_revision), (0, true, 4));
    let negative = stream.create(pb::WatchCreateRequest { start_revision: -1, ..all() }).await;
    assert_eq!((negative.watch_id, negative.canceled), (-1, true));
    let empty = stream.create(pb::WatchCreateRequest { range_end: "a".into(), ..all() }).await;
    assert_eq!((empty.watch_id, empty.cancel_reason.as_str()), (-1, "mvcc: watcher range is empty"));
    assert_eq!(stream.create(pb::WatchCreateRequest { watch_id: 5, ..all() }).await.watch_id, 5);
    let twice = stream.create(pb::WatchCreateRequest { watch_id: 5, ..all() }).await;
    assert_eq!((twice.watch_id, twice.canceled), (-1, true));
    stream.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 4711 }));
    stream.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 5 }));
    let cancelled = stream.next().await;
    assert_eq!((cancelled.watch_id, cancelled.canceled, cancelled.compact_revision), (5, true, 0));
    kv.put(put("w", "after")).await.unwrap();
    assert_eq!(stream.create(pb::WatchCreateRequest { start_revision: 7, ..all() }).await.watch_id, 1);
    assert_eq!(stream.events(1).await, [(0, "w".into(), 7)]);
    served.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_told_once_every_watch_has_been_told_everything() {
    let served = Served::start().await;
    let (mut kv, mut stream) = (served.kv().await, Stream::open(&served).await);
    for key in ["w1", "w2"] {
        stream.create(pb::WatchCreateRequest { key: key.into(), ..Default::default() }).await;
    }
    for round in 0..50_i64 {
        // Another key: nobody is told, and yet the store goes on.
        kv.put(put("other", "")).await.unwrap();
        kv.put(put("w1", "")).await.unwrap();
        let revision = kv.put(put("other", "")).await.unwrap().into_inner().header.unwrap().revision;
        stream.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
        let (mut told, mut seen) = (0, 0);
        while told < revision {
            let answer = stream.next().await;
            if answer.events.is_empty() {
                assert_eq!(answer.watch_id, -1);
                told = answer.header.unwrap().revision;
            } else {
                assert!(told < answer.events[0].kv.as_ref().unwrap().mod_revision, "told of progress before the event");
                seen += answer.events.len();
            }
        }
        assert_eq!(seen, 1, "round {round}");
    }
    served.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_watch_is_told_how_far_it_is() {
    let options = orchd_store::etcd::Options { progress_interval: Duration::from_millis(50), ..Default::default() };
    let served = Served::start_with(options).await;
    let (mut kv, mut stream) = (served.kv().await, Stream::open(&served).await);
    stream.create(pb::WatchCreateRequest { progress_notify: true, ..all() }).await;
    kv.put(put("other", "")).await.unwrap();
    let mut answer = stream.next().await;
    while answer.header.as_ref().unwrap().revision < 2 {
        assert!(answer.events.is_empty());
        answer = stream.next().await;
    }
    assert_eq!((answer.watch_id, answer.events.len()), (0, 0));
    served.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stops_says_so_to_its_watches() {
    let served = Served::start().await;
    let mut stream = Stream::open(&served).await;
    stream.create(all()).await;
    let finished = tokio::spawn(served.finish());
    let last = tokio::time::timeout(SOON, stream.answers.message()).await.expect("an end in time").unwrap_err();
    // A client goes on to another member on this, and on nothing else.
    assert_eq!((last.code(), last.message()), (tonic::Code::Unavailable, "etcdserver: server stopped"));
    finished.await.unwrap();
}
