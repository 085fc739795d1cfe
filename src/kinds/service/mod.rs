//! Service (core/v1).
//!
//! Addresses and node ports are allocated by the API's admission, between defaulting and validation; what an update
//! keeps of them is in `update`.

mod update;
mod validate;

use super::{Column, Kind, Names, Subresource, address, fill, labels, names, table};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// Seconds for which session affinity remembers a client.
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;

pub struct Service;

impl Kind for Service {
    type Object = api::Service;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        namespaced: true,
    };
    const SUBRESOURCES: &'static [Subresource] = &[
        Subresource::Status,
        Subresource::Other {
            name: "proxy",
            group: "",
            version: "v1",
            kind: "ServiceProxyOptions",
            verbs: &["create", "delete", "get", "patch", "update"],
        },
    ];

    fn default(object: &mut api::Service) {
        let spec = object.spec.get_or_insert_default();
        fill::text(&mut spec.type_, "ClusterIP");
        default_affinity(spec);
        drop_zeros(spec);
        for port in spec.ports.iter_mut().flatten() {
            fill::text(&mut port.protocol, "TCP");
            fill::drop_zero(&mut port.name);
            fill::drop_zero(&mut port.node_port);
            if matches!(&port.target_port, None | Some(IntOrString::Int(0))) || port.target_port == Some(IntOrString::String(String::new()))
            {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        if is_externally_accessible(spec) {
            fill::text(&mut spec.external_traffic_policy, "Cluster");
        }
        if matches!(kind_of(spec), "ClusterIP" | "NodePort" | "LoadBalancer") {
            fill::or(&mut spec.internal_traffic_policy, "Cluster".into());
        } else if kind_of(spec) == "ExternalName" {
            spec.internal_traffic_policy = None;
        }
        if kind_of(spec) == "LoadBalancer" {
            fill::or(&mut spec.allocate_load_balancer_node_ports, true);
        }
        default_addresses(spec);
        let balancer = object.status.get_or_insert_default().load_balancer.get_or_insert_default();
        for ingress in balancer.ingress.iter_mut().flatten().filter(|i| i.ip.is_some()) {
            fill::or(&mut ingress.ip_mode, "VIP".into());
        }
    }

    fn prepare_create(object: &mut api::Service) {
        let load_balancer = Some(api::LoadBalancerStatus::default());
        object.status = Some(api::ServiceStatus { load_balancer, conditions: None });
    }

    fn prepare_update(new: &mut api::Service, old: &api::Service) {
        update::prepare(new, old);
    }

    fn prepare_status_update(new: &mut api::Service, old: &api::Service) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(object: &api::Service, errors: &mut FieldErrors) {
        validate::service(object, errors);
    }

    fn validate_update(new: &api::Service, old: &api::Service, errors: &mut FieldErrors) {
        update::validate(new, old, errors);
        if new.status != old.status {
            validate::status(new, errors);
        }
    }

    fn warnings(object: &api::Service) -> Vec<String> {
        validate::warnings(object)
    }

    /// RFC 1035 labels, as long as RelaxedServiceNameValidation is off (as in v1.35).
    fn validate_name(name: &str) -> Result<(), String> {
        names::dns_label_1035(name)
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::text("Type", "How the Service is exposed.", 0),
            table::text("Cluster-IP", "The address of the service.", 0),
            table::text("External-IP", "Addresses for which nodes in the cluster also accept traffic for this service.", 0),
            table::text("Port(s)", "The ports that are exposed by this service.", 0),
            table::AGE,
            table::text("Selector", "Labels of the pods that traffic is routed to.", 1),
        ];
        COLUMNS
    }

    fn cells(object: &api::Service, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let address = spec.cluster_ips.iter().flatten().next().map_or("<none>", String::as_str);
        vec![
            json!(object.metadata.name),
            json!(kind_of(&spec)),
            json!(address),
            json!(external_ip(object, &spec)),
            json!(ports_text(&spec)),
            json!(table::age(&object.metadata, now)),
            json!(labels::format_labels(spec.selector.as_ref())),
        ]
    }

    const SELECTABLE: &'static [&'static str] = &["spec.clusterIP", "spec.type"];

    fn selectable(object: &api::Service) -> Vec<String> {
        let of = |f: fn(&api::ServiceSpec) -> &Option<String>| object.spec.as_ref().map_or("", |s| fill::str_of(f(s))).to_owned();
        vec![of(|s| &s.cluster_ip), of(|s| &s.type_)]
    }
}

/// The service's type, empty before defaulting.
pub fn kind_of(spec: &api::ServiceSpec) -> &str {
    fill::str_of(&spec.type_)
}

/// True for a service without an address of its own (clusterIP None).
pub fn is_headless(spec: &api::ServiceSpec) -> bool {
    spec.cluster_ips.as_deref().is_some_and(|ips| matches!(ips, [only] if only == "None"))
}

/// True for types that have an address in the cluster (which may be None).
pub fn needs_cluster_ip(spec: &api::ServiceSpec) -> bool {
    kind_of(spec) != "ExternalName"
}

/// True for types whose ports also get a port on every node.
pub fn needs_node_ports(spec: &api::ServiceSpec) -> bool {
    match kind_of(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

/// True for services whose nodes answer health checks of a load balancer.
pub fn needs_health_check_port(spec: &api::ServiceSpec) -> bool {
    kind_of(spec) == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// True for services that clients outside the cluster can reach.
pub fn is_externally_accessible(spec: &api::ServiceSpec) -> bool {
    match kind_of(spec) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}

fn drop_zeros(spec: &mut api::ServiceSpec) {
    for text in [&mut spec.cluster_ip, &mut spec.external_name, &mut spec.load_balancer_ip, &mut spec.external_traffic_policy] {
        fill::drop_zero(text);
    }
    for list in [&mut spec.cluster_ips, &mut spec.external_ips, &mut spec.ip_families, &mut spec.load_balancer_source_ranges] {
        fill::drop_zero(list);
    }
    fill::drop_zero(&mut spec.ports);
    fill::drop_zero(&mut spec.selector);
    fill::drop_zero(&mut spec.health_check_node_port);
    fill::drop_zero(&mut spec.publish_not_ready_addresses);
}

fn default_affinity(spec: &mut api::ServiceSpec) {
    fill::text(&mut spec.session_affinity, "None");
    match spec.session_affinity.as_deref() {
        Some("None") => spec.session_affinity_config = None,
        Some("ClientIP") => {
            let client = spec.session_affinity_config.get_or_insert_default().client_ip.get_or_insert_default();
            fill::or(&mut client.timeout_seconds, DEFAULT_AFFINITY_SECONDS);
        }
        _ => {}
    }
}

/// Keeps clusterIP and clusterIPs the same, and says which family they are of: IPv4 alone, which is what the cluster
/// has. A headless service without a selector may name endpoints of both.
fn default_addresses(spec: &mut api::ServiceSpec) {
    if !needs_cluster_ip(spec) {
        return;
    }
    if let (Some(ip), None) = (&spec.cluster_ip, &spec.cluster_ips) {
        spec.cluster_ips = Some(vec![ip.clone()]);
    }
    let both = is_headless(spec) && spec.selector.is_none();
    fill::or(&mut spec.ip_family_policy, if both { "RequireDualStack" } else { "SingleStack" }.into());
    let dual = both && spec.ip_family_policy.as_deref() != Some("SingleStack");
    if spec.ip_families.is_none() {
        let ips = spec.cluster_ips.as_deref().unwrap_or_default();
        let six = ips.first().and_then(|ip| address::parse(ip)).is_some_and(|ip| ip.is_ipv6());
        let families: &[&str] = if dual {
            &["IPv4", "IPv6"]
        } else if six {
            &["IPv6"]
        } else {
            &["IPv4"]
        };
        spec.ip_families = Some(families.iter().map(|f| (*f).to_owned()).collect());
    }
}

fn external_ip(service: &api::Service, spec: &api::ServiceSpec) -> String {
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = balancer.into_iter().flat_map(|b| b.ingress.iter().flatten());
    let mut ingress: Vec<String> = ingress.filter_map(|i| i.ip.clone().or_else(|| i.hostname.clone())).collect();
    ingress.sort();
    ingress.dedup();
    let external = spec.external_ips.clone().unwrap_or_default();
    match kind_of(spec) {
        "ClusterIP" | "NodePort" if external.is_empty() => "<none>".into(),
        "ClusterIP" | "NodePort" => external.join(","),
        "LoadBalancer" if ingress.is_empty() && external.is_empty() => "<pending>".into(),
        "LoadBalancer" => [ingress, external].concat().join(","),
        "ExternalName" => fill::str_of(&spec.external_name).to_owned(),
        _ => "<unknown>".into(),
    }
}

fn ports_text(spec: &api::ServiceSpec) -> String {
    let text = |p: &api::ServicePort| {
        let protocol = fill::str_of(&p.protocol);
        match p.node_port.filter(|n| *n > 0) {
            Some(node_port) => format!("{}:{node_port}/{protocol}", p.port),
            None => format!("{}/{protocol}", p.port),
        }
    };
    let ports: Vec<String> = spec.ports.iter().flatten().map(text).collect();
    if ports.is_empty() { "<none>".into() } else { ports.join(",") }
}

fn path(name: &str) -> FieldPath {
    FieldPath::new("spec").child(name)
}
