//! Links, addresses and service rules of a node, by netlink alone.
//!
//! May import: meta, kinds, env. Everything here works in the network namespace of the calling process.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use thiserror::Error;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub address: Ipv4Addr,
    pub prefix: u8,
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
    unimplemented!("the network")
}

/// The pod network of a node. Cheap to clone.
#[derive(Clone)]
pub struct PodNetwork {}

impl PodNetwork {
    /// Sets up forwarding, the unreachable routes and what rules every pod needs. `live` are pods whose links are to be
    /// kept (id, address, pid of the sandbox); links and addresses of all others are removed.
    ///
    /// # Errors
    /// Netlink refuses.
    pub async fn open(_options: NetworkOptions, _live: &[(String, Ipv4Addr)]) -> Result<Self, NetworkError> {
        unimplemented!("the network")
    }

    /// Connects the network namespace at `netns` (such as /proc/<pid>/ns/net) for the pod; returns its address.
    /// A second call for the same pod returns the same address.
    ///
    /// # Errors
    /// No address is free, or netlink refuses; nothing is left then.
    pub async fn attach(&self, _pod: &str, _netns: &Path) -> Result<Ipv4Addr, NetworkError> {
        unimplemented!("the network")
    }

    /// Removes the pod's link and frees its address. One that is gone is no error.
    ///
    /// # Errors
    /// Netlink refuses.
    pub async fn detach(&self, _pod: &str) -> Result<(), NetworkError> {
        unimplemented!("the network")
    }

    /// Removes every link, route and rule that was made here.
    ///
    /// # Errors
    /// Netlink refuses.
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        unimplemented!("the network")
    }
}
