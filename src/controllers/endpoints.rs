//! Endpoints (core/v1), the older form of EndpointSlices. Follows pkg/controller/endpoint.

use super::owners::keys_of;
use super::plan::{Action, Controller, Deletion, Key, Note, Plan, Text, namespace_terminating, reference};
use super::{pods, service_pods as sp};
use crate::kinds::{Endpoints, Pod, Ref, Service};
use crate::meta::ObjectMeta;
use crate::watch::{Change, Event, Snapshot};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MAX_ADDRESSES: usize = 1000;

pub struct EndpointsController;

impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        CONTROLLER
    }

    fn keys_for(&self, event: &Event, snapshot: &Snapshot) -> Vec<Key> {
        let key = event.object.key();
        if event.object.get::<Endpoints>().is_some() {
            // Whoever makes Endpoints by hand may keep them; what stands for a Service with a selector is put right.
            let service = snapshot.get::<Service>(&key.namespace, &key.name);
            let ours = event.change != Change::Added && service.is_some_and(|s| sp::selector(&s).is_some());
            return if ours { vec![Key::new::<Service>(&key.namespace, &key.name)] } else { Vec::new() };
        }
        sp::keys_for(event, snapshot)
    }

    fn all_keys(&self, snapshot: &Snapshot) -> Vec<Key> {
        let mut keys = keys_of::<Service>(snapshot);
        let left_over = snapshot.list::<Endpoints>(None).filter(|e| is_managed(&e.metadata)).map(|e| e.object().key());
        keys.extend(left_over.map(|k| Key::new::<Service>(&k.namespace, &k.name)));
        keys.sort();
        keys.dedup();
        keys
    }

    fn reconcile(&self, snapshot: &Snapshot, key: &Key, _: Timestamp) -> Plan {
        let present = snapshot.get::<Endpoints>(&key.object.namespace, &key.object.name);
        let Some(service) = snapshot.get::<Service>(&key.object.namespace, &key.object.name) else {
            return Plan::step(present.iter().map(|e| Action::delete(e.object(), Deletion::default())).collect());
        };
        let Some(selector) = sp::selector(&service) else { return Plan::default() };
        let pods = sp::selected(snapshot, &service, &selector);
        let wanted = wanted(&service, &pods, present.as_ref());
        match present {
            Some(e) if same(&e, &wanted) => Plan::default(),
            Some(_) => Plan::step(vec![Action::update::<Endpoints>(&wanted).failed(complaint(&service, "Update", "update"))]),
            None => {
                let create = Action::create::<Endpoints>(&wanted).failed(complaint(&service, "Create", "create"));
                Plan::step(vec![create.forgive(namespace_terminating)])
            }
        }
    }
}

fn complaint(service: &Ref<Service>, verb: &str, what: &str) -> Note {
    let reason = if verb == "Create" { "FailedToCreateEndpoint" } else { "FailedToUpdateEndpoint" };
    let of = if verb == "Create" { "endpoint for service" } else { "endpoint" };
    let mut about = reference(service.object());
    about.kind = Some("Endpoints".into());
    about.uid = None;
    about.resource_version = None;
    Note::warning(about, reason, Text::Then(format!("Failed to {what} {of} {}: ", service.object().key())))
}

fn is_managed(meta: &ObjectMeta) -> bool {
    meta.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|m| m == CONTROLLER)
}

fn wanted(service: &Ref<Service>, pods: &[Ref<Pod>], present: Option<&Ref<Endpoints>>) -> core::Endpoints {
    let metadata =
        ObjectMeta { name: service.metadata.name.clone(), namespace: service.metadata.namespace.clone(), ..ObjectMeta::default() };
    let mut endpoints = present.map_or_else(|| core::Endpoints { metadata, subsets: None }, |e| (**e).clone());
    let mut subsets = subsets(service, pods);
    let truncated = truncate(&mut subsets);
    endpoints.subsets = Some(subsets).filter(|s| !s.is_empty());
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(sp::HEADLESS);
    if sp::is_headless(service) {
        labels.insert(sp::HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    endpoints.metadata.labels = Some(labels);
    let annotations = endpoints.metadata.annotations.get_or_insert_default();
    match sp::trigger_time(service, pods) {
        Some(time) => annotations.insert(sp::TRIGGER_TIME.into(), time),
        None => annotations.remove(sp::TRIGGER_TIME),
    };
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    endpoints
}

/// True if nothing but the time of the trigger differs.
fn same(present: &core::Endpoints, wanted: &core::Endpoints) -> bool {
    let over = |e: &core::Endpoints| e.metadata.annotations.as_ref().and_then(|a| a.get(OVER_CAPACITY).cloned());
    plain(present.subsets.as_ref()) == plain(wanted.subsets.as_ref())
        && present.metadata.labels == wanted.metadata.labels
        && over(present) == over(wanted)
}

/// Without the revisions of the pods, and with empty lists for absent ones.
fn plain(subsets: Option<&Vec<core::EndpointSubset>>) -> Vec<core::EndpointSubset> {
    let mut out = subsets.cloned().unwrap_or_default();
    for subset in &mut out {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses] {
            for address in list.get_or_insert_default() {
                if let Some(target) = &mut address.target_ref {
                    target.resource_version = None;
                }
            }
        }
        subset.ports.get_or_insert_default();
    }
    out
}

/// Port by name, number, protocol and application protocol; None for a headless Service without ports.
type PortKey = Option<(String, i32, String, Option<String>)>;
/// Address by text and pod.
type AddressKey = (String, Option<String>);

/// The canonical layout (endpoints.RepackSubsets): each port in exactly one subset, ports with the same addresses together.
fn subsets(service: &Ref<Service>, pods: &[Ref<Pod>]) -> Vec<core::EndpointSubset> {
    let publish = sp::publishes_not_ready(service);
    let ipv4 = sp::families(service).first().copied().unwrap_or(true);
    let mut addresses: BTreeMap<AddressKey, core::EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<PortKey, BTreeMap<AddressKey, bool>> = BTreeMap::new();
    for pod in pods.iter().filter(|p| sp::counts(p, publish)) {
        let Some(ip) = sp::addresses(pod, ipv4).into_iter().next() else { continue };
        let key = (ip.clone(), pod.metadata.uid.clone());
        let ready = publish || pods::is_ready(pod);
        let address = core::EndpointAddress {
            ip,
            hostname: sp::hostname(pod, service),
            node_name: Some(pods::node_name(pod).to_owned()),
            target_ref: Some(sp::target_ref(pod)),
        };
        for port in ports(service, pod) {
            // Not ready trumps ready.
            by_port.entry(port).or_default().entry(key.clone()).and_modify(|r| *r &= ready).or_insert(ready);
            addresses.insert(key.clone(), address.clone());
        }
    }
    let mut by_addresses: BTreeMap<BTreeMap<AddressKey, bool>, Vec<PortKey>> = BTreeMap::new();
    for (port, of_port) in by_port {
        by_addresses.entry(of_port).or_default().push(port);
    }
    let mut subsets: Vec<_> = by_addresses.into_iter().map(|(of, ports)| subset(&of, ports, &addresses)).collect();
    subsets.sort_by_key(|s| s.ports.iter().flatten().map(|p| (p.name.clone(), p.port)).next());
    subsets
}

fn subset(
    of: &BTreeMap<AddressKey, bool>,
    ports: Vec<PortKey>,
    addresses: &BTreeMap<AddressKey, core::EndpointAddress>,
) -> core::EndpointSubset {
    let list = |ready: bool| {
        let some = of.iter().filter(|(_, r)| **r == ready).filter_map(|(key, _)| addresses.get(key).cloned());
        Some(some.collect::<Vec<_>>()).filter(|l| !l.is_empty())
    };
    let port = |(name, port, protocol, app_protocol): (String, i32, String, Option<String>)| core::EndpointPort {
        name: Some(name).filter(|n| !n.is_empty()),
        port,
        protocol: Some(protocol),
        app_protocol,
    };
    let ports: Vec<_> = ports.into_iter().flatten().map(port).collect();
    core::EndpointSubset { addresses: list(true), not_ready_addresses: list(false), ports: Some(ports).filter(|p| !p.is_empty()) }
}

fn ports(service: &Ref<Service>, pod: &core::Pod) -> Vec<PortKey> {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    if ports.is_empty() {
        // Only a headless Service may do without.
        return if spec.and_then(|s| s.cluster_ip.as_deref()) == Some("None") { vec![None] } else { Vec::new() };
    }
    let lead = |p: &core::ServicePort| {
        let number = sp::port_of(pod, p)?;
        Some(Some((p.name.clone().unwrap_or_default(), number, sp::protocol(p.protocol.as_deref()).to_owned(), p.app_protocol.clone())))
    };
    ports.iter().filter_map(lead).collect()
}

/// Keeps at most a thousand addresses, ready ones first. Returns whether any had to go.
fn truncate(subsets: &mut [core::EndpointSubset]) -> bool {
    let mut left = MAX_ADDRESSES;
    let mut truncated = false;
    let mut cut = |list: &mut Option<Vec<core::EndpointAddress>>| {
        let Some(addresses) = list else { return };
        truncated |= addresses.len() > left;
        addresses.truncate(left);
        left -= addresses.len();
        if addresses.is_empty() {
            *list = None;
        }
    };
    subsets.iter_mut().for_each(|s| cut(&mut s.addresses));
    subsets.iter_mut().for_each(|s| cut(&mut s.not_ready_addresses));
    truncated
}
