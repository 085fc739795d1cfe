//! Clients that send nonsense, or are too many: refused. What clients cost in memory: `etcd_memory`.

use super::{Served, get};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use orchd_store::etcd;
use orchd_store::etcd::client::Connection;
use std::time::Duration;
use tokio::io::AsyncReadExt;
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
