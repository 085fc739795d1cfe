//! PodTemplate (core/v1).

use super::{Column, Kind, Names, labels, pod, table, template};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct PodTemplate;

impl Kind for PodTemplate {
    type Object = api::PodTemplate;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "PodTemplate",
        plural: "podtemplates",
        singular: "podtemplate",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };
    const HAS_GENERATION: bool = true;

    fn default(object: &mut api::PodTemplate) {
        template::default(object.template.get_or_insert_default());
    }

    fn validate(object: &api::PodTemplate, errors: &mut FieldErrors) {
        template::validate(&FieldPath::new("template"), &object.template.clone().unwrap_or_default(), errors);
    }

    fn spec_changed(new: &api::PodTemplate, old: &api::PodTemplate) -> bool {
        new.template != old.template
    }

    fn warnings(object: &api::PodTemplate) -> Vec<String> {
        object.template.as_ref().map_or_else(Vec::new, |t| pod::template_warnings(&FieldPath::new("template"), t))
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::text("Containers", "Names of each container in the template.", 0),
            table::text("Images", "Images referenced by each container in the template.", 0),
            table::text("Pod Labels", "The labels for the pod template.", 0),
        ];
        COLUMNS
    }

    fn cells(object: &api::PodTemplate, _now: Timestamp) -> Vec<Value> {
        let template = object.template.clone().unwrap_or_default();
        let (names, images) = table::containers(template.spec.as_ref().map_or(&[], |s| &s.containers));
        let labels = labels::format_labels(template.metadata.as_ref().and_then(|m| m.labels.as_ref()));
        vec![json!(object.metadata.name), json!(names), json!(images), json!(labels)]
    }
}
