//! What the proxy has to do on this node, as plain data: every port of every Service with the endpoints that traffic may
//! go to from here. Pure.

use super::super::Cidr;
use k8s_openapi::api::core::v1::{Service, ServicePort as ApiPort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};

const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// A Service with this label is another proxy's.
const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
/// Kubernetes' default of sessionAffinityConfig.clientIP.timeoutSeconds: 3 hours.
const AFFINITY_SECONDS: u32 = 10_800;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn of(name: Option<&str>) -> Option<Self> {
        match name.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
    /// IPPROTO_*
    pub fn number(self) -> u8 {
        let number = match self {
            Self::Tcp => libc::IPPROTO_TCP,
            Self::Udp => libc::IPPROTO_UDP,
            Self::Sctp => libc::IPPROTO_SCTP,
        };
        number as u8
    }
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    pub namespace: String,
    pub service: String,
    /// Empty for the only port of a Service without names.
    pub port: String,
    pub protocol: Protocol,
}

/// Where a service port is reached, and which endpoints it has for traffic of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub cluster_ip: Ipv4Addr,
    pub port: u16,
    pub node_port: Option<u16>,
    pub external_ips: Vec<Ipv4Addr>,
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// Who may come to a load balancer's address; empty: everyone.
    pub source_ranges: Vec<Cidr>,
    /// Session affinity by client address, kept for so long after the client's last connection.
    pub affinity_seconds: Option<u32>,
    pub internal_local: bool,
    pub external_local: bool,
    /// Endpoints for traffic policy Cluster, sorted.
    pub cluster: Vec<SocketAddrV4>,
    /// Endpoints for traffic policy Local, sorted.
    pub local: Vec<SocketAddrV4>,
    /// Whether there is any usable endpoint, here or elsewhere: without one traffic is rejected, with one elsewhere only
    /// it is dropped where the policy is Local.
    pub has_endpoints: bool,
}

impl ServicePort {
    pub fn is_external(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }
    pub fn uses_cluster(&self) -> bool {
        !self.internal_local || self.is_external()
    }
    pub fn uses_local(&self) -> bool {
        self.internal_local || (self.external_local && self.is_external())
    }
    /// Every endpoint that traffic of this node may go to.
    pub fn reachable(&self) -> BTreeSet<SocketAddrV4> {
        self.cluster.iter().chain(&self.local).copied().collect()
    }
}

/// A port of the node that leads to a pod's (hostPort).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub protocol: Protocol,
    /// None: every address of the node.
    pub host_ip: Option<Ipv4Addr>,
    pub port: u16,
    pub to: SocketAddrV4,
}

impl HostPort {
    /// The host ports of a pod whose address is `pod_ip`; none of a pod on the node's own network.
    pub fn of_pod(pod: &k8s_openapi::api::core::v1::Pod, pod_ip: Ipv4Addr) -> Vec<Self> {
        let Some(spec) = pod.spec.as_ref().filter(|spec| spec.host_network != Some(true)) else { return Vec::new() };
        let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
        let one = |port: &k8s_openapi::api::core::v1::ContainerPort| {
            let host_ip = match port.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
                Some(ip) => Some(ip.parse::<Ipv4Addr>().ok()?).filter(|ip| !ip.is_unspecified()),
                None => None,
            };
            let host_port = port.host_port.and_then(port_number)?;
            let to = SocketAddrV4::new(pod_ip, port_number(port.container_port)?);
            Some(Self { protocol: Protocol::of(port.protocol.as_deref())?, host_ip, port: host_port, to })
        };
        ports.filter_map(one).collect()
    }
}

/// The node as Services see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    pub name: String,
    /// Its label topology.kubernetes.io/zone.
    pub zone: String,
}

/// All that the proxy of a node has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyState {
    pub services: BTreeMap<PortName, ServicePort>,
    pub host_ports: BTreeSet<HostPort>,
}

impl ProxyState {
    /// From what the API lists. IPv4 only. Where two Services claim the same address and port, the older one has it
    /// (of the same age, the first by name).
    pub fn of<'a>(
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
        host_ports: impl IntoIterator<Item = HostPort>,
        node: &NodeView,
    ) -> Self {
        let endpoints = gather(slices, node);
        let mut services: Vec<&Service> = services.into_iter().filter(|s| is_ours(s)).collect();
        services.sort_by_key(|s| (&s.metadata.creation_timestamp, &s.metadata.namespace, &s.metadata.name));
        let mut claims = Claims::default();
        let mut state = Self { services: BTreeMap::new(), host_ports: host_ports.into_iter().collect() };
        for service in services {
            let Some(spec) = &service.spec else { continue };
            let Some(cluster_ip) = cluster_ip(spec) else { continue };
            for port in spec.ports.iter().flatten() {
                let Some((name, number)) = port_name(service, port) else { continue };
                let mut entry = front(service, spec, port, cluster_ip, number);
                if claims.refuse(&name, &mut entry) {
                    continue;
                }
                let found = endpoints.get(&name).map(|found| found.values().cloned().collect::<Vec<_>>());
                choose(&mut entry, &found.unwrap_or_default(), node);
                state.services.insert(name, entry);
            }
        }
        state
    }
}

fn is_ours(service: &Service) -> bool {
    let labelled = |label: &str| service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label));
    !labelled(LABEL_PROXY_NAME) && !labelled(LABEL_HEADLESS)
}

fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// The Service's IPv4 address; none if it is headless or a name elsewhere.
fn cluster_ip(spec: &ServiceSpec) -> Option<Ipv4Addr> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).find_map(|ip| ip.parse().ok())
}

fn port_name(service: &Service, port: &ApiPort) -> Option<(PortName, u16)> {
    let name = PortName {
        namespace: service.metadata.namespace.clone().unwrap_or_default(),
        service: service.metadata.name.clone().unwrap_or_default(),
        port: port.name.clone().unwrap_or_default(),
        protocol: Protocol::of(port.protocol.as_deref())?,
    };
    Some((name, port_number(port.port)?))
}

/// Where a port is reached, still without endpoints.
fn front(service: &Service, spec: &ServiceSpec, port: &ApiPort, cluster_ip: Ipv4Addr, number: u16) -> ServicePort {
    let addresses = |list: &Option<Vec<String>>| -> Vec<Ipv4Addr> { list.iter().flatten().filter_map(|ip| ip.parse().ok()).collect() };
    let is_type = |names: &[&str]| spec.type_.as_deref().is_some_and(|t| names.contains(&t));
    let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|b| b.ingress.as_ref());
    // With ipMode Proxy the load balancer sends to the node, and traffic to its address has to go through it.
    let vips = ingress.into_iter().flatten().filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    let load_balancer_ips = vips.filter_map(|i| i.ip.as_ref()?.parse().ok()).collect();
    let ranges = spec.load_balancer_source_ranges.iter().flatten().filter_map(|range| range.trim().parse().ok());
    let client_ip = spec.session_affinity.as_deref() == Some("ClientIP");
    let configured = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    let affinity = configured.and_then(|seconds| u32::try_from(seconds).ok()).filter(|s| *s > 0).unwrap_or(AFFINITY_SECONDS);
    ServicePort {
        cluster_ip,
        port: number,
        node_port: port.node_port.and_then(port_number).filter(|_| is_type(&["NodePort", "LoadBalancer"])),
        external_ips: addresses(&spec.external_ips),
        load_balancer_ips: if is_type(&["LoadBalancer"]) { load_balancer_ips } else { Vec::new() },
        source_ranges: ranges.collect(),
        affinity_seconds: client_ip.then_some(affinity),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        cluster: Vec::new(),
        local: Vec::new(),
        has_endpoints: false,
    }
}

/// Which addresses and ports are taken: each leads to one Service only.
#[derive(Default)]
struct Claims {
    addresses: BTreeSet<(Ipv4Addr, Protocol, u16)>,
    node_ports: BTreeSet<(Protocol, u16)>,
}

impl Claims {
    /// Takes from `entry` what an earlier Service has. True if it is not even left its own address.
    fn refuse(&mut self, name: &PortName, entry: &mut ServicePort) -> bool {
        let (protocol, port) = (name.protocol, entry.port);
        if !self.addresses.insert((entry.cluster_ip, protocol, port)) {
            return true;
        }
        entry.external_ips.retain(|ip| self.addresses.insert((*ip, protocol, port)));
        entry.load_balancer_ips.retain(|ip| self.addresses.insert((*ip, protocol, port)));
        entry.node_port = entry.node_port.filter(|port| self.node_ports.insert((protocol, *port)));
        false
    }
}

/// An endpoint with what decides about its use.
#[derive(Clone)]
struct Endpoint {
    address: SocketAddrV4,
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
    zones: Vec<String>,
    nodes: Vec<String>,
}

type EndpointsByPort = HashMap<PortName, BTreeMap<SocketAddrV4, Endpoint>>;

/// All endpoints by service port. One that several slices have counts once, as local if any of them says so.
fn gather<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>, node: &NodeView) -> EndpointsByPort {
    let mut found = EndpointsByPort::new();
    for slice in slices.into_iter().filter(|slice| slice.address_type == "IPv4") {
        let Some(labels) = &slice.metadata.labels else { continue };
        let Some(service) = labels.get(LABEL_SERVICE_NAME).filter(|_| !labels.contains_key(LABEL_HEADLESS)) else { continue };
        for port in slice.ports.iter().flatten() {
            let (Some(number), Some(protocol)) = (port.port.and_then(port_number), Protocol::of(port.protocol.as_deref())) else { continue };
            let name = PortName {
                namespace: slice.metadata.namespace.clone().unwrap_or_default(),
                service: service.clone(),
                port: port.name.clone().unwrap_or_default(),
                protocol,
            };
            let of_port = found.entry(name).or_default();
            for endpoint in slice.endpoints.iter().filter_map(|e| endpoint(e, number, node)) {
                if endpoint.local || !of_port.contains_key(&endpoint.address) {
                    of_port.insert(endpoint.address, endpoint);
                }
            }
        }
    }
    found
}

fn endpoint(endpoint: &ApiEndpoint, port: u16, node: &NodeView) -> Option<Endpoint> {
    let conditions = endpoint.conditions.as_ref();
    let hints = endpoint.hints.as_ref();
    Some(Endpoint {
        address: SocketAddrV4::new(endpoint.addresses.first()?.parse().ok()?, port),
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        local: endpoint.node_name.as_ref().is_some_and(|name| *name == node.name),
        zones: hints.and_then(|h| h.for_zones.as_ref()).into_iter().flatten().map(|z| z.name.clone()).collect(),
        nodes: hints.and_then(|h| h.for_nodes.as_ref()).into_iter().flatten().map(|n| n.name.clone()).collect(),
    })
}

/// Ready endpoints, or, where none is, those that still serve while they end: for each traffic policy by itself.
fn choose(entry: &mut ServicePort, endpoints: &[Endpoint], node: &NodeView) {
    let addresses = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<SocketAddrV4> { endpoints.iter().filter(|e| wanted(e)).map(|e| e.address).collect() };
    let fall_back = |ready: Vec<SocketAddrV4>, among: &dyn Fn(&Endpoint) -> bool| {
        if ready.is_empty() { addresses(&|e| e.serving && e.terminating && among(e)) } else { ready }
    };
    if entry.uses_cluster() {
        let near = near(endpoints, node);
        entry.cluster = fall_back(addresses(&|e| e.ready && near(e)), &|_| true);
        entry.has_endpoints = !entry.cluster.is_empty();
    }
    if entry.uses_local() {
        entry.local = fall_back(addresses(&|e| e.ready && e.local), &|e| e.local);
        entry.has_endpoints |= endpoints.iter().any(|e| e.ready || (e.serving && e.terminating));
    }
}

/// Which endpoints the hints keep traffic to: those for this node, or for its zone, if every ready endpoint has such
/// hints and one is for here; else all.
fn near<'a>(endpoints: &[Endpoint], node: &'a NodeView) -> impl Fn(&Endpoint) -> bool + use<'a> {
    let ready = || endpoints.iter().filter(|e| e.ready);
    let by_node = ready().all(|e| !e.nodes.is_empty()) && ready().any(|e| e.nodes.contains(&node.name));
    let by_zone = ready().all(|e| !e.zones.is_empty()) && ready().any(|e| e.zones.contains(&node.zone));
    move |endpoint| match (by_node, by_zone) {
        (true, _) => endpoint.nodes.contains(&node.name),
        (false, true) => endpoint.zones.contains(&node.zone),
        (false, false) => true,
    }
}
