//! ReplicaSet (apps/v1).

use super::{Column, Kind, Names, Subresource, check, fill, labels, pod, table, template};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::apps::v1 as api;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct ReplicaSet;

impl Kind for ReplicaSet {
    type Object = api::ReplicaSet;

    const NAMES: Names = Names {
        group: "apps",
        version: "v1",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        namespaced: true,
    };
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status, Subresource::Scale];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut api::ReplicaSet) {
        let spec = object.spec.get_or_insert_default();
        let template = spec.template.get_or_insert_default();
        template::default(template);
        fill::or(&mut spec.replicas, 1);
        fill::drop_zero(&mut spec.min_ready_seconds);
    }

    fn prepare_create(object: &mut api::ReplicaSet) {
        object.status = Some(api::ReplicaSetStatus::default());
    }

    fn prepare_update(new: &mut api::ReplicaSet, old: &api::ReplicaSet) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(new: &mut api::ReplicaSet, old: &api::ReplicaSet) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(object: &api::ReplicaSet, errors: &mut FieldErrors) {
        let (path, spec) = (FieldPath::new("spec"), object.spec.clone().unwrap_or_default());
        check::non_negative(&path.child("replicas"), spec.replicas.unwrap_or_default(), errors);
        check::non_negative(&path.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or_default(), errors);
        template::validate_selected(&path, &spec.selector, &spec.template.unwrap_or_default(), errors);
    }

    fn validate_update(new: &api::ReplicaSet, old: &api::ReplicaSet, errors: &mut FieldErrors) {
        let selector = |r: &api::ReplicaSet| r.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default();
        check::immutable(&FieldPath::new("spec").child("selector"), &selector(new), &selector(old), errors);
        if new.status != old.status {
            validate_status(&new.status.clone().unwrap_or_default(), errors);
        }
    }

    fn spec_changed(new: &api::ReplicaSet, old: &api::ReplicaSet) -> bool {
        new.spec != old.spec
    }

    fn warnings(object: &api::ReplicaSet) -> Vec<String> {
        let mut warnings = pod::name_warning(&object.metadata, "Pod names and hostnames");
        if let Some(template) = object.spec.as_ref().and_then(|s| s.template.as_ref()) {
            warnings.extend(pod::template_warnings(&FieldPath::new("spec").child("template"), template));
        }
        warnings
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::number("Desired", "Number of desired replicas."),
            table::number("Current", "Number of replicas."),
            table::number("Ready", "Number of ready replicas."),
            table::AGE,
            table::text("Containers", "Names of each container in the template.", 1),
            table::text("Images", "Images referenced by each container in the template.", 1),
            table::text("Selector", "Label query over pods that should match the replica count.", 1),
        ];
        COLUMNS
    }

    fn cells(object: &api::ReplicaSet, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (object.spec.clone().unwrap_or_default(), object.status.clone().unwrap_or_default());
        let (names, images) = table::containers(spec.template.as_ref().and_then(|t| t.spec.as_ref()).map_or(&[], |s| &s.containers));
        vec![
            json!(object.metadata.name),
            json!(spec.replicas.unwrap_or_default()),
            json!(status.replicas),
            json!(status.ready_replicas.unwrap_or_default()),
            json!(table::age(&object.metadata, now)),
            json!(names),
            json!(images),
            json!(labels::format_selector(&spec.selector)),
        ]
    }

    const SELECTABLE: &'static [&'static str] = &["status.replicas"];

    fn selectable(object: &api::ReplicaSet) -> Vec<String> {
        vec![object.status.as_ref().map_or(0, |s| s.replicas).to_string()]
    }

    fn scale(object: &api::ReplicaSet) -> Option<(i32, i32, String)> {
        let spec = object.spec.as_ref()?;
        let replicas = object.status.as_ref().map_or(0, |s| s.replicas);
        Some((spec.replicas.unwrap_or_default(), replicas, labels::selector_text(&spec.selector).unwrap_or_default()))
    }

    fn set_scale(object: &mut api::ReplicaSet, replicas: i32) {
        object.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

fn validate_status(status: &api::ReplicaSetStatus, errors: &mut FieldErrors) {
    let path = FieldPath::new("status");
    let of = |n: Option<i32>| n.unwrap_or_default();
    check::non_negative(&path.child("replicas"), status.replicas, errors);
    check::non_negative(&path.child("observedGeneration"), status.observed_generation.unwrap_or_default(), errors);
    check::non_negative(&path.child("terminatingReplicas"), of(status.terminating_replicas), errors);
    for (name, value) in [
        ("fullyLabeledReplicas", status.fully_labeled_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
    ] {
        check::non_negative(&path.child(name), of(value), errors);
        if of(value) > status.replicas {
            errors.invalid(&path.child(name), of(value), "cannot be greater than status.replicas");
        }
    }
    if of(status.available_replicas) > of(status.ready_replicas) {
        errors.invalid(&path.child("availableReplicas"), of(status.available_replicas), "cannot be greater than readyReplicas");
    }
}
