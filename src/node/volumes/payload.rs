//! Contents of configMap, secret, downwardAPI and projected volumes, from what was fetched. Pure.

use super::atomic::{Payload, Projection};
use crate::kinds::{ConfigMap, Secret};
use crate::node::fields::{self, Addresses};
use crate::node::resources::Allocatable;
use crate::node::security::common_user;
use crate::node::sources::{Fetched, SourceKind};
use k8s_openapi::api::core::v1 as api;
use std::collections::BTreeMap;

const DEFAULT_MODE: u32 = 0o644;

/// A service account token that a projected volume asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenAsk {
    /// Empty: the API server's own.
    pub audience: String,
    pub seconds: i64,
}

impl TokenAsk {
    pub fn of(source: &api::ServiceAccountTokenProjection) -> Self {
        Self { audience: source.audience.clone().unwrap_or_default(), seconds: source.expiration_seconds.unwrap_or(3600) }
    }
}

/// What volumes are made of.
pub struct Inputs<'a> {
    pub pod: &'a api::Pod,
    pub addresses: Addresses,
    pub node: &'a Allocatable,
    pub fetched: &'a Fetched,
    pub tokens: &'a BTreeMap<TokenAsk, String>,
}

/// The ConfigMaps and Secrets that the pod's volumes refer to.
pub fn references(pod: &api::Pod) -> Vec<(SourceKind, String)> {
    let mut out = Vec::new();
    for volume in volumes(pod) {
        out.extend(volume.config_map.iter().map(|v| (SourceKind::ConfigMap, v.name.clone())));
        out.extend(volume.secret.iter().filter_map(|v| Some((SourceKind::Secret, v.secret_name.clone()?))));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            out.extend(source.config_map.iter().map(|v| (SourceKind::ConfigMap, v.name.clone())));
            out.extend(source.secret.iter().map(|v| (SourceKind::Secret, v.name.clone())));
        }
    }
    out.sort();
    out.dedup();
    out
}

pub fn volumes(pod: &api::Pod) -> &[api::Volume] {
    pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default()
}

/// The tokens that the pod's volumes ask for.
pub fn token_asks(pod: &api::Pod) -> Vec<TokenAsk> {
    let sources = volumes(pod).iter().flat_map(|v| v.projected.iter()).flat_map(|p| p.sources.iter().flatten());
    let mut asks: Vec<TokenAsk> = sources.filter_map(|s| s.service_account_token.as_ref()).map(TokenAsk::of).collect();
    asks.sort();
    asks.dedup();
    asks
}

/// The files of a volume; None if it is of a kind that has none of its own.
///
/// # Errors
/// What is missing, in the kubelet's words.
pub fn of(inputs: &Inputs<'_>, volume: &api::Volume) -> Result<Option<Payload>, String> {
    if let Some(v) = &volume.config_map {
        let mut out = Payload::new();
        config_map(inputs, &v.name, v.items.as_deref(), mode(v.default_mode), v.optional, &mut out)?;
        return Ok(Some(out));
    }
    if let Some(v) = &volume.secret {
        let mut out = Payload::new();
        secret(inputs, v.secret_name.as_deref().unwrap_or_default(), v.items.as_deref(), mode(v.default_mode), v.optional, &mut out)?;
        return Ok(Some(out));
    }
    if let Some(v) = &volume.downward_api {
        let mut out = Payload::new();
        downward(inputs, v.items.as_deref().unwrap_or_default(), mode(v.default_mode), &mut out)?;
        return Ok(Some(out));
    }
    volume.projected.as_ref().map(|v| projected(inputs, v)).transpose()
}

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(DEFAULT_MODE)
}

fn projected(inputs: &Inputs<'_>, volume: &api::ProjectedVolumeSource) -> Result<Payload, String> {
    let mut out = Payload::new();
    let default = mode(volume.default_mode);
    for source in volume.sources.iter().flatten() {
        if let Some(s) = &source.config_map {
            config_map(inputs, &s.name, s.items.as_deref(), default, s.optional, &mut out)?;
        } else if let Some(s) = &source.secret {
            secret(inputs, &s.name, s.items.as_deref(), default, s.optional, &mut out)?;
        } else if let Some(s) = &source.downward_api {
            downward(inputs, s.items.as_deref().unwrap_or_default(), default, &mut out)?;
        } else if let Some(s) = &source.service_account_token {
            out.insert(s.path.clone(), token(inputs, s, default)?);
        } else if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
            return Err("this node supports neither clusterTrustBundle nor podCertificate projections".into());
        }
    }
    Ok(out)
}

/// Readable by the pod's user alone where there is one, or an fsGroup to share it with.
fn token(inputs: &Inputs<'_>, source: &api::ServiceAccountTokenProjection, default: u32) -> Result<Projection, String> {
    let token = inputs.tokens.get(&TokenAsk::of(source)).ok_or("failed to fetch token")?;
    let spec = inputs.pod.spec.as_ref();
    let fs_group = spec.and_then(|s| s.security_context.as_ref()).and_then(|c| c.fs_group);
    let owner = spec.and_then(common_user).filter(|_| fs_group.is_none());
    let mode = if owner.is_some() || fs_group.is_some() { 0o600 } else { default };
    Ok(Projection { data: token.clone().into_bytes(), mode, owner })
}

fn config_map(
    inputs: &Inputs<'_>,
    name: &str,
    items: Option<&[api::KeyToPath]>,
    default: u32,
    optional: Option<bool>,
    out: &mut Payload,
) -> Result<(), String> {
    let optional = optional == Some(true);
    let Some(map) = inputs.fetched.get(SourceKind::ConfigMap, name).and_then(|o| o.get::<ConfigMap>()) else {
        return if optional { Ok(()) } else { Err(format!("configmap \"{name}\" not found")) };
    };
    let text = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes()));
    let data = text.chain(map.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice()))).collect();
    select(&data, items, default, optional, out).map_err(|key| format!("configmap references non-existent config key: {key}"))
}

fn secret(
    inputs: &Inputs<'_>,
    name: &str,
    items: Option<&[api::KeyToPath]>,
    default: u32,
    optional: Option<bool>,
    out: &mut Payload,
) -> Result<(), String> {
    let optional = optional == Some(true);
    let Some(secret) = inputs.fetched.get(SourceKind::Secret, name).and_then(|o| o.get::<Secret>()) else {
        return if optional { Ok(()) } else { Err(format!("secret \"{name}\" not found")) };
    };
    let data = secret.data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())).collect();
    select(&data, items, default, optional, out).map_err(|key| format!("references non-existent secret key: {key}"))
}

/// All keys, or the chosen ones at their paths. The error is the missing key.
fn select(
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[api::KeyToPath]>,
    default: u32,
    optional: bool,
    out: &mut Payload,
) -> Result<(), String> {
    let file = |bytes: &[u8], mode| Projection { data: bytes.to_vec(), mode, owner: None };
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        out.extend(data.iter().map(|(k, v)| ((*k).to_owned(), file(v, default))));
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => drop(out.insert(clean(&item.path), file(bytes, item.mode.map_or(default, |m| mode(Some(m)))))),
            None if optional => {}
            None => return Err(item.key.clone()),
        }
    }
    Ok(())
}

/// As Go's path.Clean does for relative paths without `..`.
fn clean(path: &str) -> String {
    path.split('/').filter(|p| !p.is_empty() && *p != ".").collect::<Vec<_>>().join("/")
}

fn downward(inputs: &Inputs<'_>, items: &[api::DownwardAPIVolumeFile], default: u32, out: &mut Payload) -> Result<(), String> {
    for item in items {
        let text = if let Some(reference) = &item.field_ref {
            fields::field(inputs.pod, &reference.field_path, inputs.addresses)?
        } else if let Some(reference) = &item.resource_field_ref {
            fields::resource(inputs.pod, None, reference, inputs.node)?
        } else {
            String::new()
        };
        let mode = item.mode.map_or(default, |m| mode(Some(m)));
        out.insert(clean(&item.path), Projection { data: text.into_bytes(), mode, owner: None });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{Registered, load};
    use serde_json::{Value, json};
    use std::net::Ipv4Addr;

    fn fetched() -> Fetched {
        let mut out = Fetched::default();
        let map = json!({"metadata": {"name": "m"}, "data": {"a": "1", "b": "2"}, "binaryData": {"bin": "AAE="}});
        out.insert(SourceKind::ConfigMap, "m", load(ConfigMap::resource(), map.to_string().as_bytes(), 1).unwrap());
        let secret = json!({"metadata": {"name": "s"}, "data": {"k": "eA=="}});
        out.insert(SourceKind::Secret, "s", load(Secret::resource(), secret.to_string().as_bytes(), 1).unwrap());
        out
    }

    fn build(volume: Value, spec: Value) -> Result<Option<Payload>, String> {
        let mut pod: Value = json!({"metadata": {"name": "p", "namespace": "n", "labels": {"l": "v"}}, "spec": spec});
        pod["spec"]["containers"] = json!([{"name": "c", "resources": {"limits": {"cpu": "2"}}}]);
        let pod: api::Pod = serde_json::from_value(pod).unwrap();
        let tokens = [(TokenAsk { audience: "aud".into(), seconds: 600 }, "tok".to_owned())].into();
        let node = Allocatable { cpu_milli: 1, memory_bytes: 1, ephemeral_bytes: 1 };
        let addresses = Addresses { host: Ipv4Addr::LOCALHOST.into(), pod: None };
        let inputs = Inputs { pod: &pod, addresses, node: &node, fetched: &fetched(), tokens: &tokens };
        of(&inputs, &serde_json::from_value(volume).unwrap())
    }

    fn shown(volume: Value) -> Vec<(String, String, u32)> {
        let payload = build(volume, json!({})).unwrap().unwrap();
        payload.into_iter().map(|(p, f)| (p, String::from_utf8_lossy(&f.data).into_owned(), f.mode)).collect()
    }

    #[test]
    fn keys_items_and_modes() {
        let all = shown(json!({"name": "v", "configMap": {"name": "m"}}));
        assert_eq!(all.iter().map(|f| (f.0.as_str(), f.2)).collect::<Vec<_>>(), [("a", 0o644), ("b", 0o644), ("bin", 0o644)]);
        let items = json!({"name": "v", "configMap": {"name": "m", "defaultMode": 0o400,
            "items": [{"key": "a", "path": "x//y"}, {"key": "b", "path": "z", "mode": 0o777}]}});
        assert_eq!(shown(items), [("x/y".into(), "1".into(), 0o400), ("z".into(), "2".into(), 0o777)]);
        assert_eq!(shown(json!({"name": "v", "secret": {"secretName": "s"}})), [("k".into(), "x".into(), 0o644)]);
    }

    #[test]
    fn what_is_missing_is_said_unless_it_is_optional() {
        for (volume, why) in [
            (json!({"configMap": {"name": "no"}}), "configmap \"no\" not found"),
            (json!({"secret": {"secretName": "no"}}), "secret \"no\" not found"),
            (json!({"configMap": {"name": "m", "items": [{"key": "q", "path": "q"}]}}), "configmap references non-existent config key: q"),
            (json!({"secret": {"secretName": "s", "items": [{"key": "q", "path": "q"}]}}), "references non-existent secret key: q"),
        ] {
            let mut named = volume;
            named["name"] = json!("v");
            assert_eq!(build(named, json!({})).unwrap_err(), why);
        }
        assert_eq!(shown(json!({"name": "v", "configMap": {"name": "no", "optional": true}})), []);
        assert_eq!(shown(json!({"name": "v", "secret": {"secretName": "s", "optional": true, "items": [{"key": "q", "path": "q"}]}})), []);
    }

    #[test]
    fn projections_come_together() {
        let volume = json!({"name": "v", "projected": {"defaultMode": 0o640, "sources": [
            {"configMap": {"name": "m", "items": [{"key": "a", "path": "cm/a"}]}},
            {"secret": {"name": "s"}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}, "mode": 0o400}]}},
            {"serviceAccountToken": {"path": "token", "audience": "aud", "expirationSeconds": 600}}]}});
        let want = [("cm/a", "1", 0o640), ("cpu", "2", 0o400), ("k", "x", 0o640), ("labels", "l=\"v\"", 0o640), ("token", "tok", 0o640)];
        assert_eq!(shown(volume.clone()), want.map(|(p, d, m)| (p.to_owned(), d.to_owned(), m)));
        let owned = build(volume.clone(), json!({"securityContext": {"runAsUser": 1000}})).unwrap().unwrap();
        assert_eq!((owned["token"].owner, owned["token"].mode), (Some(1000), 0o600));
        let grouped = build(volume, json!({"securityContext": {"runAsUser": 1000, "fsGroup": 5}})).unwrap().unwrap();
        assert_eq!((grouped["token"].owner, grouped["token"].mode), (None, 0o600));
    }

    #[test]
    fn an_empty_dir_has_no_payload() {
        assert_eq!(build(json!({"name": "v", "emptyDir": {}}), json!({})).unwrap(), None);
    }
}
