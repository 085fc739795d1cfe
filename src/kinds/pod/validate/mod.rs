//! Validation of pods and pod templates (pkg/apis/core/validation), one file per part of the spec.

mod container;
mod env;
mod probe;
mod resources;
mod scheduling;
mod security;
mod status;
mod update;
mod volume;

pub use resources::{is_native, is_overcommittable};
pub use update::{ephemeral_containers_update, resize, update};

use crate::kinds::fill::str_of;
use crate::kinds::{address, check, names};
use crate::meta::{FieldErrors, FieldPath, ObjectMeta};
use k8s_openapi::api::core::v1::{Pod, PodSpec, VolumeProjection};

/// Whose spec it is: some checks differ between a pod and a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Pod,
    Template,
}

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const DELETION_COST_ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Checks that hold at create and update.
pub fn pod(pod: &Pod, errors: &mut FieldErrors) {
    let none = PodSpec::default();
    let (path, own) = (FieldPath::new("spec"), pod.spec.as_ref().unwrap_or(&none));
    annotations(&FieldPath::new("metadata").child("annotations"), &pod.metadata, Some(own), errors);
    spec(&path, own, &pod.metadata, Whose::Pod, errors);
    if own.service_account_name.is_none() {
        for (i, volume) in own.volumes.iter().flatten().enumerate() {
            let sources: &[VolumeProjection] = volume.projected.as_ref().and_then(|p| p.sources.as_deref()).unwrap_or_default();
            for (j, _) in sources.iter().enumerate().filter(|(_, s)| s.service_account_token.is_some()) {
                let at = path.child("volumes").index(i).child("projected").child("sources").index(j).child("serviceAccountToken");
                errors.forbidden(&at, "must not be specified when serviceAccountName is not set");
            }
        }
    }
    for (name, list) in [("containers", Some(&own.containers)), ("initContainers", own.init_containers.as_ref())] {
        for (i, c) in list.into_iter().flatten().enumerate() {
            container::trimmed_image(&path.child(name).index(i), str_of(&c.image), errors);
        }
    }
}

/// Checks that hold only at create.
pub fn create(pod: &Pod, errors: &mut FieldErrors) {
    let Some(spec) = &pod.spec else { return };
    let path = FieldPath::new("spec");
    if spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty()) {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if spec.node_name.is_some() && spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()) {
        errors.forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

/// Annotations that mean something to pods, in a template.
pub fn template_annotations(path: &FieldPath, meta: &ObjectMeta, errors: &mut FieldErrors) {
    annotations(path, meta, None, errors);
}

fn annotations(path: &FieldPath, meta: &ObjectMeta, spec: Option<&PodSpec>, errors: &mut FieldErrors) {
    let Some(annotations) = &meta.annotations else { return };
    if let Some(value) = annotations.get(MIRROR_ANNOTATION)
        && spec.is_none_or(|s| s.node_name.is_none())
    {
        errors.invalid(&path.key(MIRROR_ANNOTATION), value.as_str(), "must set spec.nodeName if mirror pod annotation is set");
    }
    if let Some(cost) = annotations.get(DELETION_COST_ANNOTATION)
        && !is_cost(cost)
    {
        errors.invalid(&path.key(DELETION_COST_ANNOTATION), cost.as_str(), "must be a 32bit integer");
    }
}

/// A 32-bit number without leading zeros or plus sign.
fn is_cost(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    text.parse::<i32>().is_ok() && !text.starts_with('+') && (digits == "0" || !digits.starts_with('0'))
}

/// A pod's spec (ValidatePodSpec).
pub fn spec(path: &FieldPath, spec: &PodSpec, meta: &ObjectMeta, whose: Whose, errors: &mut FieldErrors) {
    if spec.termination_grace_period_seconds.is_none() {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = volume::all(&path.child("volumes"), spec, meta, errors);
    container::all(path, spec, &volumes, errors);
    resources::of_pod(path, spec, errors);
    host_ports_of_host_network(&path.child("containers"), spec, whose, errors);
    check::one_of(&path.child("restartPolicy"), str_of(&spec.restart_policy), &["Always", "OnFailure", "Never"], errors);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    check::one_of(&path.child("dnsPolicy"), str_of(&spec.dns_policy), &policies, errors);
    check::labels(&path.child("nodeSelector"), spec.node_selector.as_ref(), errors);
    security::of_pod(path, spec, errors);
    scheduling::all(path, spec, errors);
    dns(&path.child("dnsConfig"), spec, errors);
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let at = path.child("readinessGates").index(i).child("conditionType");
        errors.all_invalid(&at, gate.condition_type.as_str(), names::qualified(&gate.condition_type));
    }
    hostnames(path, spec, errors);
    references(path, spec, errors);
    if let Some(seconds) = spec.active_deadline_seconds {
        errors.all_invalid(&path.child("activeDeadlineSeconds"), seconds, names::in_range(seconds, 1, i64::from(i32::MAX)));
    }
    if let Some(policy) = &spec.preemption_policy {
        check::one_of(&path.child("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"], errors);
    }
    if let Some(os) = &spec.os {
        operating_system(path, spec, &os.name, errors);
    }
    env::file_volumes(path, spec, errors);
}

fn host_ports_of_host_network(path: &FieldPath, spec: &PodSpec, whose: Whose, errors: &mut FieldErrors) {
    if spec.host_network != Some(true) {
        return;
    }
    for (i, c) in spec.containers.iter().enumerate() {
        for (j, port) in c.ports.iter().flatten().enumerate() {
            let host_port = port.host_port.unwrap_or_default();
            if (whose == Whose::Pod || host_port != 0) && host_port != port.container_port {
                let at = path.index(i).child("ports").index(j).child("hostPort");
                errors.invalid(&at, host_port, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

fn dns(path: &FieldPath, spec: &PodSpec, errors: &mut FieldErrors) {
    const MAX_NAMESERVERS: usize = 3;
    const MAX_SEARCHES: usize = 32;
    const MAX_SEARCH_CHARACTERS: usize = 2048;
    let alone = spec.dns_policy.as_deref() == Some("None");
    let Some(config) = &spec.dns_config else {
        if alone {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let servers = config.nameservers.as_deref().unwrap_or_default();
    if alone && servers.is_empty() {
        errors.required(&path.child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None");
        return;
    }
    if servers.len() > MAX_NAMESERVERS {
        let why = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.invalid(&path.child("nameservers"), check::json_of(&servers), why);
    }
    for (i, server) in servers.iter().enumerate() {
        address::ip(&path.child("nameservers").index(i), server, errors);
    }
    let (at, searches) = (path.child("searches"), config.searches.as_deref().unwrap_or_default());
    if searches.len() > MAX_SEARCHES {
        errors.invalid(&at, check::json_of(&searches), format!("must not have more than {MAX_SEARCHES} search paths"));
    }
    if searches.join(" ").len() > MAX_SEARCH_CHARACTERS {
        let why = format!("must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list");
        errors.invalid(&at, check::json_of(&searches), why);
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, s)| *s != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        errors.all_invalid(&at.index(i), search, names::subdomain_with_underscore(search));
    }
    for (i, _) in config.options.iter().flatten().enumerate().filter(|(_, o)| str_of(&o.name).is_empty()) {
        errors.required(&path.child("options").index(i), "must not be empty");
    }
}

fn hostnames(path: &FieldPath, spec: &PodSpec, errors: &mut FieldErrors) {
    const MAX_HOSTNAME_BYTES: usize = 64;
    if let Some(name) = &spec.hostname_override {
        let at = path.child("hostnameOverride");
        if spec.set_hostname_as_fqdn == Some(true) {
            errors.forbidden(&at, "may not be specified when setHostnameAsFQDN is true");
        }
        if spec.host_network == Some(true) {
            errors.forbidden(&at, "may not be specified when hostNetwork is true");
        }
        if name.len() > MAX_HOSTNAME_BYTES {
            errors.too_long(&at, MAX_HOSTNAME_BYTES);
        }
        errors.all_invalid(&at, name.as_str(), names::subdomain(name));
    }
    for (field, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(name) = value {
            errors.all_invalid(&path.child(field), name.as_str(), names::label(name));
        }
    }
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let at = path.child("hostAliases").index(i);
        address::ip(&at.child("ip"), &alias.ip, errors);
        for (j, name) in alias.hostnames.iter().flatten().enumerate() {
            errors.all_invalid(&at.child("hostnames").index(j), name.as_str(), names::subdomain(name));
        }
    }
}

/// Names of other objects.
fn references(path: &FieldPath, spec: &PodSpec, errors: &mut FieldErrors) {
    for (field, value) in [
        ("serviceAccountName", &spec.service_account_name),
        ("nodeName", &spec.node_name),
        ("priorityClassName", &spec.priority_class_name),
        ("runtimeClassName", &spec.runtime_class_name),
    ] {
        if let Some(name) = value {
            errors.all_invalid(&path.child(field), name.as_str(), names::subdomain(name));
        }
    }
}

fn operating_system(path: &FieldPath, spec: &PodSpec, name: &str, errors: &mut FieldErrors) {
    let at = path.child("os");
    if name.is_empty() {
        errors.required(&at.child("name"), "cannot be empty");
    } else if !matches!(name, "linux" | "windows") {
        errors.not_supported(&at, name, &["linux", "windows"]);
    }
    if name == "linux" && spec.security_context.as_ref().is_some_and(|s| s.windows_options.is_some()) {
        let at = path.child("securityContext").child("windowsOptions");
        errors.forbidden(&at, "windows options cannot be set for a linux pod");
    }
}

/// Each container of the spec with its path: init, regular, then ephemeral ones are left to their own file.
fn with_paths<'a>(
    path: &FieldPath,
    spec: &'a PodSpec,
) -> impl Iterator<Item = (FieldPath, &'a k8s_openapi::api::core::v1::Container)> + use<'a> {
    let (init, regular) = (path.child("initContainers"), path.child("containers"));
    let init = spec.init_containers.iter().flatten().enumerate().map(move |(i, c)| (init.index(i), c));
    init.chain(spec.containers.iter().enumerate().map(move |(i, c)| (regular.index(i), c)))
}
