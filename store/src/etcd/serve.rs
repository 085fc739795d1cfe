//! The port: connections, plain or with TLS, HTTP/2 or 1.1. May import: `etcd`, `handle`.
//!
//! Bounds: connections, time for a handshake and for a first byte, streams and windows of a connection. A peer that does not
//! answer pings is cut off, and with it what waits to be sent to it.

use super::gather::Gathering;
use super::{Face, routes};
use crate::handle::Store;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::CertificateDer;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a connection may say nothing at first, and a TLS handshake may take.
const FIRST_BYTE: Duration = Duration::from_secs(60);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pings on a connection, and how long their answer may take.
const PING: Duration = Duration::from_secs(30);
const PING_ANSWER: Duration = Duration::from_secs(20);
/// How long what is under way may take to end at a stop.
const WIND_UP: Duration = Duration::from_secs(3);
/// Pause after accepting failed, most often for want of descriptors: something has to close first.
const RETRY: Duration = Duration::from_millis(100);
/// Calls of one connection at a time.
const STREAMS: u32 = 10_000;
/// What a peer may send before it is read: per call, which holds a request of the largest size at once, and in all.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// What is kept for a call whose answer the peer does not take yet.
const SEND_BUFFER: usize = 128 << 10;

/// Whether whoever shows this certificate chain (empty: none) may use the store.
pub type Authorize = Arc<dyn Fn(&[CertificateDer<'_>]) -> bool + Send + Sync>;

/// How the face is served.
#[derive(Clone)]
pub struct Options {
    /// None: plain. The caller allows that on loopback and on a Unix socket alone.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Asked once for each TLS connection. The store is all or nothing: whoever may speak may read and write everything.
    pub authorize: Option<Authorize>,
    /// Connections at a time; more are closed at once.
    pub connections: usize,
    /// How often a quiet watch that asked for it is told how far it is.
    pub progress_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { tls: None, authorize: None, connections: 16 << 10, progress_interval: Duration::from_secs(5) }
    }
}

/// Where clients come from.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream))
            }
            Self::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

/// What the connections of one listener share.
#[derive(Clone)]
struct Server {
    face: Arc<Face>,
    http: Builder<TokioExecutor>,
    tls: Option<TlsAcceptor>,
    authorize: Option<Authorize>,
    stop: CancellationToken,
}

/// Serves until `stop`; then lets calls end, and returns.
pub async fn serve(store: Store, listener: impl Into<Listener>, options: Options, stop: CancellationToken) {
    let listener = listener.into();
    let face = Face::new(store, options.progress_interval, stop.clone());
    let server = Server {
        face: face.clone(),
        http: http(),
        tls: options.tls.map(TlsAcceptor::from),
        authorize: options.authorize,
        stop: stop.clone(),
    };
    let tasks = TaskTracker::new();
    tasks.spawn(face.look());
    let (slots, full) = (Arc::new(Semaphore::new(options.connections)), AtomicBool::new(false));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a client of the store could not be accepted");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            if !full.swap(true, Ordering::Relaxed) {
                tracing::warn!(connections = options.connections, "the store has as many clients as it takes; more are turned away");
            }
            continue;
        };
        full.store(false, Ordering::Relaxed);
        let server = server.clone();
        tasks.spawn(async move {
            match stream {
                Accepted::Tcp(stream) => server.tcp(stream).await,
                Accepted::Unix(stream) => server.unix(stream).await,
            }
            drop(slot);
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(WIND_UP, tasks.wait()).await.is_err() {
        tracing::debug!("clients of the store were cut off");
    }
}

fn http() -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE).max_buf_size(64 << 10);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_ANSWER)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(16 << 10);
    http
}

impl Server {
    async fn tcp(self, stream: TcpStream) {
        if !matches!(tokio::time::timeout(FIRST_BYTE, stream.readable()).await, Ok(Ok(()))) {
            return;
        }
        let Some(tls) = &self.tls else { return self.speak(stream).await };
        match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                if self.authorize.as_ref().is_some_and(|may| !may(chain)) {
                    tracing::info!("a client of the store whose certificate does not let it in");
                    return;
                }
                self.speak(stream).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake with a client of the store failed"),
            Err(_) => tracing::debug!("a TLS handshake with a client of the store took too long"),
        }
    }

    async fn unix(self, stream: UnixStream) {
        if matches!(tokio::time::timeout(FIRST_BYTE, stream.readable()).await, Ok(Ok(()))) {
            self.speak(stream).await;
        }
    }

    async fn speak(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let face = self.face;
        let service = service_fn(move |request| {
            let face = face.clone();
            async move { Ok::<_, Infallible>(routes::answer(face, request).await) }
        });
        let mut connection = pin!(self.http.serve_connection(Gathering::new(TokioIo::new(stream)), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(WIND_UP, connection).await {
                    Ok(ended) => ended,
                    // Somebody does not read, or a call takes long.
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection of a client of the store broke off");
        }
    }
}
