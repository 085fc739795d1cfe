//! A store with its face, and the requests that tests make. Shared by two test programs.

#![allow(dead_code, reason = "each program uses its part")]

use orchd_store::etcd::client::Connection;
use orchd_store::etcd::pb::etcdserverpb as pb;
use orchd_store::etcd::pb::etcdserverpb::kv_client::KvClient;
use orchd_store::etcd::pb::etcdserverpb::lease_client::LeaseClient;
use orchd_store::etcd::{self, serve};
use orchd_store::{Options, Store};
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A lone store with its face, on loopback.
pub struct Served {
    pub store: Store,
    pub address: SocketAddr,
    pub dir: tempfile::TempDir,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Served {
    pub async fn start() -> Self {
        Self::start_with(etcd::Options::default()).await
    }

    pub async fn start_with(options: etcd::Options) -> Self {
        Self::start_at("127.0.0.1:0", options).await
    }

    pub async fn start_at(address: &str, options: etcd::Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options { dir: dir.path().join("store"), quota_bytes: 0, group: None }).await.unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(store.clone(), listener, options, stop.clone()));
        Self { store, address, dir, stop, serving }
    }

    pub async fn connect(&self) -> Connection {
        Connection::tcp(&self.address.to_string()).await.unwrap()
    }

    pub async fn kv(&self) -> KvClient<Connection> {
        kv(self.connect().await)
    }

    pub async fn lease(&self) -> LeaseClient<Connection> {
        LeaseClient::with_origin(self.connect().await, Connection::origin())
    }

    pub async fn finish(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
        self.store.close().await;
    }
}

pub fn kv(connection: Connection) -> KvClient<Connection> {
    KvClient::with_origin(connection, Connection::origin()).max_decoding_message_size(usize::MAX)
}

pub fn put(key: &str, value: impl Into<bytes::Bytes>) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() }
}

pub fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

pub fn delete(key: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() }
}

/// An operation of a transaction.
pub fn op(request: impl Into<pb::request_op::Request>) -> pb::RequestOp {
    pb::RequestOp { request: Some(request.into()) }
}

pub fn put_op(request: pb::PutRequest) -> pb::RequestOp {
    op(pb::request_op::Request::RequestPut(request))
}

pub fn delete_op(request: pb::DeleteRangeRequest) -> pb::RequestOp {
    op(pb::request_op::Request::RequestDeleteRange(request))
}

pub fn get_op(request: pb::RangeRequest) -> pb::RequestOp {
    op(pb::request_op::Request::RequestRange(request))
}
