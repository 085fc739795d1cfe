//! Hosts on one machine: a network namespace each, all on one bridge in a namespace that has no way out. For the lab, the
//! demo and tests; a node's own network is elsewhere.
//!
//! A namespace is pinned by a bind mount, so that it outlives every process in it and is found again by its path.
//! A host is cut off from another one by a wrong link-layer address for it: what is sent disappears without a word, as on
//! a broken wire, and in that direction alone.

use super::links::{self, End, Mac, Route};
use super::netlink::Message;
use super::netns::{self, Namespace};
use super::{Cidr, NetworkError, NodeRoute, routes};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const BRIDGE: &str = "lan";
const LINK: &str = "eth0";
const MTU: u32 = 1500;
/// Nobody's.
const NOWHERE: Mac = [0x02, 0, 0, 0, 0xde, 0xad];

/// A host: where its namespace is pinned, and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// At most 15 bytes: its link on the bridge has this name.
    pub name: String,
    pub netns: PathBuf,
    pub address: Ipv4Addr,
    pub prefix: u8,
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> NetworkError {
    move |source| NetworkError::Io { what: what.into(), source }
}

fn errno(what: impl Into<String>) -> impl FnOnce(Errno) -> NetworkError {
    move |e| NetworkError::Io { what: what.into(), source: e.into() }
}

/// Makes a namespace with its loopback up, and pins it at `path`.
fn pin(path: &Path) -> Result<Namespace, NetworkError> {
    std::fs::File::create(path).map_err(io(path.display().to_string()))?;
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(errno("making a network namespace"))?;
        let of_thread = Path::new("/proc/thread-self/ns/net");
        mount(Some(of_thread), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(errno(path.display().to_string()))?;
        let mut socket = links::socket()?;
        let lo = links::find(&mut socket, "lo").map_err(|r| r.explain("link lo"))?.map_or(1, |lo| lo.index);
        socket.request(Message::of(links::set_up(lo), 0)).map_err(|r| r.explain("link lo"))
    };
    on_a_thread(make)?;
    Namespace::open(path)
}

/// Runs `work` on a thread of its own, since it changes the thread's namespace.
fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T, NetworkError> + Send) -> Result<T, NetworkError> {
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(NetworkError::Invalid("a thread of the lab's failed".into())))
}

fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> Result<T, NetworkError> + Send) -> Result<T, NetworkError> {
    on_a_thread(|| {
        enter(netns)?;
        work()
    })
}

/// Brings the calling thread into the namespace, for good.
///
/// # Errors
/// There is none at the path, or this process may not.
pub fn enter(netns: &Path) -> Result<(), NetworkError> {
    setns(&Namespace::open(netns)?.0, CloneFlags::CLONE_NEWNET).map_err(errno(format!("entering {}", netns.display())))
}

/// Makes the namespaces of the bridge (pinned at `hub`) and of every host, and the links between them.
///
/// # Errors
/// The kernel refuses; what was made stays, for `remove`.
pub fn make(hub: &Path, hosts: &[Host]) -> Result<(), NetworkError> {
    pin(hub)?;
    let namespaces = hosts.iter().map(|host| pin(&host.netns)).collect::<Result<Vec<_>, _>>()?;
    inside(hub, || {
        let mut socket = links::socket()?;
        socket.request(Message::of(links::bridge(BRIDGE), links::CREATE)).map_err(|r| r.explain("the bridge"))?;
        let bridge = links::find(&mut socket, BRIDGE).map_err(|r| r.explain("the bridge"))?;
        let bridge = bridge.ok_or_else(|| NetworkError::Invalid("the bridge is gone".into()))?.index;
        for (host, namespace) in hosts.iter().zip(&namespaces) {
            let failed = |r: super::netlink::Refusal| r.explain(format!("the link of host {}", host.name));
            let ends = (End { name: &host.name, mac: mac(host.address, 0x0e) }, End { name: LINK, mac: mac(host.address, 0x0a) });
            socket.request(Message::of(links::veth(&ends.0, &ends.1, namespace.0.as_raw_fd(), MTU), links::CREATE)).map_err(failed)?;
            let port = links::find(&mut socket, &host.name).map_err(failed)?.map_or(0, |link| link.index);
            socket.request(Message::of(links::attach(port, bridge), 0)).map_err(failed)?;
        }
        Ok(())
    })?;
    hosts.iter().try_for_each(|host| inside(&host.netns, || configure(host)))
}

/// The host's address, and a default route that leads to the bridge and nowhere else.
fn configure(host: &Host) -> Result<(), NetworkError> {
    let failed = |r: super::netlink::Refusal| r.explain(format!("the network of host {}", host.name));
    let mut socket = links::socket()?;
    let link = links::find(&mut socket, LINK).map_err(failed)?.map_or(0, |link| link.index);
    let default = Cidr { address: Ipv4Addr::UNSPECIFIED, prefix: 0 };
    let messages = vec![
        Message::of(links::set_up(link), 0),
        Message::of(links::address(link, host.address, host.prefix), links::CREATE),
        Message::of(Route { source: Some(host.address), ..Route::over(default, link) }.create(), links::CREATE),
    ];
    socket.requests(messages).map_err(failed)?;
    netns::set_if_there(&format!("ipv6/conf/{LINK}/disable_ipv6"), "1")
}

/// A locally administered MAC that follows from the host's address.
fn mac(address: Ipv4Addr, first: u8) -> Mac {
    let [a, b, c, d] = address.octets();
    [first, 0x59, a, b, c, d]
}

/// Nothing that `from` sends reaches `to` any more.
///
/// # Errors
/// The kernel refuses.
pub fn cut(from: &Host, to: &Host) -> Result<(), NetworkError> {
    inside(&from.netns, || {
        let failed = |r: super::netlink::Refusal| r.explain(format!("cutting {} off from {}", from.name, to.name));
        let mut socket = links::socket()?;
        let link = links::find(&mut socket, LINK).map_err(failed)?.map_or(0, |link| link.index);
        socket.request(Message::of(links::neighbour(link, to.address, NOWHERE), links::REPLACE)).map_err(failed)
    })
}

/// Ends every `cut` between these hosts.
///
/// # Errors
/// The kernel refuses.
pub fn heal(hosts: &[Host]) -> Result<(), NetworkError> {
    for host in hosts {
        inside(&host.netns, || {
            let failed = |r: super::netlink::Refusal| r.explain(format!("healing the network of {}", host.name));
            let mut socket = links::socket()?;
            let link = links::find(&mut socket, LINK).map_err(failed)?.map_or(0, |link| link.index);
            for other in hosts.iter().filter(|other| other.name != host.name) {
                // A right one goes too, and is found out anew.
                match socket.request(Message::of(links::forget(link, other.address), 0)) {
                    Err(refusal) if !refusal.is(Errno::ENOENT) => return Err(failed(refusal)),
                    _ => {}
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The routes by which a host that runs nothing of ours reaches the pods of nodes.
///
/// # Errors
/// The kernel refuses.
pub fn route(host: &Host, nodes: &[NodeRoute]) -> Result<(), NetworkError> {
    inside(&host.netns, || routes::sync(&mut links::socket()?, host.address, nodes).map(drop))
}

/// Lets go of a namespace; it ends with the last process in it. One that is not there is no error.
///
/// # Errors
/// It cannot be unmounted or its file not be removed.
pub fn unpin(path: &Path) -> Result<(), NetworkError> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // EINVAL: nothing is mounted there.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(e) => return Err(errno(format!("unmounting {}", path.display()))(e)),
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(path.display().to_string())(e)),
        _ => Ok(()),
    }
}
