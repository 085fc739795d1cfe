//! From a pod's container to what the runtime is asked to run. Pure but for the image's passwd file.

use super::dirs::PodDirs;
use super::env::{self, arguments, process_environment};
use super::expand::expand_all;
use super::resources;
use super::security::{self, Security};
use super::volumes::Source;
use k8s_openapi::api::core::v1 as api;
use orchd_runtime::image::Image;
use orchd_runtime::spec::{ContainerSpec, Mount, ProcessSpec, Propagation};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Labels by which a container is found again.
pub const NAME: &str = "io.kubernetes.container.name";
pub const ATTEMPT: &str = "io.kubernetes.container.restartCount";
pub const IMAGE: &str = "orchd.io/image";
pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";

const TERMINATION_LOG: &str = "/dev/termination-log";

/// What a container is made of.
pub struct Inputs<'a> {
    pub env: env::Inputs<'a>,
    pub image: &'a Image,
    pub attempt: i32,
    pub volumes: &'a BTreeMap<String, Source>,
    pub dirs: &'a PodDirs,
    pub log_path: PathBuf,
    pub hostname: &'a str,
    pub seccomp_profiles: &'a Path,
    pub node_memory_bytes: i64,
}

/// The specification of one attempt.
///
/// # Errors
/// The message of `CreateContainerConfigError`.
pub fn specification(inputs: &Inputs<'_>) -> Result<ContainerSpec, String> {
    let (pod, container) = (inputs.env.pod, inputs.env.container);
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let meta = &pod.metadata;
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let display = format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid));
    let security = security::of(spec, container, inputs.image, &display, inputs.seccomp_profiles)?;
    let environment = env::environment(&inputs.env)?;
    let process = process(inputs, &security, &environment)?;
    let labels = [(NAME, container.name.clone()), (ATTEMPT, inputs.attempt.to_string()), (IMAGE, text(&container.image))];
    Ok(ContainerSpec {
        id: new_id(),
        labels: labels.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        image: inputs.image.digest.clone(),
        process,
        mounts: mounts(inputs, &environment)?,
        read_only_root: security.read_only_root,
        privileged: security.privileged,
        seccomp: security.seccomp,
        masked_paths: security.masked_paths,
        readonly_paths: security.readonly_paths,
        resources: resources::of_container(spec, container, inputs.node_memory_bytes),
        log_path: inputs.log_path.clone(),
        stdin: container.stdin == Some(true),
    })
}

/// 64 hexadecimal digits.
fn new_id() -> String {
    rand::random::<[u8; 32]>().iter().map(|b| format!("{b:02x}")).collect()
}

fn process(inputs: &Inputs<'_>, security: &Security, environment: &BTreeMap<String, String>) -> Result<ProcessSpec, String> {
    let container = inputs.env.container;
    let args = arguments(container, inputs.image, environment);
    if args.is_empty() {
        return Err("no command specified".into());
    }
    let image_dir = inputs.image.config.config().as_ref().and_then(|c| c.working_dir().clone()).filter(|d| !d.is_empty());
    let cwd = container.working_dir.clone().filter(|d| !d.is_empty()).or(image_dir).unwrap_or_else(|| "/".into());
    Ok(ProcessSpec {
        args,
        env: process_environment(inputs.image, environment, inputs.hostname, &security.home),
        cwd: cwd.into(),
        uid: security.uid,
        gid: security.gid,
        additional_gids: security.additional_gids.clone(),
        capabilities: security.capabilities.clone(),
        no_new_privileges: security.no_new_privileges,
        tty: container.tty == Some(true),
    })
}

/// The pod's volumes, then the files that the node manages.
fn mounts(inputs: &Inputs<'_>, environment: &BTreeMap<String, String>) -> Result<Vec<Mount>, String> {
    let container = inputs.env.container;
    let mut out = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let source = inputs
            .volumes
            .get(&mount.name)
            .ok_or_else(|| format!("cannot find volume \"{}\" to mount into container \"{}\"", mount.name, container.name))?;
        out.push(Mount {
            source: source.path.clone(),
            destination: absolute(&mount.mount_path),
            read_only: source.read_only || mount.read_only == Some(true),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
            sub_path: sub_path(mount, environment)?,
        });
    }
    let termination = container.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or(TERMINATION_LOG);
    let managed = [
        (inputs.dirs.hosts(), "/etc/hosts"),
        (inputs.dirs.resolv_conf(), "/etc/resolv.conf"),
        (inputs.dirs.hostname(), "/etc/hostname"),
        (inputs.dirs.termination_log(&container.name, inputs.attempt), termination),
    ];
    for (source, destination) in managed {
        let destination = absolute(destination);
        if !out.iter().any(|m| m.destination == destination) {
            out.push(Mount { source, destination, read_only: false, propagation: Propagation::Private, sub_path: None });
        }
    }
    Ok(out)
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

fn sub_path(mount: &api::VolumeMount, environment: &BTreeMap<String, String>) -> Result<Option<PathBuf>, String> {
    let given = |t: &Option<String>| t.clone().filter(|t| !t.is_empty());
    let path = match given(&mount.sub_path_expr) {
        Some(expression) => expand_all(&expression, environment)?,
        None => given(&mount.sub_path).unwrap_or_default(),
    };
    if path.starts_with('/') {
        return Err(format!("error SubPath `{path}` must not be an absolute path"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
    }
    Ok(Some(path).filter(|p| !p.is_empty()).map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sub_paths_are_expanded_and_stay_inside() {
        let env: BTreeMap<String, String> = [("A", "x"), ("ABS", "/x"), ("UP", "..")].map(|(k, v)| (k.into(), v.into())).into();
        let of = |mount: serde_json::Value| {
            let mut mount = mount;
            mount["name"] = json!("v");
            mount["mountPath"] = json!("/m");
            sub_path(&serde_json::from_value(mount).unwrap(), &env)
        };
        assert_eq!(of(json!({})).unwrap(), None);
        assert_eq!(of(json!({"subPath": "a/$(A)"})).unwrap(), Some("a/$(A)".into()));
        assert_eq!(of(json!({"subPathExpr": "a/$(A)"})).unwrap(), Some("a/x".into()));
        for (expression, why) in [
            ("$(ABS)", "error SubPath `/x` must not be an absolute path"),
            ("$(UP)/y", "unable to provision SubPath `../y`: must not contain '..'"),
            ("$(NONE)", "missing value for NONE"),
        ] {
            assert_eq!(of(json!({"subPathExpr": expression})).unwrap_err(), why);
        }
    }
}
