//! Volumes of a pod, by the source that each names.

use super::env;
use crate::kinds::fill::str_of;
use crate::kinds::{check, names};
use crate::meta::{FieldErrors, FieldPath, ObjectMeta, quantity};
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, PodSpec, ProjectedVolumeSource, Volume, VolumeProjection};
use std::collections::{HashMap, HashSet};

/// The valid volumes of a pod, by name.
pub type Volumes<'a> = HashMap<&'a str, &'a Volume>;

const BAD_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const ONE_TYPE: &str = "may not specify more than 1 volume type";
const MAX_MODE: i32 = 0o777;
const MIN_TOKEN_SECONDS: i64 = 600;

/// Checks all, and gives those without a fault: a mount of a faulty one is reported too, as Kubernetes does.
pub fn all<'a>(path: &FieldPath, spec: &'a PodSpec, meta: &ObjectMeta, errors: &mut FieldErrors) -> Volumes<'a> {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let pod = meta.name.as_deref().unwrap_or_default();
    let created: HashSet<String> = volumes.iter().filter(|v| v.ephemeral.is_some()).map(|v| format!("{pod}-{}", v.name)).collect();
    let mut valid = Volumes::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = path.index(i);
        let before = errors.0.len();
        source(&at, volume, errors);
        if volume.name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            errors.all_invalid(&at.child("name"), volume.name.as_str(), names::label(&volume.name));
        }
        if valid.contains_key(volume.name.as_str()) {
            errors.duplicate(&at.child("name"), volume.name.as_str());
        }
        if errors.0.len() == before {
            valid.insert(&volume.name, volume);
        }
        if let Some(claim) = volume.persistent_volume_claim.as_ref().filter(|c| !pod.is_empty() && created.contains(&c.claim_name)) {
            let why = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid(&at.child("persistentVolumeClaim").child("claimName"), claim.claim_name.as_str(), why);
        }
    }
    valid
}

fn source(path: &FieldPath, volume: &Volume, errors: &mut FieldErrors) {
    let sources = check::json_of(volume);
    let given: Vec<&String> = sources.as_object().into_iter().flatten().map(|(k, _)| k).filter(|k| *k != "name").collect();
    match given.as_slice() {
        [] => errors.required(path, "must specify a volume type"),
        [_] => one_source(path, volume, errors),
        [_, more @ ..] => more.iter().for_each(|name| errors.forbidden(&path.child(name), ONE_TYPE)),
    }
}

fn one_source(path: &FieldPath, volume: &Volume, errors: &mut FieldErrors) {
    if let Some(limit) = volume.empty_dir.as_ref().and_then(|v| v.size_limit.as_ref())
        && quantity::parse(&limit.0).is_ok_and(|amount| amount.0 < 0)
    {
        errors.forbidden(&path.child("emptyDir").child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
    if let Some(v) = &volume.host_path {
        host_path(&path.child("hostPath"), &v.path, str_of(&v.type_), errors);
    }
    if let Some(v) = &volume.secret {
        let at = path.child("secret");
        required(&at.child("secretName"), str_of(&v.secret_name), errors);
        mode(&at.child("defaultMode"), v.default_mode, errors);
        items(&at, v.items.as_deref(), errors);
    }
    if let Some(v) = &volume.config_map {
        let at = path.child("configMap");
        required(&at.child("name"), &v.name, errors);
        mode(&at.child("defaultMode"), v.default_mode, errors);
        items(&at, v.items.as_deref(), errors);
    }
    if let Some(v) = &volume.downward_api {
        let at = path.child("downwardAPI");
        mode(&at.child("defaultMode"), v.default_mode, errors);
        v.items.iter().flatten().for_each(|file| downward_file(&at, file, errors));
    }
    if let Some(v) = &volume.projected {
        mode(&path.child("projected").child("defaultMode"), v.default_mode, errors);
        projected(&path.child("projected"), v, errors);
    }
    if let Some(v) = &volume.persistent_volume_claim {
        required(&path.child("persistentVolumeClaim").child("claimName"), &v.claim_name, errors);
    }
    if let Some(v) = &volume.nfs {
        let at = path.child("nfs");
        required(&at.child("server"), &v.server, errors);
        required(&at.child("path"), &v.path, errors);
        if !v.path.starts_with('/') {
            errors.invalid(&at.child("path"), v.path.as_str(), "must be an absolute path");
        }
    }
    if let Some(v) = &volume.csi {
        required(&path.child("csi").child("driver"), &v.driver, errors);
    }
    if let Some(v) = &volume.ephemeral
        && v.volume_claim_template.is_none()
    {
        errors.required(&path.child("ephemeral").child("volumeClaimTemplate"), "");
    }
    if let Some(v) = &volume.image {
        let at = path.child("image");
        required(&at.child("reference"), str_of(&v.reference), errors);
        check::one_of(&at.child("pullPolicy"), str_of(&v.pull_policy), &["Always", "IfNotPresent", "Never"], errors);
    }
}

fn required(path: &FieldPath, text: &str, errors: &mut FieldErrors) {
    if text.is_empty() {
        errors.required(path, "");
    }
}

fn host_path(path: &FieldPath, host_path: &str, kind: &str, errors: &mut FieldErrors) {
    const KINDS: &[&str] = &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if host_path.is_empty() {
        errors.required(&path.child("path"), "");
        return;
    }
    no_backsteps(&path.child("path"), host_path, errors);
    if !KINDS.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, KINDS);
    }
}

fn mode(path: &FieldPath, mode: Option<i32>, errors: &mut FieldErrors) {
    if let Some(mode) = mode.filter(|m| !(0..=MAX_MODE).contains(m)) {
        errors.invalid(path, mode, BAD_MODE);
    }
}

fn items(path: &FieldPath, items: Option<&[KeyToPath]>, errors: &mut FieldErrors) {
    for (i, item) in items.unwrap_or_default().iter().enumerate() {
        let at = path.child("items").index(i);
        required(&at.child("key"), &item.key, errors);
        required(&at.child("path"), &item.path, errors);
        local_path(&at.child("path"), &item.path, errors);
        mode(&at.child("mode"), item.mode, errors);
    }
}

fn downward_file(path: &FieldPath, file: &DownwardAPIVolumeFile, errors: &mut FieldErrors) {
    required(&path.child("path"), &file.path, errors);
    local_path(&path.child("path"), &file.path, errors);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            env::field_ref(&path.child("fieldRef"), field, env::VOLUME_FIELDS, errors);
            if resource.is_some() {
                errors.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (None, Some(resource)) => env::resource_ref(&path.child("resourceFieldRef"), resource, true, errors),
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(&path.child("mode"), file.mode, errors);
}

fn projected(path: &FieldPath, volume: &ProjectedVolumeSource, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, source) in volume.sources.iter().flatten().enumerate() {
        let at = path.child("sources").index(i);
        let before = errors.0.len();
        let mut paths = projection(path, &at, source, errors);
        paths.retain(|(file, _)| !file.is_empty());
        for (file, shown) in paths {
            if !seen.insert(file.to_owned()) {
                errors.invalid(path, shown, "conflicting duplicate paths");
            }
        }
        let count = check::json_of(source).as_object().map_or(0, serde_json::Map::len);
        if count > 1 {
            errors.0.truncate(before);
            errors.forbidden(&at, "may not specify more than 1 volume type per source");
        }
    }
}

/// Checks one source; gives the paths of its files, each with what an error about a second one shows.
fn projection<'a>(path: &FieldPath, at: &FieldPath, source: &'a VolumeProjection, errors: &mut FieldErrors) -> Vec<(&'a str, &'a str)> {
    let mut paths = Vec::new();
    let keyed = [
        ("secret", source.secret.as_ref().map(|s| (&s.name, s.items.as_deref()))),
        ("configMap", source.config_map.as_ref().map(|c| (&c.name, c.items.as_deref()))),
    ];
    for (field, given) in keyed {
        let Some((name, list)) = given else { continue };
        let at = at.child(field);
        required(&at.child("name"), name, errors);
        items(&at, list, errors);
        paths.extend(list.unwrap_or_default().iter().map(|item| (item.path.as_str(), name.as_str())));
    }
    for file in source.downward_api.iter().flat_map(|d| d.items.iter().flatten()) {
        downward_file(&at.child("downwardAPI"), file, errors);
        paths.push((&file.path, &file.path));
    }
    if let Some(token) = &source.service_account_token {
        let seconds = token.expiration_seconds.unwrap_or_default();
        let expiration = at.child("serviceAccountToken").child("expirationSeconds");
        if seconds < MIN_TOKEN_SECONDS {
            errors.invalid(&expiration, seconds, "may not specify a duration less than 10 minutes");
        }
        if seconds > 1 << 32 {
            errors.invalid(&expiration, seconds, "may not specify a duration larger than 2^32 seconds");
        }
        required(&path.child("path"), &token.path, errors);
        local_path(&path.child("path"), &token.path, errors);
    }
    paths
}

/// Relative, and without a step up.
pub fn descending_path(path: &FieldPath, text: &str, errors: &mut FieldErrors) {
    if text.starts_with('/') {
        errors.invalid(path, text, "must be a relative path");
    }
    no_backsteps(path, text, errors);
}

fn no_backsteps(path: &FieldPath, text: &str, errors: &mut FieldErrors) {
    if text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

/// A descending path that does not begin with two dots either: those names are the node's own.
fn local_path(path: &FieldPath, text: &str, errors: &mut FieldErrors) {
    descending_path(path, text, errors);
    if text.starts_with("..") && !text.starts_with("../") {
        errors.invalid(path, text, "must not start with '..'");
    }
}
