//! What clients of the etcd face cost in memory. A program of its own, with one test: it looks at the whole process.

#![allow(clippy::disallowed_methods, reason = "as in `etcd`")]

#[path = "../etcd/served.rs"]
mod served;

use futures::future::join_all;
use orchd_store::etcd::client::Connection;
use orchd_store::etcd::pb::etcdserverpb as pb;
use orchd_store::etcd::pb::etcdserverpb::watch_client::WatchClient;
use served::{Served, get, put};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_cost_bounded_memory() {
    idle_connections().await;
    deaf_clients().await;
}

/// Bytes that this process holds in memory.
fn resident() -> usize {
    let pages: usize = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Connections that say nothing cost little.
async fn idle_connections() {
    let limit = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limit.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let files: usize = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    // Both ends are in this process.
    let count = 10_000.min((files - 500) / 2);
    let served = Served::start().await;
    let before = resident();
    let mut idle = Vec::new();
    for _ in 0..count {
        idle.push(TcpStream::connect(served.address).await.unwrap());
    }
    let mut kv = served.kv().await;
    kv.put(put("k", "v")).await.unwrap();
    let each = resident().saturating_sub(before) / count;
    println!("{count} idle connections, {each} bytes each");
    assert!(each < 16 << 10, "{each} bytes for an idle connection");
    drop(idle);
    served.finish().await;
}

/// Who does not read is not buffered for.
async fn deaf_clients() {
    let served = Served::start().await;
    let mut kv = served.kv().await;
    // Watches whose answers nobody takes.
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut watch = WatchClient::with_origin(served.connect().await, Connection::origin());
        let create = pb::WatchCreateRequest { key: "w".into(), ..Default::default() };
        let request = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
        let requests = futures::StreamExt::chain(futures::stream::iter([request]), futures::stream::pending());
        streams.push(watch.watch(requests).await.unwrap().into_inner());
    }
    // And calls for large answers over a connection that is not read at all.
    for at in 0..16 {
        kv.put(put(&format!("large/{at}"), vec![b'x'; 1 << 20])).await.unwrap();
    }
    let mut deaf = TcpStream::connect(served.address).await.unwrap();
    deaf.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let before = resident();
    for round in 0..200 {
        let writes = (0..8).map(|_| {
            let mut kv = kv.clone();
            async move { kv.put(put("w", vec![b'x'; 64 << 10])).await.map(drop) }
        });
        for done in join_all(writes).await {
            done.unwrap();
        }
        if round % 50 == 49 {
            let revision = served.store.revision();
            kv.compact(pb::CompactionRequest { revision, physical: false }).await.unwrap();
        }
    }
    let grown = resident().saturating_sub(before);
    println!("grown by {} KiB while 100 MiB went past 20 watches", grown >> 10);
    // 100 MiB were written, 20 watches of it make 2,000 MiB. What stays is 8 MiB for each watch, history that is still
    // retained, what the log and the checkpoint have in hand, and what the allocator keeps of all that: 181 to 412 MiB seen.
    assert!(grown < 1000 << 20, "{grown} bytes for watches that nobody reads");
    kv.range(get("w")).await.unwrap();
    // They find out that they fell behind what is retained, or catch up.
    for mut stream in streams {
        let end = async {
            loop {
                match stream.message().await.unwrap().unwrap() {
                    answer if answer.canceled => return assert!(answer.compact_revision > 0),
                    answer if answer.events.iter().any(|event| event.kv.as_ref().unwrap().mod_revision == served.store.revision()) => {
                        return;
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(SOON, end).await.unwrap();
    }
    served.finish().await;
}
