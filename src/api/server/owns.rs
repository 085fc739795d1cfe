//! What authentication and authorization ask of the cluster's present state.

use crate::kinds::{ConfigMap, Kind, Pod, Secret, ServiceAccount};
use crate::security::authn::BoundObjects;
use crate::security::authz::NodeOwns;
use crate::watch::Feed;
use k8s_openapi::api::core::v1 as core;

/// Answers from the newest snapshot of a feed.
pub struct Present<'a>(pub &'a dyn Feed);

impl BoundObjects for Present<'_> {
    fn service_account_uid(&self, namespace: &str, name: &str) -> Option<String> {
        self.0.snapshot().get::<ServiceAccount>(namespace, name)?.metadata.uid.clone()
    }
    fn pod_uid(&self, namespace: &str, name: &str) -> Option<String> {
        self.0.snapshot().get::<Pod>(namespace, name)?.metadata.uid.clone()
    }
}

impl NodeOwns for Present<'_> {
    fn pod_on_node(&self, node: &str, namespace: &str, pod: &str) -> bool {
        self.0.snapshot().get::<Pod>(namespace, pod).is_some_and(|pod| node_of(&pod) == node)
    }

    /// Reads the pods of one namespace, of which those of other nodes cost a comparison: what a node asks for is asked
    /// once a pod, so an index would cost more than it saves.
    fn used_by_node(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let refers: fn(&core::PodSpec, &str) -> bool = match resource {
            r if r == ConfigMap::NAMES.plural => uses_config_map,
            r if r == Secret::NAMES.plural => uses_secret,
            r if r == ServiceAccount::NAMES.plural => uses_account,
            _ => return false,
        };
        let snapshot = self.0.snapshot();
        let mut pods = snapshot.list::<Pod>(Some(namespace));
        pods.any(|pod| node_of(&pod) == node && pod.spec.as_ref().is_some_and(|spec| refers(spec, name)))
    }
}

fn node_of(pod: &core::Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

fn uses_account(spec: &core::PodSpec, name: &str) -> bool {
    spec.service_account_name.as_deref() == Some(name)
}

/// Environment of every container: its sources, and its single variables.
fn environment(spec: &core::PodSpec) -> impl Iterator<Item = (Option<&core::EnvFromSource>, Option<&core::EnvVarSource>)> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| (&c.env_from, &c.env));
    let all = containers.chain(spec.ephemeral_containers.iter().flatten().map(|c| (&c.env_from, &c.env)));
    all.flat_map(|(from, env)| {
        let whole = from.iter().flatten().map(|f| (Some(f), None));
        whole.chain(env.iter().flatten().map(|e| (None, e.value_from.as_ref())))
    })
}

fn projections(spec: &core::PodSpec) -> impl Iterator<Item = &core::VolumeProjection> {
    spec.volumes.iter().flatten().filter_map(|v| v.projected.as_ref()).flat_map(|p| p.sources.iter().flatten())
}

fn uses_config_map(spec: &core::PodSpec, name: &str) -> bool {
    let volume = |v: &core::Volume| v.config_map.as_ref().is_some_and(|c| c.name == name);
    let projected = |p: &core::VolumeProjection| p.config_map.as_ref().is_some_and(|c| c.name == name);
    spec.volumes.iter().flatten().any(volume)
        || projections(spec).any(projected)
        || environment(spec).any(|(from, one)| {
            from.and_then(|f| f.config_map_ref.as_ref()).is_some_and(|r| r.name == name)
                || one.and_then(|e| e.config_map_key_ref.as_ref()).is_some_and(|r| r.name == name)
        })
}

fn uses_secret(spec: &core::PodSpec, name: &str) -> bool {
    let volume = |v: &core::Volume| v.secret.as_ref().is_some_and(|s| s.secret_name.as_deref() == Some(name));
    let projected = |p: &core::VolumeProjection| p.secret.as_ref().is_some_and(|s| s.name == name);
    spec.image_pull_secrets.iter().flatten().any(|s| s.name == name)
        || spec.volumes.iter().flatten().any(volume)
        || projections(spec).any(projected)
        || environment(spec).any(|(from, one)| {
            from.and_then(|f| f.secret_ref.as_ref()).is_some_and(|r| r.name == name)
                || one.and_then(|e| e.secret_key_ref.as_ref()).is_some_and(|r| r.name == name)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{Registered, load};
    use crate::watch::{Snapshot, Subscription};
    use serde_json::json;

    struct Still(Snapshot);
    impl Feed for Still {
        fn snapshot(&self) -> Snapshot {
            self.0.clone()
        }
        fn subscribe(&self) -> (Snapshot, Subscription) {
            (self.0.clone(), Subscription::new(tokio::sync::broadcast::channel(1).1))
        }
    }

    #[test]
    fn a_node_uses_what_its_pods_name() {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"nodeName": "n1",
            "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "cm-env"}}],
                "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s-env", "key": "k"}}}]}],
            "volumes": [{"name": "a", "secret": {"secretName": "s-vol"}},
                {"name": "b", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}}]}});
        let mut snapshot = Snapshot::default();
        snapshot.insert(load(Pod::resource(), pod.to_string().as_bytes(), 3).unwrap());
        let feed = Still(snapshot);
        let present = Present(&feed);
        assert!(present.pod_on_node("n1", "ns", "p"));
        assert!(!present.pod_on_node("n2", "ns", "p"));
        assert_eq!(present.pod_uid("ns", "p").as_deref(), Some("u"));
        for (resource, name, used) in [
            ("configmaps", "cm-env", true),
            ("configmaps", "kube-root-ca.crt", true),
            ("configmaps", "s-env", false),
            ("secrets", "s-env", true),
            ("secrets", "s-vol", true),
            ("secrets", "pull", true),
            ("secrets", "other", false),
            ("serviceaccounts", "sa", true),
            ("services", "sa", false),
        ] {
            assert_eq!(present.used_by_node("n1", resource, "ns", name), used, "{resource} {name}");
            assert!(!present.used_by_node("n2", resource, "ns", name));
            assert!(!present.used_by_node("n1", resource, "other", name));
        }
    }
}
