//! Clients that send nonsense, do not read, or come in thousands: refused, waited for, bounded.

use super::{Served, get, put};
use futures::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use orchd_store::etcd;
use orchd_store::etcd::client::Connection;
use orchd_store::etcd::pb::etcdserverpb as pb;
use orchd_store::etcd::pb::etcdserverpb::watch_client::WatchClient;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(20);

/// A request of raw bytes; its status and message.
async fn raw(address: &str, path: &str, body: Vec<u8>, headers: &[(&str, &str)]) -> (http::StatusCode, Option<String>, Option<String>) {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://store{path}")).header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(bytes::Bytes::from(body))).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
    let text = |name: &str| head.headers.get(name).or(trailers.get(name)).map(|value| value.to_str().unwrap().to_owned());
    (head.status, text("grpc-status"), text("grpc-message"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_is_refused() {
    let served = Served::start().await;
    let address = served.address.to_string();
    let grpc: &[(&str, &str)] = &[("content-type", "application/grpc")];
    let range = "/etcdserverpb.KV/Range";
    let framed = |bytes: &[u8]| [&[0, 0, 0, 0, bytes.len() as u8], bytes].concat();
    for (what, path, body, headers, status) in [
        ("malformed protobuf", range, framed(&[0x0a, 0xff, 0xff, 0xff]), grpc, Some("13")),
        ("an unknown wire type", range, framed(&[0x0f]), grpc, Some("13")),
        ("no message", range, vec![], grpc, Some("13")),
        ("half a head", range, vec![0, 0, 0], grpc, Some("13")),
        ("half a message", range, vec![0, 0, 0, 0, 9, 1], grpc, Some("13")),
        ("two messages", range, [framed(&[0x0a, 1, b'k']), framed(&[0x0a, 1, b'k'])].concat(), grpc, Some("13")),
        ("a message of 4 GB", range, vec![0, 0xff, 0xff, 0xff, 0xff, 1], grpc, Some("8")),
        ("a compressed message", range, vec![1, 0, 0, 0, 1, 1], grpc, Some("12")),
        ("an unknown service", "/x.Y/Z", vec![], grpc, Some("12")),
        ("an unknown method", "/etcdserverpb.KV/Z", vec![], grpc, Some("12")),
        ("no method", "/x", vec![], grpc, Some("12")),
        ("no gRPC", range, vec![], &[("content-type", "application/json")], None),
        ("fine", range, framed(&[0x0a, 1, b'k']), grpc, Some("0")),
    ] {
        let (code, found, message) = raw(&address, path, body, headers).await;
        assert_eq!(found.as_deref(), status, "{what}: {message:?}");
        assert_eq!(code.as_u16(), if status.is_none() { 415 } else { 200 }, "{what}");
    }
    served.finish().await;
}

/// Bytes that this process holds in memory.
fn resident() -> usize {
    let pages: usize = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_cost_little() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_too_many_is_turned_away() {
    let served = Served::start_with(etcd::Options { connections: 2, ..Default::default() }).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut kv = served.kv().await;
        kv.range(get("k")).await.unwrap();
        kept.push(kv);
    }
    let mut third = TcpStream::connect(served.address).await.unwrap();
    assert_eq!(tokio::time::timeout(SOON, third.read(&mut [0])).await.unwrap().unwrap(), 0);
    kept.pop();
    // Its place is free once the server has seen it go.
    let again = async {
        loop {
            if let Ok(connection) = Connection::tcp(&served.address.to_string()).await
                && super::kv(connection).range(get("k")).await.is_ok()
            {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, again).await.unwrap();
    served.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_not_buffered_for() {
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
    // 100 MiB were written, 20 watches of it make 2,000 MiB; what stays is windows, and history that is still retained.
    assert!(grown < 400 << 20, "{grown} bytes for watches that nobody reads");
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
