//! Security contexts of pods and containers.

use super::volume;
use crate::kinds::{check, names};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::core::v1::{AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext};
use std::collections::HashSet;

const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const MAX_SYSCTL_BYTES: usize = 253;
const SYSCTL_REGEX: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// `path` is that of the spec.
pub fn of_pod(path: &FieldPath, spec: &PodSpec, errors: &mut FieldErrors) {
    host_users(path, spec, errors);
    let Some(context) = &spec.security_context else { return };
    let at = path.child("securityContext");
    for (field, id) in [("fsGroup", context.fs_group), ("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)] {
        if let Some(id) = id {
            errors.all_invalid(&at.child(field), id, names::user_or_group(id));
        }
    }
    for (i, id) in context.supplemental_groups.iter().flatten().enumerate() {
        errors.all_invalid(&at.child("supplementalGroups").index(i), *id, names::user_or_group(*id));
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        errors.invalid(&at.child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    sysctls(&at.child("sysctls"), context, spec, errors);
    for (field, value, allowed) in [
        ("fsGroupChangePolicy", &context.fs_group_change_policy, &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &context.supplemental_groups_policy, &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &context.se_linux_change_policy, &["MountOption", "Recursive"]),
    ] {
        if let Some(value) = value.as_deref().filter(|v| !allowed.contains(v)) {
            errors.not_supported(&at.child(field), value, allowed);
        }
    }
    seccomp(&at.child("seccompProfile"), context.seccomp_profile.as_ref(), errors);
    app_armor(&at.child("appArmorProfile"), context.app_armor_profile.as_ref(), errors);
}

fn host_users(path: &FieldPath, spec: &PodSpec, errors: &mut FieldErrors) {
    if spec.host_users != Some(false) {
        return;
    }
    for (field, set) in [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)] {
        if set == Some(true) {
            errors.forbidden(&path.child(field), "when `hostUsers` is false");
        }
    }
    for (at, c) in super::with_paths(path, spec) {
        if c.volume_devices.as_ref().is_some_and(|d| !d.is_empty()) {
            errors.forbidden(&at.child("volumeDevices"), "when `hostUsers` is false");
        }
    }
}

fn sysctls(path: &FieldPath, context: &PodSecurityContext, spec: &PodSpec, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let (at, name) = (path.index(i).child("name"), sysctl.name.as_str());
        if name.is_empty() {
            errors.required(&at, "");
        } else if !is_sysctl(name) {
            errors.invalid(&at, name, format!("must have at most {MAX_SYSCTL_BYTES} characters and match regex {SYSCTL_REGEX}"));
        } else if !seen.insert(name) {
            errors.duplicate(&at, name);
        }
        let name_with_dots = name.replace('/', ".");
        let of_ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|p| name_with_dots.starts_with(p));
        if spec.host_network == Some(true) && name_with_dots.starts_with("net.") {
            errors.invalid(&at, name, "may not be specified when 'hostNetwork' is true");
        } else if spec.host_ipc == Some(true) && of_ipc {
            errors.invalid(&at, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let segment = |part: &str| match (part.bytes().next(), part.bytes().last()) {
        (Some(first), Some(last)) => edge(first) && edge(last) && part.bytes().all(|c| edge(c) || matches!(c, b'-' | b'_')),
        _ => false,
    };
    name.len() <= MAX_SYSCTL_BYTES && name.split(['.', '/']).all(segment)
}

fn seccomp(path: &FieldPath, profile: Option<&SeccompProfile>, errors: &mut FieldErrors) {
    let Some(profile) = profile else { return };
    match profile.type_.as_str() {
        "" => errors.required(&path.child("type"), "type is required when seccompProfile is set"),
        kind if !PROFILES.contains(&kind) => errors.not_supported(&path.child("type"), kind, PROFILES),
        _ => {}
    }
    let at = path.child("localhostProfile");
    match (profile.type_ == "Localhost", &profile.localhost_profile) {
        (true, None) => errors.required(&at, "must be set when seccomp type is Localhost"),
        (true, Some(file)) => volume::descending_path(&at, file, errors),
        (false, Some(_)) => errors.invalid(&at, check::json_of(profile), "can only be set when seccomp type is Localhost"),
        (false, None) => {}
    }
}

fn app_armor(path: &FieldPath, profile: Option<&AppArmorProfile>, errors: &mut FieldErrors) {
    let Some(profile) = profile else { return };
    match profile.type_.as_str() {
        "" => errors.required(&path.child("type"), "type is required when appArmorProfile is set"),
        kind if !PROFILES.contains(&kind) => errors.not_supported(&path.child("type"), kind, PROFILES),
        _ => {}
    }
    let at = path.child("localhostProfile");
    match (profile.type_ == "Localhost", profile.localhost_profile.as_deref().map(str::trim)) {
        (true, None | Some("")) => errors.required(&at, "must be set when AppArmor type is Localhost"),
        (false, Some(_)) => {
            let value = profile.localhost_profile.clone();
            errors.invalid(&at, value, "can only be set when AppArmor type is Localhost");
        }
        _ => {}
    }
}

pub fn of_container(path: &FieldPath, context: &SecurityContext, spec: &PodSpec, errors: &mut FieldErrors) {
    for (field, id) in [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)] {
        if let Some(id) = id {
            errors.all_invalid(&path.child(field), id, names::user_or_group(id));
        }
    }
    if let Some(mount) = context.proc_mount.as_deref() {
        let at = path.child("procMount");
        if !matches!(mount, "Default" | "Unmasked") {
            errors.not_supported(&at, mount, &["Default", "Unmasked"]);
        }
        if mount == "Unmasked" && spec.host_users != Some(false) {
            errors.invalid(&at, mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(&path.child("seccompProfile"), context.seccomp_profile.as_ref(), errors);
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, check::json_of(context), why);
        }
        let added = context.capabilities.iter().flat_map(|c| c.add.iter().flatten());
        for _ in added.filter(|c| *c == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, check::json_of(context), why);
        }
    }
    app_armor(&path.child("appArmorProfile"), context.app_armor_profile.as_ref(), errors);
}
