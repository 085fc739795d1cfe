//! A network in memory, for tests: every direction between two members can be cut and healed. What is sent over a cut
//! direction waits, as TCP does, and arrives once it is healed. May import: nothing of ours.

use super::{Connection, Transport};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};

/// Bytes on their way in one direction.
const PIPE: usize = 256 << 10;
/// Connections that may wait to be accepted.
const BACKLOG: usize = 64;

type Link = (String, String);

/// The network: who listens, and which directions are cut.
#[derive(Clone)]
pub struct Mesh {
    shared: Arc<Shared>,
}

struct Shared {
    listeners: Mutex<HashMap<String, mpsc::Sender<Connection>>>,
    cut: watch::Sender<HashSet<Link>>,
    delay: Duration,
}

/// One member's place in the network.
pub struct Port {
    mesh: Mesh,
    address: String,
    incoming: tokio::sync::Mutex<mpsc::Receiver<Connection>>,
}

impl Default for Mesh {
    fn default() -> Self {
        Self::with_delay(Duration::ZERO)
    }
}

impl Mesh {
    /// A network in which every chunk of bytes takes this long.
    pub fn with_delay(delay: Duration) -> Self {
        Self { shared: Arc::new(Shared { listeners: Mutex::default(), cut: watch::Sender::default(), delay }) }
    }

    /// Takes the place at `address`; whoever had it hears of no new connection any more.
    pub fn listen(&self, address: &str) -> Arc<Port> {
        let (sender, incoming) = mpsc::channel(BACKLOG);
        self.shared.listeners.lock().insert(address.to_owned(), sender);
        Arc::new(Port { mesh: self.clone(), address: address.to_owned(), incoming: tokio::sync::Mutex::new(incoming) })
    }

    /// From now on nothing that `from` sends reaches `to`.
    pub fn cut(&self, from: &str, to: &str) {
        self.shared.cut.send_modify(|cut| {
            cut.insert((from.to_owned(), to.to_owned()));
        });
    }

    /// Cuts both directions between one member and all others.
    pub fn isolate(&self, address: &str) {
        let others: Vec<String> = self.shared.listeners.lock().keys().filter(|other| *other != address).cloned().collect();
        for other in others {
            self.cut(address, &other);
            self.cut(&other, address);
        }
    }

    /// Undoes every cut.
    pub fn heal(&self) {
        self.shared.cut.send_modify(HashSet::clear);
    }
}

impl Transport for Port {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Connection>> {
        let (shared, link) = (self.mesh.shared.clone(), (self.address.clone(), address.to_owned()));
        Box::pin(async move {
            let back = (link.1.clone(), link.0.clone());
            pass(&shared, &link).await;
            pass(&shared, &back).await;
            let listener = shared.listeners.lock().get(&link.1).cloned();
            let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (mine, ours) = tokio::io::duplex(PIPE);
            let (theirs, other) = tokio::io::duplex(PIPE);
            listener.send(Box::new(other)).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
            let (our_reader, our_writer) = tokio::io::split(ours);
            let (their_reader, their_writer) = tokio::io::split(theirs);
            tokio::spawn(relay(our_reader, their_writer, shared.clone(), link));
            tokio::spawn(relay(their_reader, our_writer, shared, back));
            Ok(Box::new(mine) as Connection)
        })
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move { self.incoming.lock().await.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into()) })
    }
}

/// Waits until the direction is open.
async fn pass(shared: &Shared, link: &Link) {
    let open = shared.cut.subscribe().wait_for(|cut| !cut.contains(link)).await.is_ok();
    debug_assert!(open, "the network holds its own sender");
}

/// Carries one direction's bytes until either end closes.
async fn relay(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, shared: Arc<Shared>, link: Link) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        pass(&shared, &link).await;
        if !shared.delay.is_zero() {
            tokio::time::sleep(shared.delay).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    // The other end may be gone already; closing is all that is left to do.
    let _ = to.shutdown().await;
}
