//! One service port, or one host port, as chains, sets and map elements. Pure.
//!
//! ```text
//! service-ips { address . protocol . port } → service-… (ClusterIP) or external-… (all else)
//! external-… marks for masquerade, or keeps to this node's endpoints → service-… or local-…
//! service-…, local-… → known clients to their endpoint, else one at random → endpoint-…
//! endpoint-… marks a pod that calls itself, remembers the client, translates
//! ```

use super::super::nft::{FibAddress, Key, KeyType, Rule, Set, SetKind, Verdict};
use super::super::{Cidr, NetworkOptions};
use super::base::{self, MASQUERADE, REJECT};
use super::state::{HostPort, PortName, Protocol, ServicePort};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Bytes of a name that people can read; the kernel takes 255.
const READABLE_BYTES: usize = 160;
const LOOPBACK: Cidr = Cidr { address: Ipv4Addr::new(127, 0, 0, 0), prefix: 8 };

/// What is in the kernel for a service port or host port. Nothing here is shared with another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    pub chains: BTreeMap<String, Vec<Rule>>,
    pub sets: BTreeMap<String, Set>,
    /// By set and key; plain sets have no verdict.
    pub elements: BTreeMap<(&'static str, Key), Option<Verdict>>,
}

impl Objects {
    fn element(&mut self, set: &'static str, key: Key, verdict: Verdict) {
        self.elements.insert((set, key), Some(verdict));
    }
}

pub fn address_key(address: Ipv4Addr) -> Key {
    address.octets().to_vec()
}

fn protocol_port_key(protocol: Protocol, port: u16) -> Key {
    let [high, low] = port.to_be_bytes();
    vec![protocol.number(), 0, 0, 0, high, low, 0, 0]
}

fn address_port_key(address: Ipv4Addr, protocol: Protocol, port: u16) -> Key {
    let mut key = address_key(address);
    key.extend(protocol_port_key(protocol, port));
    key
}

/// Names of the chains of a service port.
struct Names {
    unique: String,
}

impl Names {
    fn of(name: &PortName) -> Self {
        let whole = format!("{}/{}/{}/{}", name.namespace, name.service, name.protocol.name(), name.port);
        Self { unique: unique(&whole) }
    }
    fn service(&self) -> String {
        format!("service-{}", self.unique)
    }
    fn local(&self) -> String {
        format!("local-{}", self.unique)
    }
    fn external(&self) -> String {
        format!("external-{}", self.unique)
    }
    fn firewall(&self) -> String {
        format!("firewall-{}", self.unique)
    }
    fn endpoint(&self, endpoint: SocketAddrV4) -> String {
        format!("endpoint-{}__{}/{}", self.unique, endpoint.ip(), endpoint.port())
    }
    /// The endpoints are part of the name, since the map does not change.
    fn numbers(&self, endpoints: &[SocketAddrV4]) -> String {
        let all: Vec<String> = endpoints.iter().map(SocketAddrV4::to_string).collect();
        format!("numbers-{}-{}", hash(&all.join(" ")), self.unique)
    }
    /// The time is part of the name, since a set cannot change it.
    fn affinity(&self, endpoint: SocketAddrV4, seconds: u32) -> String {
        format!("affinity-{}s-{}__{}/{}", seconds, self.unique, endpoint.ip(), endpoint.port())
    }
}

/// A hash for the kernel, and as much of the name as fits for people.
fn unique(name: &str) -> String {
    let end = (0..=READABLE_BYTES.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    format!("{}-{}", hash(name), &name[..end])
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

/// A service port.
pub fn service(name: &PortName, port: &ServicePort, options: &NetworkOptions) -> Objects {
    let names = Names::of(name);
    let mut objects = Objects::default();
    objects.elements.insert((base::CLUSTER_IPS, address_key(port.cluster_ip)), None);
    internal(&mut objects, &names, name, port);
    external(&mut objects, &names, name, port);
    firewall(&mut objects, &names, name, port, options);
    if !port.has_endpoints {
        return objects;
    }
    if port.uses_cluster() && !port.cluster.is_empty() {
        let first = off_cluster(port, port.internal_local, options);
        balance(&mut objects, &names, names.service(), port, &port.cluster, first);
    }
    if port.uses_local() && !port.local.is_empty() {
        let first = off_cluster(port, !port.internal_local, options);
        balance(&mut objects, &names, names.local(), port, &port.local, first);
    }
    if port.is_external() {
        objects.chains.insert(names.external(), external_chain(&names, port, options));
    }
    for endpoint in port.reachable() {
        let affinity = port.affinity_seconds.map(|seconds| (names.affinity(endpoint, seconds), seconds));
        if let Some((set, seconds)) = &affinity {
            let kind = SetKind::Dynamic { timeout_ms: u64::from(*seconds) * 1000 };
            objects.sets.insert(set.clone(), Set { key: KeyType::Address, kind });
        }
        let affinity = affinity.as_ref().map(|(set, _)| set.as_str());
        objects.chains.insert(names.endpoint(endpoint), endpoint_chain(endpoint, affinity));
    }
    objects
}

/// Traffic to the cluster address.
fn internal(objects: &mut Objects, names: &Names, name: &PortName, port: &ServicePort) {
    let key = address_port_key(port.cluster_ip, name.protocol, port.port);
    let (chain, endpoints) = if port.internal_local { (names.local(), &port.local) } else { (names.service(), &port.cluster) };
    if !endpoints.is_empty() {
        objects.element(base::SERVICE_IPS, key, Verdict::Goto(chain));
    } else {
        objects.element(base::NO_ENDPOINT_SERVICES, key, refusal(port));
    }
}

/// As a closed port where there is no endpoint at all; where there are some on other nodes that the policy keeps traffic
/// from, a load balancer should not count this node as refusing.
fn refusal(port: &ServicePort) -> Verdict {
    if port.has_endpoints { Verdict::Drop } else { Verdict::Goto(REJECT.into()) }
}

/// Traffic to everything else that leads to the Service.
fn external(objects: &mut Objects, names: &Names, name: &PortName, port: &ServicePort) {
    let outside = if port.external_local { &port.local } else { &port.cluster };
    for address in port.external_ips.iter().chain(&port.load_balancer_ips) {
        let key = address_port_key(*address, name.protocol, port.port);
        if port.has_endpoints {
            objects.element(base::SERVICE_IPS, key.clone(), Verdict::Goto(names.external()));
        }
        if outside.is_empty() {
            objects.element(base::NO_ENDPOINT_SERVICES, key, refusal(port));
        }
    }
    if let Some(node_port) = port.node_port {
        let key = protocol_port_key(name.protocol, node_port);
        if port.has_endpoints {
            objects.element(base::SERVICE_NODE_PORTS, key.clone(), Verdict::Goto(names.external()));
        }
        if outside.is_empty() {
            objects.element(base::NO_ENDPOINT_NODE_PORTS, key, refusal(port));
        }
    }
}

/// loadBalancerSourceRanges.
fn firewall(objects: &mut Objects, names: &Names, name: &PortName, port: &ServicePort, options: &NetworkOptions) {
    if port.source_ranges.is_empty() || port.load_balancer_ips.is_empty() {
        return;
    }
    let let_through = |range: &Cidr| Rule::new().source(range.address, range.prefix).verdict(Verdict::Return);
    let mut rules: Vec<Rule> = port.source_ranges.iter().map(let_through).collect();
    if port.source_ranges.iter().any(|range| range.contains(options.node_ip)) {
        // The node's own calls may carry the load balancer's address as their source, if that is the node's as well.
        rules.extend(port.load_balancer_ips.iter().map(|ip| Rule::new().source(*ip, 32).verdict(Verdict::Return)));
    }
    rules.push(Rule::new().verdict(Verdict::Drop));
    objects.chains.insert(names.firewall(), rules);
    for address in &port.load_balancer_ips {
        let key = address_port_key(*address, name.protocol, port.port);
        objects.element(base::FIREWALL_IPS, key, Verdict::Goto(names.firewall()));
    }
}

/// Whoever is not a pod and comes to the cluster address may have its answer come another way, unless it is masqueraded.
fn off_cluster(port: &ServicePort, other: bool, options: &NetworkOptions) -> Option<Rule> {
    let cluster = options.cluster_cidr;
    let rule = || Rule::new().destination(port.cluster_ip, 32).source_not(cluster.address, cluster.prefix).mark(MASQUERADE, true);
    (!other).then(rule)
}

/// The chain that sends known clients to their endpoint, and others to one at random.
fn balance(objects: &mut Objects, names: &Names, chain: String, port: &ServicePort, endpoints: &[SocketAddrV4], first: Option<Rule>) {
    let mut rules: Vec<Rule> = first.into_iter().collect();
    if let Some(seconds) = port.affinity_seconds {
        rules.extend(endpoints.iter().map(|e| Rule::new().source_in(&names.affinity(*e, seconds)).goto(&names.endpoint(*e))));
    }
    let verdicts: Vec<Verdict> = endpoints.iter().map(|endpoint| Verdict::Goto(names.endpoint(*endpoint))).collect();
    let count = u32::try_from(verdicts.len()).expect("a service has fewer endpoints than that");
    let numbers = names.numbers(endpoints);
    rules.push(Rule::new().at_random(count, &numbers));
    objects.sets.insert(numbers, Set { key: KeyType::Number, kind: SetKind::Numbered(verdicts) });
    objects.chains.insert(chain, rules);
}

fn external_chain(names: &Names, port: &ServicePort, options: &NetworkOptions) -> Vec<Rule> {
    if !port.external_local {
        // An endpoint on another node would answer the client directly.
        return vec![Rule::new().mark(MASQUERADE, true), Rule::new().goto(&names.service())];
    }
    // Pods and the node itself are subject to neither policy: as if they had gone out and come back.
    let cluster = options.cluster_cidr;
    let mut rules = vec![
        Rule::new().source(cluster.address, cluster.prefix).goto(&names.service()),
        Rule::new().local(FibAddress::Source).mark(MASQUERADE, true),
        Rule::new().local(FibAddress::Source).goto(&names.service()),
    ];
    if !port.local.is_empty() {
        rules.push(Rule::new().goto(&names.local()));
    }
    rules
}

fn endpoint_chain(endpoint: SocketAddrV4, affinity: Option<&str>) -> Vec<Rule> {
    let mut rules = vec![Rule::new().source(*endpoint.ip(), 32).mark(MASQUERADE, true)];
    rules.extend(affinity.map(|set| Rule::new().remember_source(set)));
    rules.push(Rule::new().translate_to(endpoint));
    rules
}

/// A host port.
pub fn host_port(port: &HostPort) -> Objects {
    let address = port.host_ip.map_or_else(|| "any".to_owned(), |ip| ip.to_string());
    let chain = format!("hostport-{}-{}/{}__{}/{}", address, port.protocol.name(), port.port, port.to.ip(), port.to.port());
    let mut objects = Objects::default();
    let (set, key) = match port.host_ip {
        Some(ip) => (base::SERVICE_IPS, address_port_key(ip, port.protocol, port.port)),
        None => (base::HOST_PORTS, protocol_port_key(port.protocol, port.port)),
    };
    objects.element(set, key, Verdict::Goto(chain.clone()));
    let rules = vec![
        Rule::new().source(*port.to.ip(), 32).mark(MASQUERADE, true),
        Rule::new().source(LOOPBACK.address, LOOPBACK.prefix).mark(MASQUERADE, true),
        Rule::new().translate_to(port.to),
    ];
    objects.chains.insert(chain, rules);
    objects
}
