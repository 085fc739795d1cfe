//! Links, addresses, neighbours and routes as rtnetlink messages: small functions that build one each, and questions to
//! the kernel.

use super::netlink::{Message, Refusal, Socket};
use super::{Cidr, NetworkError};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;

/// Marks the routes that orchd made (`proto 111` in `ip route`).
pub const PROTOCOL: RouteProtocol = RouteProtocol::Other(111);

pub const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
pub const REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;

pub type Mac = [u8; 6];

/// # Errors
/// No netlink for this process.
pub fn socket() -> Result<Socket, NetworkError> {
    Socket::open(SockProtocol::NetlinkRoute).map_err(|source| NetworkError::Io { what: "rtnetlink socket".into(), source })
}

/// A link as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub loopback: bool,
}

impl Link {
    fn of(message: &LinkMessage) -> Self {
        let mut link =
            Self { index: message.header.index, name: String::new(), mtu: 0, loopback: message.header.flags.contains(LinkFlags::Loopback) };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                _ => {}
            }
        }
        link
    }
}

/// An IPv4 address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    pub link: u32,
    pub address: Ipv4Addr,
    /// What else is on the link.
    pub prefix: u8,
}

/// # Errors
/// Netlink refuses.
pub fn all(socket: &mut Socket) -> Result<Vec<Link>, Refusal> {
    let found = socket.dump_of(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(found.iter().filter_map(|m| if let RouteNetlinkMessage::NewLink(link) = m { Some(Link::of(link)) } else { None }).collect())
}

/// The link of this name, if there is one.
///
/// # Errors
/// Netlink refuses.
pub fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, Refusal> {
    match socket.get_of(RouteNetlinkMessage::GetLink(named(name))) {
        Ok(RouteNetlinkMessage::NewLink(link)) => Ok(Some(Link::of(&link))),
        Ok(_) => Ok(None),
        Err(refusal) if refusal.is(Errno::ENODEV) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// # Errors
/// Netlink refuses.
pub fn addresses(socket: &mut Socket) -> Result<Vec<LinkAddress>, Refusal> {
    let mut ask = AddressMessage::default();
    ask.header.family = AddressFamily::Inet;
    let found = socket.dump_of(RouteNetlinkMessage::GetAddress(ask))?;
    Ok(found.iter().filter_map(|m| if let RouteNetlinkMessage::NewAddress(address) = m { link_address(address) } else { None }).collect())
}

fn link_address(message: &AddressMessage) -> Option<LinkAddress> {
    let pick = |wanted: fn(&AddressAttribute) -> Option<&IpAddr>| message.attributes.iter().find_map(wanted);
    let local = pick(|a| if let AddressAttribute::Local(ip) = a { Some(ip) } else { None });
    let address = local.or_else(|| pick(|a| if let AddressAttribute::Address(ip) = a { Some(ip) } else { None }))?;
    match address {
        IpAddr::V4(address) => Some(LinkAddress { link: message.header.index, address: *address, prefix: message.header.prefix_len }),
        IpAddr::V6(_) => None,
    }
}

/// The IPv4 routes of the main table.
///
/// # Errors
/// Netlink refuses.
pub fn routes(socket: &mut Socket) -> Result<Vec<RouteMessage>, Refusal> {
    let mut ask = RouteMessage::default();
    ask.header.address_family = AddressFamily::Inet;
    let found = socket.dump_of(RouteNetlinkMessage::GetRoute(ask))?;
    let main = |m| match m {
        RouteNetlinkMessage::NewRoute(route) if route.header.table == RouteHeader::RT_TABLE_MAIN => Some(route),
        _ => None,
    };
    Ok(found.into_iter().filter_map(main).collect())
}

/// The link over which the default route leads, if there is one.
pub fn default_link(routes: &[RouteMessage]) -> Option<u32> {
    let priority =
        |route: &RouteMessage| route.attributes.iter().find_map(|a| if let RouteAttribute::Priority(p) = a { Some(*p) } else { None });
    let default = routes.iter().filter(|r| r.header.destination_prefix_length == 0 && r.header.kind == RouteType::Unicast);
    let best = default.min_by_key(|route| priority(route).unwrap_or(0))?;
    best.attributes.iter().find_map(|a| if let RouteAttribute::Oif(link) = a { Some(*link) } else { None })
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn up(mut message: LinkMessage) -> LinkMessage {
    message.header.flags |= LinkFlags::Up;
    message.header.change_mask |= LinkFlags::Up;
    message
}

/// One end of a pair of links.
pub struct End<'a> {
    pub name: &'a str,
    pub mac: Mac,
}

/// A pair of links: `here` in the socket's namespace, up; `there` in that of the descriptor from its birth, and down (it
/// is made first, and the kernel refuses to open it while it has no other end).
pub fn veth(here: &End<'_>, there: &End<'_>, namespace: RawFd, mtu: u32) -> RouteNetlinkMessage {
    let end = |end: &End<'_>| {
        let mut message = named(end.name);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message.attributes.push(LinkAttribute::Address(end.mac.to_vec()));
        message
    };
    let mut peer = end(there);
    peer.attributes.push(LinkAttribute::NetNsFd(namespace));
    let mut message = up(end(here));
    let data = LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), data]));
    RouteNetlinkMessage::NewLink(message)
}

/// A bridge, up.
pub fn bridge(name: &str) -> RouteNetlinkMessage {
    let mut message = up(named(name));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
    RouteNetlinkMessage::NewLink(message)
}

/// Makes the link a port of the bridge (by its index), and brings it up.
pub fn attach(index: u32, bridge: u32) -> RouteNetlinkMessage {
    let mut message = up(LinkMessage::default());
    message.header.index = index;
    message.attributes.push(LinkAttribute::Controller(bridge));
    RouteNetlinkMessage::SetLink(message)
}

pub fn set_up(index: u32) -> RouteNetlinkMessage {
    let mut message = up(LinkMessage::default());
    message.header.index = index;
    RouteNetlinkMessage::SetLink(message)
}

/// Links of this group ("orch" in ASCII) are about to be deleted.
const DOOMED: u32 = 0x6f72_6368;

/// Deletes links, those that are there. All at once: the kernel waits for its readers once per request, which is what
/// takes the time.
///
/// # Errors
/// Netlink refuses.
pub fn delete<'a>(socket: &mut Socket, names: impl IntoIterator<Item = &'a str>) -> Result<(), NetworkError> {
    let gone_is_fine = |result: Result<(), Refusal>, what: &str| match result {
        Err(refusal) if !refusal.is(Errno::ENODEV) => Err(refusal.explain(format!("deleting {what}"))),
        other => Ok(other.is_ok()),
    };
    let group = LinkAttribute::Group(DOOMED);
    let mut any = false;
    for name in names {
        let mut message = named(name);
        message.attributes.push(group.clone());
        any |= gone_is_fine(socket.request(Message::of(RouteNetlinkMessage::SetLink(message), 0)), name)?;
    }
    if any {
        let mut message = LinkMessage::default();
        message.attributes.push(group);
        gone_is_fine(socket.request(Message::of(RouteNetlinkMessage::DelLink(message), 0)), "links")?;
    }
    Ok(())
}

pub fn address(link: u32, address: Ipv4Addr, prefix: u8) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix;
    message.header.index = link;
    message.attributes.push(AddressAttribute::Local(address.into()));
    message.attributes.push(AddressAttribute::Address(address.into()));
    RouteNetlinkMessage::NewAddress(message)
}

/// A neighbour that is to be forgotten.
pub fn forget(link: u32, address: Ipv4Addr) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = link;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
    RouteNetlinkMessage::DelNeighbour(message)
}

/// A neighbour that never needs to be asked for.
pub fn neighbour(link: u32, address: Ipv4Addr, mac: Mac) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    RouteNetlinkMessage::NewNeighbour(message)
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub to: Cidr,
    /// None: the destination is unreachable.
    pub link: Option<u32>,
    /// A gateway that is on the link although no address says so.
    pub gateway: Option<Ipv4Addr>,
    /// The address from which the node itself sends on this route.
    pub source: Option<Ipv4Addr>,
}

impl Route {
    pub fn over(to: Cidr, link: u32) -> Self {
        Self { to, link: Some(link), gateway: None, source: None }
    }

    pub fn unreachable(to: Cidr) -> Self {
        Self { to, link: None, gateway: None, source: None }
    }

    pub fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = AddressFamily::Inet;
        header.destination_prefix_length = self.to.prefix;
        header.table = RouteHeader::RT_TABLE_MAIN;
        header.protocol = PROTOCOL;
        header.kind = if self.link.is_some() { RouteType::Unicast } else { RouteType::Unreachable };
        header.scope = if self.link.is_some() && self.gateway.is_none() { RouteScope::Link } else { RouteScope::Universe };
        if self.to.prefix > 0 {
            message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(self.to.network())));
        }
        if let Some(gateway) = self.gateway {
            message.header.flags |= RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        }
        if let Some(link) = self.link {
            message.attributes.push(RouteAttribute::Oif(link));
        }
        if let Some(source) = self.source {
            message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(source)));
        }
        message
    }

    pub fn create(&self) -> RouteNetlinkMessage {
        RouteNetlinkMessage::NewRoute(self.message())
    }
}

/// The gateway of a route.
pub fn gateway(route: &RouteMessage) -> Option<Ipv4Addr> {
    route.attributes.iter().find_map(|a| if let RouteAttribute::Gateway(RouteAddress::Inet(via)) = a { Some(*via) } else { None })
}

/// Where a route of the kernel's list leads, if it is one that orchd made.
pub fn ours(route: &RouteMessage) -> Option<Cidr> {
    let destination = |a: &RouteAttribute| if let RouteAttribute::Destination(RouteAddress::Inet(to)) = a { Some(*to) } else { None };
    let address = route.attributes.iter().find_map(destination).unwrap_or(Ipv4Addr::UNSPECIFIED);
    (route.header.protocol == PROTOCOL).then_some(Cidr { address, prefix: route.header.destination_prefix_length })
}
