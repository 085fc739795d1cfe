//! The Service `default/kubernetes` and its Endpoints and EndpointSlice: how pods find the masters.
//! Follows pkg/controlplane/controller/kubernetesservice and pkg/controlplane/reconcilers.

use super::plan::{Action, Controller, Key, Plan};
use crate::kinds::{EndpointSlice, Endpoints, Lease, Namespace, Object, Service};
use crate::meta::{ObjectMeta, Reason, Status};
use crate::watch::{Event, Snapshot};
use k8s_openapi::api::{coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::net::IpAddr;

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
const SERVICE_PORT: i32 = 443;
const PORT_NAME: &str = "https";

/// How a master tells that it lives: a Lease in `kube-system` with this label, renewed, and its address in an annotation.
pub const MASTER_NAMESPACE: &str = "kube-system";
pub const MASTER_LABEL: (&str, &str) = ("apiserver.kubernetes.io/identity", "kube-apiserver");
pub const MASTER_ADDRESS: &str = "orchd.dev/address";

/// Given the address of the master that the controllers run on; the others' it finds in their Leases.
pub struct KubernetesService {
    service_ip: IpAddr,
    masters: Vec<IpAddr>,
    port: i32,
}

impl KubernetesService {
    pub fn new(service_ip: IpAddr, masters: &[IpAddr], port: u16) -> Self {
        Self { service_ip, masters: masters.to_vec(), port: i32::from(port) }
    }

    /// The live masters, and when the first of their Leases runs out.
    fn live(&self, snapshot: &Snapshot, now: Timestamp) -> (Vec<IpAddr>, Option<Timestamp>) {
        let leases = snapshot.list::<Lease>(Some(MASTER_NAMESPACE)).filter(|lease| is_masters(&lease.metadata));
        let (mut masters, mut first_end) = (self.masters.clone(), None);
        for (address, end) in leases.filter_map(|lease| address_and_end(&lease)).filter(|(_, end)| *end > now) {
            masters.push(address);
            first_end = Some(first_end.map_or(end, |first: Timestamp| first.min(end)));
        }
        masters.sort_unstable();
        masters.dedup();
        // One slice holds one family: that of the first.
        if let Some(first) = masters.first().copied() {
            masters.retain(|m| m.is_ipv4() == first.is_ipv4());
        }
        (masters, first_end)
    }

    fn meta(&self, labels: &[(&str, &str)]) -> ObjectMeta {
        let labels: BTreeMap<String, String> = labels.iter().map(|&(k, v)| (k.into(), v.into())).collect();
        ObjectMeta { name: Some(NAME.into()), namespace: Some(NAMESPACE.into()), labels: Some(labels), ..ObjectMeta::default() }
    }

    fn service(&self) -> core::Service {
        core::Service {
            metadata: self.meta(&[("component", "apiserver"), ("provider", "kubernetes")]),
            spec: Some(core::ServiceSpec {
                type_: Some("ClusterIP".into()),
                cluster_ip: Some(self.service_ip.to_string()),
                ip_family_policy: Some("SingleStack".into()),
                session_affinity: Some("None".into()),
                ports: Some(vec![core::ServicePort {
                    name: Some(PORT_NAME.into()),
                    protocol: Some("TCP".into()),
                    port: SERVICE_PORT,
                    target_port: Some(IntOrString::Int(self.port)),
                    ..core::ServicePort::default()
                }]),
                ..core::ServiceSpec::default()
            }),
            status: None,
        }
    }

    fn endpoints(&self, masters: &[IpAddr]) -> core::Endpoints {
        let address = |ip: &IpAddr| core::EndpointAddress { ip: ip.to_string(), ..core::EndpointAddress::default() };
        let port = core::EndpointPort { name: Some(PORT_NAME.into()), protocol: Some("TCP".into()), port: self.port, app_protocol: None };
        core::Endpoints {
            metadata: self.meta(&[("endpointslice.kubernetes.io/skip-mirror", "true")]),
            subsets: Some(vec![core::EndpointSubset {
                addresses: Some(masters.iter().map(address).collect()),
                not_ready_addresses: None,
                ports: Some(vec![port]),
            }]),
        }
    }

    fn slice(&self, masters: &[IpAddr]) -> discovery::EndpointSlice {
        let endpoint = |ip: &IpAddr| discovery::Endpoint {
            addresses: vec![ip.to_string()],
            conditions: Some(discovery::EndpointConditions { ready: Some(true), ..discovery::EndpointConditions::default() }),
            ..discovery::Endpoint::default()
        };
        let port = discovery::EndpointPort {
            name: Some(PORT_NAME.into()),
            protocol: Some("TCP".into()),
            port: Some(self.port),
            app_protocol: None,
        };
        discovery::EndpointSlice {
            metadata: self.meta(&[("kubernetes.io/service-name", NAME)]),
            address_type: if masters.iter().all(IpAddr::is_ipv4) { "IPv4" } else { "IPv6" }.into(),
            endpoints: masters.iter().map(endpoint).collect(),
            ports: Some(vec![port]),
        }
    }
}

impl Controller for KubernetesService {
    fn name(&self) -> &'static str {
        "kubernetes-service-controller"
    }

    fn keys_for(&self, event: &Event, snapshot: &Snapshot) -> Vec<Key> {
        let object: &Object = &event.object;
        let one_of_three =
            object.get::<Service>().is_some() || object.get::<Endpoints>().is_some() || object.get::<EndpointSlice>().is_some();
        let key = object.key();
        let ours = one_of_three && key.namespace == NAMESPACE && key.name == NAME;
        let namespace = object.get::<Namespace>().is_some() && key.name == NAMESPACE;
        let masters = object.get::<Lease>().is_some_and(|lease| key.namespace == MASTER_NAMESPACE && is_masters(&lease.metadata));
        if ours || namespace || masters { self.all_keys(snapshot) } else { Vec::new() }
    }

    fn all_keys(&self, _: &Snapshot) -> Vec<Key> {
        vec![Key::new::<Service>(NAMESPACE, NAME)]
    }

    fn reconcile(&self, snapshot: &Snapshot, _: &Key, now: Timestamp) -> Plan {
        if snapshot.get::<Namespace>("", NAMESPACE).is_none() {
            return Plan::default();
        }
        let mut actions = Vec::new();
        if snapshot.get::<Service>(NAMESPACE, NAME).is_none() {
            actions.push(Action::create::<Service>(&self.service()).forgive(made));
        }
        // A master that only its own machine reaches is no endpoint.
        let (masters, first_end) = self.live(snapshot, now);
        if masters.is_empty() {
            return Plan::step(actions);
        }
        let wanted = self.endpoints(&masters);
        match snapshot.get::<Endpoints>(NAMESPACE, NAME) {
            None => actions.push(Action::create::<Endpoints>(&wanted).forgive(made)),
            Some(e) if e.subsets == wanted.subsets && has_labels(&e.metadata, &wanted.metadata) => {}
            Some(e) => {
                let mut right = (*e).clone();
                right.subsets = wanted.subsets;
                right.metadata.labels.get_or_insert_default().extend(wanted.metadata.labels.unwrap_or_default());
                actions.push(Action::update::<Endpoints>(&right));
            }
        }
        let wanted = self.slice(&masters);
        match snapshot.get::<EndpointSlice>(NAMESPACE, NAME) {
            None => actions.push(Action::create::<EndpointSlice>(&wanted).forgive(made)),
            // The family of a slice cannot change: a new one takes its place.
            Some(s) if s.address_type != wanted.address_type => actions.push(Action::delete(s.object(), super::plan::Deletion::default())),
            Some(s) if s.endpoints == wanted.endpoints && s.ports == wanted.ports && has_labels(&s.metadata, &wanted.metadata) => {}
            Some(s) => {
                let mut right = (*s).clone();
                right.endpoints = wanted.endpoints;
                right.ports = wanted.ports;
                right.metadata.labels = wanted.metadata.labels;
                actions.push(Action::update::<EndpointSlice>(&right));
            }
        }
        let mut plan = Plan::step(actions);
        if let Some(end) = first_end {
            plan.requeue(end);
        }
        plan
    }
}

fn has_labels(present: &ObjectMeta, wanted: &ObjectMeta) -> bool {
    let has = |(k, v): (&String, &String)| present.labels.as_ref().and_then(|l| l.get(k)) == Some(v);
    wanted.labels.iter().flatten().all(has)
}

fn is_masters(meta: &ObjectMeta) -> bool {
    let (name, value) = MASTER_LABEL;
    meta.labels.iter().flatten().any(|(n, v)| n == name && v == value)
}

/// The address of a master's Lease, and until when it holds.
fn address_and_end(lease: &coordination::Lease) -> Option<(IpAddr, Timestamp)> {
    let address = lease.metadata.annotations.as_ref()?.get(MASTER_ADDRESS)?.parse().ok()?;
    let spec = lease.spec.as_ref()?;
    let seconds = SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or_default().into());
    Some((address, spec.renew_time.as_ref()?.0 + seconds))
}

/// Another master was faster.
fn made(error: &Status) -> bool {
    error.is(Reason::AlreadyExists)
}
