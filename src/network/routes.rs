//! Routes to the pods of other nodes, by way of those nodes' addresses on the one link that all share.

use super::links::{self, LinkAddress, Route};
use super::netlink::{Message, Refusal, Socket};
use super::{Cidr, NetworkError};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteMessage;
use nix::errno::Errno;
use std::net::Ipv4Addr;

/// Where the pods of another node are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeRoute {
    pub pods: Cidr,
    pub node: Ipv4Addr,
}

/// What is to be done to the kernel's routes.
struct Difference {
    add: Vec<Route>,
    remove: Vec<RouteMessage>,
    off_link: Vec<NodeRoute>,
}

/// Pure: only what differs is touched, so that traffic does not notice.
fn difference(present: Vec<RouteMessage>, own: LinkAddress, wanted: &[NodeRoute]) -> Difference {
    let link = Cidr { address: own.address, prefix: own.prefix };
    let (on_link, off_link): (Vec<NodeRoute>, Vec<NodeRoute>) = wanted.iter().copied().partition(|to| link.contains(to.node));
    let of_kernel = |route: &RouteMessage| Some(NodeRoute { pods: links::ours(route)?, node: links::gateway(route)? });
    let add = on_link.iter().filter(|to| !present.iter().any(|route| of_kernel(route) == Some(**to)));
    let add = add.map(|to| Route { gateway: Some(to.node), source: Some(own.address), ..Route::over(to.pods, own.link) }).collect();
    // One that leads elsewhere now is replaced, not removed.
    let stale = |route: &RouteMessage| of_kernel(route).is_some_and(|have| !on_link.iter().any(|to| to.pods == have.pods));
    Difference { add, remove: present.into_iter().filter(stale).collect(), off_link }
}

/// See [`super::PodNetwork::route_to_nodes`].
pub fn sync(host: &mut Socket, node_ip: Ipv4Addr, wanted: &[NodeRoute]) -> Result<Vec<NodeRoute>, NetworkError> {
    let failed = |refusal: Refusal| refusal.explain("routes to other nodes' pods");
    let own = links::addresses(host).map_err(failed)?.into_iter().find(|a| a.address == node_ip);
    let own = own.ok_or_else(|| NetworkError::Invalid(format!("no link has the node's address {node_ip}")))?;
    let Difference { add, remove, off_link } = difference(links::routes(host).map_err(failed)?, own, wanted);
    host.requests(add.iter().map(|route| Message::of(route.create(), links::REPLACE)).collect()).map_err(failed)?;
    for route in remove {
        match host.request(Message::of(RouteNetlinkMessage::DelRoute(route), 0)) {
            Err(refusal) if !refusal.is(Errno::ESRCH) => return Err(failed(refusal)),
            _ => {}
        }
    }
    Ok(off_link)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(pods: &str, node: &str) -> NodeRoute {
        NodeRoute { pods: pods.parse().unwrap(), node: node.parse().unwrap() }
    }

    const OWN: LinkAddress = LinkAddress { link: 7, address: Ipv4Addr::new(192, 168, 0, 1), prefix: 24 };

    fn kernel(route: NodeRoute) -> RouteMessage {
        Route { gateway: Some(route.node), ..Route::over(route.pods, OWN.link) }.message()
    }

    #[test]
    fn only_what_differs_is_touched() {
        let (same, moved, gone) = (to("10.1.0.0/24", "192.168.0.2"), to("10.2.0.0/24", "192.168.0.3"), to("10.3.0.0/24", "192.168.0.4"));
        let pod = Route::over("10.9.0.5/32".parse().unwrap(), 9).message();
        let foreign = to("10.4.0.0/24", "192.168.1.5");
        let present = vec![kernel(same), kernel(moved), kernel(gone), pod];
        let moved = to("10.2.0.0/24", "192.168.0.9");
        let found = difference(present, OWN, &[same, moved, foreign]);
        assert_eq!(found.add.iter().map(|r| (r.to, r.gateway)).collect::<Vec<_>>(), [(moved.pods, Some(moved.node))]);
        assert_eq!(found.remove, [kernel(gone)]);
        assert_eq!(found.off_link, [foreign]);
    }
}
