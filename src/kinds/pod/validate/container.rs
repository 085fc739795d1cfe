//! Containers: names, images, ports, mounts, devices, policies.

use super::volume::Volumes;
use super::{env, probe, resources, security, volume, with_paths};
use crate::kinds::fill::str_of;
use crate::kinds::pod::containers::is_sidecar;
use crate::kinds::{check, names};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::core::v1::{Container, ContainerPort, EphemeralContainer, PodSpec, VolumeDevice, VolumeMount};
use std::collections::HashSet;

/// The most restart rules, and the most exit codes in one.
const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

pub fn all(path: &FieldPath, spec: &PodSpec, volumes: &Volumes<'_>, errors: &mut FieldErrors) {
    regular(&path.child("containers"), spec, volumes, errors);
    init(&path.child("initContainers"), spec, volumes, errors);
    ephemeral(&path.child("ephemeralContainers"), spec, volumes, errors);
}

fn regular(path: &FieldPath, spec: &PodSpec, volumes: &Volumes<'_>, errors: &mut FieldErrors) {
    if spec.containers.is_empty() {
        errors.required(path, "");
        return;
    }
    let mut seen = HashSet::new();
    for (i, c) in spec.containers.iter().enumerate() {
        let at = path.index(i);
        common(&at, c, spec, volumes, errors);
        if !seen.insert(&c.name) {
            errors.duplicate(&at.child("name"), c.name.as_str());
        }
        probe::of_container(&at, c, spec, errors);
        restart_policy(&at, c, errors);
    }
    host_ports(path, &spec.containers, errors);
}

fn init(path: &FieldPath, spec: &PodSpec, volumes: &Volumes<'_>, errors: &mut FieldErrors) {
    let mut seen: HashSet<&str> = spec.containers.iter().map(|c| c.name.as_str()).collect();
    for (i, c) in spec.init_containers.iter().flatten().enumerate() {
        let at = path.index(i);
        common(&at, c, spec, volumes, errors);
        if is_sidecar(c) && c.restart_policy_rules.as_ref().is_some_and(|r| !r.is_empty()) {
            let why = "restartPolicyRules are not allowed for init containers with restart policy Always";
            errors.forbidden(&at.child("restartPolicyRules"), why);
        } else {
            restart_policy(&at, c, errors);
        }
        if !c.name.is_empty() && !seen.insert(&c.name) {
            errors.duplicate(&at.child("name"), c.name.as_str());
        }
        host_ports(path, std::slice::from_ref(c), errors);
        if is_sidecar(c) {
            probe::of_container(&at, c, spec, errors);
            continue;
        }
        for (field, set) in [
            ("lifecycle", c.lifecycle.is_some()),
            ("livenessProbe", c.liveness_probe.is_some()),
            ("readinessProbe", c.readiness_probe.is_some()),
            ("startupProbe", c.startup_probe.is_some()),
        ] {
            if set {
                errors.forbidden(&at.child(field), "may not be set for init containers without restartPolicy=Always");
            }
        }
    }
}

fn ephemeral(path: &FieldPath, spec: &PodSpec, volumes: &Volumes<'_>, errors: &mut FieldErrors) {
    const WHY: &str = "cannot be set for an Ephemeral Container";
    let others: HashSet<&str> = with_paths(path, spec).map(|(_, c)| c.name.as_str()).collect();
    let mut seen = others.clone();
    for (i, c) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let at = path.index(i);
        common(&at, &as_container(c), spec, volumes, errors);
        trimmed_image(&at, str_of(&c.image), errors);
        if !seen.insert(&c.name) {
            errors.duplicate(&at.child("name"), c.name.as_str());
        }
        let target = str_of(&c.target_container_name);
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(&at.child("targetContainerName"), target);
        }
        let given = |r: &k8s_openapi::api::core::v1::ResourceRequirements| *r != Default::default();
        for (field, set) in [
            ("ports", c.ports.is_some()),
            ("resources", c.resources.as_ref().is_some_and(given)),
            ("resizePolicy", c.resize_policy.is_some()),
            ("restartPolicy", c.restart_policy.is_some()),
            ("restartPolicyRules", c.restart_policy_rules.is_some()),
            ("livenessProbe", c.liveness_probe.is_some()),
            ("readinessProbe", c.readiness_probe.is_some()),
            ("startupProbe", c.startup_probe.is_some()),
            ("lifecycle", c.lifecycle.is_some()),
        ] {
            if set {
                errors.forbidden(&at.child(field), WHY);
            }
        }
        for (j, mount) in c.volume_mounts.iter().flatten().enumerate() {
            for (field, set) in [("subPath", mount.sub_path.is_some()), ("subPathExpr", mount.sub_path_expr.is_some())] {
                if set {
                    errors.forbidden(&at.child("volumeMounts").index(j).child(field), WHY);
                }
            }
        }
    }
}

fn as_container(c: &EphemeralContainer) -> Container {
    Container {
        name: c.name.clone(),
        image: c.image.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        ports: c.ports.clone(),
        env: c.env.clone(),
        env_from: c.env_from.clone(),
        volume_mounts: c.volume_mounts.clone(),
        volume_devices: c.volume_devices.clone(),
        resources: c.resources.clone(),
        security_context: c.security_context.clone(),
        ..Container::default()
    }
}

/// What every container must keep to (validateContainerCommon).
fn common(path: &FieldPath, c: &Container, spec: &PodSpec, volumes: &Volumes<'_>, errors: &mut FieldErrors) {
    if c.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        errors.all_invalid(&path.child("name"), c.name.as_str(), names::label(&c.name));
    }
    if str_of(&c.image).is_empty() {
        errors.required(&path.child("image"), "");
    }
    let policies = ["File", "FallbackToLogsOnError"];
    check::one_of(&path.child("terminationMessagePolicy"), str_of(&c.termination_message_policy), &policies, errors);
    ports(&path.child("ports"), c.ports.as_deref().unwrap_or_default(), errors);
    env::vars(&path.child("env"), c.env.as_deref().unwrap_or_default(), errors);
    env::sources(&path.child("envFrom"), c.env_from.as_deref().unwrap_or_default(), errors);
    let (mounts, devices) = (c.volume_mounts.as_deref().unwrap_or_default(), c.volume_devices.as_deref().unwrap_or_default());
    self::mounts(&path.child("volumeMounts"), c, mounts, devices, volumes, errors);
    self::devices(&path.child("volumeDevices"), mounts, devices, volumes, errors);
    check::one_of(&path.child("imagePullPolicy"), str_of(&c.image_pull_policy), &["Always", "IfNotPresent", "Never"], errors);
    if let Some(requirements) = &c.resources {
        resources::of_container(&path.child("resources"), requirements, spec, errors);
    }
    resize_policy(&path.child("resizePolicy"), c, str_of(&spec.restart_policy), errors);
    if let Some(context) = &c.security_context {
        security::of_container(&path.child("securityContext"), context, spec, errors);
    }
}

/// A pod's image may not be framed by spaces (a template's may, for old times' sake).
pub fn trimmed_image(path: &FieldPath, image: &str, errors: &mut FieldErrors) {
    if image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

fn ports(path: &FieldPath, ports: &[ContainerPort], errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let wrong = names::port_name(name);
            if wrong.is_empty() && !seen.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
            errors.all_invalid(&at.child("name"), name, wrong);
        }
        if port.container_port == 0 {
            errors.required(&at.child("containerPort"), "");
        } else {
            errors.all_invalid(&at.child("containerPort"), port.container_port, names::port_number(port.container_port));
        }
        if let Some(host_port) = port.host_port.filter(|p| *p != 0) {
            errors.all_invalid(&at.child("hostPort"), host_port, names::port_number(host_port));
        }
        check::one_of(&at.child("protocol"), str_of(&port.protocol), &["SCTP", "TCP", "UDP"], errors);
    }
}

/// No two containers may ask for the same port of the host.
fn host_ports(path: &FieldPath, containers: &[Container], errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, c) in containers.iter().enumerate() {
        for (j, port) in c.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|p| *p != 0) else { continue };
            let text = format!("{}/{}/{number}", str_of(&port.protocol), str_of(&port.host_ip));
            if !seen.insert(text.clone()) {
                errors.duplicate(&path.index(i).child("ports").index(j).child("hostPort"), text);
            }
        }
    }
}

fn mounts(
    path: &FieldPath,
    container: &Container,
    mounts: &[VolumeMount],
    devices: &[VolumeDevice],
    volumes: &Volumes<'_>,
    errors: &mut FieldErrors,
) {
    let mut seen = HashSet::new();
    for (i, mount) in mounts.iter().enumerate() {
        let at = path.index(i);
        if mount.name.is_empty() {
            errors.required(&at.child("name"), "");
        }
        if !volumes.contains_key(mount.name.as_str()) {
            errors.not_found(&at.child("name"), mount.name.as_str());
        }
        let mount_path = mount.mount_path.as_str();
        if mount_path.is_empty() {
            errors.required(&at.child("mountPath"), "");
        }
        if !seen.insert(mount_path) {
            errors.invalid(&at.child("mountPath"), mount_path, "must be unique");
        }
        if devices.iter().any(|d| d.name == mount.name) {
            errors.invalid(&at.child("name"), mount.name.as_str(), "must not already exist in volumeDevices");
        }
        if devices.iter().any(|d| d.device_path == mount_path) {
            errors.invalid(&at.child("mountPath"), mount_path, "must not already exist as a path in volumeDevices");
        }
        // Kubernetes gives these at the list, without the index.
        if let Some(sub_path) = mount.sub_path.as_deref().filter(|p| !p.is_empty()) {
            volume::descending_path(&path.child("subPath"), sub_path, errors);
        }
        if let Some(expression) = mount.sub_path_expr.as_deref().filter(|p| !p.is_empty()) {
            if !str_of(&mount.sub_path).is_empty() {
                errors.invalid(&at.child("subPathExpr"), expression, "subPathExpr and subPath are mutually exclusive");
            }
            volume::descending_path(&path.child("subPathExpr"), expression, errors);
        }
        propagation(path, container, mount, errors);
    }
}

fn propagation(path: &FieldPath, container: &Container, mount: &VolumeMount, errors: &mut FieldErrors) {
    let at = path.child("mountPropagation");
    if let Some(mode) = &mount.mount_propagation {
        let modes = ["Bidirectional", "HostToContainer", "None"];
        if !modes.contains(&mode.as_str()) {
            errors.not_supported(&at, mode.as_str(), &modes);
        }
        let privileged = container.security_context.as_ref().is_some_and(|s| s.privileged == Some(true));
        if mode == "Bidirectional" && !privileged {
            errors.forbidden(&at, "Bidirectional mount propagation is available only to privileged containers");
        }
    }
    let at = path.child("recursiveReadOnly");
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                errors.forbidden(&at, "may only be specified when readOnly is true");
            }
            if mount.mount_propagation.as_deref().is_some_and(|m| m != "None") {
                errors.forbidden(&at, "may only be specified when mountPropagation is None or not specified");
            }
        }
        Some(other) => errors.not_supported(&at, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn devices(path: &FieldPath, mounts: &[VolumeMount], devices: &[VolumeDevice], volumes: &Volumes<'_>, errors: &mut FieldErrors) {
    let (mut seen_names, mut seen_paths) = (HashSet::new(), HashSet::new());
    for (i, device) in devices.iter().enumerate() {
        let (name_at, path_at) = (path.index(i).child("name"), path.index(i).child("devicePath"));
        let (name, device_path) = (device.name.as_str(), device.device_path.as_str());
        if name.is_empty() {
            errors.required(&name_at, "");
        } else if !seen_names.insert(name) {
            errors.invalid(&name_at, name, "must be unique");
        }
        match volumes.get(name) {
            None => errors.not_found(&name_at, name),
            Some(v) if v.persistent_volume_claim.is_none() && v.ephemeral.is_none() => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&name_at, name, why);
            }
            Some(_) => {}
        }
        if device_path.is_empty() {
            errors.required(&path_at, "");
        }
        if !seen_paths.insert(device_path) {
            errors.invalid(&path_at, device_path, "must be unique");
        }
        if device_path.split('/').any(|part| part == "..") {
            errors.invalid(&path_at, device_path, "can not contain backsteps ('..')");
        }
        if mounts.iter().any(|m| m.name == name) {
            errors.invalid(&name_at, name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|m| m.mount_path == device_path) {
            errors.invalid(&path_at, device_path, "must not already exist as a path in volumeMounts");
        }
    }
}

fn resize_policy(path: &FieldPath, c: &Container, pod_policy: &str, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, policy) in c.resize_policy.iter().flatten().enumerate() {
        if !seen.insert(&policy.resource_name) {
            errors.duplicate(&path.index(i), policy.resource_name.as_str());
        }
        check::one_of(path, &policy.resource_name, &["cpu", "memory"], errors);
        check::one_of(path, &policy.restart_policy, &["NotRequired", "RestartContainer"], errors);
        if pod_policy == "Never" && policy.restart_policy != "NotRequired" {
            let why = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.invalid(path, policy.restart_policy.as_str(), why);
        }
    }
}

fn restart_policy(path: &FieldPath, c: &Container, errors: &mut FieldErrors) {
    let (at, rules) = (path.child("restartPolicy"), c.restart_policy_rules.as_deref().unwrap_or_default());
    let policies = ["Always", "Never", "OnFailure"];
    match c.restart_policy.as_deref() {
        None if !rules.is_empty() => errors.required(&at, "must specify restartPolicy when restart rules are used"),
        Some(policy) if !policies.contains(&policy) => errors.not_supported(&at, policy, &policies),
        _ => {}
    }
    let at = path.child("restartPolicyRules");
    if rules.len() > MAX_RULES {
        errors.too_long(&at, MAX_RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = at.index(i);
        if rule.action != "Restart" {
            errors.not_supported(&at.child("action"), rule.action.as_str(), &["Restart"]);
        }
        let Some(codes) = &rule.exit_codes else {
            errors.required(&at.child("exitCodes"), "must be specified");
            continue;
        };
        if !matches!(codes.operator.as_str(), "In" | "NotIn") {
            errors.not_supported(&at.child("exitCodes").child("operator"), codes.operator.as_str(), &["In", "NotIn"]);
        }
        if codes.values.as_ref().is_some_and(|v| v.len() > MAX_EXIT_CODES) {
            errors.too_long(&at.child("exitCodes").child("values"), MAX_EXIT_CODES);
        }
    }
}
