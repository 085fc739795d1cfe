//! The pods' links of one node. Blocking: everything here runs on the one thread that `PodNetwork` keeps for it, because
//! a thread that visits other namespaces must not be one that others use.

use super::addresses::Addresses;
use super::links::{self, End, Link, Mac, Route};
use super::netlink::{Message, Refusal, Socket};
use super::netns::{self, Namespace};
use super::nft::Table;
use super::routes::{self, NodeRoute};
use super::{Cidr, NetworkError, NetworkOptions, node, pod_rules};
use nix::errno::Errno;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The first letters of every host end.
pub const PREFIX: &str = "orch";
/// Hexadecimal digits of the pod's hash that follow: what fits into a link's 15 bytes.
const DIGITS: usize = 11;
/// The pod's end.
const POD_LINK: &str = "eth0";
/// What every pod takes for its router: nobody has this address, the pod knows the host end's MAC for it.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const HOST_MAC: Mac = [0xee; 6];
const DEFAULT_MTU: u32 = 1500;

pub struct Pods {
    options: NetworkOptions,
    home: Namespace,
    host: Socket,
    addresses: Arc<Mutex<Addresses>>,
    mtu: u32,
    table: Table,
}

impl Pods {
    /// See [`super::PodNetwork::open`].
    pub fn open(options: NetworkOptions, live: &[(String, Ipv4Addr)]) -> Result<Self, NetworkError> {
        let mut host = links::socket()?;
        let addresses = Arc::new(Mutex::new(Addresses::new(options.pod_cidr)?));
        let table = Table::open(pod_rules::TABLE)?;
        let mtu = node_mtu(&mut host, options.node_ip).map_err(|r| r.explain("the node's link"))?;
        let mut pods = Self { options, home: Namespace::of_this_thread()?, host, addresses, mtu, table };
        pods.settings()?;
        pods.keep(live)?;
        pods.base_routes().map_err(|r| r.explain("routes of the cluster's ranges"))?;
        pods.table.replace(pod_rules::rules(&pods.options))?;
        Ok(pods)
    }

    fn settings(&mut self) -> Result<(), NetworkError> {
        if let Some(lo) = links::find(&mut self.host, "lo").map_err(|r| r.explain("link lo"))? {
            self.host.request(Message::of(links::set_up(lo.index), 0)).map_err(|r| r.explain("link lo"))?;
        }
        netns::set("ipv4/ip_forward", "1")
    }

    /// Keeps the links of live pods, removes all others of ours.
    fn keep(&mut self, live: &[(String, Ipv4Addr)]) -> Result<(), NetworkError> {
        for (pod, address) in live {
            lock(&self.addresses).reserve(pod, *address);
        }
        let names: Vec<String> = live.iter().map(|(pod, _)| link_name(pod)).collect();
        let present = links::all(&mut self.host).map_err(|r| r.explain("listing links"))?;
        let mut dead = Vec::new();
        for link in present.iter().filter(|link| is_ours(&link.name)) {
            match names.iter().position(|name| *name == link.name) {
                Some(index) => self.route_to_pod(link, live[index].1).map_err(|r| r.explain(format!("route to pod {}", live[index].0)))?,
                None => dead.push(link.name.as_str()),
            }
        }
        links::delete(&mut self.host, dead)
    }

    /// The routes that cover whole ranges. Pods that are not there are unreachable at once; a service's address needs a
    /// route that resolves, since the node's own traffic is looked up before it is translated, and what is left
    /// untranslated is refused by a rule.
    fn base_routes(&mut self) -> Result<(), Refusal> {
        let lo = links::find(&mut self.host, "lo")?.map_or(1, |lo| lo.index);
        let wanted = [
            Route::unreachable(self.options.cluster_cidr),
            Route { source: Some(self.options.node_ip), ..Route::over(self.options.service_cidr, lo) },
        ];
        for route in links::routes(&mut self.host)? {
            // Those to other nodes' pods serve until it is known what has become of these nodes.
            let covers = links::gateway(&route).is_none()
                && links::ours(&route).is_some_and(|to| {
                    to.prefix < 32 && to.prefix > 0 && wanted.iter().all(|w| w.to.network() != to.address || w.to.prefix != to.prefix)
                });
            if covers {
                self.delete_route(route)?;
            }
        }
        self.host.requests(wanted.iter().map(|route| Message::of(route.create(), links::REPLACE)).collect())
    }

    /// See [`super::PodNetwork::attach`].
    pub fn attach(&mut self, pod: &str, netns: &Path) -> Result<Ipv4Addr, NetworkError> {
        let (known, address) = {
            let mut addresses = lock(&self.addresses);
            (addresses.get(pod).is_some(), addresses.take(pod)?)
        };
        let result = Namespace::open(netns).and_then(|namespace| self.connect(pod, &namespace, address));
        if result.is_err() {
            // A half-made link is of no use to a later call, which makes it anew.
            let undone = links::delete(&mut self.host, [link_name(pod).as_str()]);
            if !known {
                lock(&self.addresses).free(pod);
            }
            undone?;
        }
        result.map(|()| address)
    }

    fn connect(&mut self, pod: &str, namespace: &Namespace, address: Ipv4Addr) -> Result<(), NetworkError> {
        let failed = |what: &str| format!("{what} of pod {pod}");
        let mut inside = namespace.inside(&self.home, || {
            // The pod's own links come after this and have no IPv6; its loopback keeps it.
            netns::set_if_there("ipv6/conf/default/disable_ipv6", "1")?;
            links::socket()
        })??;
        let name = link_name(pod);
        if self.is_connected(&mut inside, &name, address).map_err(|r| r.explain(failed("link")))? {
            return Ok(());
        }
        links::delete(&mut self.host, [name.as_str()])?;
        let ends = (End { name: &name, mac: HOST_MAC }, End { name: POD_LINK, mac: pod_mac(address) });
        let pair = links::veth(&ends.0, &ends.1, namespace.0.as_raw_fd(), self.mtu);
        self.host.request(Message::of(pair, links::CREATE)).map_err(|r| r.explain(failed("link")))?;
        configure_pod(&mut inside, address).map_err(|r| r.explain(failed("address")))?;
        // Only what the pod's own address says may come from it; the node's 127.0.0.1 may go to it (node ports).
        netns::set(&format!("ipv4/conf/{name}/rp_filter"), "1")?;
        netns::set(&format!("ipv4/conf/{name}/route_localnet"), "1")?;
        netns::set_if_there(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
        let link = self.link(&name).map_err(|r| r.explain(failed("link")))?;
        self.route_to_pod(&link, address).map_err(|r| r.explain(failed("route")))
    }

    /// Whether both ends are there already: the pod's with its address, and the host's.
    fn is_connected(&mut self, inside: &mut Socket, name: &str, address: Ipv4Addr) -> Result<bool, Refusal> {
        let Some(link) = links::find(inside, POD_LINK)? else { return Ok(false) };
        let has = links::addresses(inside)?.iter().any(|a| a.link == link.index && a.address == address);
        Ok(has && links::find(&mut self.host, name)?.is_some())
    }

    fn link(&mut self, name: &str) -> Result<Link, Refusal> {
        links::find(&mut self.host, name)?.ok_or_else(|| Refusal { index: 0, source: Errno::ENODEV.into(), text: None })
    }

    fn route_to_pod(&mut self, link: &Link, address: Ipv4Addr) -> Result<(), Refusal> {
        let route = Route { source: Some(self.options.node_ip), ..Route::over(Cidr { address, prefix: 32 }, link.index) };
        self.host.requests(vec![
            Message::of(links::neighbour(link.index, address, pod_mac(address)), links::REPLACE),
            Message::of(route.create(), links::REPLACE),
        ])
    }

    fn delete_route(&mut self, route: netlink_packet_route::route::RouteMessage) -> Result<(), Refusal> {
        match self.host.request(Message::of(netlink_packet_route::RouteNetlinkMessage::DelRoute(route), 0)) {
            Err(refusal) if !refusal.is(Errno::ESRCH) => Err(refusal),
            _ => Ok(()),
        }
    }

    /// See [`super::PodNetwork::route_to_nodes`].
    pub fn route_to_nodes(&mut self, nodes: &[NodeRoute]) -> Result<Vec<NodeRoute>, NetworkError> {
        routes::sync(&mut self.host, self.options.node_ip, nodes)
    }

    /// See [`super::PodNetwork::teardown`].
    pub fn teardown(&mut self) -> Result<(), NetworkError> {
        let present = links::all(&mut self.host).map_err(|r| r.explain("listing links"))?;
        let ours = present.iter().map(|link| link.name.as_str()).filter(|name| is_ours(name) || *name == node::LINK);
        links::delete(&mut self.host, ours)?;
        let failed = |refusal: Refusal| refusal.explain("removing routes");
        for route in links::routes(&mut self.host).map_err(failed)? {
            if links::ours(&route).is_some() {
                self.delete_route(route).map_err(failed)?;
            }
        }
        self.table.delete()?;
        *lock(&self.addresses) = Addresses::new(self.options.pod_cidr)?;
        Ok(())
    }

    /// Who removes this node's links.
    ///
    /// # Errors
    /// No netlink for this process.
    pub fn removal(&self) -> Result<Removal, NetworkError> {
        Ok(Removal { host: links::socket()?, addresses: self.addresses.clone() })
    }
}

/// Removes links of pods that are gone, on a thread of its own: the kernel takes ten times as long over it as over
/// making one, and new pods should not wait for that.
pub struct Removal {
    host: Socket,
    addresses: Arc<Mutex<Addresses>>,
}

impl Removal {
    /// See [`super::PodNetwork::detach`].
    pub fn detach(&mut self, pods: &[&str]) -> Result<(), NetworkError> {
        let names: Vec<String> = pods.iter().map(|pod| link_name(pod)).collect();
        links::delete(&mut self.host, names.iter().map(String::as_str))?;
        let mut addresses = lock(&self.addresses);
        pods.iter().for_each(|pod| addresses.free(pod));
        Ok(())
    }
}

/// The addresses are whole after every call, even one that panicked.
fn lock(addresses: &Mutex<Addresses>) -> MutexGuard<'_, Addresses> {
    addresses.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the pod its address and its two routes; all of it is on the link that the kernel just made.
fn configure_pod(inside: &mut Socket, address: Ipv4Addr) -> Result<(), Refusal> {
    let gone = || Refusal { index: 0, source: Errno::ENODEV.into(), text: None };
    let lo = links::find(inside, "lo")?.ok_or_else(gone)?.index;
    let link = links::find(inside, POD_LINK)?.ok_or_else(gone)?.index;
    let default = Cidr { address: Ipv4Addr::UNSPECIFIED, prefix: 0 };
    inside.requests(vec![
        Message::of(links::set_up(lo), 0),
        Message::of(links::set_up(link), 0),
        Message::of(links::address(link, address, 32), links::CREATE),
        Message::of(links::neighbour(link, GATEWAY, HOST_MAC), links::CREATE),
        Message::of(Route::over(Cidr { address: GATEWAY, prefix: 32 }, link).create(), links::CREATE),
        Message::of(Route { gateway: Some(GATEWAY), ..Route::over(default, link) }.create(), links::CREATE),
    ])
}

/// The MTU of the link that has the node's address. A loopback's is no measure for others.
fn node_mtu(host: &mut Socket, node_ip: Ipv4Addr) -> Result<u32, Refusal> {
    let owner = links::addresses(host)?.into_iter().find(|a| a.address == node_ip).map(|a| a.link);
    let link = links::all(host)?.into_iter().find(|link| Some(link.index) == owner && !link.loopback);
    Ok(link.map_or(DEFAULT_MTU, |link| link.mtu))
}

/// A locally administered MAC that follows from the address, so that no pod needs to be asked for it.
fn pod_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// The host end's name.
pub fn link_name(pod: &str) -> String {
    let mut name = PREFIX.to_owned();
    for byte in Sha256::digest(pod.as_bytes()).iter().take(DIGITS.div_ceil(2)) {
        write!(name, "{byte:02x}").expect("a string takes what is written");
    }
    name.truncate(PREFIX.len() + DIGITS);
    name
}

fn is_ours(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|digits| digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_and_are_known_again() {
        let name = link_name("default/web-0");
        assert_eq!(name.len(), 15);
        assert!(is_ours(&name));
        assert_ne!(name, link_name("default/web-1"));
        for other in ["orchd0", "eth0", "orch", "orchzzzzzzzzzzz"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
