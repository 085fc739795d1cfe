//! The downward API: fields of a pod and resources of its containers, as text. Pure.

use super::resources::Allocatable;
use crate::meta::quantity::{self, Amount};
use k8s_openapi::api::core::v1 as api;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

/// What a pod's fields say besides the pod itself.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub host: IpAddr,
    pub pod: Option<IpAddr>,
}

/// The value of a `fieldRef`.
///
/// # Errors
/// `unsupported fieldPath: …`.
pub fn field(pod: &api::Pod, path: &str, addresses: Addresses) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = |f: fn(&api::PodSpec) -> Option<&String>| pod.spec.as_ref().and_then(f).cloned().unwrap_or_default();
    let pod_ip = || addresses.pod.map(|ip| ip.to_string()).unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        return match map {
            "metadata.annotations" => Ok(value(meta.annotations.as_ref(), key)),
            "metadata.labels" => Ok(value(meta.labels.as_ref(), key)),
            _ => Err(format!("fieldPath \"{path}\" does not support subscript")),
        };
    }
    match path {
        "metadata.annotations" => Ok(format_map(meta.annotations.as_ref())),
        "metadata.labels" => Ok(format_map(meta.labels.as_ref())),
        "metadata.name" => Ok(meta.name.clone().unwrap_or_default()),
        "metadata.namespace" => Ok(meta.namespace.clone().unwrap_or_default()),
        "metadata.uid" => Ok(meta.uid.clone().unwrap_or_default()),
        "spec.nodeName" => Ok(spec(|s| s.node_name.as_ref())),
        "spec.serviceAccountName" => Ok(spec(|s| s.service_account_name.as_ref())),
        "status.hostIP" | "status.hostIPs" => Ok(addresses.host.to_string()),
        "status.podIP" | "status.podIPs" => Ok(pod_ip()),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

/// `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

fn value(map: Option<&BTreeMap<String, String>>, key: &str) -> String {
    map.and_then(|m| m.get(key)).cloned().unwrap_or_default()
}

/// `key="value"` in lines, sorted.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", go_quote(v))).collect();
    lines.join("\n")
}

/// Go's `%q`.
fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\x0b' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\x7f' => drop(write!(out, "\\x{:02x}", c as u32)),
            c if c.is_control() => drop(write!(out, "\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a `resourceFieldRef`, of `container` unless it names another. A limit that is not set is what the node
/// could give.
///
/// # Errors
/// `unsupported container resource : …`.
pub fn resource(
    pod: &api::Pod,
    container: Option<&api::Container>,
    reference: &api::ResourceFieldSelector,
    node: &Allocatable,
) -> Result<String, String> {
    let named = reference.container_name.as_deref().filter(|n| !n.is_empty());
    let spec = pod.spec.as_ref();
    let mut all = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let container = match named {
        Some(name) => all.find(|c| c.name == name).ok_or_else(|| format!("container {name} not found"))?,
        None => container.ok_or("no container is named")?,
    };
    let unsupported = || format!("unsupported container resource : {}", reference.resource);
    let (list, name) = reference.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let given = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(unsupported()),
    };
    let given = given.and_then(|l| l.get(name)).map(|q| quantity::amount(Some(q)));
    let default = if list == "limits" { node.get(name) } else { Some(Amount::default()) };
    let amount = given.or(default).ok_or_else(unsupported)?;
    let divisor = quantity::amount(reference.divisor.as_ref());
    let divisor = if divisor == Amount::default() { Amount::from_value(1) } else { divisor };
    let (have, by) = match name {
        "cpu" => (amount.milli(), divisor.milli()),
        "memory" | "ephemeral-storage" => (amount.value(), divisor.value()),
        hugepages if hugepages.starts_with("hugepages-") => (amount.value(), divisor.value()),
        _ => return Err(unsupported()),
    };
    let by = by.max(1);
    Ok((have / by + i64::from(have % by > 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::net::Ipv4Addr;

    fn pod() -> api::Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "x\"y\nz"},
                "annotations": {"k/v": "w"}},
            "spec": {"nodeName": "m", "serviceAccountName": "sa", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1250m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}},
                {"name": "bare"}]}
        }))
        .unwrap()
    }

    #[test]
    fn fields_are_the_kubelets() {
        let addresses = Addresses { host: Ipv4Addr::new(10, 0, 0, 1).into(), pod: Some(Ipv4Addr::new(10, 1, 0, 2).into()) };
        for (path, want) in [
            ("metadata.name", "p"),
            ("metadata.uid", "u"),
            ("metadata.labels", "a=\"x\\\"y\\nz\"\nb=\"2\""),
            ("metadata.labels['b']", "2"),
            ("metadata.annotations['k/v']", "w"),
            ("metadata.annotations['none']", ""),
            ("spec.nodeName", "m"),
            ("spec.serviceAccountName", "sa"),
            ("status.hostIP", "10.0.0.1"),
            ("status.podIPs", "10.1.0.2"),
        ] {
            assert_eq!(field(&pod(), path, addresses).unwrap(), want, "{path}");
        }
        assert_eq!(field(&pod(), "status.phase", addresses).unwrap_err(), "unsupported fieldPath: status.phase");
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let node = Allocatable { cpu_milli: 2000, memory_bytes: 4 << 30, ephemeral_bytes: 10 << 30 };
        let get = |container: &str, resource: &str, divisor: &str| {
            let reference = serde_json::from_value(json!({"containerName": container, "resource": resource, "divisor": divisor})).unwrap();
            super::resource(&pod(), None, &reference, &node)
        };
        for (container, resource, divisor, want) in [
            ("c", "limits.cpu", "0", "2"),
            ("c", "limits.cpu", "1m", "1250"),
            ("c", "limits.memory", "1Mi", "64"),
            ("c", "requests.cpu", "1m", "250"),
            ("bare", "limits.cpu", "1", "2"),
            ("bare", "limits.memory", "1Gi", "4"),
            ("bare", "requests.memory", "1", "0"),
        ] {
            assert_eq!(get(container, resource, divisor).unwrap(), want, "{container} {resource}");
        }
        assert!(get("c", "limits.gpu", "1").is_err() && get("ghost", "limits.cpu", "1").is_err());
    }
}
