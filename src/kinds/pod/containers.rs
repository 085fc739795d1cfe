//! The containers of a pod: every list at once, and which init containers are sidecars.

use k8s_openapi::api::core::v1::{Container, PodSpec};

/// Init containers, then containers.
pub fn all(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

pub fn each_mut(spec: &mut PodSpec, change: impl FnMut(&mut Container)) {
    spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).for_each(change);
}

/// True for a sidecar: an init container that keeps running (restartPolicy Always).
pub fn is_sidecar(init_container: &Container) -> bool {
    init_container.restart_policy.as_deref() == Some("Always")
}

/// True if the pod has an init container of this name that is a sidecar.
pub fn names_sidecar(spec: &PodSpec, name: &str) -> bool {
    spec.init_containers.iter().flatten().any(|c| c.name == name && is_sidecar(c))
}
