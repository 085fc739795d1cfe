//! Updates of a pod's status.

use crate::kinds::fill::str_of;
use crate::kinds::{address, check, names};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus};

pub fn update(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    let path = FieldPath::new("status");
    let (no_status, no_spec) = (PodStatus::default(), PodSpec::default());
    let (status, before) = (new.status.as_ref().unwrap_or(&no_status), old.status.as_ref().unwrap_or(&no_status));
    let spec = old.spec.as_ref().unwrap_or(&no_spec);
    conditions(&path.child("conditions"), status, errors);
    let at = path.child("nominatedNodeName");
    let (node, was) = (str_of(&status.nominated_node_name), str_of(&before.nominated_node_name));
    if node != was && !node.is_empty() {
        errors.all_invalid(&at, node, names::subdomain(node));
        if spec.node_name.is_some() {
            errors.forbidden(&at, "may not be set on pods that are already bound to a node");
        }
    }
    if let Some(generation) = status.observed_generation.filter(|g| *g < 0) {
        errors.invalid(&path.child("observedGeneration"), generation, "must be a non-negative integer");
    }
    check::immutable(&path.child("qosClass"), &status.qos_class, &before.qos_class, errors);
    let (init, none) = (spec.init_containers.as_deref().unwrap_or_default(), &[]);
    transitions(
        &path.child("containerStatuses"),
        &status.container_statuses,
        &before.container_statuses,
        Some((spec, &spec.containers)),
        errors,
    );
    transitions(
        &path.child("initContainerStatuses"),
        &status.init_container_statuses,
        &before.init_container_statuses,
        Some((spec, init)),
        errors,
    );
    let (ephemeral, were) = (&status.ephemeral_container_statuses, &before.ephemeral_container_statuses);
    transitions(&path.child("ephemeralContainerStatuses"), ephemeral, were, Some((spec, none)), errors);
    addresses(&path, status, errors);
}

fn conditions(path: &FieldPath, status: &PodStatus, errors: &mut FieldErrors) {
    const OWN: &[&str] = &["PodScheduled", "Ready", "Initialized", "PodReadyToStartContainers", "ContainersReady", "DisruptionTarget"];
    for (i, condition) in status.conditions.iter().flatten().enumerate() {
        let at = path.index(i);
        if let Some(generation) = condition.observed_generation.filter(|g| *g < 0) {
            errors.invalid(&at.child("observedGeneration"), generation, "must be a non-negative integer");
        }
        if !OWN.contains(&condition.type_.as_str()) {
            errors.all_invalid(&at.child("Type"), condition.type_.as_str(), names::qualified(&condition.type_));
        }
    }
}

/// A container that ended may only live again if it is one that is started again.
fn transitions(
    path: &FieldPath,
    new: &Option<Vec<ContainerStatus>>,
    old: &Option<Vec<ContainerStatus>>,
    of: Option<(&PodSpec, &[Container])>,
    errors: &mut FieldErrors,
) {
    for (i, was) in old.iter().flatten().enumerate() {
        let Some(ended) = was.state.as_ref().and_then(|s| s.terminated.as_ref()) else { continue };
        let alive = |s: &&ContainerStatus| s.name == was.name && s.state.as_ref().is_none_or(|s| s.terminated.is_none());
        if new.iter().flatten().find(alive).is_none() {
            continue;
        }
        let restarts = of.is_some_and(|(spec, containers)| {
            containers.iter().find(|c| c.name == was.name).is_some_and(|c| restarts(c, spec, ended.exit_code))
        });
        if !restarts {
            errors.forbidden(&path.index(i).child("state"), "may not be transitioned to non-terminated state");
        }
    }
}

/// True if a container that ended with `exit_code` is to be started again: its first matching rule, else its own
/// policy, else the pod's.
fn restarts(container: &Container, spec: &PodSpec, exit_code: i32) -> bool {
    let matches = container.restart_policy_rules.iter().flatten().any(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.as_ref().is_some_and(|v| v.contains(&exit_code));
            listed == (codes.operator == "In")
        })
    });
    let policy = container.restart_policy.as_deref().or(spec.restart_policy.as_deref());
    matches
        || match policy {
            Some("Always") | None => true,
            Some("OnFailure") => exit_code != 0,
            Some(_) => false,
        }
}

fn addresses(path: &FieldPath, status: &PodStatus, errors: &mut FieldErrors) {
    let pod_ips: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    let host_ips: Vec<&str> = status.host_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if let Some(first) = host_ips.first().filter(|ip| **ip != str_of(&status.host_ip)) {
        errors.invalid(&path.child("hostIPs").index(0).child("ip"), *first, "must be equal to `hostIP`");
    }
    let (pod_list, host_list) = (check::json_of(&status.pod_ips), check::json_of(&status.host_ips));
    for (field, ips, list) in [("podIPs", pod_ips, pod_list), ("hostIPs", host_ips, host_list)] {
        let at = path.child(field);
        for (i, ip) in ips.iter().enumerate() {
            address::ip(&at.index(i), ip, errors);
        }
        let same_family = matches!(ips.as_slice(), [a, b] if a.contains(':') == b.contains(':'));
        if ips.len() > 2 || same_family {
            errors.invalid(&at, list, "may specify no more than one IP for each IP family");
        }
    }
}
