//! A connection to an etcd face, for the generated clients of `pb`: what the command line and the tests speak through.

use super::pb::etcdserverpb::cluster_client::ClusterClient;
use super::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::path::Path;
use std::task::{Context, Poll};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::body::Body;
use tonic::codegen::Service;

const WINDOW: u32 = 4 << 20;

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// An HTTP/2 connection. Cheap to clone; calls go side by side.
#[derive(Clone, Debug)]
pub struct Connection(SendRequest<Body>);

impl Connection {
    /// # Errors
    /// Nobody serves at this socket.
    pub async fn unix(path: &Path) -> Result<Self, ConnectError> {
        Self::over(UnixStream::connect(path).await?).await
    }

    /// # Errors
    /// Nobody serves at this address (`host:port`).
    pub async fn tcp(address: &str) -> Result<Self, ConnectError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Self::over(stream).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self, ConnectError> {
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the store broke off");
            }
        });
        Ok(Self(sender))
    }

    /// What the generated clients take as their origin.
    pub fn origin() -> Uri {
        Uri::from_static("http://store")
    }

    pub fn cluster(&self) -> ClusterClient<Self> {
        ClusterClient::with_origin(self.clone(), Self::origin())
    }

    pub fn maintenance(&self) -> MaintenanceClient<Self> {
        MaintenanceClient::with_origin(self.clone(), Self::origin())
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}
