//! Namespace (core/v1).

use super::{Column, Kind, Names, Subresource, fill, names, table};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// The label by which selectors of namespaces name one.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// The finalizer that the namespace controller takes away once the namespace is empty.
const FINALIZER: &str = "kubernetes";

pub struct Namespace;

impl Kind for Namespace {
    type Object = api::Namespace;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        categories: &[],
        namespaced: false,
    };
    const SUBRESOURCES: &'static [Subresource] =
        &[Subresource::Status, Subresource::Other { name: "finalize", group: "", version: "v1", kind: "Namespace", verbs: &["update"] }];

    fn default(object: &mut api::Namespace) {
        if let Some(name) = object.metadata.name.clone().filter(|n| !n.is_empty()) {
            object.metadata.labels.get_or_insert_default().insert(NAME_LABEL.into(), name);
        }
        fill::text(&mut object.status.get_or_insert_default().phase, "Active");
        object.spec.get_or_insert_default();
    }

    fn prepare_create(object: &mut api::Namespace) {
        object.status = Some(api::NamespaceStatus { phase: Some("Active".into()), conditions: None });
        let finalizers = object.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
    }

    /// The finalizers of the spec are the subresource `finalize`'s to change.
    fn prepare_update(new: &mut api::Namespace, old: &api::Namespace) {
        new.spec.clone_from(&old.spec);
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(new: &mut api::Namespace, old: &api::Namespace) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(object: &api::Namespace, errors: &mut FieldErrors) {
        let path = FieldPath::new("spec").child("finalizers");
        for name in object.spec.iter().flat_map(|s| s.finalizers.iter().flatten()) {
            errors.all_invalid(&path, name.as_str(), names::qualified(name));
            if !name.contains('/') && !matches!(name.as_str(), FINALIZER | "foregroundDeletion" | "orphan") {
                errors.invalid(&path, name.as_str(), "name is neither a standard finalizer name nor is it fully qualified");
            }
        }
    }

    fn validate_update(new: &api::Namespace, old: &api::Namespace, errors: &mut FieldErrors) {
        if new.status == old.status {
            return;
        }
        let phase = new.status.as_ref().map_or("", |s| fill::str_of(&s.phase));
        let (expected, state) = if new.metadata.deletion_timestamp.is_none() { ("Active", "empty") } else { ("Terminating", "not empty") };
        if phase != expected {
            let why = format!("may only be '{expected}' if `deletionTimestamp` is {state}");
            errors.invalid(&FieldPath::new("status").child("Phase"), phase, why);
        }
    }

    fn validate_name(name: &str) -> Result<(), String> {
        names::dns_label(name)
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[table::NAME, table::text("Status", "The status of the namespace", 0), table::AGE];
        COLUMNS
    }

    fn cells(object: &api::Namespace, now: Timestamp) -> Vec<Value> {
        let phase = object.status.as_ref().map_or("", |s| fill::str_of(&s.phase));
        vec![json!(object.metadata.name), json!(phase), json!(table::age(&object.metadata, now))]
    }

    const SELECTABLE: &'static [&'static str] = &["status.phase"];

    fn selectable(object: &api::Namespace) -> Vec<String> {
        vec![object.status.as_ref().map_or("", |s| fill::str_of(&s.phase)).to_owned()]
    }
}
