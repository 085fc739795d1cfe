//! Warnings about pods and pod templates that are valid but surprise (pkg/api/pod/warnings.go).

use crate::kinds::fill::str_of;
use crate::kinds::names;
use crate::meta::{FieldPath, ObjectMeta};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodTemplateSpec};
use std::collections::HashSet;

/// Old labels of nodes, and what took their place.
const OLD_NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

pub fn pod(pod: &Pod) -> Vec<String> {
    let mut warnings = name_warning(&pod.metadata, "the Pod's hostname");
    if let Some(spec) = &pod.spec {
        warnings.extend(spec_warnings(&FieldPath::new("spec"), spec));
    }
    warnings
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

pub fn template_warnings(path: &FieldPath, template: &PodTemplateSpec) -> Vec<String> {
    template.spec.as_ref().map_or_else(Vec::new, |spec| spec_warnings(&path.child("spec"), spec))
}

fn spec_warnings(path: &FieldPath, spec: &PodSpec) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, _) in spec.node_selector.iter().flatten() {
        if let Some((_, new)) = OLD_NODE_LABELS.iter().find(|(old, _)| old == key) {
            warnings.push(format!("{}: deprecated since v1.14; use \"{new}\" instead", path.child("nodeSelector").key(key)));
        }
    }
    if spec.termination_grace_period_seconds.is_some_and(|s| s < 0) {
        let at = path.child("terminationGracePeriodSeconds");
        warnings.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    for (i, _) in spec.volumes.iter().flatten().enumerate().filter(|(_, v)| v.git_repo.is_some()) {
        let at = path.child("volumes").index(i).child("gitRepo");
        warnings.push(format!("{at}: deprecated since v1.11, and disabled by default in v1.33+"));
    }
    for (name, list) in [("initContainers", spec.init_containers.as_deref().unwrap_or_default()), ("containers", &spec.containers)] {
        for (i, container) in list.iter().enumerate() {
            duplicate_env(&path.child(name).index(i).child("env"), container, &mut warnings);
        }
    }
    warnings
}

/// A variable that is given twice hides the first, unless that is used in the second.
fn duplicate_env(path: &FieldPath, container: &k8s_openapi::api::core::v1::Container, warnings: &mut Vec<String>) {
    let mut seen: HashSet<&str> = HashSet::new();
    for (i, var) in container.env.iter().flatten().enumerate() {
        let uses_itself = str_of(&var.value).contains(&format!("$({})", var.name));
        if !seen.insert(&var.name) && !uses_itself {
            let at = path.index(i);
            warnings.push(format!("{at}: hides previous definition of \"{}\", which may be dropped when using apply", var.name));
        }
    }
}
