//! Defaults of pods and pod templates (pkg/apis/core/v1/defaults.go and its generated callers).

use super::{containers, resources, volumes_default};
use crate::kinds::fill;
use crate::meta::quantity;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle, Pod, PodSpec, Probe, ResourceRequirements, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

pub fn pod(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    pod_spec(spec);
    containers::each_mut(spec, |c| requests_from_limits(&mut c.resources));
    resources::default_pod_level(spec);
    fill::or(&mut spec.enable_service_links, true);
    if let Some(status) = &mut pod.status {
        let lists = [&mut status.init_container_statuses, &mut status.container_statuses, &mut status.ephemeral_container_statuses];
        for container in lists.into_iter().flatten().flatten() {
            container.state.get_or_insert_default();
            container.last_state.get_or_insert_default();
        }
    }
    if spec.host_network == Some(true) {
        containers::each_mut(spec, |c| {
            c.ports.iter_mut().flatten().filter(|p| p.host_port.is_none()).for_each(|p| p.host_port = Some(p.container_port));
        });
    }
}

/// What pods and templates share.
pub fn pod_spec(spec: &mut PodSpec) {
    drop_zeros_of_spec(spec);
    fill::text(&mut spec.dns_policy, "ClusterFirst");
    fill::text(&mut spec.restart_policy, "Always");
    spec.security_context.get_or_insert_default();
    fill::or(&mut spec.termination_grace_period_seconds, 30);
    fill::text(&mut spec.scheduler_name, "default-scheduler");
    account_alias(spec);
    for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container(c);
    }
    for c in spec.ephemeral_containers.iter_mut().flatten() {
        ephemeral_container(c);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        volumes_default::volume(volume);
    }
    if let Some(overhead) = &mut spec.overhead {
        canonical_resources(overhead);
    }
    if let Some(pod_level) = &mut spec.resources {
        canonical_requirements(pod_level);
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        fill::drop_zero(&mut constraint.match_label_keys);
    }
}

/// `serviceAccount` is an old name of `serviceAccountName`: the new one wins, and both show.
fn account_alias(spec: &mut PodSpec) {
    if spec.service_account_name.is_none() {
        spec.service_account_name = spec.service_account.take();
    }
    spec.service_account = spec.service_account_name.clone();
}

fn drop_zeros_of_spec(spec: &mut PodSpec) {
    for text in [
        &mut spec.node_name,
        &mut spec.hostname,
        &mut spec.subdomain,
        &mut spec.service_account_name,
        &mut spec.service_account,
        &mut spec.priority_class_name,
    ] {
        fill::drop_zero(text);
    }
    for flag in [&mut spec.host_network, &mut spec.host_pid, &mut spec.host_ipc] {
        fill::drop_zero(flag);
    }
    fill::drop_zero(&mut spec.init_containers);
    fill::drop_zero(&mut spec.ephemeral_containers);
    fill::drop_zero(&mut spec.volumes);
    fill::drop_zero(&mut spec.node_selector);
    fill::drop_zero(&mut spec.tolerations);
    fill::drop_zero(&mut spec.image_pull_secrets);
    fill::drop_zero(&mut spec.host_aliases);
    fill::drop_zero(&mut spec.readiness_gates);
    fill::drop_zero(&mut spec.scheduling_gates);
    fill::drop_zero(&mut spec.topology_spread_constraints);
    fill::drop_zero(&mut spec.overhead);
    fill::drop_zero(&mut spec.resource_claims);
    for t in spec.tolerations.iter_mut().flatten() {
        for text in [&mut t.key, &mut t.operator, &mut t.value, &mut t.effect] {
            fill::drop_zero(text);
        }
    }
}

fn container(c: &mut Container) {
    fill::text(&mut c.image_pull_policy, pull_policy(fill::str_of(&c.image)));
    fill::text(&mut c.termination_message_path, "/dev/termination-log");
    fill::text(&mut c.termination_message_policy, "File");
    common(&mut c.ports, &mut c.env, &mut c.resources, &mut c.volume_mounts);
    probes([&mut c.liveness_probe, &mut c.readiness_probe, &mut c.startup_probe], &mut c.lifecycle);
    for flag in [&mut c.stdin, &mut c.stdin_once, &mut c.tty] {
        fill::drop_zero(flag);
    }
    for list in [&mut c.command, &mut c.args] {
        fill::drop_zero(list);
    }
    fill::drop_zero(&mut c.working_dir);
    fill::drop_zero(&mut c.env_from);
    fill::drop_zero(&mut c.volume_devices);
    fill::drop_zero(&mut c.image);
    fill::drop_zero(&mut c.restart_policy);
}

fn ephemeral_container(c: &mut EphemeralContainer) {
    fill::text(&mut c.image_pull_policy, pull_policy(fill::str_of(&c.image)));
    fill::text(&mut c.termination_message_path, "/dev/termination-log");
    fill::text(&mut c.termination_message_policy, "File");
    common(&mut c.ports, &mut c.env, &mut c.resources, &mut c.volume_mounts);
    probes([&mut c.liveness_probe, &mut c.readiness_probe, &mut c.startup_probe], &mut c.lifecycle);
    for flag in [&mut c.stdin, &mut c.stdin_once, &mut c.tty] {
        fill::drop_zero(flag);
    }
}

fn common(
    ports: &mut Option<Vec<ContainerPort>>,
    env: &mut Option<Vec<EnvVar>>,
    resources: &mut Option<ResourceRequirements>,
    mounts: &mut Option<Vec<VolumeMount>>,
) {
    fill::drop_zero(ports);
    fill::drop_zero(env);
    fill::drop_zero(mounts);
    for port in ports.iter_mut().flatten() {
        fill::text(&mut port.protocol, "TCP");
        fill::drop_zero(&mut port.host_port);
        fill::drop_zero(&mut port.host_ip);
        fill::drop_zero(&mut port.name);
    }
    for var in env.iter_mut().flatten() {
        fill::drop_zero(&mut var.value);
        if let Some(from) = &mut var.value_from {
            if let Some(field) = &mut from.field_ref {
                fill::text(&mut field.api_version, "v1");
            }
            if let Some(resource) = &mut from.resource_field_ref {
                volumes_default::divisor(&mut resource.divisor);
                fill::drop_zero(&mut resource.container_name);
            }
            if let Some(file) = &mut from.file_key_ref {
                fill::or(&mut file.optional, false);
            }
        }
    }
    for mount in mounts.iter_mut().flatten() {
        fill::drop_zero(&mut mount.read_only);
        fill::drop_zero(&mut mount.sub_path);
        fill::drop_zero(&mut mount.sub_path_expr);
    }
    canonical_requirements(resources.get_or_insert_default());
}

fn probes(probes: [&mut Option<Probe>; 3], lifecycle: &mut Option<Lifecycle>) {
    for probe in probes.into_iter().flatten() {
        fill::number(&mut probe.timeout_seconds, 1);
        fill::number(&mut probe.period_seconds, 10);
        fill::number(&mut probe.success_threshold, 1);
        fill::number(&mut probe.failure_threshold, 3);
        fill::drop_zero(&mut probe.initial_delay_seconds);
        http_get(&mut probe.http_get);
        if let Some(grpc) = &mut probe.grpc {
            fill::or(&mut grpc.service, String::new());
        }
    }
    if let Some(lifecycle) = lifecycle {
        for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
            http_get(&mut handler.http_get);
        }
    }
}

fn http_get(action: &mut Option<HTTPGetAction>) {
    if let Some(get) = action {
        fill::text(&mut get.path, "/");
        fill::text(&mut get.scheme, "HTTP");
        fill::drop_zero(&mut get.host);
        fill::drop_zero(&mut get.http_headers);
    }
}

/// `Always` for the tag latest (also when neither tag nor digest is given), else `IfNotPresent`.
pub fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let last = name.rsplit('/').next().unwrap_or_default();
    match (last.split_once(':'), digest) {
        (Some((_, "latest")), _) | (None, None) => "Always",
        _ => "IfNotPresent",
    }
}

fn canonical_requirements(requirements: &mut ResourceRequirements) {
    for list in [&mut requirements.requests, &mut requirements.limits].into_iter().flatten() {
        canonical_resources(list);
    }
}

/// Canonical quantities, rounded up to a thousandth. Malformed ones stay for validation to find.
pub fn canonical_resources(list: &mut BTreeMap<String, Quantity>) {
    for quantity in list.values_mut() {
        let Ok(amount) = quantity::parse(&quantity.0) else { continue };
        let milli = quantity::Amount::from_milli(amount.milli());
        if amount.milli() != i64::MAX && milli != amount {
            quantity.0 = milli.to_string();
        } else if let Ok(text) = quantity::canonical(&quantity.0) {
            quantity.0 = text;
        }
    }
}

fn requests_from_limits(resources: &mut Option<ResourceRequirements>) {
    let Some(resources) = resources else { return };
    let Some(limits) = &resources.limits else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, quantity) in limits {
        requests.entry(name.clone()).or_insert_with(|| quantity.clone());
    }
}
