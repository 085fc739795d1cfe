//! Validation of pods.
use crate::meta::{FieldErrors, FieldPath, ObjectMeta};
use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// Whose spec it is: some checks differ between a pod and a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Pod,
    Template,
}

pub fn pod(_pod: &Pod, _errors: &mut FieldErrors) {}
pub fn update(_new: &Pod, _old: &Pod, _errors: &mut FieldErrors) {}
pub fn pod_annotations(_path: &FieldPath, _meta: &ObjectMeta, _errors: &mut FieldErrors) {}
pub fn spec(path: &FieldPath, spec: &PodSpec, _meta: &ObjectMeta, _whose: Whose, errors: &mut FieldErrors) {
    if spec.containers.is_empty() {
        errors.required(&path.child("containers"), "");
    }
}
