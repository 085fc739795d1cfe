//! How members reach each other: byte streams, opened and accepted. Who is at the other end, and that nobody listens, is the
//! transport's business (in orchd: mutual TLS by the cluster key); what is said over them is `raft`'s. May import: nothing of
//! ours.

pub mod memory;

use futures::future::BoxFuture;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub type Connection = Box<dyn Duplex>;

/// A way to the other members.
pub trait Transport: Send + Sync + 'static {
    /// Opens a connection to the member that listens at `address` (`host:port`).
    ///
    /// The future fails if there is no way; whoever asks bounds how long it waits.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Connection>>;

    /// The next connection that another member has opened. May be called again after a failure.
    fn accept(&self) -> BoxFuture<'_, io::Result<Connection>>;
}
