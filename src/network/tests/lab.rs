//! Network namespaces for tests: a node and its pods, with no route to the machine's own links. Every thread that enters
//! one is the test's own.

use crate::network::{Cidr, NetworkOptions, PodNetwork, node_address};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{Shutdown, shutdown};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

pub const PATIENCE: Duration = Duration::from_secs(3);

/// A namespace that lives as long as this is held.
#[derive(Clone)]
pub struct Netns(Arc<File>);

impl Netns {
    pub fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may");
            File::open("/proc/thread-self/ns/net").expect("it is there")
        };
        Self(Arc::new(std::thread::spawn(make).join().expect("made")))
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let file = self.0.clone();
        std::thread::spawn(move || {
            setns(&*file, CloneFlags::CLONE_NEWNET).expect("root may");
            work()
        })
    }

    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().expect("the test's own thread")
    }
}

/// A node in a namespace of its own, with nothing but loopback at first.
pub struct Lab {
    pub node: Netns,
    pub runtime: tokio::runtime::Runtime,
    pub options: NetworkOptions,
    pub network: PodNetwork,
}

/// Runs a test on a fresh node, or says loudly that it does not.
pub fn on_a_node(name: &str, test: impl FnOnce(&mut Lab) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: {name} needs root");
        return;
    }
    let node = Netns::new();
    let inner = node.clone();
    node.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let IpAddr::V4(node_ip) = runtime.block_on(node_address()).expect("an address") else { panic!("IPv4") };
        let range = |text: &str| text.parse::<Cidr>().expect("a range");
        let options = NetworkOptions {
            node_ip,
            pod_cidr: range("10.244.0.0/24"),
            cluster_cidr: range("10.244.0.0/16"),
            service_cidr: range("10.96.0.0/12"),
        };
        let network = runtime.block_on(PodNetwork::open(options.clone(), &[])).expect("a network");
        let mut lab = Lab { node: inner, runtime, options, network };
        test(&mut lab);
        lab.runtime.block_on(lab.network.teardown()).expect("teardown");
    });
}

/// A pod: a namespace with an address.
pub struct Pod {
    pub netns: Netns,
    pub ip: Ipv4Addr,
}

impl Lab {
    pub fn pod(&self, name: &str) -> Pod {
        let netns = Netns::new();
        let ip = self.runtime.block_on(self.network.attach(name, &netns.path())).expect("attached");
        Pod { netns, ip }
    }
}

/// A server that answers every connection or datagram with its name and the address of the caller.
pub struct Server {
    fd: std::os::fd::RawFd,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // A listening or bound socket that is shut down lets its thread go; UDP says that it is not connected, and does.
        let _ = shutdown(self.fd, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server's thread");
        }
    }
}

pub fn serve_tcp(netns: &Netns, name: &str, port: u16) -> Server {
    let listener = netns.run(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a free port"));
    let (fd, name) = (listener.as_raw_fd(), name.to_owned());
    let thread = std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            // A client that has gone already is its own affair.
            let _ = stream.write_all(format!("{name} {}", peer.ip()).as_bytes());
        }
    });
    Server { fd, thread: Some(thread) }
}

pub fn serve_udp(netns: &Netns, name: &str, port: u16) -> Server {
    let socket = netns.run(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a free port"));
    let (fd, name) = (socket.as_raw_fd(), name.to_owned());
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            if len == 0 {
                break;
            }
            let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
        }
    });
    Server { fd, thread: Some(thread) }
}

/// What a server answered: its name, and where it saw the caller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    pub from: String,
    pub seen: String,
}

fn answer(text: &str) -> Answer {
    let (from, seen) = text.split_once(' ').unwrap_or((text, ""));
    Answer { from: from.to_owned(), seen: seen.to_owned() }
}

/// One connection from the namespace.
pub fn call(netns: &Netns, to: (Ipv4Addr, u16)) -> io::Result<Answer> {
    netns.run(move || call_here(to))
}

pub fn call_here(to: (Ipv4Addr, u16)) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(answer(&text))
}

/// One datagram over a socket, and its answer.
pub fn ask(socket: &UdpSocket, to: (Ipv4Addr, u16)) -> io::Result<Answer> {
    let mut buffer = [0; 64];
    socket.connect(SocketAddr::from(to))?;
    socket.send(b"?")?;
    let len = socket.recv(&mut buffer)?;
    Ok(answer(&String::from_utf8_lossy(&buffer[..len])))
}

pub fn udp_socket(netns: &Netns) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket"));
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    socket
}
