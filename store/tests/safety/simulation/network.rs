//! A simulated network: every piece of a stream takes a time of its own, directions can be cut (what was sent waits, as TCP
//! has it), connections break, and those of a member that is gone are gone.

use super::trace::Trace;
use futures::future::BoxFuture;
use orchd_store::transport::{Connection, Transport};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};

/// Bytes on their way in one direction.
const PIPE: usize = 256 << 10;
/// Bytes of a piece.
const PIECE: usize = 16 << 10;
/// Connections that may wait to be accepted.
const BACKLOG: usize = 64;

type Link = (String, String);

/// What can change for streams that are open.
#[derive(Clone, Default)]
struct Weather {
    cut: BTreeSet<Link>,
    /// Times that a member's connections were broken.
    breaks: BTreeMap<String, u64>,
}

struct Shared {
    trace: Trace,
    rng: Mutex<StdRng>,
    weather: watch::Sender<Weather>,
    listeners: Mutex<BTreeMap<String, Listener>>,
    /// The longest that a piece takes, in microseconds, over links where that is not the usual.
    slow: Mutex<BTreeMap<Link, u64>>,
    usual_us: u64,
}

struct Listener {
    /// Which of those that have listened at this address.
    life: u64,
    queue: mpsc::Sender<Connection>,
}

#[derive(Clone)]
pub struct Network(Arc<Shared>);

impl Network {
    /// `usual_us`: the longest that a piece takes, in microseconds.
    pub fn new(trace: Trace, seed: u64, usual_us: u64) -> Self {
        let rng = Mutex::new(StdRng::seed_from_u64(seed));
        let (weather, slow) = (watch::Sender::default(), Mutex::default());
        Self(Arc::new(Shared { trace, rng, weather, listeners: Mutex::default(), slow, usual_us }))
    }

    /// Takes the place at `address`; whoever had it before has no network any more.
    pub fn listen(&self, address: &str) -> Arc<Port> {
        let (queue, incoming) = mpsc::channel(BACKLOG);
        let mut listeners = self.0.listeners.lock();
        let life = listeners.get(address).map_or(0, |before| before.life) + 1;
        listeners.insert(address.to_owned(), Listener { life, queue });
        Arc::new(Port { network: self.clone(), address: address.to_owned(), life, incoming: tokio::sync::Mutex::new(incoming) })
    }

    /// Whoever listens at `address` is cut off for good.
    pub fn leave(&self, address: &str) {
        drop(self.listen(address));
        self.reset(address);
    }

    /// Breaks every connection of a member.
    pub fn reset(&self, address: &str) {
        self.0.weather.send_modify(|weather| *weather.breaks.entry(address.to_owned()).or_default() += 1);
    }

    /// From now on nothing that `from` sends reaches `to`.
    pub fn cut(&self, from: &str, to: &str) {
        self.0.weather.send_modify(|weather| weather.cut.extend([(from.to_owned(), to.to_owned())]));
    }

    /// Undoes a cut.
    pub fn heal(&self, from: &str, to: &str) {
        self.0.weather.send_modify(|weather| weather.cut.retain(|cut| *cut != (from.to_owned(), to.to_owned())));
    }

    /// From now on a piece takes so long at most; None: as usual.
    pub fn slow(&self, from: &str, to: &str, us: Option<u64>) {
        let link = (from.to_owned(), to.to_owned());
        let mut slow = self.0.slow.lock();
        match us {
            Some(us) => slow.insert(link, us),
            None => slow.remove(&link),
        };
    }
}

impl Shared {
    fn delay(&self, link: &Link) -> Duration {
        let most = self.slow.lock().get(link).copied().unwrap_or(self.usual_us);
        Duration::from_micros(self.rng.lock().random_range(most / 4..=most))
    }

    /// Waits as long as what is sent over this link now is on its way. False: the connection has broken meanwhile.
    async fn pass(&self, link: &Link, breaks: [u64; 2]) -> bool {
        let mut weather = self.weather.subscribe();
        let broken = |weather: &Weather| breaks_of(weather, link) != breaks;
        let passed = async {
            tokio::time::sleep(self.delay(link)).await;
            self.weather.subscribe().wait_for(|weather| !weather.cut.contains(link)).await.is_ok()
        };
        tokio::select! {
            biased;
            _ = weather.wait_for(broken) => false,
            passed = passed => passed,
        }
    }

    async fn broken(&self, link: &Link, breaks: [u64; 2]) {
        // The network holds its own sender.
        let _ = self.weather.subscribe().wait_for(|weather| breaks_of(weather, link) != breaks).await;
    }
}

fn breaks_of(weather: &Weather, link: &Link) -> [u64; 2] {
    [&link.0, &link.1].map(|address| weather.breaks.get(address).copied().unwrap_or(0))
}

/// One life of a member in the network.
pub struct Port {
    network: Network,
    address: String,
    life: u64,
    incoming: tokio::sync::Mutex<mpsc::Receiver<Connection>>,
}

impl Transport for Port {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Connection>> {
        let (shared, life, link) = (self.network.0.clone(), self.life, (self.address.clone(), address.to_owned()));
        Box::pin(async move {
            if shared.listeners.lock().get(&link.0).is_none_or(|me| me.life != life) {
                return Err(io::ErrorKind::NetworkDown.into());
            }
            let back = (link.1.clone(), link.0.clone());
            let breaks = breaks_of(&shared.weather.borrow(), &link);
            let back_breaks = [breaks[1], breaks[0]];
            if !(shared.pass(&link, breaks).await && shared.pass(&back, back_breaks).await) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let listener = shared.listeners.lock().get(&link.1).map(|listener| listener.queue.clone());
            let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (mine, ours) = tokio::io::duplex(PIPE);
            let (theirs, other) = tokio::io::duplex(PIPE);
            listener.send(Box::new(other)).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
            let (our_reader, our_writer) = tokio::io::split(ours);
            let (their_reader, their_writer) = tokio::io::split(theirs);
            tokio::spawn(relay(our_reader, their_writer, shared.clone(), link, breaks));
            tokio::spawn(relay(their_reader, our_writer, shared, back, back_breaks));
            Ok(Box::new(mine) as Connection)
        })
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move {
            match self.incoming.lock().await.recv().await {
                Some(connection) => Ok(connection),
                // Whoever was cut off for good waits for good.
                None => std::future::pending().await,
            }
        })
    }
}

/// Carries one direction's bytes until either end closes, or the connection breaks.
async fn relay(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, shared: Arc<Shared>, link: Link, breaks: [u64; 2]) {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = tokio::select! {
            biased;
            () = shared.broken(&link, breaks) => break,
            read = from.read(&mut buffer) => read,
        };
        let Ok(read @ 1..) = read else { break };
        if !shared.pass(&link, breaks).await {
            break;
        }
        shared.trace.note(format_args!("{} -> {}  {read} bytes {:08x}", link.0, link.1, crc32fast::hash(&buffer[..read])));
        let written = tokio::select! {
            biased;
            () = shared.broken(&link, breaks) => break,
            written = to.write_all(&buffer[..read]) => written,
        };
        if written.is_err() {
            break;
        }
    }
    // The other end may be gone already; closing is all that is left to do.
    let _ = to.shutdown().await;
}
