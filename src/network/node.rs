//! The node's own address.

use super::netlink::{Message, Refusal, Socket};
use super::{Cidr, NetworkError, links};
use nix::errno::Errno;
use std::net::Ipv4Addr;

/// The link that is made where the namespace has nothing but loopback. A bridge: it needs no other end, and this
/// kernel has no dummy.
pub const LINK: &str = "orchd0";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 250, 0, 1);
const PREFIX: u8 = 24;

/// See [`super::node_address`].
pub fn address() -> Result<Ipv4Addr, NetworkError> {
    let mut socket = links::socket()?;
    if let Some(address) = present(&mut socket)? {
        return Ok(address);
    }
    make(&mut socket).map_err(|refusal| refusal.explain(format!("making the link {LINK}")))?;
    Ok(ADDRESS)
}

/// The address of the link with the default route, else the first that is not loopback.
fn present(socket: &mut Socket) -> Result<Option<Ipv4Addr>, NetworkError> {
    let failed = |refusal: Refusal| refusal.explain("looking for the node's address");
    let all = links::all(socket).map_err(failed)?;
    let routes = links::routes(socket).map_err(failed)?;
    let addresses = links::addresses(socket).map_err(failed)?;
    let default = links::default_link(&routes);
    let loopback = |link: u32| all.iter().any(|l| l.index == link && l.loopback);
    let usable = || addresses.iter().filter(|a| !a.address.is_loopback() && !loopback(a.link));
    let best = usable().find(|a| Some(a.link) == default).or_else(|| usable().next());
    Ok(best.map(|a| a.address))
}

/// Makes the link, its address and a default route over it. What a process that was killed half way made is kept.
fn make(socket: &mut Socket) -> Result<(), Refusal> {
    let lo = links::find(socket, "lo")?;
    if let Some(lo) = lo {
        socket.request(Message::of(links::set_up(lo.index), 0))?;
    }
    match socket.request(Message::of(links::bridge(LINK), links::CREATE)) {
        Err(refusal) if !refusal.is(Errno::EEXIST) => return Err(refusal),
        _ => {}
    }
    let Some(link) = links::find(socket, LINK)? else {
        return Err(Refusal { index: 0, source: Errno::ENODEV.into(), text: None });
    };
    let default = links::Route { source: Some(ADDRESS), ..links::Route::over(Cidr { address: Ipv4Addr::UNSPECIFIED, prefix: 0 }, link.index) };
    socket.requests(vec![
        Message::of(links::set_up(link.index), 0),
        Message::of(links::address(link.index, ADDRESS, PREFIX), links::REPLACE),
        Message::of(default.create(), links::REPLACE),
    ])
}
