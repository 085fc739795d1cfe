//! The master's end of the tunnels: which nodes are connected, and requests sent to them.
//!
//! Invariant: a node has at most one tunnel; a newer connection takes the place of an older one.

use crate::client::tunnel::UPGRADE;
use crate::meta::{Reason, Status};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioExecutor;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a node may take to answer with headers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A ping is sent after as long a silence; a node that does not answer it for as long is lost.
const PING: Duration = Duration::from_secs(10);
const WINDOW_BYTES: u32 = 1 << 20;

type Connections = HashMap<String, (u64, SendRequest<Body>)>;

/// The nodes that hold a tunnel to this master. Cheap to clone.
#[derive(Clone, Default)]
pub struct Nodes {
    connections: Arc<Mutex<Connections>>,
}

impl Nodes {
    fn connections(&self) -> std::sync::MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a node's `GET /orchd/v1/tunnel` (an HTTP/1.1 upgrade): keeps the connection as that node's tunnel.
    pub async fn accept(&self, node: &str, mut request: Request<Body>) -> Response<Body> {
        let asked = request.headers().get(header::UPGRADE).and_then(|v| v.to_str().ok());
        if asked != Some(UPGRADE) {
            return super::refuse(&Status::bad_request(format!("a tunnel needs Upgrade: {UPGRADE}")));
        }
        let (nodes, node) = (self.clone(), node.to_owned());
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            match upgrade.await {
                Ok(io) => nodes.hold(&node, io).await,
                Err(error) => tracing::warn!(node, %error, "a tunnel did not come to be"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(UPGRADE));
        response
    }

    /// Drives a tunnel until it ends.
    async fn hold(&self, node: &str, io: hyper::upgrade::Upgraded) {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(4 * WINDOW_BYTES)
            .timer(hyper_util::rt::TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true);
        let (sender, connection) = match builder.handshake(io).await {
            Ok(pair) => pair,
            Err(error) => return tracing::warn!(node, %error, "a tunnel did not come to be"),
        };
        let id: u64 = rand::random();
        self.connections().insert(node.to_owned(), (id, sender));
        tracing::info!(node, "the node's tunnel is open");
        if let Err(error) = connection.await {
            tracing::debug!(node, %error, "a tunnel ended");
        }
        let mut connections = self.connections();
        if connections.get(node).is_some_and(|(present, _)| *present == id) {
            connections.remove(node);
        }
    }

    /// Sends a request through the node's tunnel; its path and query are the node's own (see `node::serve`).
    ///
    /// # Errors
    /// 503 if the node has no tunnel here, 504 if it does not answer in time.
    pub async fn send(&self, node: &str, path_and_query: &str, body: Body) -> Result<Response<Incoming>, Status> {
        let sender = self.connections().get(node).map(|(_, sender)| sender.clone());
        let mut sender = sender.ok_or_else(|| unreachable_node(node, "it holds no connection to this master"))?;
        let request = Request::post(format!("http://node{path_and_query}")).body(body).map_err(|e| unreachable_node(node, e))?;
        let answer = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|e| unreachable_node(node, e)),
            Err(_) => Err(Status::new(Reason::Timeout, format!("node {node} did not answer in time"))),
        }
    }

    /// As `send`, but an answer that is not 200 becomes the Status that its body holds.
    ///
    /// # Errors
    /// See `send`, and what the node says.
    pub async fn open(&self, node: &str, path_and_query: &str, body: Body) -> Result<Incoming, Status> {
        let response = self.send(node, path_and_query, body).await?;
        if response.status() == StatusCode::OK {
            return Ok(response.into_body());
        }
        let code = response.status();
        let body = http_body_util::Limited::new(response.into_body(), 64 << 10);
        let bytes = http_body_util::BodyExt::collect(body).await.map(http_body_util::Collected::to_bytes).unwrap_or_else(|_| Bytes::new());
        let status = serde_json::from_slice(&bytes).ok().and_then(|v| Status::from_value(&v));
        Err(status.unwrap_or_else(|| unreachable_node(node, format!("it answered {code}"))))
    }
}

fn unreachable_node(node: &str, why: impl std::fmt::Display) -> Status {
    Status::new(Reason::ServiceUnavailable, format!("cannot reach node {node}: {why}"))
}
