//! What authentication and authorization ask of the cluster's present state.

use crate::kinds::{Pod, ServiceAccount};
use crate::security::{BoundObjects, NodeOwns};
use crate::watch::Snapshot;
use k8s_openapi::api::core::v1 as core;

/// A snapshot that answers them.
pub struct Present(pub Snapshot);

impl BoundObjects for Present {
    fn service_account_uid(&self, namespace: &str, name: &str) -> Option<String> {
        self.0.get::<ServiceAccount>(namespace, name).map(|a| a.object().uid().to_owned())
    }
    fn pod_uid(&self, namespace: &str, name: &str) -> Option<String> {
        self.0.get::<Pod>(namespace, name).map(|p| p.object().uid().to_owned())
    }
}

impl NodeOwns for Present {
    fn pod_on_node(&self, node: &str, namespace: &str, pod: &str) -> bool {
        self.0.get::<Pod>(namespace, pod).is_some_and(|p| on_node(&p, node))
    }
    fn used_by_node(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        self.0.list::<Pod>(Some(namespace)).filter(|p| on_node(p, node)).any(|p| uses(&p, resource, name))
    }
}

fn on_node(pod: &core::Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node)
}

/// Whether the pod refers to the ConfigMap, Secret or ServiceAccount.
fn uses(pod: &core::Pod, resource: &str, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    match resource {
        "serviceaccounts" => spec.service_account_name.as_deref() == Some(name),
        "configmaps" => volume_config_maps(spec).chain(env_config_maps(spec)).any(|n| n == name),
        "secrets" => {
            let pull = spec.image_pull_secrets.iter().flatten().map(|s| s.name.as_str());
            volume_secrets(spec).chain(env_secrets(spec)).chain(pull).any(|n| n == name)
        }
        _ => false,
    }
}

fn volumes(spec: &core::PodSpec) -> impl Iterator<Item = &core::Volume> {
    spec.volumes.iter().flatten()
}

fn projections(spec: &core::PodSpec) -> impl Iterator<Item = &core::VolumeProjection> {
    volumes(spec).filter_map(|v| v.projected.as_ref()).flat_map(|p| p.sources.iter().flatten())
}

fn volume_config_maps(spec: &core::PodSpec) -> impl Iterator<Item = &str> {
    let direct = volumes(spec).filter_map(|v| v.config_map.as_ref()).map(|c| c.name.as_str());
    direct.chain(projections(spec).filter_map(|p| p.config_map.as_ref()).map(|c| c.name.as_str()))
}

fn volume_secrets(spec: &core::PodSpec) -> impl Iterator<Item = &str> {
    let direct = volumes(spec).filter_map(|v| v.secret.as_ref()).filter_map(|s| s.secret_name.as_deref());
    direct.chain(projections(spec).filter_map(|p| p.secret.as_ref()).map(|s| s.name.as_str()))
}

/// Environment variables and their sources, of containers of every sort.
type Environment<'a> = (Option<&'a Vec<core::EnvVar>>, Option<&'a Vec<core::EnvFromSource>>);

fn environments(spec: &core::PodSpec) -> impl Iterator<Item = Environment<'_>> {
    let usual = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| (c.env.as_ref(), c.env_from.as_ref()));
    usual.chain(spec.ephemeral_containers.iter().flatten().map(|c| (c.env.as_ref(), c.env_from.as_ref())))
}

fn env_config_maps(spec: &core::PodSpec) -> impl Iterator<Item = &str> {
    environments(spec).flat_map(|(vars, sources)| {
        let keys = vars.into_iter().flatten().filter_map(|v| v.value_from.as_ref()?.config_map_key_ref.as_ref());
        let whole = sources.into_iter().flatten().filter_map(|s| s.config_map_ref.as_ref());
        keys.map(|k| k.name.as_str()).chain(whole.map(|r| r.name.as_str()))
    })
}

fn env_secrets(spec: &core::PodSpec) -> impl Iterator<Item = &str> {
    environments(spec).flat_map(|(vars, sources)| {
        let keys = vars.into_iter().flatten().filter_map(|v| v.value_from.as_ref()?.secret_key_ref.as_ref());
        let whole = sources.into_iter().flatten().filter_map(|s| s.secret_ref.as_ref());
        keys.map(|k| k.name.as_str()).chain(whole.map(|r| r.name.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_of_every_sort_are_found() {
        let pod: core::Pod = serde_json::from_value(json!({"spec": {
            "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"name": "a", "configMap": {"name": "cm1"}}, {"name": "b", "secret": {"secretName": "s1"}},
                {"name": "c", "projected": {"sources": [{"configMap": {"name": "cm2"}}, {"secret": {"name": "s2"}}]}}],
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "cm3"}}, {"secretRef": {"name": "s3"}}]}],
            "containers": [{"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm4", "key": "k"}}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s4", "key": "k"}}}]}]}}))
        .unwrap();
        for name in ["cm1", "cm2", "cm3", "cm4"] {
            assert!(uses(&pod, "configmaps", name), "{name}");
        }
        for name in ["s1", "s2", "s3", "s4", "pull"] {
            assert!(uses(&pod, "secrets", name), "{name}");
        }
        assert!(uses(&pod, "serviceaccounts", "sa") && !uses(&pod, "secrets", "cm1") && !uses(&pod, "configmaps", "s1"));
    }
}
