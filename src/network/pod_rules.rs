//! The rules that pods need whatever Services there are.

use super::nft::{ChainKind, Change, Hook, HookPoint, Rule, Verdict};
use super::{NetworkOptions, pods};
use std::net::Ipv4Addr;

pub const TABLE: &str = "orchd-pods";

const ICMP_HOST_UNREACHABLE: u8 = 1;
/// Before any translation (-100).
const BEFORE_NAT: i32 = -150;
const FILTER: i32 = 0;
const SOURCE_NAT: i32 = 100;
const LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 0);

/// The chains and rules of the table.
pub fn rules(options: &NetworkOptions) -> Vec<Change> {
    let (cluster, services) = (options.cluster_cidr, options.service_cidr);
    let base = [
        ("prerouting", ChainKind::Filter, HookPoint::Prerouting, BEFORE_NAT),
        ("forward", ChainKind::Filter, HookPoint::Forward, FILTER),
        ("output", ChainKind::Filter, HookPoint::Output, FILTER),
        ("postrouting", ChainKind::Nat, HookPoint::Postrouting, SOURCE_NAT),
    ];
    let to_services = || Rule::new().destination(services.address, services.prefix);
    // A reset, since the node's own TCP takes an ICMP error that comes while it still sends only for a hint.
    let closed = || to_services().protocol(libc::IPPROTO_TCP as u8).reset();
    let nowhere = || to_services().unreachable(ICMP_HOST_UNREACHABLE);
    let drop = |rule: Rule| rule.verdict(Verdict::Drop);
    let rules = [
        // The pods' links route 127/8 (for node ports on it), so that a pod must be kept from the node's own loopback.
        ("prerouting", drop(Rule::new().arrives_on(pods::PREFIX).destination(LOOPBACK, 8))),
        ("prerouting", drop(Rule::new().arrives_on(pods::PREFIX).source(LOOPBACK, 8))),
        // What is still addressed to a service here belongs to none: it must not leave by the default route.
        ("forward", closed()),
        ("forward", nowhere()),
        ("output", closed()),
        ("output", nowhere()),
        // Outside the cluster nobody has a way back to a pod's address.
        ("postrouting", Rule::new().source(cluster.address, cluster.prefix).destination_not(cluster.address, cluster.prefix).masquerade()),
    ];
    let hook = |kind, hook, priority| Some(Hook { kind, hook, priority });
    let chains = base.map(|(chain, kind, at, priority)| Change::AddChain { chain: chain.into(), hook: hook(kind, at, priority) });
    chains.into_iter().chain(rules.map(|(chain, rule)| Change::AddRule { chain: chain.into(), rule })).collect()
}
