//! The chains, maps and rules that are there whatever Services there are.

use super::super::NetworkOptions;
use super::super::nft::{ChainKind, Change, FibAddress, Hook, HookPoint, KeyType, Rule, Set, SetKind};

pub const TABLE: &str = "orchd-proxy";

/// Bit of the packet's mark: its source is to be translated on the way out (kube-proxy's default bit).
pub const MASQUERADE: u32 = 0x4000;
/// Chain that refuses as a closed port does.
pub const REJECT: &str = "reject";

pub const CLUSTER_IPS: &str = "cluster-ips";
pub const SERVICE_IPS: &str = "service-ips";
pub const SERVICE_NODE_PORTS: &str = "service-nodeports";
pub const HOST_PORTS: &str = "host-ports";
pub const NO_ENDPOINT_SERVICES: &str = "no-endpoint-services";
pub const NO_ENDPOINT_NODE_PORTS: &str = "no-endpoint-nodeports";
pub const FIREWALL_IPS: &str = "firewall-ips";

const ICMP_PORT_UNREACHABLE: u8 = 3;
const DESTINATION_NAT: i32 = -100;
const BEFORE_NAT: i32 = DESTINATION_NAT - 10;
const SOURCE_NAT: i32 = 100;
/// Before other filters, so that a Service without endpoints is refused and not dropped.
const FILTER: i32 = -1;

const SERVICES: &str = "services";
const ENDPOINTS_CHECK: &str = "service-endpoints-check";
const NODE_PORTS_CHECK: &str = "nodeport-endpoints-check";
const CLUSTER_IPS_CHECK: &str = "cluster-ips-check";
const FIREWALL_CHECK: &str = "firewall-check";
const MASQUERADING: &str = "masquerading";

/// The maps to verdicts, by name.
const MAPS: [(&str, KeyType); 6] = [
    (SERVICE_IPS, KeyType::AddressProtocolPort),
    (SERVICE_NODE_PORTS, KeyType::ProtocolPort),
    (HOST_PORTS, KeyType::ProtocolPort),
    (NO_ENDPOINT_SERVICES, KeyType::AddressProtocolPort),
    (NO_ENDPOINT_NODE_PORTS, KeyType::ProtocolPort),
    (FIREWALL_IPS, KeyType::AddressProtocolPort),
];

const HOOKS: [(&str, ChainKind, HookPoint, i32); 8] = [
    ("firewall-prerouting", ChainKind::Filter, HookPoint::Prerouting, BEFORE_NAT),
    ("firewall-output", ChainKind::Filter, HookPoint::Output, BEFORE_NAT),
    ("nat-prerouting", ChainKind::Nat, HookPoint::Prerouting, DESTINATION_NAT),
    ("nat-output", ChainKind::Nat, HookPoint::Output, DESTINATION_NAT),
    ("nat-postrouting", ChainKind::Nat, HookPoint::Postrouting, SOURCE_NAT),
    ("filter-input", ChainKind::Filter, HookPoint::Input, FILTER),
    ("filter-forward", ChainKind::Filter, HookPoint::Forward, FILTER),
    ("filter-output", ChainKind::Filter, HookPoint::Output, FILTER),
];

const CHAINS: [&str; 7] = [SERVICES, ENDPOINTS_CHECK, NODE_PORTS_CHECK, CLUSTER_IPS_CHECK, FIREWALL_CHECK, MASQUERADING, REJECT];

/// All of it, for an empty table.
pub fn rules(options: &NetworkOptions) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for (chain, kind, hook, priority) in HOOKS {
        changes.push(Change::AddChain { chain: chain.into(), hook: Some(Hook { kind, hook, priority }) });
    }
    changes.extend(CHAINS.map(|chain| Change::AddChain { chain: chain.into(), hook: None }));
    let cluster_ips = Set { key: KeyType::Address, kind: SetKind::Plain };
    changes.push(Change::AddSet { name: CLUSTER_IPS.into(), set: cluster_ips });
    changes.extend(MAPS.map(|(name, key)| Change::AddSet { name: name.into(), set: Set { key, kind: SetKind::VerdictMap } }));
    let mut add = |chain: &str, rule: Rule| changes.push(Change::AddRule { chain: chain.into(), rule });
    dispatch(&mut add);
    refusals(&mut add);
    masquerading(&mut add, options);
    changes
}

/// From the hooks to a service's chain.
fn dispatch(add: &mut impl FnMut(&str, Rule)) {
    add("firewall-prerouting", Rule::new().new_connection().jump(FIREWALL_CHECK));
    add("firewall-output", Rule::new().new_connection().jump(FIREWALL_CHECK));
    add(FIREWALL_CHECK, Rule::new().by_address_protocol_port(FIREWALL_IPS));
    add("nat-prerouting", Rule::new().jump(SERVICES));
    add("nat-output", Rule::new().jump(SERVICES));
    add(SERVICES, Rule::new().by_address_protocol_port(SERVICE_IPS));
    add(SERVICES, Rule::new().local(FibAddress::Destination).by_protocol_port(SERVICE_NODE_PORTS));
    add(SERVICES, Rule::new().local(FibAddress::Destination).by_protocol_port(HOST_PORTS));
}

/// What is not translated is refused where a Service has the address.
fn refusals(add: &mut impl FnMut(&str, Rule)) {
    add("filter-input", Rule::new().new_connection().jump(NODE_PORTS_CHECK));
    for chain in ["filter-input", "filter-forward", "filter-output"] {
        add(chain, Rule::new().new_connection().jump(ENDPOINTS_CHECK));
    }
    for chain in ["filter-forward", "filter-output"] {
        add(chain, Rule::new().new_connection().jump(CLUSTER_IPS_CHECK));
    }
    add(NODE_PORTS_CHECK, Rule::new().by_protocol_port(NO_ENDPOINT_NODE_PORTS));
    add(ENDPOINTS_CHECK, Rule::new().by_address_protocol_port(NO_ENDPOINT_SERVICES));
    // A port that the Service does not have.
    add(CLUSTER_IPS_CHECK, Rule::new().destination_in(CLUSTER_IPS).goto(REJECT));
    add(REJECT, Rule::new().protocol(libc::IPPROTO_TCP as u8).reset());
    add(REJECT, Rule::new().unreachable(ICMP_PORT_UNREACHABLE));
}

fn masquerading(add: &mut impl FnMut(&str, Rule), options: &NetworkOptions) {
    add("nat-postrouting", Rule::new().mark_has(MASQUERADE, true).jump(MASQUERADING));
    add(MASQUERADING, Rule::new().mark(MASQUERADE, false));
    // The pods' links have no address of their own to take for the source.
    let cluster = options.cluster_cidr;
    add(MASQUERADING, Rule::new().destination(cluster.address, cluster.prefix).send_from(options.node_ip));
    add(MASQUERADING, Rule::new().masquerade());
}
