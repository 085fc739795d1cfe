//! What an update of a service keeps: allocated values that the client left out stay, those that its new type has no use
//! for go (patchAllocatedValues and dropTypeDependentFields), and a set address does not change.

use super::{is_externally_accessible, is_headless, kind_of, needs_cluster_ip, needs_health_check_port, needs_node_ports, path};
use crate::kinds::{check, fill::str_of};
use crate::meta::FieldErrors;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Service, ServiceSpec};
use std::collections::{BTreeMap, BTreeSet};

pub fn prepare(new: &mut Service, old: &Service) {
    new.status.clone_from(&old.status);
    let (Some(spec), Some(before)) = (&mut new.spec, &old.spec) else { return };
    follow_cluster_ip(spec, before);
    keep_allocated(spec, before);
    drop_unused(spec, before);
    if kind_of(spec) != "LoadBalancer" {
        new.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus::default());
    }
}

/// A client that knows only clusterIP changes or clears it without clusterIPs.
fn follow_cluster_ip(spec: &mut ServiceSpec, before: &ServiceSpec) {
    if spec.cluster_ip != before.cluster_ip && spec.cluster_ips == before.cluster_ips {
        spec.cluster_ips = spec.cluster_ip.clone().map(|ip| vec![ip]);
    }
}

fn keep_allocated(spec: &mut ServiceSpec, before: &ServiceSpec) {
    if needs_cluster_ip(before) && needs_cluster_ip(spec) {
        if spec.cluster_ip.is_none() {
            spec.cluster_ip.clone_from(&before.cluster_ip);
        }
        if spec.cluster_ips.is_none() {
            spec.cluster_ips.clone_from(&before.cluster_ips);
        }
    }
    if needs_node_ports(before) && needs_node_ports(spec) {
        let used: BTreeSet<i32> = node_ports(before).intersection(&node_ports(spec)).copied().collect();
        let by_name: BTreeMap<&str, Option<i32>> = before.ports.iter().flatten().map(|p| (str_of(&p.name), p.node_port)).collect();
        for port in spec.ports.iter_mut().flatten().filter(|p| p.node_port.is_none()) {
            port.node_port = by_name.get(str_of(&port.name)).copied().flatten().filter(|n| !used.contains(n));
        }
    }
    if needs_health_check_port(before) && needs_health_check_port(spec) && spec.health_check_node_port.is_none() {
        spec.health_check_node_port = before.health_check_node_port;
    }
}

fn node_ports(spec: &ServiceSpec) -> BTreeSet<i32> {
    spec.ports.iter().flatten().filter_map(|p| p.node_port).collect()
}

fn drop_unused(spec: &mut ServiceSpec, before: &ServiceSpec) {
    if needs_cluster_ip(before) && !needs_cluster_ip(spec) {
        if spec.cluster_ip == before.cluster_ip && spec.cluster_ips == before.cluster_ips {
            (spec.cluster_ip, spec.cluster_ips) = (None, None);
        }
        if spec.ip_families == before.ip_families {
            spec.ip_families = None;
        }
        if spec.ip_family_policy == before.ip_family_policy {
            spec.ip_family_policy = None;
        }
    }
    let has_node_ports = |s: &ServiceSpec| matches!(kind_of(s), "NodePort" | "LoadBalancer");
    if has_node_ports(before) && !has_node_ports(spec) && node_ports(before).is_superset(&node_ports(spec)) {
        spec.ports.iter_mut().flatten().for_each(|p| p.node_port = None);
    }
    if needs_health_check_port(before) && !needs_health_check_port(spec) && spec.health_check_node_port == before.health_check_node_port {
        spec.health_check_node_port = None;
    }
    if kind_of(before) == "LoadBalancer" && kind_of(spec) != "LoadBalancer" {
        if spec.allocate_load_balancer_node_ports == before.allocate_load_balancer_node_ports {
            spec.allocate_load_balancer_node_ports = None;
        }
        if spec.load_balancer_class == before.load_balancer_class {
            spec.load_balancer_class = None;
        }
    }
    if is_externally_accessible(before) && !is_externally_accessible(spec) && spec.external_traffic_policy == before.external_traffic_policy
    {
        spec.external_traffic_policy = None;
    }
}

/// What may not change once it is set.
pub fn validate(new: &Service, old: &Service, errors: &mut FieldErrors) {
    let (Some(spec), Some(before)) = (&new.spec, &old.spec) else { return };
    if needs_cluster_ip(spec) && needs_cluster_ip(before) {
        if !(is_headless(spec) && is_headless(before)) {
            unchanged_ips(spec, before, errors);
        }
        if !is_headless(spec) && !is_headless(before) {
            unchanged_families(spec, before, errors);
        }
    }
    let balanced = |s: &ServiceSpec| kind_of(s) == "LoadBalancer";
    if balanced(spec) && balanced(before) && spec.load_balancer_class != before.load_balancer_class {
        errors.invalid(&path("loadBalancerClass"), check::json_of(&spec.load_balancer_class), "may not change once set");
    }
    if needs_health_check_port(spec) && needs_health_check_port(before) && spec.health_check_node_port != before.health_check_node_port {
        errors.forbidden(&path("healthCheckNodePort"), check::IMMUTABLE);
    }
}

fn unchanged_ips(spec: &ServiceSpec, before: &ServiceSpec, errors: &mut FieldErrors) {
    let (new, old) = (spec.cluster_ips.as_deref().unwrap_or_default(), before.cluster_ips.as_deref().unwrap_or_default());
    let at = path("clusterIPs");
    if new.is_empty() && !old.is_empty() {
        errors.invalid(&at.index(0), check::json_of(&new), "primary clusterIP can not be unset");
    }
    let compared = if new.len() == old.len() { new.len() } else { 1 };
    for (i, (n, o)) in new.iter().zip(old).enumerate().take(compared) {
        if n != o {
            errors.invalid(&at.index(i), check::json_of(&new), "may not change once set");
        }
    }
    if old.len() > new.len() && new.len() == 1 && spec.ip_family_policy.as_deref() != Some("SingleStack") {
        let why = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.invalid(&path("ipFamilyPolicy"), check::json_of(&spec.ip_family_policy), why);
    }
}

fn unchanged_families(spec: &ServiceSpec, before: &ServiceSpec, errors: &mut FieldErrors) {
    let (new, old) = (spec.ip_families.as_deref().unwrap_or_default(), before.ip_families.as_deref().unwrap_or_default());
    let compared = if new.len() == old.len() { new.len() } else { 1 };
    for (n, o) in new.iter().zip(old).take(compared) {
        if n != o {
            errors.invalid(&path("ipFamilies").index(0), check::json_of(&new), "may not change once set");
        }
    }
    if old.len() > new.len() && new.len() == 1 && spec.ip_family_policy.as_deref() != Some("SingleStack") {
        let why = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.invalid(&path("ipFamilyPolicy"), check::json_of(&spec.ip_family_policy), why);
    }
}
