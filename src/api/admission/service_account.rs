//! ServiceAccount: a pod runs as one, finds its token at the usual place, and inherits its pull secrets.

use crate::api::verbs::suffix;
use k8s_openapi::api::core::v1 as core;

const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
/// An hour and seven seconds: the seven tell such tokens from ones that somebody asked for.
const TOKEN_S: i64 = 3607;

pub fn admit(spec: &mut core::PodSpec, account: &core::ServiceAccount) {
    let name = account.metadata.name.clone().unwrap_or_default();
    spec.service_account_name = Some(name.clone());
    spec.service_account = Some(name);
    if spec.automount_service_account_token.or(account.automount_service_account_token).unwrap_or(true) {
        mount_token(spec);
    }
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets.clone_from(&account.image_pull_secrets);
    }
}

fn mount_token(spec: &mut core::PodSpec) {
    let present = spec.volumes.iter().flatten().find(|v| v.name.starts_with(VOLUME)).map(|v| v.name.clone());
    let name = present.clone().unwrap_or_else(|| format!("{VOLUME}{}", suffix()));
    let mut needed = false;
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let mounts = container.volume_mounts.get_or_insert_default();
        if mounts.iter().any(|m| m.mount_path == MOUNT) {
            continue;
        }
        let mount = core::VolumeMount { name: name.clone(), mount_path: MOUNT.into(), read_only: Some(true), ..Default::default() };
        mounts.push(mount);
        needed = true;
    }
    if needed && present.is_none() {
        spec.volumes.get_or_insert_default().push(volume(name));
    }
}

fn volume(name: String) -> core::Volume {
    let token = core::ServiceAccountTokenProjection { path: "token".into(), expiration_seconds: Some(TOKEN_S), audience: None };
    let authority = core::ConfigMapProjection {
        name: "kube-root-ca.crt".into(),
        items: Some(vec![core::KeyToPath { key: "ca.crt".into(), path: "ca.crt".into(), mode: None }]),
        optional: None,
    };
    let field = core::ObjectFieldSelector { api_version: Some("v1".into()), field_path: "metadata.namespace".into() };
    let item = core::DownwardAPIVolumeFile { path: "namespace".into(), field_ref: Some(field), ..Default::default() };
    let sources = vec![
        core::VolumeProjection { service_account_token: Some(token), ..Default::default() },
        core::VolumeProjection { config_map: Some(authority), ..Default::default() },
        core::VolumeProjection { downward_api: Some(core::DownwardAPIProjection { items: Some(vec![item]) }), ..Default::default() },
    ];
    let projected = core::ProjectedVolumeSource { default_mode: Some(0o644), sources: Some(sources) };
    core::Volume { name, projected: Some(projected), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(json: serde_json::Value) -> core::PodSpec {
        serde_json::from_value(json).unwrap()
    }

    fn account(json: serde_json::Value) -> core::ServiceAccount {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn every_container_finds_its_token() {
        let mut pod = spec(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"},
            {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT}]}]}));
        admit(&mut pod, &account(json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "reg"}]})));
        assert_eq!(pod.service_account_name.as_deref(), Some("default"));
        let volumes = pod.volumes.clone().unwrap();
        assert_eq!(volumes.len(), 1);
        assert!(volumes[0].name.starts_with(VOLUME) && volumes[0].name.len() == VOLUME.len() + 5);
        let mounts: Vec<usize> = pod.containers.iter().map(|c| c.volume_mounts.as_ref().unwrap().len()).collect();
        assert_eq!(mounts, [1, 1]);
        assert_eq!(pod.containers[0].volume_mounts.as_ref().unwrap()[0].name, volumes[0].name);
        assert_eq!(pod.image_pull_secrets.map(|s| s[0].name.clone()).as_deref(), Some("reg"));
    }

    #[test]
    fn the_pod_decides_about_automount_before_the_account() {
        let sa = account(json!({"metadata": {"name": "sa"}, "automountServiceAccountToken": false}));
        let mut off = spec(json!({"containers": [{"name": "a"}]}));
        admit(&mut off, &sa);
        assert!(off.volumes.is_none());
        let mut on = spec(json!({"containers": [{"name": "a"}], "automountServiceAccountToken": true}));
        admit(&mut on, &sa);
        assert!(on.volumes.is_some());
    }
}
