//! Links, addresses and service rules of a node, by netlink alone.
//!
//! May import: meta, kinds, env. Everything here works in the network namespace of the thread that opened it.
//!
//! - `netlink` is the socket; `links` builds rtnetlink messages, `nft` nftables transactions.
//! - `pods` keeps one routed link per pod, with `addresses` and the rules of `pod_rules`; `node` finds the node's address;
//!   `routes` leads to the pods of other nodes.
//! - `lan` makes hosts of namespaces, for the lab.
//! - `proxy` turns Services and EndpointSlices into rules.

mod addresses;
pub mod lan;
mod links;
mod netlink;
mod netns;
mod nft;
mod node;
mod pod_rules;
mod pods;
pub mod proxy;
mod routes;
#[cfg(test)]
pub(crate) mod tests;

pub use proxy::Proxy;
pub use routes::NodeRoute;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

#[derive(Debug, Error)]
pub enum NetworkError {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("{0}")]
    Exhausted(String),
    #[error("{0}")]
    Invalid(String),
}

/// An IPv4 range such as 10.244.0.0/24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    pub address: Ipv4Addr,
    pub prefix: u8,
}

impl Cidr {
    /// The range's first address.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & self.mask())
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.address.to_bits()) & self.mask() == 0
    }

    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let parts = text.split_once('/').and_then(|(address, prefix)| Some((address.parse().ok()?, prefix.parse().ok()?)));
        match parts {
            Some((address, prefix)) if prefix <= 32 => Ok(Self { address, prefix }),
            _ => Err(NetworkError::Invalid(format!("{text:?} is no IPv4 range such as 10.244.0.0/24"))),
        }
    }
}

/// How a node's network is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkOptions {
    /// The node's own address, on one of its links.
    pub node_ip: Ipv4Addr,
    /// Addresses of this node's pods.
    pub pod_cidr: Cidr,
    /// Addresses of all pods, of every node: traffic to it never leaves by the default route.
    pub cluster_cidr: Cidr,
    /// Service addresses.
    pub service_cidr: Cidr,
}

/// Finds the node's address (that of the link with the default route, else the first that is not loopback); where the
/// namespace has nothing but loopback, makes a link of our own (`orchd0`) with 10.250.0.1/24 on it, and a default route over it.
///
/// # Errors
/// Netlink refuses.
pub async fn node_address() -> Result<IpAddr, NetworkError> {
    node::address().map(IpAddr::V4)
}

/// What the pods' thread is asked to do.
enum Command {
    Attach { pod: String, netns: PathBuf, answer: oneshot::Sender<Result<Ipv4Addr, NetworkError>> },
    Route { nodes: Vec<NodeRoute>, answer: oneshot::Sender<Result<Vec<NodeRoute>, NetworkError>> },
    Teardown { answer: oneshot::Sender<Result<(), NetworkError>> },
}

/// A pod that is gone.
struct Detach {
    pod: String,
    answer: oneshot::Sender<Result<(), NetworkError>>,
}

/// Callers beyond this many wait for their turn.
const QUEUE: usize = 64;

/// The pod network of a node. Cheap to clone.
#[derive(Clone)]
pub struct PodNetwork {
    commands: mpsc::Sender<Command>,
    removals: mpsc::Sender<Detach>,
}

impl PodNetwork {
    /// Sets up forwarding, the unreachable routes and what rules every pod needs. `live` are pods whose links are to be
    /// kept (id and address); links and addresses of all others are removed.
    ///
    /// # Errors
    /// Netlink refuses.
    pub async fn open(options: NetworkOptions, live: &[(String, Ipv4Addr)]) -> Result<Self, NetworkError> {
        let live = live.to_vec();
        let (opened, answer) = oneshot::channel();
        let (commands, queue) = mpsc::channel(QUEUE);
        let (removals, gone) = mpsc::channel(QUEUE);
        spawn("pod-network", move || {
            let start = || {
                let pods = pods::Pods::open(options, &live)?;
                let removal = pods.removal()?;
                spawn("pod-network-gone", || remove(removal, gone))?;
                Ok(pods)
            };
            let (pods, outcome) = match start() {
                Ok(pods) => (Some(pods), Ok(())),
                Err(error) => (None, Err(error)),
            };
            if let (Ok(()), Some(pods)) = (opened.send(outcome), pods) {
                serve(pods, queue);
            }
        })?;
        answer.await.map_err(|_| ended())??;
        Ok(Self { commands, removals })
    }

    /// Connects the network namespace at `netns` (such as /proc/<pid>/ns/net) for the pod; returns its address.
    /// A second call for the same pod returns the same address.
    ///
    /// # Errors
    /// No address is free, or netlink refuses; nothing is left then.
    pub async fn attach(&self, pod: &str, netns: &Path) -> Result<Ipv4Addr, NetworkError> {
        self.ask(|answer| Command::Attach { pod: pod.to_owned(), netns: netns.to_owned(), answer }).await
    }

    /// Removes the pod's link and frees its address. One that is gone is no error.
    ///
    /// # Errors
    /// Netlink refuses.
    pub async fn detach(&self, pod: &str) -> Result<(), NetworkError> {
        let (sender, answer) = oneshot::channel();
        self.removals.send(Detach { pod: pod.to_owned(), answer: sender }).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Makes the routes to other nodes' pods be these, and no others. Returns those that could not be: their node is not on
    /// the node's own link.
    ///
    /// # Errors
    /// Netlink refuses.
    pub async fn route_to_nodes(&self, nodes: Vec<NodeRoute>) -> Result<Vec<NodeRoute>, NetworkError> {
        self.ask(|answer| Command::Route { nodes, answer }).await
    }

    /// Removes every link, route and rule that was made here.
    ///
    /// # Errors
    /// Netlink refuses.
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        self.ask(|answer| Command::Teardown { answer }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, NetworkError>>) -> Command) -> Result<T, NetworkError> {
        let (sender, answer) = oneshot::channel();
        self.commands.send(command(sender)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

/// A thread of our own, in the network namespace of the calling one.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), NetworkError> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(work);
    spawned.map(drop).map_err(|source| NetworkError::Io { what: format!("thread {name}"), source })
}

fn ended() -> NetworkError {
    NetworkError::Invalid("the pod network's thread has ended".into())
}

/// Carries out commands one after the other until nobody can send any more. A caller that has gone is no reason to stop.
fn serve(mut pods: pods::Pods, mut queue: mpsc::Receiver<Command>) {
    while let Some(command) = queue.blocking_recv() {
        match command {
            Command::Attach { pod, netns, answer } => drop(answer.send(pods.attach(&pod, &netns))),
            Command::Route { nodes, answer } => drop(answer.send(pods.route_to_nodes(&nodes))),
            Command::Teardown { answer } => drop(answer.send(pods.teardown())),
        }
    }
}

/// Removes what has gathered while the kernel was at the last removal. Where that fails, each for itself shows whose it is.
fn remove(mut removal: pods::Removal, mut queue: mpsc::Receiver<Detach>) {
    let mut gone = Vec::new();
    while queue.blocking_recv_many(&mut gone, QUEUE) > 0 {
        let names: Vec<&str> = gone.iter().map(|detach: &Detach| detach.pod.as_str()).collect();
        let all = removal.detach(&names);
        for Detach { pod, answer } in gone.drain(..) {
            let result = if all.is_ok() { Ok(()) } else { removal.detach(&[&pod]) };
            drop(answer.send(result));
        }
    }
}
