//! ObjectMeta: what the server fills in, keeps, and refuses (apimachinery's `ValidateObjectMeta` and friends).

use crate::kinds::{AnyObject, Resource};
use crate::meta::{FieldErrors, FieldPath, ObjectMeta, Status, labels, time};
use k8s_openapi::jiff::Timestamp;
use rand::Rng;
use serde_json::json;

const MAX_ANNOTATION_BYTES: usize = 256 * 1024;
pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";
/// Without vowels and look-alikes, as apimachinery's `rand.String`.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
/// The most bytes of a generated name.
const MAX_GENERATED: usize = 63;

/// Five random characters of Kubernetes' alphabet.
pub fn suffix() -> String {
    let mut rng = rand::rng();
    (0..SUFFIX).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// A name that begins with `base`.
pub fn generate_name(base: &str) -> String {
    let mut end = base.len().min(MAX_GENERATED - SUFFIX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], suffix())
}

/// Drops what only the server may say of a new object.
pub fn wipe(meta: &mut ObjectMeta) {
    meta.creation_timestamp = None;
    meta.uid = None;
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.self_link = None;
    meta.managed_fields = None;
    meta.generation = None;
}

/// Gives a new object its identity.
pub fn fill(meta: &mut ObjectMeta, has_generation: bool, now: Timestamp) {
    meta.uid = Some(uuid::Uuid::new_v4().to_string());
    meta.creation_timestamp = Some(time::seconds(now));
    meta.generation = has_generation.then_some(1);
}

/// The object lives in the request's namespace; if it names one, it must be that.
///
/// # Errors
/// 400 if it names another.
pub fn place(meta: &mut ObjectMeta, namespace: Option<&str>) -> Result<(), Status> {
    match (meta.namespace.as_deref().filter(|ns| !ns.is_empty()), namespace) {
        (Some(own), Some(asked)) if own != asked => {
            Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
        }
        (_, asked) => {
            meta.namespace = asked.map(str::to_owned);
            Ok(())
        }
    }
}

/// Brings over from `old` what an update may not touch, unless the client says otherwise (which `validate_update` refuses).
pub fn carry_over(new: &mut ObjectMeta, old: &ObjectMeta) {
    new.generation = old.generation;
    new.self_link = None;
    if new.uid.as_deref().unwrap_or_default().is_empty() {
        new.uid.clone_from(&old.uid);
    }
    if old.creation_timestamp.is_some() {
        new.creation_timestamp.clone_from(&old.creation_timestamp);
    }
    if old.deletion_timestamp.is_some() {
        new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if new.deletion_grace_period_seconds.is_none() {
        new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
}

/// What is wrong with the metadata of an object to be written.
pub fn validate(resource: &dyn Resource, object: &dyn AnyObject) -> FieldErrors {
    let (meta, path) = (object.meta(), FieldPath::new("metadata"));
    let mut errors = FieldErrors::default();
    match meta.name.as_deref().filter(|n| !n.is_empty()) {
        None => errors.required(&path.child("name"), "name or generateName is required"),
        Some(name) => {
            if let Err(why) = resource.validate_name(name) {
                errors.invalid(&path.child("name"), name, why);
            }
        }
    }
    if resource.names().namespaced && meta.namespace.as_deref().unwrap_or_default().is_empty() {
        errors.required(&path.child("namespace"), "");
    }
    validate_labels(meta, &path.child("labels"), &mut errors);
    validate_annotations(meta, &path.child("annotations"), &mut errors);
    validate_owners(meta, &path.child("ownerReferences"), &mut errors);
    validate_finalizers(meta, &path.child("finalizers"), &mut errors);
    errors
}

fn validate_labels(meta: &ObjectMeta, path: &FieldPath, errors: &mut FieldErrors) {
    for (key, value) in meta.labels.iter().flatten() {
        for why in labels::key_errors(key) {
            errors.invalid(path, key.as_str(), why);
        }
        for why in labels::value_errors(value) {
            errors.invalid(path, value.as_str(), why);
        }
    }
}

fn validate_annotations(meta: &ObjectMeta, path: &FieldPath, errors: &mut FieldErrors) {
    let mut total = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        for why in labels::key_errors(&key.to_lowercase()) {
            errors.invalid(path, key.as_str(), why);
        }
        total += key.len() + value.len();
    }
    if total > MAX_ANNOTATION_BYTES {
        errors.too_long(path, MAX_ANNOTATION_BYTES);
    }
}

fn validate_owners(meta: &ObjectMeta, path: &FieldPath, errors: &mut FieldErrors) {
    let mut controller: Option<String> = None;
    for owner in meta.owner_references.iter().flatten() {
        if owner.api_version.is_empty() || owner.api_version.ends_with('/') {
            errors.invalid(&path.child("apiVersion"), owner.api_version.as_str(), "version must not be empty");
        }
        for (name, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.invalid(&path.child(name), value.as_str(), "must not be empty");
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            errors.invalid(path, json!(owner), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.controller == Some(true) {
            let own = format!("{}/{}", owner.kind, owner.name);
            if let Some(first) = &controller {
                let why = format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {own}");
                errors.invalid(path, json!(meta.owner_references), why);
            } else {
                controller = Some(own);
            }
        }
    }
}

fn validate_finalizers(meta: &ObjectMeta, path: &FieldPath, errors: &mut FieldErrors) {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    for finalizer in finalizers {
        for why in labels::key_errors(finalizer) {
            errors.invalid(path, finalizer.as_str(), why);
        }
    }
    if finalizers.iter().any(|f| f == ORPHAN) && finalizers.iter().any(|f| f == FOREGROUND) {
        errors.invalid(path, json!(finalizers), format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set"));
    }
}

/// What an update of the metadata may not do. `new` has been through `carry_over`.
pub fn validate_update(new: &ObjectMeta, old: &ObjectMeta) -> FieldErrors {
    let (path, mut errors) = (FieldPath::new("metadata"), FieldErrors::default());
    if old.deletion_timestamp.is_some() {
        let before = old.finalizers.as_deref().unwrap_or_default();
        let mut added: Vec<&String> = new.finalizers.iter().flatten().filter(|f| !before.contains(f)).collect();
        added.sort();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| format!("\"{f}\"")).collect();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.forbidden(&path.child("finalizers"), why);
        }
    }
    let immutable = "field is immutable";
    if new.name != old.name {
        errors.invalid(&path.child("name"), json!(new.name), immutable);
    }
    if new.namespace != old.namespace {
        errors.invalid(&path.child("namespace"), json!(new.namespace), immutable);
    }
    if new.uid != old.uid {
        errors.invalid(&path.child("uid"), json!(new.uid), immutable);
    }
    if new.creation_timestamp != old.creation_timestamp {
        errors.invalid(&path.child("creationTimestamp"), json!(new.creation_timestamp), immutable);
    }
    if new.deletion_timestamp != old.deletion_timestamp {
        errors.invalid(&path.child("deletionTimestamp"), json!(new.deletion_timestamp), immutable);
    }
    if new.deletion_grace_period_seconds != old.deletion_grace_period_seconds {
        errors.invalid(&path.child("deletionGracePeriodSeconds"), json!(new.deletion_grace_period_seconds), immutable);
    }
    errors
}

/// 422 if there are errors.
///
/// # Errors
/// Invalid, with a cause for each.
pub fn refuse(resource: &dyn Resource, name: &str, errors: &FieldErrors) -> Result<(), Status> {
    let n = resource.names();
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(n.group, n.kind, name, errors)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{ConfigMap, Registered};
    use crate::meta::OwnerReference;
    use k8s_openapi::api::core::v1 as core;

    fn with(change: impl FnOnce(&mut ObjectMeta)) -> core::ConfigMap {
        let mut map = core::ConfigMap::default();
        map.metadata.name = Some("a".into());
        map.metadata.namespace = Some("ns".into());
        change(&mut map.metadata);
        map
    }

    #[test]
    fn metadata_is_checked() {
        let owner = |name: &str| OwnerReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: name.into(),
            uid: "u".into(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        let cases: Vec<(core::ConfigMap, Option<&str>)> = vec![
            (with(|_| ()), None),
            (with(|m| m.name = None), Some("metadata.name: Required value: name or generateName is required")),
            (with(|m| m.labels = Some([("a b".into(), "x".into())].into())), Some("metadata.labels: Invalid value: \"a b\"")),
            (
                with(|m| m.annotations = Some([("a".into(), "x".repeat(MAX_ANNOTATION_BYTES))].into())),
                Some("metadata.annotations: Too long: may not be more than 262144 bytes"),
            ),
            (with(|m| m.owner_references = Some(vec![owner("p")])), None),
            (
                with(|m| m.owner_references = Some(vec![owner("")])),
                Some("metadata.ownerReferences.name: Invalid value: \"\": must not be empty"),
            ),
            (with(|m| m.owner_references = Some(vec![owner("p"), owner("q")])), Some("Found \"true\" in references for Pod/p and Pod/q")),
            (with(|m| m.finalizers = Some(vec![ORPHAN.into(), FOREGROUND.into()])), Some("cannot be both set")),
        ];
        for (object, want) in cases {
            let errors = validate(ConfigMap::resource(), &object);
            let text = errors.0.first().map(ToString::to_string);
            match want {
                None => assert_eq!(text, None),
                Some(want) => assert!(text.as_deref().is_some_and(|t| t.contains(want)), "{text:?} lacks {want}"),
            }
        }
    }

    #[test]
    fn names_are_generated_within_63_bytes() {
        assert!(generate_name("web-").starts_with("web-") && generate_name("web-").len() == 9);
        assert_eq!(generate_name(&"x".repeat(100)).len(), 63);
        assert!(suffix().bytes().all(|c| ALPHABET.contains(&c)));
    }
}
