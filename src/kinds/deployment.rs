//! Deployment (apps/v1).

use super::{Column, Kind, Names, Subresource, check, fill, labels, pod, table, template};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::apps::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

const DEFAULT_SURGE_AND_UNAVAILABLE: &str = "25%";
const DEFAULT_HISTORY: i32 = 10;
const DEFAULT_PROGRESS_DEADLINE_SECONDS: i32 = 600;

pub struct Deployment;

impl Kind for Deployment {
    type Object = api::Deployment;

    const NAMES: Names = Names {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        namespaced: true,
    };
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status, Subresource::Scale];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut api::Deployment) {
        let spec = object.spec.get_or_insert_default();
        template::default(&mut spec.template);
        fill::or(&mut spec.replicas, 1);
        let strategy = spec.strategy.get_or_insert_default();
        fill::text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            for bound in [&mut rolling.max_surge, &mut rolling.max_unavailable] {
                fill::or(bound, IntOrString::String(DEFAULT_SURGE_AND_UNAVAILABLE.into()));
            }
        }
        fill::or(&mut spec.revision_history_limit, DEFAULT_HISTORY);
        fill::or(&mut spec.progress_deadline_seconds, DEFAULT_PROGRESS_DEADLINE_SECONDS);
        fill::drop_zero(&mut spec.min_ready_seconds);
        fill::drop_zero(&mut spec.paused);
    }

    fn prepare_create(object: &mut api::Deployment) {
        object.status = Some(api::DeploymentStatus::default());
    }

    fn prepare_update(new: &mut api::Deployment, old: &api::Deployment) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(new: &mut api::Deployment, old: &api::Deployment) {
        new.spec.clone_from(&old.spec);
        new.metadata.labels.clone_from(&old.metadata.labels);
    }

    fn validate(object: &api::Deployment, errors: &mut FieldErrors) {
        let (path, spec) = (FieldPath::new("spec"), object.spec.clone().unwrap_or_default());
        check::non_negative(&path.child("replicas"), spec.replicas.unwrap_or_default(), errors);
        template::validate_selected(&path, &spec.selector, &spec.template, errors);
        validate_strategy(&path.child("strategy"), &spec.strategy.unwrap_or_default(), errors);
        let (ready, deadline) = (spec.min_ready_seconds.unwrap_or_default(), spec.progress_deadline_seconds);
        check::non_negative(&path.child("minReadySeconds"), ready, errors);
        check::non_negative(&path.child("revisionHistoryLimit"), spec.revision_history_limit.unwrap_or_default(), errors);
        if let Some(deadline) = deadline {
            check::non_negative(&path.child("progressDeadlineSeconds"), deadline, errors);
            if deadline <= ready {
                errors.invalid(&path.child("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
            }
        }
    }

    fn validate_update(new: &api::Deployment, old: &api::Deployment, errors: &mut FieldErrors) {
        let selector = |d: &api::Deployment| d.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default();
        check::immutable(&FieldPath::new("spec").child("selector"), &selector(new), &selector(old), errors);
        if new.status != old.status {
            let status = |d: &api::Deployment| d.status.clone().unwrap_or_default();
            validate_status(&status(new), &status(old), errors);
        }
    }

    /// Annotations count too, since they are copied to the ReplicaSets.
    fn spec_changed(new: &api::Deployment, old: &api::Deployment) -> bool {
        new.spec != old.spec || new.metadata.annotations != old.metadata.annotations
    }

    fn warnings(object: &api::Deployment) -> Vec<String> {
        let mut warnings = pod::name_warning(&object.metadata, "Pod names and hostnames");
        if let Some(spec) = &object.spec {
            warnings.extend(pod::template_warnings(&FieldPath::new("spec").child("template"), &spec.template));
        }
        warnings
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::text("Ready", "Number of the pod with ready state", 0),
            table::text(
                "Up-to-date",
                "Total number of non-terminated pods targeted by this deployment that have the desired template spec.",
                0,
            ),
            table::text("Available", "Total number of available pods (ready for at least minReadySeconds) targeted by this deployment.", 0),
            table::AGE,
            table::text("Containers", "Names of each container in the template.", 1),
            table::text("Images", "Images referenced by each container in the template.", 1),
            table::text("Selector", "Label selector for pods.", 1),
        ];
        COLUMNS
    }

    fn cells(object: &api::Deployment, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (object.spec.clone().unwrap_or_default(), object.status.clone().unwrap_or_default());
        let (names, images) = table::containers(spec.template.spec.as_ref().map_or(&[], |s| &s.containers));
        vec![
            json!(object.metadata.name),
            json!(format!("{}/{}", status.ready_replicas.unwrap_or_default(), spec.replicas.unwrap_or_default())),
            json!(status.updated_replicas.unwrap_or_default()),
            json!(status.available_replicas.unwrap_or_default()),
            json!(table::age(&object.metadata, now)),
            json!(names),
            json!(images),
            json!(labels::selector_text(&spec.selector).unwrap_or_else(|_| "<invalid>".into())),
        ]
    }

    fn scale(object: &api::Deployment) -> Option<(i32, i32, String)> {
        let spec = object.spec.as_ref()?;
        let replicas = object.status.as_ref().and_then(|s| s.replicas).unwrap_or_default();
        Some((spec.replicas.unwrap_or_default(), replicas, labels::selector_text(&spec.selector).unwrap_or_default()))
    }

    fn set_scale(object: &mut api::Deployment, replicas: i32) {
        object.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

fn validate_strategy(path: &FieldPath, strategy: &api::DeploymentStrategy, errors: &mut FieldErrors) {
    match (fill::str_of(&strategy.type_), &strategy.rolling_update) {
        ("Recreate", None) => {}
        ("Recreate", Some(_)) => {
            errors.forbidden(&path.child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'");
        }
        ("RollingUpdate", None) => errors.required(&path.child("rollingUpdate"), "this should be defaulted and never be nil"),
        ("RollingUpdate", Some(rolling)) => {
            let path = path.child("rollingUpdate");
            let zero = IntOrString::Int(0);
            let (unavailable, surge) = (rolling.max_unavailable.as_ref().unwrap_or(&zero), rolling.max_surge.as_ref().unwrap_or(&zero));
            check::count_or_percent(&path.child("maxUnavailable"), unavailable, errors);
            check::count_or_percent(&path.child("maxSurge"), surge, errors);
            if check::number_of(unavailable) == 0 && check::number_of(surge) == 0 {
                errors.invalid(&path.child("maxUnavailable"), check::json_of(unavailable), "may not be 0 when `maxSurge` is 0");
            }
            check::at_most_100_percent(&path.child("maxUnavailable"), unavailable, errors);
        }
        _ => errors.not_supported(path, check::json_of(strategy), &["Recreate", "RollingUpdate"]),
    }
}

fn validate_status(new: &api::DeploymentStatus, old: &api::DeploymentStatus, errors: &mut FieldErrors) {
    let path = FieldPath::new("status");
    let of = |n: Option<i32>| n.unwrap_or_default();
    for (name, value) in [
        ("observedGeneration", new.observed_generation.unwrap_or_default()),
        ("replicas", of(new.replicas).into()),
        ("updatedReplicas", of(new.updated_replicas).into()),
        ("readyReplicas", of(new.ready_replicas).into()),
        ("availableReplicas", of(new.available_replicas).into()),
        ("unavailableReplicas", of(new.unavailable_replicas).into()),
        ("terminatingReplicas", of(new.terminating_replicas).into()),
        ("collisionCount", of(new.collision_count).into()),
    ] {
        check::non_negative(&path.child(name), value, errors);
    }
    let replicas = of(new.replicas);
    for (name, value) in
        [("updatedReplicas", new.updated_replicas), ("readyReplicas", new.ready_replicas), ("availableReplicas", new.available_replicas)]
    {
        if of(value) > replicas {
            errors.invalid(&path.child(name), of(value), "cannot be greater than status.replicas");
        }
    }
    if of(new.available_replicas) > of(new.ready_replicas) {
        errors.invalid(&path.child("availableReplicas"), of(new.available_replicas), "cannot be greater than readyReplicas");
    }
    if new.collision_count.unwrap_or_default() < old.collision_count.unwrap_or_default() {
        errors.invalid(&path.child("collisionCount"), of(new.collision_count), "cannot be decremented");
    }
}
