//! Pod templates inside other kinds: defaults and validation that ReplicaSet, Deployment and PodTemplate share.

use super::pod::{default, validate};
use super::{check, fill};
use crate::meta::{FieldErrors, FieldPath, LabelSelector, Selector};
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};

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
/// `kind` is the word for the error on an empty selector.
pub fn validate_selected(path: &FieldPath, selector: &LabelSelector, template: &PodTemplateSpec, kind: &str, errors: &mut FieldErrors) {
    let selector_path = path.child("selector");
    check::label_selector(&selector_path, selector, errors);
    if check::selects_all(selector) {
        errors.invalid(&selector_path, check::json_of(selector), format!("empty selector is invalid for {kind}"));
    }
    let path = path.child("template");
    let Ok(parsed) = Selector::from_label_selector(selector) else {
        errors.invalid(&selector_path, check::json_of(selector), "invalid label selector");
        return;
    };
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    if !parsed.matches(labels) {
        let why = "`selector` does not match template `labels`";
        errors.invalid(&path.child("metadata").child("labels"), check::json_of(&labels), why);
    }
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
