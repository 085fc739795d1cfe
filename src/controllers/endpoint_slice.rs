//! EndpointSlices (discovery.k8s.io/v1) of Services with a selector. Follows k8s.io/endpointslice.

use super::owners::{controller_ref, keys_of};
use super::plan::{Action, Controller, Deletion, Key, Plan, namespace_terminating};
use super::{pods, service_pods as sp};
use crate::kinds::{EndpointSlice, Node, Object, Pod, Ref, Service};
use crate::meta::ObjectMeta;
use crate::watch::{Change, Event, Snapshot};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as api};
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;

pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const MAX_ENDPOINTS: usize = 100;

pub struct EndpointSlices;

impl Controller for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpoint-slice-controller"
    }

    fn keys_for(&self, event: &Event, snapshot: &Snapshot) -> Vec<Key> {
        if let Some(slice) = event.object.get::<EndpointSlice>() {
            // Slices that others changed, or deleted, are put right.
            let before = event.previous.as_ref().and_then(|o| o.get::<EndpointSlice>());
            let name = service_of(slice).or_else(|| service_of(before?));
            return name.filter(|_| event.change != Change::Added).into_iter().collect();
        }
        sp::keys_for(event, snapshot)
    }

    fn all_keys(&self, snapshot: &Snapshot) -> Vec<Key> {
        keys_of::<Service>(snapshot)
    }

    fn reconcile(&self, snapshot: &Snapshot, key: &Key, _: Timestamp) -> Plan {
        let Some(service) = snapshot.get::<Service>(&key.object.namespace, &key.object.name) else { return Plan::default() };
        let Some(selector) = sp::selector(&service) else { return Plan::default() };
        let pods: Vec<_> = sp::selected(snapshot, &service, &selector).into_iter().filter(|p| sp::counts(p, true)).collect();
        let existing: Vec<_> = snapshot.list::<EndpointSlice>(Some(&key.object.namespace)).filter(|s| is_ours(s, &service)).collect();
        let mut changes = Changes::default();
        let families = sp::families(&service);
        for &ipv4 in &families {
            let of_family = existing.iter().filter(|s| s.address_type == family_name(ipv4));
            Family { snapshot, service: &service, pods: &pods, ipv4 }.reconcile(of_family, &mut changes);
        }
        let supported = |s: &&Ref<EndpointSlice>| families.iter().any(|&f| s.address_type == family_name(f));
        changes.delete.extend(existing.iter().filter(|s| !supported(s)).cloned());
        changes.into_plan(&service, sp::trigger_time(&service, &pods))
    }
}

fn family_name(ipv4: bool) -> &'static str {
    if ipv4 { "IPv4" } else { "IPv6" }
}

fn label<'a>(slice: &'a api::EndpointSlice, key: &str) -> Option<&'a str> {
    slice.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn service_of(slice: &api::EndpointSlice) -> Option<Key> {
    (label(slice, MANAGED_BY) == Some(CONTROLLER)).then(|| {
        Key::new::<Service>(slice.metadata.namespace.as_deref().unwrap_or_default(), label(slice, SERVICE_NAME).unwrap_or_default())
    })
}

fn is_ours(slice: &api::EndpointSlice, service: &core::Service) -> bool {
    label(slice, MANAGED_BY) == Some(CONTROLLER) && label(slice, SERVICE_NAME) == service.metadata.name.as_deref()
}

fn is_owned(slice: &Ref<EndpointSlice>, service: &Object) -> bool {
    slice.metadata.owner_references.iter().flatten().any(|r| r.uid == service.uid())
}

/// The Service's labels, and those that tell whose the slice is.
fn labels(service: &core::Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(sp::HEADLESS);
    if sp::is_headless(service) {
        labels.insert(sp::HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    labels
}

/// Slices to be made (of these ports and endpoints), changed and deleted.
#[derive(Default)]
struct Changes {
    create: Vec<(bool, Vec<api::EndpointPort>, Vec<api::Endpoint>)>,
    update: Vec<api::EndpointSlice>,
    delete: Vec<Ref<EndpointSlice>>,
}

impl Changes {
    fn into_plan(mut self, service: &Ref<Service>, trigger: Option<String>) -> Plan {
        // Rather than delete one and make one, the one becomes the other.
        for (ipv4, ports, endpoints) in std::mem::take(&mut self.create) {
            let reusable = |s: &Ref<EndpointSlice>| s.address_type == family_name(ipv4) && is_owned(s, service.object());
            if let Some(i) = self.delete.iter().position(reusable) {
                let old = self.delete.swap_remove(i);
                let metadata = ObjectMeta { labels: Some(labels(service)), ..old.metadata.clone() };
                self.update.push(api::EndpointSlice { metadata, endpoints, ports: Some(ports), address_type: old.address_type.clone() });
            } else {
                self.create.push((ipv4, ports, endpoints));
            }
        }
        let mut actions = Vec::new();
        if service.metadata.deletion_timestamp.is_none() {
            let made = self.create.into_iter().map(|(ipv4, ports, endpoints)| new_slice(service, ipv4, ports, endpoints, trigger.as_ref()));
            actions.extend(made.map(|s| Action::create::<EndpointSlice>(&s).forgive(namespace_terminating)));
        }
        for mut slice in self.update {
            let annotations = slice.metadata.annotations.get_or_insert_default();
            match &trigger {
                Some(t) => annotations.insert(sp::TRIGGER_TIME.into(), t.clone()),
                None => annotations.remove(sp::TRIGGER_TIME),
            };
            actions.push(Action::update::<EndpointSlice>(&slice));
        }
        actions.extend(self.delete.iter().map(|s| Action::delete(s.object(), Deletion::default())));
        Plan::step(actions)
    }
}

fn new_slice(
    service: &Ref<Service>,
    ipv4: bool,
    ports: Vec<api::EndpointPort>,
    endpoints: Vec<api::Endpoint>,
    trigger: Option<&String>,
) -> api::EndpointSlice {
    api::EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.metadata.name.as_deref().unwrap_or_default())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            annotations: trigger.map(|t| BTreeMap::from([(sp::TRIGGER_TIME.into(), t.clone())])),
            owner_references: Some(vec![controller_ref(service.object())]),
            ..ObjectMeta::default()
        },
        address_type: family_name(ipv4).into(),
        endpoints,
        ports: Some(ports),
    }
}

/// The slices of one Service in one address family.
struct Family<'a> {
    snapshot: &'a Snapshot,
    service: &'a Ref<Service>,
    pods: &'a [Ref<Pod>],
    ipv4: bool,
}

/// What tells endpoints apart: addresses and pod.
type EndpointKey = (Vec<String>, Option<String>);

fn key_of(e: &api::Endpoint) -> EndpointKey {
    (e.addresses.clone(), e.target_ref.as_ref().and_then(|t| t.name.clone()))
}

/// What tells port lists apart.
fn port_key(ports: &[api::EndpointPort]) -> Vec<String> {
    let one =
        |p: &api::EndpointPort| format!("{:?} {:?} {:?} {:?}", p.name.as_deref().unwrap_or_default(), p.port, p.protocol, p.app_protocol);
    let mut key: Vec<String> = ports.iter().map(one).collect();
    key.sort();
    key
}

#[derive(Default)]
struct Group {
    ports: Vec<api::EndpointPort>,
    wanted: BTreeMap<EndpointKey, api::Endpoint>,
}

impl Family<'_> {
    fn reconcile<'a>(&self, existing: impl Iterator<Item = &'a Ref<EndpointSlice>>, changes: &mut Changes) {
        let mut by_ports: BTreeMap<Vec<String>, Vec<&Ref<EndpointSlice>>> = BTreeMap::new();
        let (mut kept, mut doomed) = (0, Vec::new());
        for slice in existing {
            if is_owned(slice, self.service.object()) {
                by_ports.entry(port_key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice);
            } else {
                doomed.push(slice.clone());
            }
        }
        let before = changes.create.len();
        for (ports, group) in self.groups() {
            let (survivors, gone) = self.fill(by_ports.remove(&ports).unwrap_or_default(), group, changes);
            kept += survivors;
            doomed.extend(gone);
        }
        let leftover: Vec<_> = by_ports.into_values().flatten().collect();
        if kept == 0 && changes.create.len() == before {
            // A Service never goes without a slice: one that is empty says that it has no endpoints.
            let placeholder = |s: &&Ref<EndpointSlice>| {
                s.endpoints.is_empty() && s.ports.as_ref().is_none_or(Vec::is_empty) && s.metadata.labels == Some(labels(self.service))
            };
            if let Some(i) = leftover.iter().position(placeholder) {
                doomed.extend(leftover.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, s)| (*s).clone()));
                changes.delete.extend(doomed);
                return;
            }
            changes.create.push((self.ipv4, Vec::new(), Vec::new()));
        }
        doomed.extend(leftover.into_iter().cloned());
        changes.delete.extend(doomed);
    }

    /// The endpoints that should be, grouped by their ports.
    fn groups(&self) -> BTreeMap<Vec<String>, Group> {
        let mut groups: BTreeMap<Vec<String>, Group> = BTreeMap::new();
        for pod in self.pods {
            let node = self.snapshot.get::<Node>("", pods::node_name(pod));
            if node.is_none() && !sp::publishes_not_ready(self.service) {
                continue;
            }
            let ports = self.ports(pod);
            let endpoint = self.endpoint(pod, node.as_deref());
            if endpoint.addresses.is_empty() {
                continue;
            }
            let group = groups.entry(port_key(&ports)).or_default();
            group.ports = ports;
            group.wanted.insert(key_of(&endpoint), endpoint);
        }
        groups
    }

    fn ports(&self, pod: &core::Pod) -> Vec<api::EndpointPort> {
        let ports = self.service.spec.as_ref().and_then(|s| s.ports.as_ref()).into_iter().flatten();
        let lead = |p: &core::ServicePort| {
            Some(api::EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(sp::port_of(pod, p)?),
                protocol: Some(sp::protocol(p.protocol.as_deref()).into()),
                app_protocol: p.app_protocol.clone(),
            })
        };
        ports.filter_map(lead).collect()
    }

    fn endpoint(&self, pod: &Ref<Pod>, node: Option<&core::Node>) -> api::Endpoint {
        let serving = pods::is_ready(pod);
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let ready = sp::publishes_not_ready(self.service) || (serving && !terminating);
        api::Endpoint {
            addresses: sp::addresses(pod, self.ipv4),
            conditions: Some(api::EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) }),
            hostname: sp::hostname(pod, self.service),
            node_name: Some(pods::node_name(pod).to_owned()).filter(|n| !n.is_empty()),
            target_ref: Some(sp::target_ref(pod)),
            zone: node.and_then(sp::zone).cloned(),
            ..api::Endpoint::default()
        }
    }

    /// Brings the slices of one port list up to date: what is there stays where it is, what is new fills gaps.
    /// Returns how many slices stay, and those that are empty now.
    fn fill(&self, slices: Vec<&Ref<EndpointSlice>>, mut group: Group, changes: &mut Changes) -> (usize, Vec<Ref<EndpointSlice>>) {
        let mut drafts: Vec<(&Ref<EndpointSlice>, Vec<api::Endpoint>)> = Vec::new();
        for slice in slices {
            let kept = slice.endpoints.iter().filter_map(|e| group.wanted.remove(&key_of(e))).collect();
            drafts.push((slice, kept));
        }
        let mut left: Vec<api::Endpoint> = group.wanted.into_values().collect();
        // First into slices that change anyway, the fullest first; then into the one that they fill best; then into new ones.
        let dirty = |(s, kept): &(&Ref<EndpointSlice>, Vec<api::Endpoint>)| differ(&s.endpoints, kept) && !kept.is_empty();
        drafts.sort_by_key(|d| (!dirty(d), std::cmp::Reverse(d.1.len())));
        for draft in drafts.iter_mut().filter(|d| dirty(d)) {
            let room = MAX_ENDPOINTS.saturating_sub(draft.1.len()).min(left.len());
            draft.1.extend(left.drain(..room));
        }
        if !left.is_empty() && left.len() < MAX_ENDPOINTS {
            let fits = drafts.iter_mut().filter(|d| !d.1.is_empty() && d.1.len() + left.len() <= MAX_ENDPOINTS);
            if let Some(fullest) = fits.max_by_key(|d| d.1.len()) {
                fullest.1.append(&mut left);
            }
        }
        while !left.is_empty() {
            let some = left.drain(..left.len().min(MAX_ENDPOINTS)).collect();
            changes.create.push((self.ipv4, group.ports.clone(), some));
        }
        let (mut kept, mut gone) = (0, Vec::new());
        for (slice, endpoints) in drafts {
            if endpoints.is_empty() {
                gone.push(slice.clone());
                continue;
            }
            kept += 1;
            let labels = labels(self.service);
            if differ(&slice.endpoints, &endpoints) || slice.metadata.labels.as_ref() != Some(&labels) {
                let mut right = (**slice).clone();
                right.endpoints = endpoints;
                right.metadata.labels = Some(labels);
                changes.update.push(right);
            }
        }
        (kept, gone)
    }
}

/// True if the lists differ in more than the revisions of their pods, or in hints, which others give.
fn differ(a: &[api::Endpoint], b: &[api::Endpoint]) -> bool {
    let plain = |e: &api::Endpoint| {
        let mut e = e.clone();
        e.hints = None;
        if let Some(target) = &mut e.target_ref {
            target.resource_version = None;
        }
        e
    };
    a.len() != b.len() || a.iter().zip(b).any(|(x, y)| plain(x) != plain(y))
}
