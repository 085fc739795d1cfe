//! Environment variables, their sources, and references to fields of the pod (the downward API).

use super::with_paths;
use crate::kinds::fill::str_of;
use crate::kinds::names;
use crate::meta::{FieldErrors, FieldPath, quantity};
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, FileKeySelector, ObjectFieldSelector, PodSpec, ResourceFieldSelector};

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
pub const VOLUME_FIELDS: &[&str] = &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Every field that the downward API of v1 knows, wherever it may be used.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] =
    &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];
const BYTE_DIVISORS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub fn vars(path: &FieldPath, vars: &[EnvVar], errors: &mut FieldErrors) {
    for (i, var) in vars.iter().enumerate() {
        let at = path.index(i);
        if var.name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            errors.all_invalid(&at.child("name"), var.name.as_str(), names::env_var(&var.name));
        }
        value_from(&at.child("valueFrom"), var, errors);
    }
}

fn value_from(path: &FieldPath, var: &EnvVar, errors: &mut FieldErrors) {
    let Some(from) = &var.value_from else { return };
    let mut count = 0;
    if let Some(field) = &from.field_ref {
        count += 1;
        field_ref(&path.child("fieldRef"), field, ENV_FIELDS, errors);
    }
    if let Some(resource) = &from.resource_field_ref {
        count += 1;
        resource_ref(&path.child("resourceFieldRef"), resource, false, errors);
    }
    if let Some(key) = &from.config_map_key_ref {
        count += 1;
        key_ref(&path.child("configMapKeyRef"), &key.name, &key.key, errors);
    }
    if let Some(key) = &from.secret_key_ref {
        count += 1;
        key_ref(&path.child("secretKeyRef"), &key.name, &key.key, errors);
    }
    if let Some(file) = &from.file_key_ref {
        count += 1;
        file_ref(&path.child("fileKeyRef"), file, errors);
    }
    if count == 0 {
        let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.invalid(path, "", why);
    } else if !str_of(&var.value).is_empty() {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

/// `path['key']` as (path, key).
fn subscript(text: &str) -> Option<(&str, &str)> {
    let (path, rest) = text.split_once("['")?;
    Some((path, rest.strip_suffix("']")?))
}

pub fn field_ref(path: &FieldPath, field: &ObjectFieldSelector, allowed: &[&str], errors: &mut FieldErrors) {
    let version = str_of(&field.api_version);
    if version.is_empty() {
        errors.required(&path.child("apiVersion"), "");
        return;
    }
    let text = field.field_path.as_str();
    if text.is_empty() {
        errors.required(&path.child("fieldPath"), "");
        return;
    }
    let unknown = match subscript(text) {
        _ if version != "v1" => Some(format!("unsupported pod version: {version}")),
        Some(("metadata.annotations" | "metadata.labels", _)) => None,
        Some(_) => Some(format!("field label does not support subscript: {text}")),
        None if text != "spec.host" && !KNOWN_FIELDS.contains(&text) => Some(format!("field label not supported: {text}")),
        None => None,
    };
    if let Some(why) = unknown {
        errors.invalid(&path.child("fieldPath"), text, format!("error converting fieldPath: {why}"));
        return;
    }
    match subscript(text) {
        Some(("metadata.annotations", key)) => errors.all_invalid(path, key, names::qualified(&key.to_lowercase())),
        Some((_, key)) => errors.all_invalid(path, key, names::qualified(key)),
        None => {
            let text = if text == "spec.host" { "spec.nodeName" } else { text };
            if !allowed.contains(&text) {
                errors.not_supported(&path.child("fieldPath"), text, allowed);
            }
        }
    }
}

/// `in_volume`: a file of a volume must say which container is meant.
pub fn resource_ref(path: &FieldPath, reference: &ResourceFieldSelector, in_volume: bool, errors: &mut FieldErrors) {
    let resource = reference.resource.as_str();
    let huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if in_volume && str_of(&reference.container_name).is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !huge && !RESOURCES.contains(&resource) {
        errors.not_supported(&path.child("resource"), resource, RESOURCES);
    }
    let Some(divisor) = reference.divisor.as_ref() else { return };
    let at = path.child("divisor");
    match quantity::parse(&divisor.0) {
        Err(e) => return errors.invalid(&at, divisor.0.as_str(), e.to_string()),
        Ok(amount) if amount.0 == 0 => return,
        Ok(_) => {}
    }
    let text = quantity::canonical(&divisor.0).unwrap_or_default();
    let bytes = |what: &str| {
        let values = BYTE_DIVISORS.join(", ");
        format!("only divisor's values {values} are supported with the {what} resource")
    };
    let (allowed, why): (&[&str], String) = match resource {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"], "only divisor's values 1m and 1 are supported with the cpu resource".into()),
        "limits.memory" | "requests.memory" => (BYTE_DIVISORS, bytes("memory")),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (BYTE_DIVISORS, bytes("local ephemeral storage")),
        _ if huge => (BYTE_DIVISORS, bytes("hugepages")),
        _ => return,
    };
    if !allowed.contains(&text.as_str()) {
        errors.invalid(&at, resource, why);
    }
}

fn key_ref(path: &FieldPath, name: &str, key: &str, errors: &mut FieldErrors) {
    errors.all_invalid(&path.child("name"), name, names::subdomain(name));
    if key.is_empty() {
        errors.required(&path.child("key"), "");
    } else {
        errors.all_invalid(&path.child("key"), key, names::data_key(key));
    }
}

fn file_ref(path: &FieldPath, file: &FileKeySelector, errors: &mut FieldErrors) {
    let rules: [(&str, &str, fn(&str) -> Vec<String>); 3] = [
        ("key", &file.key, names::env_var),
        ("volumeName", &file.volume_name, names::label),
        ("path", &file.path, |p| if p.split('/').any(|part| part == "..") { vec!["must not contain '..'".into()] } else { Vec::new() }),
    ];
    for (field, value, rule) in rules {
        if value.is_empty() {
            errors.required(&path.child(field), "");
        } else {
            errors.all_invalid(&path.child(field), value, rule(value));
        }
    }
}

pub fn sources(path: &FieldPath, sources: &[EnvFromSource], errors: &mut FieldErrors) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        if let Some(prefix) = source.prefix.as_deref().filter(|p| !p.is_empty()) {
            errors.all_invalid(&at.child("prefix"), prefix, names::env_var(prefix));
        }
        let references =
            [("configMapRef", source.config_map_ref.as_ref().map(|r| &r.name)), ("secretRef", source.secret_ref.as_ref().map(|r| &r.name))];
        for (field, name) in references {
            match name.map(String::as_str) {
                Some("") => errors.required(&at.child(field).child("name"), ""),
                Some(name) => errors.all_invalid(&at.child(field).child("name"), name, names::subdomain(name)),
                None => {}
            }
        }
        match references.iter().filter(|(_, name)| name.is_some()).count() {
            0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}

/// Variables from files name emptyDir volumes of the pod.
pub fn file_volumes(path: &FieldPath, spec: &PodSpec, errors: &mut FieldErrors) {
    for (at, c) in with_paths(path, spec) {
        for (i, var) in c.env.iter().flatten().enumerate() {
            let Some(file) = var.value_from.as_ref().and_then(|f| f.file_key_ref.as_ref()) else { continue };
            let at = at.child("env").index(i).child("valueFrom").child("fileKeyRef").child("volumeName");
            let name = file.volume_name.as_str();
            match spec.volumes.iter().flatten().find(|v| v.name == name) {
                None => errors.not_found(&at, name),
                Some(v) if v.empty_dir.is_none() => errors.invalid(&at, name, "referenced volume must be of type emptyDir"),
                Some(_) => {}
            }
        }
    }
}
