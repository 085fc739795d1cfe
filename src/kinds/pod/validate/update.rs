//! What an update of a pod may change: images, deadline, tolerations (more of them), scheduling gates (fewer); and what
//! the subresources `resize` and `ephemeralcontainers` may.

use super::{scheduling, status};
use crate::kinds::check;
use crate::kinds::fill::str_of;
use crate::kinds::names;
use crate::kinds::pod::{containers::is_sidecar, resources};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::core::v1::{Container, NodeAffinity, NodeSelectorTerm, Pod, PodSpec, ResourceRequirements, Toleration};
use std::collections::BTreeMap;

const ONLY_THESE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const MIRROR: &str = super::MIRROR_ANNOTATION;

/// An update of the pod or of its status: whatever differs is checked.
pub fn update(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    mirror_annotation(new, old, errors);
    if new.status != old.status {
        status::update(new, old, errors);
    }
    let (Some(spec), Some(before)) = (&new.spec, &old.spec) else { return };
    if spec != before {
        self::spec(&FieldPath::new("spec"), spec, before, errors);
    }
}

fn mirror_annotation(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    let of = |p: &Pod| p.metadata.annotations.as_ref().and_then(|a| a.get(MIRROR).cloned());
    let path = FieldPath::new("metadata").child("annotations").key(MIRROR);
    match (of(old), of(new)) {
        (Some(was), is) if is.as_ref() != Some(&was) => errors.forbidden(&path, "may not remove or update mirror pod annotation"),
        (None, Some(_)) => errors.forbidden(&path, "may not add mirror pod annotation"),
        _ => {}
    }
}

fn spec(path: &FieldPath, new: &PodSpec, old: &PodSpec, errors: &mut FieldErrors) {
    let (init, old_init) = (new.init_containers.as_deref().unwrap_or_default(), old.init_containers.as_deref().unwrap_or_default());
    for (name, list, before) in [("containers", new.containers.as_slice(), old.containers.as_slice()), ("initContainers", init, old_init)] {
        if list.len() != before.len() {
            errors.forbidden(&path.child(name), "pod updates may not add or remove containers");
            return;
        }
    }
    if !deadline(&path.child("activeDeadlineSeconds"), new.active_deadline_seconds, old.active_deadline_seconds, errors) {
        return;
    }
    added_tolerations(&path.child("tolerations"), new, old, errors);
    deleted_gates(&path.child("schedulingGates"), new, old, errors);
    let mut rest = new.clone();
    restore_images(&mut rest.containers, &old.containers);
    restore_images(rest.init_containers.as_deref_mut().unwrap_or_default(), old_init);
    rest.active_deadline_seconds = old.active_deadline_seconds;
    rest.scheduling_gates.clone_from(&old.scheduling_gates);
    rest.tolerations.clone_from(&old.tolerations);
    if old.termination_grace_period_seconds.is_some_and(|s| s < 0) && rest.termination_grace_period_seconds == Some(1) {
        rest.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if old.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()) {
        gated(path, &mut rest, old, errors);
    }
    if rest != *old {
        errors.forbidden(path, format!("{ONLY_THESE}\n{}", difference(old, &rest)));
    }
}

fn restore_images(new: &mut [Container], old: &[Container]) {
    new.iter_mut().zip(old).for_each(|(n, o)| n.image.clone_from(&o.image));
}

/// From none to a positive number, or to a lesser one. False if nothing more is to be said.
fn deadline(path: &FieldPath, new: Option<i64>, old: Option<i64>, errors: &mut FieldErrors) -> bool {
    match (new, old) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.all_invalid(path, new, names::in_range(new, 0, i64::from(i32::MAX)));
            false
        }
        (Some(new), Some(old)) if old < new => {
            errors.invalid(path, new, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            errors.invalid(path, serde_json::Value::Null, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn added_tolerations(path: &FieldPath, new: &PodSpec, old: &PodSpec, errors: &mut FieldErrors) {
    let tolerations = new.tolerations.as_deref().unwrap_or_default();
    let kept = |o: &Toleration| tolerations.iter().any(|n| *n == Toleration { toleration_seconds: n.toleration_seconds, ..o.clone() });
    if old.tolerations.iter().flatten().all(kept) {
        scheduling::tolerations(path, tolerations, errors);
    } else {
        errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
}

fn deleted_gates(path: &FieldPath, new: &PodSpec, old: &PodSpec, errors: &mut FieldErrors) {
    let before = old.scheduling_gates.as_deref().unwrap_or_default();
    for (i, gate) in new.scheduling_gates.iter().flatten().enumerate().filter(|(_, g)| !before.contains(g)) {
        let why = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
        errors.forbidden(&path.index(i).child("name"), why);
    }
}

/// A gated pod may still narrow where it may go: more node selectors, more requirements of every affinity term.
fn gated(path: &FieldPath, rest: &mut PodSpec, old: &PodSpec, errors: &mut FieldErrors) {
    if rest.node_selector != old.node_selector {
        let at = path.child("nodeSelector");
        let none = BTreeMap::new();
        let now = rest.node_selector.as_ref().unwrap_or(&none);
        if old.node_selector.iter().flatten().any(|(k, v)| now.get(k) != Some(v)) {
            let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.invalid(&at, check::json_of(&rest.node_selector), why);
        }
        rest.node_selector.clone_from(&old.node_selector);
    }
    let was = old.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    let is = rest.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    if was == is {
        return;
    }
    node_affinity(&path.child("affinity").child("nodeAffinity"), is.as_ref(), was.as_ref(), errors);
    let affinity = rest.affinity.get_or_insert_default();
    affinity.node_affinity = was;
    if *affinity == Default::default() && old.affinity.is_none() {
        rest.affinity = None;
    }
}

fn node_affinity(path: &FieldPath, new: Option<&NodeAffinity>, old: Option<&NodeAffinity>, errors: &mut FieldErrors) {
    const FIELD: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = |a: Option<&NodeAffinity>| {
        let required = a.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        required.map(|r| r.node_selector_terms.clone()).unwrap_or_default()
    };
    let (now, before) = (terms(new), terms(old));
    if before.is_empty() {
        return;
    }
    let at = path.child(FIELD).child("nodeSelectorTerms");
    if now.len() != before.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.invalid(&at, check::json_of(&now), why);
        return;
    }
    for (i, (now, before)) in now.iter().zip(&before).enumerate() {
        if !only_adds(now, before) {
            let why = "only additions are allowed (no mutations or deletions)";
            errors.invalid(&at.index(i), check::json_of(now), why);
        }
    }
}

fn only_adds(new: &NodeSelectorTerm, old: &NodeSelectorTerm) -> bool {
    let empty = |t: &NodeSelectorTerm| t.match_expressions.is_none() && t.match_fields.is_none();
    if empty(old) {
        return empty(new);
    }
    let starts = |n: &Option<Vec<_>>, o: &Option<Vec<_>>| n.as_deref().unwrap_or_default().starts_with(o.as_deref().unwrap_or_default());
    starts(&new.match_expressions, &old.match_expressions) && starts(&new.match_fields, &old.match_fields)
}

/// The lines of JSON that differ, old ones with `-`, new ones with `+`.
fn difference(old: &PodSpec, new: &PodSpec) -> String {
    let lines = |spec: &PodSpec| {
        let text = serde_json::to_string_pretty(spec).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (old, new) = (lines(old), lines(new));
    let gone = old.iter().filter(|l| !new.contains(l)).map(|l| format!("- {l}"));
    let come = new.iter().filter(|l| !old.contains(l)).map(|l| format!("+ {l}"));
    gone.chain(come).collect::<Vec<_>>().join("\n")
}

/// An update through `ephemeralcontainers`: containers may be added, and stay as they are.
pub fn ephemeral_containers_update(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    let of = |p: &Pod| p.spec.as_ref().and_then(|s| s.ephemeral_containers.clone()).unwrap_or_default();
    let (now, before) = (of(new), of(old));
    let path = FieldPath::new("spec").child("ephemeralContainers");
    if old.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR)) {
        errors.forbidden(&FieldPath::default(), "static pods do not support ephemeral containers");
        return;
    }
    for was in &before {
        match now.iter().position(|c| c.name == was.name) {
            None => errors.forbidden(&path, format!("existing ephemeral containers \"{}\" may not be removed\n", was.name)),
            Some(i) if now[i] != *was => {
                errors.forbidden(&path, format!("existing ephemeral containers \"{}\" may not be changed\n", was.name));
            }
            Some(_) => {}
        }
    }
}

/// An update through `resize` (ValidatePodResize): CPU and memory of containers and sidecars, within the QoS class.
pub fn resize(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    if old.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR)) {
        errors.forbidden(&FieldPath::default(), "static pods cannot be resized");
        return;
    }
    let (Some(spec), Some(before)) = (&new.spec, &old.spec) else { return };
    let path = FieldPath::new("spec");
    if resources::qos_class(spec) != resources::qos_class(before) {
        let class = new.status.as_ref().map_or("", |s| str_of(&s.qos_class));
        errors.invalid(&path, class, "Pod QOS Class may not change as a result of resizing");
    }
    let pod_level = |s: &PodSpec| s.resources.as_ref().is_some_and(|r| r.requests.is_some() || r.limits.is_some());
    if pod_level(spec) || pod_level(before) {
        let why = "resize of pods with pod-level resources is forbidden when InPlacePodLevelResourcesVerticalScalingEnabled feature gate is disabled";
        errors.forbidden(&FieldPath::default(), why);
        return;
    }
    let (init, old_init) = (spec.init_containers.as_deref().unwrap_or_default(), before.init_containers.as_deref().unwrap_or_default());
    let lists = [("containers", spec.containers.as_slice(), before.containers.as_slice()), ("initContainers", init, old_init)];
    for (name, list, old) in lists {
        if list.len() != old.len() {
            errors.forbidden(&path.child(name), format!("{name} may not be added or removed on resize"));
            return;
        }
        if let Some(i) = list.iter().zip(old).position(|(n, o)| n.name != o.name) {
            let why = format!("{name} may not be renamed or reordered on resize");
            errors.forbidden(&path.child(name).index(i).child("name"), why);
            return;
        }
    }
    for (name, list, old) in lists {
        for (i, (n, o)) in list.iter().zip(old).enumerate() {
            let sidecar = name == "initContainers";
            if sidecar && !is_sidecar(o) {
                if n != o {
                    errors.forbidden(&path, "resources for non-sidecar init containers are immutable");
                }
                continue;
            }
            resized(&path.child(name).index(i).child("resources"), n, o, errors);
            let whole = Container { resources: without_compute(n), resize_policy: None, ..n.clone() };
            if whole != (Container { resources: without_compute(o), resize_policy: None, ..o.clone() }) {
                let of = if sidecar { " for sidecar containers" } else { "" };
                errors.forbidden(&path, format!("only cpu and memory resources{of} are mutable"));
            }
        }
    }
}

fn resized(path: &FieldPath, new: &Container, old: &Container, errors: &mut FieldErrors) {
    let none = ResourceRequirements::default();
    let (n, o) = (new.resources.as_ref().unwrap_or(&none), old.resources.as_ref().unwrap_or(&none));
    for (name, now, before) in [("requests", &n.requests, &o.requests), ("limits", &n.limits, &o.limits)] {
        let removed = |(key, _): (&String, _)| now.as_ref().is_none_or(|l| !l.contains_key(key));
        if before.iter().flatten().any(removed) {
            errors.forbidden(&path.child(name), format!("resource {name} cannot be removed"));
        }
    }
}

/// Requirements without CPU and memory.
fn without_compute(container: &Container) -> Option<ResourceRequirements> {
    let mut rest = container.resources.clone().unwrap_or_default();
    for list in [&mut rest.requests, &mut rest.limits] {
        if let Some(map) = list {
            map.retain(|name, _| !matches!(name.as_str(), "cpu" | "memory"));
        }
        if list.as_ref().is_some_and(BTreeMap::is_empty) {
            *list = None;
        }
    }
    Some(rest)
}
