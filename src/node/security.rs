//! Security contexts: who a container's process is and what it may. Pure but for the image's passwd file.

use k8s_openapi::api::core::v1 as api;
use orchd_runtime::image::{Image, ResolvedUser};
use orchd_runtime::spec::Seccomp;
use std::path::Path;

/// What containers have unless the pod says otherwise: Docker's and containerd's set.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The part of a container that its security context decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Security {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub home: String,
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub privileged: bool,
    pub read_only_root: bool,
    pub seccomp: Seccomp,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
}

/// `pod` is its display name, for messages; `profiles` the directory of Localhost seccomp profiles.
///
/// # Errors
/// The message of `CreateContainerConfigError`, in the kubelet's words.
pub fn of(spec: &api::PodSpec, container: &api::Container, image: &Image, pod: &str, profiles: &Path) -> Result<Security, String> {
    let image_user = image.config.config().as_ref().and_then(|c| c.user().clone()).unwrap_or_default();
    decide(spec, container, &image_user, |text| image.resolve_user(text), pod, profiles)
}

fn decide(
    spec: &api::PodSpec,
    container: &api::Container,
    image_user: &str,
    resolve: impl Fn(&str) -> Result<ResolvedUser, String>,
    pod: &str,
    profiles: &Path,
) -> Result<Security, String> {
    let pod_context = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let run_as_user = own.run_as_user.or(pod_context.run_as_user);
    if own.run_as_non_root.or(pod_context.run_as_non_root) == Some(true) {
        verify_non_root(run_as_user, image_user, pod, &container.name)?;
    }
    let mut user = resolve(&run_as_user.map_or_else(|| image_user.to_owned(), |uid| uid.to_string()))?;
    if let Some(gid) = own.run_as_group.or(pod_context.run_as_group) {
        user.gid = id(gid)?;
    }
    if pod_context.supplemental_groups_policy.as_deref() == Some("Strict") {
        user.additional_gids.clear();
    }
    for gid in pod_context.fs_group.iter().chain(pod_context.supplemental_groups.iter().flatten()) {
        let gid = id(*gid)?;
        if !user.additional_gids.contains(&gid) {
            user.additional_gids.push(gid);
        }
    }
    let privileged = own.privileged == Some(true);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() };
    Ok(Security {
        uid: user.uid,
        gid: user.gid,
        additional_gids: user.additional_gids,
        home: user.home,
        capabilities: capabilities(&own, privileged),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        privileged,
        read_only_root: own.read_only_root_filesystem == Some(true),
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(&own, &pod_context, profiles)? },
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
    })
}

fn id(id: i64) -> Result<u32, String> {
    u32::try_from(id).map_err(|_| format!("{id} is no user or group id"))
}

fn verify_non_root(run_as_user: Option<i64>, image_user: &str, pod: &str, container: &str) -> Result<(), String> {
    let whom = format!("(pod: \"{pod}\", container: {container})");
    match run_as_user {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {whom}")),
        Some(_) => return Ok(()),
        None => {}
    }
    let name = image_user.split_once(':').map_or(image_user, |(user, _)| user);
    match name.parse::<u32>() {
        _ if name.is_empty() => Err(format!("container has runAsNonRoot and image will run as root {whom}")),
        Ok(0) => Err(format!("container has runAsNonRoot and image will run as root {whom}")),
        Ok(_) => Ok(()),
        Err(_) => Err(format!("container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {whom}")),
    }
}

/// The default set, with `drop` taken away and then `add` put in; `ALL` means all.
fn capabilities(own: &api::SecurityContext, privileged: bool) -> Vec<String> {
    let all = || ALL_CAPABILITIES.map(str::to_owned).to_vec();
    if privileged {
        return all();
    }
    let list = |l: Option<&Vec<String>>| -> Vec<String> { l.into_iter().flatten().map(|c| full_name(c)).collect() };
    let asked = own.capabilities.as_ref();
    let (add, drop) = (list(asked.and_then(|c| c.add.as_ref())), list(asked.and_then(|c| c.drop.as_ref())));
    let is_all = |l: &[String]| l.iter().any(|c| c == "CAP_ALL");
    let mut set = if is_all(&add) {
        all()
    } else if is_all(&drop) {
        Vec::new()
    } else {
        DEFAULT_CAPABILITIES.map(str::to_owned).to_vec()
    };
    set.retain(|c| !drop.contains(c));
    for name in add.into_iter().filter(|c| ALL_CAPABILITIES.contains(&c.as_str())) {
        if !set.contains(&name) {
            set.push(name);
        }
    }
    set
}

fn full_name(name: &str) -> String {
    let upper = name.to_uppercase();
    if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

fn seccomp(own: &api::SecurityContext, pod: &api::PodSecurityContext, profiles: &Path) -> Result<Seccomp, String> {
    let Some(profile) = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()) else { return Ok(Seccomp::Unconfined) };
    match (profile.type_.as_str(), profile.localhost_profile.as_deref().unwrap_or_default()) {
        ("RuntimeDefault", _) => Ok(Seccomp::RuntimeDefault),
        ("Localhost", "") => Err("localhostProfile must be set if seccompProfile type is Localhost.".into()),
        ("Localhost", file) if Path::new(file).components().all(|c| matches!(c, std::path::Component::Normal(_))) => {
            Ok(Seccomp::Localhost(profiles.join(file)))
        }
        ("Localhost", file) => Err(format!("localhostProfile {file} must be a descending relative path")),
        _ => Ok(Seccomp::Unconfined),
    }
}

/// The uid of every container of the pod, if all agree on one: who may read the pod's service account token.
pub fn common_user(spec: &api::PodSpec) -> Option<u32> {
    let pod = spec.security_context.as_ref().and_then(|c| c.run_as_user);
    let mut users = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(pod));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn security(pod: Value, container: Value, image_user: &str) -> Result<Security, String> {
        let spec: api::PodSpec =
            serde_json::from_value(json!({"securityContext": pod, "containers": [{"name": "c", "securityContext": container}]})).unwrap();
        let resolve = |text: &str| {
            let uid = if text == "web" { 33 } else { text.split(':').next().unwrap().parse().unwrap_or(0) };
            Ok(ResolvedUser { uid, gid: uid, additional_gids: vec![50], home: "/home".into() })
        };
        decide(&spec, &spec.containers[0], image_user, resolve, "p_n(u)", Path::new("/profiles"))
    }

    #[test]
    fn users_and_groups() {
        let s = security(json!({"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [50, 60]}), json!({}), "")
            .unwrap();
        assert_eq!((s.uid, s.gid, s.additional_gids), (1000, 3000, vec![50, 2000, 60]));
        let s = security(json!({"runAsUser": 1000}), json!({"runAsUser": 7}), "web").unwrap();
        assert_eq!((s.uid, s.gid), (7, 7));
        assert_eq!(security(json!({}), json!({}), "web").unwrap().uid, 33);
        let strict = json!({"supplementalGroupsPolicy": "Strict", "supplementalGroups": [60]});
        assert_eq!(security(strict, json!({}), "").unwrap().additional_gids, [60]);
    }

    #[test]
    fn non_root_is_verified() {
        for (pod, container, image, why) in [
            (json!({"runAsNonRoot": true}), json!({}), "", "container has runAsNonRoot and image will run as root"),
            (json!({"runAsNonRoot": true}), json!({}), "0:5", "container has runAsNonRoot and image will run as root"),
            (json!({}), json!({"runAsNonRoot": true}), "web", "container has runAsNonRoot and image has non-numeric user (web), cannot"),
            (json!({"runAsUser": 0}), json!({"runAsNonRoot": true}), "", "container's runAsUser breaks non-root policy"),
        ] {
            let got = security(pod, container, image).unwrap_err();
            assert!(got.starts_with(why) && got.ends_with("(pod: \"p_n(u)\", container: c)"), "{got}");
        }
        assert!(security(json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), "").is_ok());
        assert!(security(json!({"runAsNonRoot": true}), json!({}), "1000").is_ok());
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let caps = |c: Value| security(json!({}), json!({"capabilities": c}), "").unwrap().capabilities;
        assert_eq!(caps(json!({})).len(), 14);
        assert_eq!(caps(json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]})), ["CAP_NET_BIND_SERVICE"]);
        let some = caps(json!({"drop": ["KILL"], "add": ["cap_sys_time", "NONSENSE"]}));
        assert!(some.contains(&"CAP_SYS_TIME".to_owned()) && !some.contains(&"CAP_KILL".to_owned()) && some.len() == 14);
        assert_eq!(caps(json!({"add": ["ALL"], "drop": ["KILL"]})).len(), 40);
        let s = security(json!({}), json!({"privileged": true, "procMount": "Default"}), "").unwrap();
        assert!(s.capabilities.len() == 41 && s.masked_paths.is_empty() && s.readonly_paths.is_empty());
    }

    #[test]
    fn the_rest() {
        let s = security(
            json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}, "seLinuxOptions": {"level": "s0"}}),
            json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true}),
            "",
        )
        .unwrap();
        assert!(s.no_new_privileges && s.read_only_root && s.seccomp == Seccomp::Localhost("/profiles/a/b.json".into()));
        let up = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../b.json"}});
        assert!(security(up, json!({}), "").is_err());
        let s = security(json!({"seccompProfile": {"type": "RuntimeDefault"}}), json!({"procMount": "Unmasked"}), "").unwrap();
        assert!(s.seccomp == Seccomp::RuntimeDefault && s.masked_paths.is_empty());
    }
}
