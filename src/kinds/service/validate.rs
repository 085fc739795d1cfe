//! Validation of services (ValidateService and its parts in core validation), and their warnings.

use super::{is_externally_accessible, is_headless, kind_of, needs_health_check_port, path};
use crate::kinds::fill::str_of;
use crate::kinds::{address, check, names};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use std::collections::HashSet;

const MAX_AFFINITY_SECONDS: i32 = 86_400;
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

pub fn service(service: &Service, errors: &mut FieldErrors) {
    let spec = service.spec.clone().unwrap_or_default();
    if spec.ports.is_none() && !is_headless(&spec) && kind_of(&spec) != "ExternalName" {
        errors.required(&path("ports"), "");
    }
    kind(&spec, errors);
    ports(&spec, errors);
    check::labels(&path("selector"), spec.selector.as_ref(), errors);
    affinity(&spec, errors);
    if kind_of(&spec) != "ExternalName" {
        cluster_ips(&spec, errors);
    }
    for (i, ip) in spec.external_ips.iter().flatten().enumerate() {
        let at = path("externalIPs").index(i);
        if address::parse(ip).is_some() {
            address::endpoint(&at, ip, errors);
        } else {
            address::ip(&at, ip, errors);
        }
    }
    check::one_of(&path("type"), kind_of(&spec), &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], errors);
    unique_ports(&spec, errors);
    load_balancer(&spec, errors);
    traffic(&spec, errors);
}

fn kind(spec: &ServiceSpec, errors: &mut FieldErrors) {
    match kind_of(spec) {
        kind @ ("LoadBalancer" | "NodePort") if is_headless(spec) => {
            errors.invalid(&path("clusterIPs").index(0), "None", format!("may not be set to 'None' for {kind} services"));
        }
        "ExternalName" => {
            let why = "may not be set for ExternalName services";
            for (name, set) in [
                ("clusterIPs", spec.cluster_ips.is_some()),
                ("ipFamilies", spec.ip_families.is_some()),
                ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
            ] {
                if set {
                    errors.forbidden(&path(name), why);
                }
            }
            let cname = str_of(&spec.external_name);
            let cname = cname.strip_suffix('.').unwrap_or(cname);
            if cname.is_empty() {
                errors.required(&path("externalName"), "");
            } else {
                errors.all_invalid(&path("externalName"), cname, names::subdomain(cname));
            }
        }
        _ => {}
    }
}

fn ports(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut seen = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path("ports").index(i);
        let name = str_of(&port.name);
        if name.is_empty() && ports.len() > 1 {
            errors.required(&at.child("name"), "");
        } else if !name.is_empty() {
            errors.all_invalid(&at.child("name"), name, names::label(name));
            if !seen.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
        }
        errors.all_invalid(&at.child("port"), port.port, names::port_number(port.port));
        check::one_of(&at.child("protocol"), str_of(&port.protocol), &["SCTP", "TCP", "UDP"], errors);
        if let Some(target) = &port.target_port {
            check::port(&at.child("targetPort"), target, errors);
        }
        if let Some(protocol) = &port.app_protocol {
            errors.all_invalid(&at.child("appProtocol"), protocol.as_str(), names::qualified(protocol));
        }
    }
}

fn affinity(spec: &ServiceSpec, errors: &mut FieldErrors) {
    check::one_of(&path("sessionAffinity"), str_of(&spec.session_affinity), &["ClientIP", "None"], errors);
    let config = path("sessionAffinityConfig");
    match (str_of(&spec.session_affinity), &spec.session_affinity_config) {
        ("None", Some(_)) => errors.forbidden(&config, "must not be set when session affinity is None"),
        ("ClientIP", settings) => {
            let seconds = settings.as_ref().and_then(|s| s.client_ip.as_ref()).and_then(|c| c.timeout_seconds);
            let at = config.child("clientIP").child("timeoutSeconds");
            match seconds {
                None => errors.required(&at, "when session affinity type is ClientIP"),
                Some(1..=MAX_AFFINITY_SECONDS) => {}
                Some(other) => {
                    errors.invalid(&at, other, format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"));
                }
            }
        }
        _ => {}
    }
}

fn cluster_ips(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let (at, ips) = (path("clusterIPs"), spec.cluster_ips.as_deref().unwrap_or_default());
    match (&spec.cluster_ip, ips.first()) {
        (Some(_), None) => errors.required(&at, ""),
        (Some(ip), Some(first)) if ip != first => errors.invalid(&at, check::json_of(&ips), "first value must match `clusterIP`"),
        (None, Some(_)) => errors.invalid(&at, check::json_of(&ips), "must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    families(spec, errors);
    let before = errors.0.len();
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == "None" {
            if ips.len() > 1 {
                errors.invalid(&at, check::json_of(&ips), "'None' must be the first and only value");
            }
            continue;
        }
        address::ip(&at.index(i), ip, errors);
    }
    if ips.len() > 2 {
        errors.invalid(&at, check::json_of(&ips), "may only hold up to 2 values");
    }
    if errors.0.len() > before {
        return;
    }
    if let [first, second] = ips
        && first.contains(':') == second.contains(':')
    {
        errors.invalid(&at, check::json_of(&ips), "may specify no more than one IP for each IP family");
    }
    for (i, (ip, family)) in ips.iter().zip(spec.ip_families.iter().flatten()).enumerate() {
        if ip != "None" && matches!((family.as_str(), ip.contains(':')), ("IPv4", true) | ("IPv6", false)) {
            errors.invalid(&at.index(i), ip.as_str(), format!("expected an {family} value as indicated by `ipFamilies[{i}]`"));
        }
    }
}

/// The families must be known and, unless the service has no addresses of its own to hand out, those of the cluster.
fn families(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    let free = is_headless(spec) && spec.selector.is_none();
    for (i, family) in spec.ip_families.iter().flatten().enumerate() {
        let at = path("ipFamilies").index(i);
        check::one_of(&at, family, &["IPv4", "IPv6"], errors);
        if !seen.insert(family) {
            errors.duplicate(&at, family.as_str());
        } else if family == "IPv6" && !free {
            errors.invalid(&at, family.as_str(), "not configured on this cluster");
        }
    }
    let policy = str_of(&spec.ip_family_policy);
    if spec.ip_family_policy.is_some() {
        check::one_of(&path("ipFamilyPolicy"), policy, &["PreferDualStack", "RequireDualStack", "SingleStack"], errors);
    }
    if policy == "RequireDualStack" && !free {
        errors.invalid(&path("ipFamilyPolicy"), policy, "this cluster is not configured for dual-stack services");
    }
}

fn unique_ports(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let (mut node_ports, mut ports) = (HashSet::new(), HashSet::new());
    for (i, port) in spec.ports.iter().flatten().enumerate() {
        let at = path("ports").index(i);
        if let Some(number) = port.node_port {
            if kind_of(spec) == "ClusterIP" {
                errors.forbidden(&at.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
            if !node_ports.insert((&port.protocol, number)) {
                errors.duplicate(&at.child("nodePort"), number);
            }
        }
        if !ports.insert((&port.protocol, port.port)) {
            let shown = ServicePort { protocol: port.protocol.clone(), port: port.port, ..ServicePort::default() };
            errors.duplicate(&at, check::json_of(&shown));
        }
    }
}

fn load_balancer(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let balanced = kind_of(spec) == "LoadBalancer";
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !ranges.is_empty() && !balanced {
        errors.forbidden(&path("LoadBalancerSourceRanges"), ONLY_LOAD_BALANCER);
    }
    for (i, range) in ranges.iter().enumerate() {
        address::cidr(&path("LoadBalancerSourceRanges").index(i), range.trim(), errors);
    }
    if spec.allocate_load_balancer_node_ports.is_some() && !balanced {
        errors.forbidden(&path("allocateLoadBalancerNodePorts"), ONLY_LOAD_BALANCER);
    }
    match &spec.load_balancer_class {
        Some(class) if balanced => errors.all_invalid(&path("loadBalancerClass"), class.as_str(), names::qualified(class)),
        Some(_) => errors.forbidden(&path("loadBalancerClass"), ONLY_LOAD_BALANCER),
        None => {}
    }
}

fn traffic(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let external = str_of(&spec.external_traffic_policy);
    if is_externally_accessible(spec) {
        check::one_of(&path("externalTrafficPolicy"), external, &["Cluster", "Local"], errors);
    } else if !external.is_empty() {
        errors.invalid(&path("externalTrafficPolicy"), external, "may only be set for externally-accessible services");
    }
    match (needs_health_check_port(spec), spec.health_check_node_port) {
        (true, None) => errors.required(&path("healthCheckNodePort"), ""),
        (true, Some(port)) => errors.all_invalid(&path("healthCheckNodePort"), port, names::port_number(port)),
        (false, Some(port)) => {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(&path("healthCheckNodePort"), port, why);
        }
        (false, None) => {}
    }
    match &spec.internal_traffic_policy {
        None if matches!(kind_of(spec), "ClusterIP" | "NodePort" | "LoadBalancer") => errors.required(&path("internalTrafficPolicy"), ""),
        Some(policy) => check::one_of(&path("internalTrafficPolicy"), policy, &["Cluster", "Local"], errors),
        None => {}
    }
    if let Some(distribution) = &spec.traffic_distribution {
        let allowed = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        if !allowed.contains(&distribution.as_str()) {
            errors.not_supported(&path("trafficDistribution"), distribution.as_str(), &allowed);
        }
    }
}

/// The status of a load balancer.
pub fn status(service: &Service, errors: &mut FieldErrors) {
    let at = FieldPath::new("status").child("loadBalancer").child("ingress");
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = balancer.and_then(|b| b.ingress.as_deref()).unwrap_or_default();
    if service.spec.as_ref().is_none_or(|s| kind_of(s) != "LoadBalancer") && !ingress.is_empty() {
        errors.forbidden(&at, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    for (i, entry) in ingress.iter().enumerate() {
        let at = at.index(i);
        match (&entry.ip, &entry.ip_mode) {
            (Some(_), None) => errors.required(&at.child("ipMode"), "must be specified when `ip` is set"),
            (None, Some(_)) => errors.forbidden(&at.child("ipMode"), "may not be specified when `ip` is not set"),
            (Some(_), Some(mode)) => check::one_of(&at.child("ipMode"), mode, &["Proxy", "VIP"], errors),
            (None, None) => {}
        }
        if let Some(ip) = &entry.ip {
            address::ip(&at.child("ip"), ip, errors);
        }
        if let Some(host) = entry.hostname.as_deref().filter(|h| !h.is_empty()) {
            errors.all_invalid(&at.child("hostname"), host, names::subdomain(host));
            if address::parse(host).is_some() {
                errors.invalid(&at.child("hostname"), host, "must be a DNS name, not an IP address");
            }
        }
    }
}

pub fn warnings(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut warnings = Vec::new();
    let mut warn = |when: bool, text: &str| {
        if when {
            warnings.push(text.to_owned());
        }
    };
    let headless = kind_of(spec) == "ClusterIP" && spec.cluster_ip.as_deref() == Some("None");
    let external = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    let by_name = kind_of(spec) == "ExternalName";
    warn(headless && spec.load_balancer_ip.is_some(), "spec.loadBalancerIP is ignored for headless services");
    warn(headless && external, "spec.externalIPs is ignored for headless services");
    warn(headless && str_of(&spec.session_affinity) != "None", "spec.SessionAffinity is ignored for headless services");
    warn(by_name && external, "spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    warn(!by_name && spec.external_name.is_some(), "spec.externalName is ignored when spec.type is not \"ExternalName\"");
    warn(
        spec.traffic_distribution.as_deref() == Some("PreferClose"),
        "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
    );
    warnings
}
