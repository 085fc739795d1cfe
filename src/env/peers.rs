//! The masters' way to each other, for real: TCP with mutual TLS.

use futures::future::BoxFuture;
use orchd_store::transport::{Connection, Transport};
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at a time, and connections that may wait to be taken.
const WAITING: usize = 64;
/// Pause after a connection could not be accepted, as when there are no file descriptors left.
const RETRY: Duration = Duration::from_millis(200);

/// Whether a certificate that TLS has verified is a master's.
pub type IsPeer = fn(&[u8]) -> bool;

/// How masters know each other.
pub struct PeerTls {
    pub server: Arc<rustls::ServerConfig>,
    pub client: Arc<rustls::ClientConfig>,
    /// The name that a master's certificate bears.
    pub name: ServerName<'static>,
    pub is_peer: IsPeer,
}

/// A master's port for other masters.
pub struct PeerPort {
    incoming: Mutex<mpsc::Receiver<Connection>>,
    accepting: tokio::task::JoinHandle<()>,
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl PeerPort {
    /// Listens at `address`.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn bind(address: SocketAddr, tls: PeerTls) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let (sender, incoming) = mpsc::channel(WAITING);
        let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(tls.server), tls.is_peer, sender));
        Ok(Self { incoming: Mutex::new(incoming), accepting, connector: TlsConnector::from(tls.client), name: tls.name })
    }
}

impl Drop for PeerPort {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, is_peer: IsPeer, connections: mpsc::Sender<Connection>) {
    let places = Arc::new(Semaphore::new(WAITING));
    while let Ok(place) = places.clone().acquire_owned().await {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a master's connection could not be accepted");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let (acceptor, connections) = (acceptor.clone(), connections.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, greet(stream, &acceptor, is_peer)).await {
                // Nobody takes connections any more when the store is closed.
                Ok(Ok(connection)) => drop(connections.send(connection).await),
                Ok(Err(error)) => tracing::warn!(%from, %error, "whoever connected is no master of this cluster"),
                Err(_) => tracing::warn!(%from, "a connection of a master did not greet in time"),
            }
            drop(place);
        });
    }
}

async fn greet(stream: TcpStream, acceptor: &TlsAcceptor, is_peer: IsPeer) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    if !certificate.is_some_and(|certificate| is_peer(certificate)) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "its certificate is not a master's"));
    }
    Ok(Box::new(stream))
}

impl Transport for PeerPort {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Connection>> {
        let (address, connector, name) = (address.to_owned(), self.connector.clone(), self.name.clone());
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(connector.connect(name, stream).await?) as Connection)
        })
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move { self.incoming.lock().await.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into()) })
    }
}
