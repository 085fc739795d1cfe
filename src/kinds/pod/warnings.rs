//! Warnings about pods and pod templates that are valid but surprise.

use crate::kinds::names;
use crate::meta::{FieldPath, ObjectMeta};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

pub fn pod(pod: &Pod) -> Vec<String> {
    name_warning(&pod.metadata, "the Pod's hostname")
}

/// A name that makes no hostname.
pub fn name_warning(meta: &ObjectMeta, used_in: &str) -> Vec<String> {
    let wrong = names::label(meta.name.as_deref().unwrap_or_default());
    if wrong.is_empty() {
        return Vec::new();
    }
    let text = "which can result in surprising behavior; a DNS label is recommended";
    vec![format!("metadata.name: this is used in {used_in}, {text}: [{}]", wrong.join(" "))]
}

pub fn template_warnings(_path: &FieldPath, _template: &PodTemplateSpec) -> Vec<String> {
    Vec::new()
}
