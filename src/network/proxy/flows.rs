//! UDP has no end of its own: a client that keeps sending keeps its flow, and the flow keeps its translation, to an
//! endpoint that may be gone or to none at all. This ends such flows, so that the next packet is balanced anew.

use super::super::NetworkError;
use super::super::netlink::{Attributes, Message, Socket};
use super::state::{Protocol, ProxyState};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
/// struct nfgenmsg
const FAMILY_HEADER: usize = 4;

/// Where Services take UDP, and the endpoints that it may go to from there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Frontends {
    addresses: BTreeMap<SocketAddrV4, BTreeSet<SocketAddrV4>>,
    /// On every address of the node.
    ports: BTreeMap<u16, BTreeSet<SocketAddrV4>>,
}

impl Frontends {
    fn of(state: &ProxyState) -> Self {
        let mut all = Self::default();
        for (_, port) in state.services.iter().filter(|(name, _)| name.protocol == Protocol::Udp) {
            let endpoints = port.reachable();
            for address in std::iter::once(&port.cluster_ip).chain(&port.external_ips).chain(&port.load_balancer_ips) {
                all.addresses.entry(SocketAddrV4::new(*address, port.port)).or_default().extend(&endpoints);
            }
            if let Some(node_port) = port.node_port {
                all.ports.entry(node_port).or_default().extend(&endpoints);
            }
        }
        for port in state.host_ports.iter().filter(|port| port.protocol == Protocol::Udp) {
            let endpoints = match port.host_ip {
                Some(ip) => all.addresses.entry(SocketAddrV4::new(ip, port.port)).or_default(),
                None => all.ports.entry(port.port).or_default(),
            };
            endpoints.insert(port.to);
        }
        all
    }

    /// Those whose endpoints are not what they were, with the endpoints that they have now; with `all` the others too.
    pub fn changed(old: &ProxyState, new: &ProxyState, all: bool) -> Option<Self> {
        let (old, mut new) = (Self::of(old), Self::of(new));
        for address in old.addresses.keys() {
            new.addresses.entry(*address).or_default();
        }
        for port in old.ports.keys() {
            new.ports.entry(*port).or_default();
        }
        if !all {
            new.addresses.retain(|address, endpoints| old.addresses.get(address) != Some(endpoints));
            new.ports.retain(|port, endpoints| old.ports.get(port) != Some(endpoints));
        }
        (!new.addresses.is_empty() || !new.ports.is_empty()).then_some(new)
    }

    /// Whether a flow that was sent `to` is answered by one who is no longer an endpoint there.
    fn is_stale(&self, to: SocketAddrV4, answered_by: SocketAddrV4) -> bool {
        match self.addresses.get(&to) {
            Some(endpoints) => !endpoints.contains(&answered_by),
            // Without a translation it may be anybody's flow to such a port, unless it waits for an endpoint here.
            None => self.ports.get(&to.port()).is_some_and(|endpoints| !endpoints.contains(&answered_by) && to != answered_by),
        }
    }
}

/// A connection of the kernel's table.
struct Flow<'a> {
    to: SocketAddrV4,
    answered_by: SocketAddrV4,
    original: &'a [u8],
}

pub struct Flows {
    socket: Socket,
}

impl Flows {
    pub fn open() -> Result<Self, NetworkError> {
        let socket = Socket::open(SockProtocol::NetlinkNetFilter).map_err(|source| NetworkError::Io { what: "conntrack socket".into(), source })?;
        Ok(Self { socket })
    }

    /// # Errors
    /// The kernel refuses to list or to delete.
    pub fn end_stale(&mut self, frontends: &Frontends) -> Result<(), NetworkError> {
        let mut stale: Vec<Vec<u8>> = Vec::new();
        let list = message(GET, libc::NLM_F_DUMP as u16);
        let each = |payload: &[u8]| {
            if let Some(flow) = flow(payload).filter(|flow| frontends.is_stale(flow.to, flow.answered_by)) {
                stale.push(flow.original.to_vec());
            }
        };
        self.socket.dump(list, each).map_err(|r| r.explain("listing UDP flows"))?;
        for original in stale {
            let mut delete = message(DELETE, 0);
            delete.attribute(TUPLE_ORIGINAL | libc::NLA_F_NESTED as u16, &original);
            match self.socket.request(delete) {
                Err(refusal) if !refusal.is(Errno::ENOENT) => return Err(refusal.explain("ending a UDP flow")),
                _ => {}
            }
        }
        Ok(())
    }
}

fn message(kind: u16, flags: u16) -> Message {
    let mut message = Message::new((libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | kind, flags);
    message.header(&[libc::AF_INET as u8, 0, 0, 0]);
    message
}

/// A UDP flow of a list's answer.
fn flow(payload: &[u8]) -> Option<Flow<'_>> {
    let attributes = Attributes(payload.get(FAMILY_HEADER..)?);
    let original = attributes.find(TUPLE_ORIGINAL)?;
    let (_, to, protocol) = tuple(Attributes(original))?;
    let (answered_by, _, _) = tuple(attributes.nested(TUPLE_REPLY)?)?;
    (protocol == Protocol::Udp.number()).then_some(Flow { to, answered_by, original })
}

/// Source, destination and protocol.
fn tuple(attributes: Attributes<'_>) -> Option<(SocketAddrV4, SocketAddrV4, u8)> {
    let (ip, protocol) = (attributes.nested(1)?, attributes.nested(2)?);
    let address = |kind| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.find(kind)?).ok()?));
    let port = |kind| Some(u16::from_be_bytes(protocol.find(kind)?.try_into().ok()?));
    let number = *protocol.find(1)?.first()?;
    Some((SocketAddrV4::new(address(1)?, port(2)?), SocketAddrV4::new(address(2)?, port(3)?), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddrV4 {
        text.parse().expect("an address")
    }

    #[test]
    fn flows_to_endpoints_that_are_gone_are_stale() {
        let mut frontends = Frontends::default();
        frontends.addresses.insert(at("10.96.0.10:53"), BTreeSet::from([at("10.244.0.5:5353")]));
        frontends.ports.insert(30053, BTreeSet::from([at("10.244.0.5:5353")]));
        let stale = |to: &str, by: &str| frontends.is_stale(at(to), at(by));
        assert!(!stale("10.96.0.10:53", "10.244.0.5:5353"));
        assert!(stale("10.96.0.10:53", "10.244.0.6:5353"));
        assert!(stale("10.96.0.10:53", "10.96.0.10:53"), "sent before there was an endpoint");
        assert!(!stale("10.96.0.11:53", "10.96.0.11:53"));
        assert!(stale("10.250.0.1:30053", "10.244.0.6:5353"));
        assert!(!stale("8.8.8.8:30053", "8.8.8.8:30053"));
    }
}
