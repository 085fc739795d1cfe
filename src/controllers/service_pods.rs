//! What Services and pods have to do with each other: shared by EndpointSlices and Endpoints.

use super::plan::Key;
use super::pods;
use crate::kinds::pod::containers::is_sidecar;
use crate::kinds::{Node, Pod, Ref, Service};
use crate::meta::{ObjectMeta, Selector};
use crate::watch::{Change, Event, Snapshot};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeSet;
use std::net::IpAddr;

pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// The selector of a Service whose endpoints the controllers keep: neither an external name nor left to others.
pub fn selector(service: &core::Service) -> Option<Selector> {
    let spec = service.spec.as_ref()?;
    let labels = spec.selector.as_ref().filter(|s| !s.is_empty())?;
    (spec.type_.as_deref() != Some("ExternalName")).then(|| Selector::from_map(labels))
}

/// Pods that a Service selects, in name order.
pub fn selected(snapshot: &Snapshot, service: &core::Service, selector: &Selector) -> Vec<Ref<Pod>> {
    let namespace = service.metadata.namespace.as_deref();
    let matches = |p: &Ref<Pod>| selector.matches(p.metadata.labels.as_ref());
    snapshot.list::<Pod>(namespace).filter(matches).collect()
}

/// Services whose endpoints an event may change: those that are or were selecting the pod; and when a node comes or moves
/// to another zone, those of its pods.
pub fn keys_for(event: &Event, snapshot: &Snapshot) -> Vec<Key> {
    if event.object.get::<Service>().is_some() {
        return vec![Key::of(&event.object)];
    }
    if let Some(pod) = event.object.get::<Pod>() {
        let before = event.previous.as_ref().and_then(|o| o.get::<Pod>());
        if event.change == Change::Modified && before.is_some_and(|b| facts(b) == facts(pod)) {
            return Vec::new();
        }
        let both = before.into_iter().chain([pod]);
        return both.flat_map(|p| services_of(snapshot, &p.metadata)).collect::<BTreeSet<_>>().into_iter().collect();
    }
    let Some(node) = event.object.get::<Node>() else { return Vec::new() };
    let before = event.previous.as_ref().and_then(|o| o.get::<Node>());
    if event.change == Change::Modified && before.is_some_and(|b| zone(b) == zone(node)) {
        return Vec::new();
    }
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let pods = snapshot.list::<Pod>(None).filter(|p| pods::node_name(p) == name);
    pods.flat_map(|p| services_of(snapshot, &p.metadata)).collect::<BTreeSet<_>>().into_iter().collect()
}

fn services_of(snapshot: &Snapshot, pod: &ObjectMeta) -> Vec<Key> {
    let selects = |s: &Ref<Service>| selector(s).is_some_and(|sel| sel.matches(pod.labels.as_ref()));
    snapshot.list::<Service>(pod.namespace.as_deref()).filter(selects).map(|s| Key::of(s.object())).collect()
}

/// What of a pod decides about its endpoints.
type Facts<'a> = (Option<&'a std::collections::BTreeMap<String, String>>, bool, bool, bool, &'a str, Vec<&'a str>, [Option<&'a str>; 2]);

fn facts(pod: &core::Pod) -> Facts<'_> {
    let ips = pod.status.as_ref().and_then(|s| s.pod_ips.as_ref()).into_iter().flatten();
    let spec = pod.spec.as_ref();
    (
        pod.metadata.labels.as_ref(),
        pod.metadata.deletion_timestamp.is_some(),
        pods::is_ready(pod),
        pods::is_terminal(pod),
        pods::node_name(pod),
        ips.map(|i| i.ip.as_str()).collect(),
        [spec.and_then(|s| s.hostname.as_deref()), spec.and_then(|s| s.subdomain.as_deref())],
    )
}

pub fn zone(node: &core::Node) -> Option<&String> {
    node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").filter(|z| !z.is_empty())
}

/// The pod's addresses of one family.
pub fn addresses(pod: &core::Pod, ipv4: bool) -> Vec<String> {
    let ips = pod.status.as_ref().and_then(|s| s.pod_ips.as_ref()).into_iter().flatten();
    ips.filter_map(|i| i.ip.parse::<IpAddr>().ok()).filter(|ip| ip.is_ipv4() == ipv4).map(|ip| ip.to_string()).collect()
}

/// A pod belongs to endpoints once it has an address, and until all its containers have stopped.
pub fn counts(pod: &core::Pod, terminating_too: bool) -> bool {
    let status = pod.status.as_ref();
    let has_ip = status.and_then(|s| s.pod_ip.as_deref()).is_some_and(|ip| !ip.is_empty())
        || status.and_then(|s| s.pod_ips.as_ref()).is_some_and(|ips| !ips.is_empty());
    has_ip && !pods::is_terminal(pod) && (terminating_too || pod.metadata.deletion_timestamp.is_none())
}

/// The host name under which a pod is known in the Service's own domain.
pub fn hostname(pod: &core::Pod, service: &core::Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let ours = spec.subdomain.is_some() && spec.subdomain == service.metadata.name && pod.metadata.namespace == service.metadata.namespace;
    spec.hostname.clone().filter(|h| ours && !h.is_empty())
}

/// The number of a pod's port that a Service's port leads to.
pub fn port_of(pod: &core::Pod, port: &core::ServicePort) -> Option<i32> {
    let name = match port.target_port.as_ref() {
        None => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    let mut ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let protocol = protocol(port.protocol.as_deref());
    ports.find(|p| p.name.as_ref() == Some(name) && self::protocol(p.protocol.as_deref()) == protocol).map(|p| p.container_port)
}

pub fn protocol(given: Option<&str>) -> &str {
    given.unwrap_or("TCP")
}

pub fn is_headless(service: &core::Service) -> bool {
    !service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).is_some_and(|ip| !ip.is_empty() && ip != "None")
}

pub fn publishes_not_ready(service: &core::Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false)
}

/// The families that a Service's endpoints have, as whether they are IPv4.
pub fn families(service: &core::Service) -> Vec<bool> {
    let spec = service.spec.as_ref();
    let named = spec.and_then(|s| s.ip_families.as_ref()).filter(|f| !f.is_empty());
    match (named, spec.and_then(|s| s.cluster_ip.as_deref()).and_then(|ip| ip.parse::<IpAddr>().ok())) {
        (Some(families), _) => families.iter().map(|f| f == "IPv4").collect(),
        (None, Some(ip)) => vec![ip.is_ipv4()],
        (None, None) => vec![true],
    }
}

/// What points from an endpoint to its pod.
pub fn target_ref(pod: &core::Pod) -> core::ObjectReference {
    core::ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..core::ObjectReference::default()
    }
}

/// When what the endpoints now show came about: the last change of readiness, or the making of the Service.
pub fn trigger_time(service: &core::Service, pods: &[Ref<Pod>]) -> Option<String> {
    let of_pod = |p: &Ref<Pod>| pods::condition(p, "Ready").and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0);
    let created = service.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let last: Option<Timestamp> = pods.iter().filter_map(of_pod).chain(created).max();
    last.map(|t| t.to_string())
}
