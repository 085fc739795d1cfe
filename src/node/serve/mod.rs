//! The node's end of the tunnels: keeps one open to every master, and answers what masters ask through it.
//!
//! `/logs`, `/exec` and `/dial` are all that a master may ask; each names a pod of this node. Only masters hold the other
//! end, which TLS has verified.

mod dial;
mod exec;
mod log_file;
mod logs;

use crate::client::tunnel::{PATH, UPGRADE};
use crate::meta::{Reason, Status};
use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use orchd_runtime::ExecSession;
use rustls::pki_types::ServerName;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Waits between attempts at a master that does not answer.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// A ping is sent after as long a silence; a master that does not answer it for as long is lost.
const PING: Duration = Duration::from_secs(5);
const WINDOW_BYTES: u32 = 1 << 20;
/// Logs, commands and proxied connections at one time, per master.
const MAX_STREAMS: u32 = 1000;

/// A container's log, as the agent knows it.
#[derive(Clone, Debug)]
pub struct LogSource {
    pub path: PathBuf,
    /// Cancelled once the container has ended: nothing more will be written.
    pub ended: CancellationToken,
}

/// What a command in a container needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    pub command: Vec<String>,
    pub stdin: bool,
    pub tty: bool,
}

/// What this module asks of the agent. Names are those of the API; errors are what the client is shown.
#[async_trait]
pub trait Pods: Send + Sync {
    /// The log of the container's present run, or of the one before.
    fn log(&self, namespace: &str, pod: &str, container: &str, previous: bool) -> Result<LogSource, Status>;
    async fn exec(&self, namespace: &str, pod: &str, container: &str, request: ExecRequest) -> Result<ExecSession, Status>;
    /// True if a pod of this node has the address.
    fn has_address(&self, address: IpAddr) -> bool;
}

/// Where masters are, and how they are spoken to.
pub struct TunnelOptions {
    /// `host:port` of each master.
    pub servers: Vec<String>,
    /// With the node's certificate; must offer `http/1.1` alone.
    pub tls: Arc<rustls::ClientConfig>,
}

/// Keeps a tunnel to every master until `stop`.
pub async fn run(options: TunnelOptions, pods: Arc<dyn Pods>, stop: CancellationToken) {
    let tls = TlsConnector::from(options.tls);
    let keep = options.servers.into_iter().map(|server| keep(server, tls.clone(), pods.clone()));
    tokio::select! {
        _ = futures::future::join_all(keep) => {}
        () = stop.cancelled() => {}
    }
}

async fn keep(server: String, tls: TlsConnector, pods: Arc<dyn Pods>) {
    let mut retry = FIRST_RETRY;
    loop {
        let began = Instant::now();
        if let Err(error) = tunnel(&server, &tls, &pods).await {
            tracing::debug!(server, error, "no tunnel to the master");
        }
        retry = if began.elapsed() > LAST_RETRY { FIRST_RETRY } else { (retry * 2).min(LAST_RETRY) };
        // Up to a tenth more, so that the nodes do not come back to a master as one.
        tokio::time::sleep(retry.mul_f64(1.0 + rand::random::<f64>() / 10.0)).await;
    }
}

/// Opens a tunnel and serves it until it ends.
async fn tunnel(server: &str, tls: &TlsConnector, pods: &Arc<dyn Pods>) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let io = timeout(CONNECT_TIMEOUT, upgrade(server, tls)).await.map_err(|_| "no answer in time".to_owned())??;
    let pods = pods.clone();
    let service = service_fn(move |request| {
        let pods = pods.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(&pods, request).await) }
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .timer(hyper_util::rt::TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .serve_connection(io, service)
        .await
        .map_err(|e| text(&e))
}

async fn upgrade(server: &str, tls: &TlsConnector) -> Result<hyper::upgrade::Upgraded, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let tcp = TcpStream::connect(server).await.map_err(|e| text(&e))?;
    tcp.set_nodelay(true).map_err(|e| text(&e))?;
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(|e| text(&e))?;
    let stream = tls.connect(name, tcp).await.map_err(|e| text(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a tunnel's connection ended");
        }
    });
    let request = Request::get(PATH)
        .header(header::HOST, server)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, UPGRADE)
        .body(Empty::<Bytes>::new())
        .map_err(|e| text(&e))?;
    let response = sender.send_request(request).await.map_err(|e| text(&e))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("the master answered {}", response.status()));
    }
    hyper::upgrade::on(response).await.map_err(|e| text(&e))
}

async fn answer(pods: &Arc<dyn Pods>, request: Request<Incoming>) -> Response<Body> {
    let query = Query::of(request.uri());
    let answer = match request.uri().path() {
        "/logs" => logs::serve(pods.as_ref(), &query),
        "/exec" => exec::serve(pods.as_ref(), &query, request.into_body()).await,
        "/dial" => dial::serve(pods.as_ref(), &query, request.into_body()).await,
        path => Err(Status::new(Reason::NotFound, format!("a node does not serve {path}"))),
    };
    answer.unwrap_or_else(|status| {
        let mut response = Response::new(Body::from(status.to_value().to_string()));
        *response.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
    })
}

/// A request's query, decoded.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(uri: &http::Uri) -> Self {
        Self(form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect())
    }
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
    pub(super) fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or_default()
    }
    fn number(&self, key: &str) -> Option<i64> {
        self.get(key)?.parse().ok()
    }
    fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some("1" | "true"))
    }
    fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect()
    }
}
