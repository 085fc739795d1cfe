//! The HTTPS server: addresses, TLS, connections. What a request goes through is in `pipeline`.
//!
//! May import: meta, kinds, security, watch, env, and api's own. Bounded: connections, streams of a connection, requests
//! at work, bodies, and the time that a handshake, a request's headers and a request itself may take.

mod answer;
mod body;
mod contact;
mod fixed;
mod path;
mod pipeline;
mod query;
mod resources;
#[cfg(test)]
mod tests;
mod watch;
mod yaml;

pub use contact::Contact;

use super::streams::tunnel::Nodes;
use super::verbs::{Present, Verbs};
use crate::env::Clock;
use crate::meta::Status;
use crate::security::{Authenticator, Pki, Tokens, User};
use crate::watch::Feed;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that are served at once; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 8192;
/// Requests (watches and streams aside) that are worked on at once; more wait.
const MAX_REQUESTS: usize = 512;
/// Streams of one HTTP/2 connection; a client with more watches opens another one.
const MAX_STREAMS: u32 = 2048;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Also how long an HTTP/1.1 connection may be idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long requests at work may go on once the server stops.
const DRAIN: Duration = Duration::from_secs(10);
/// A body of the largest size fits a stream's window in three round trips.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// What may wait for a slow reader of one HTTP/2 stream.
const SEND_BUFFER_BYTES: usize = 128 << 10;
/// The pause after a failed accept: the process is out of descriptors, and no event tells when it has some again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One of the things that `/readyz` and `/healthz` report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    /// Why it fails; None if it holds.
    pub failure: Option<String>,
}

/// What the server serves, and with what.
pub struct ServerOptions {
    pub verbs: Arc<Verbs>,
    /// The present state, for authentication, authorization and streams.
    pub feed: Arc<dyn Feed>,
    pub authenticator: Authenticator,
    /// Whose public keys `/openid/v1/jwks` shows.
    pub tokens: Arc<Tokens>,
    /// Signs the certificates of nodes.
    pub pki: Arc<Pki>,
    /// `Pki::server_config`.
    pub tls: Arc<rustls::ServerConfig>,
    pub nodes: Nodes,
    pub clock: Arc<dyn Clock>,
    /// `host:port` that discovery gives as the server's address.
    pub advertise: String,
    /// Whether watches have anything to tell.
    pub contact: Arc<Contact>,
    /// What must hold before requests are welcome. Asked at each `/readyz`: it must not wait.
    pub ready: Arc<dyn Fn() -> Vec<Check> + Send + Sync>,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    pub address: SocketAddr,
    pub source: std::io::Error,
}

struct Shared {
    options: ServerOptions,
    gate: Semaphore,
    stop: CancellationToken,
}

/// Who is at the other end of a connection.
struct Peer {
    /// Of a client certificate; None without one.
    user: Option<Result<User, Status>>,
}

/// Addresses that are listened on; nothing is answered before `serve`.
#[derive(Debug)]
pub struct Listeners(Vec<TcpListener>);

impl Listeners {
    /// # Errors
    /// An address is in use or not this machine's.
    pub async fn bind(addresses: &[SocketAddr]) -> Result<Self, BindError> {
        let mut listeners = Vec::with_capacity(addresses.len());
        for &address in addresses {
            listeners.push(TcpListener::bind(address).await.map_err(|source| BindError { address, source })?);
        }
        Ok(Self(listeners))
    }

    /// The addresses, with the ports that were given for port 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|l| l.local_addr().ok()).collect()
    }

    /// Serves until `stop`; then ends watches, lets requests at work finish, and returns.
    pub async fn serve(self, options: ServerOptions, stop: CancellationToken) {
        let tls = TlsAcceptor::from(options.tls.clone());
        let shared = Arc::new(Shared { options, gate: Semaphore::new(MAX_REQUESTS), stop: stop.clone() });
        let (room, tasks) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), TaskTracker::new());
        let accepting = self.0.into_iter().map(|listener| accept_all(listener, tls.clone(), shared.clone(), room.clone(), tasks.clone()));
        futures::future::join_all(accepting).await;
        tasks.close();
        tasks.wait().await;
    }
}

async fn accept_all(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>, room: Arc<Semaphore>, tasks: TaskTracker) {
    loop {
        let next = async {
            let permit = room.clone().acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = next => accepted,
        };
        match accepted {
            None => return,
            Some((permit, Ok((tcp, address)))) => {
                tasks.spawn(connection(tcp, address, tls.clone(), shared.clone(), permit));
            }
            Some((_, Err(error))) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(tcp: TcpStream, address: SocketAddr, tls: TlsAcceptor, shared: Arc<Shared>, _permit: OwnedSemaphorePermit) {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%address, %error, "TCP_NODELAY");
    }
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(tcp));
    let stream = tokio::select! {
        () = shared.stop.cancelled() => return,
        shaken = handshake => match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "the TLS handshake failed"),
            Err(_) => return tracing::debug!(%address, "the TLS handshake took too long"),
        },
    };
    let (_, session) = stream.get_ref();
    let http2 = session.alpn_protocol() == Some(b"h2");
    let now_s = shared.options.clock.now().as_second();
    let user = session.peer_certificates().and_then(|chain| chain.first()).map(|certificate| {
        let present = Present(shared.options.feed.snapshot());
        shared.options.authenticator.authenticate(Some(certificate), None, &present, now_s)
    });
    let peer = Arc::new(Peer { user });
    let service = service_fn(|request: Request<Incoming>| {
        let (shared, peer) = (shared.clone(), peer.clone());
        async move { Ok::<_, Infallible>(pipeline::handle(&shared, &peer, request.map(Body::new)).await) }
    });
    let builder = http_builder(http2);
    let mut serving = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shared.stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, error, "the connection broke");
    }
}

fn http_builder(http2: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    if http2 { builder.http2_only() } else { builder.http1_only() }
}
