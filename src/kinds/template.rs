//! Pod templates inside other kinds: defaults and validation that ReplicaSet, Deployment and PodTemplate share.

use super::pod::{default, validate};
use super::{check, fill};
use crate::meta::{FieldErrors, FieldPath, LabelSelector, Selector};
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};

const MISMATCH: &str = "`selector` does not match template `labels`";

pub fn default(template: &mut PodTemplateSpec) {
    default::pod_spec(template.spec.get_or_insert_default());
}

/// A template on its own (ValidatePodTemplateSpec).
pub fn validate(path: &FieldPath, template: &PodTemplateSpec, errors: &mut FieldErrors) {
    let (meta, spec) = (template.metadata.clone().unwrap_or_default(), template.spec.clone().unwrap_or_default());
    let metadata = path.child("metadata");
    check::labels(&path.child("labels"), meta.labels.as_ref(), errors);
    check::annotations(&path.child("annotations"), meta.annotations.as_ref(), errors);
    validate::template_annotations(&metadata.child("annotations"), &meta, errors);
    validate::spec(&path.child("spec"), &spec, &meta, validate::Whose::Template, errors);
    if spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty()) {
        errors.forbidden(&path.child("spec").child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// A selector, which must be there and name something, and the template, which must match it and restart always.
pub fn validate_selected(path: &FieldPath, selector: &LabelSelector, template: &PodTemplateSpec, errors: &mut FieldErrors) {
    let selector_path = path.child("selector");
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    let template_path = path.child("template");
    let labels_path = template_path.child("metadata").child("labels");
    // The type cannot tell an empty selector from none; none is the likelier mistake.
    if check::selects_all(selector) {
        errors.required(&selector_path, "");
        errors.invalid(&labels_path, check::json_of(&labels), MISMATCH);
    } else {
        check::label_selector(&selector_path, selector, errors);
        let Some(parsed) = Selector::from_label_selector(selector).ok().filter(|_| check::is_sound(selector)) else {
            errors.invalid(&selector_path, check::json_of(selector), "invalid label selector");
            return;
        };
        if !parsed.matches(labels) {
            errors.invalid(&labels_path, check::json_of(&labels), MISMATCH);
        }
    }
    let path = template_path;
    validate(&path, template, errors);
    let none = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&none);
    if spec.restart_policy.as_deref() != Some("Always") {
        errors.not_supported(&path.child("spec").child("restartPolicy"), fill::str_of(&spec.restart_policy), &["Always"]);
    }
    if spec.active_deadline_seconds.is_some() {
        let why = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.forbidden(&path.child("spec").child("activeDeadlineSeconds"), why);
    }
}
