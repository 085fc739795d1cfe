//! Where a pod may go: affinities, tolerations, spread constraints, scheduling gates.

use crate::kinds::fill::str_of;
use crate::kinds::{check, names};
use crate::meta::{FieldErrors, FieldPath, LabelSelector};
use k8s_openapi::api::core::v1::{
    Affinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint,
    WeightedPodAffinityTerm,
};
use std::collections::HashSet;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NO_OPERATOR: &str = "not a valid selector operator";

pub fn all(path: &FieldPath, spec: &PodSpec, errors: &mut FieldErrors) {
    if let Some(affinity) = &spec.affinity {
        self::affinity(&path.child("affinity"), affinity, errors);
    }
    let mut seen = HashSet::new();
    for (i, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let at = path.child("schedulingGates").index(i);
        errors.all_invalid(&at, gate.name.as_str(), names::qualified(&gate.name));
        if !seen.insert(&gate.name) {
            errors.duplicate(&at, gate.name.as_str());
        }
    }
    spread(&path.child("topologySpreadConstraints"), spec.topology_spread_constraints.as_deref().unwrap_or_default(), errors);
    tolerations(&path.child("tolerations"), spec.tolerations.as_deref().unwrap_or_default(), errors);
}

fn affinity(path: &FieldPath, affinity: &Affinity, errors: &mut FieldErrors) {
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            let at = path.child(REQUIRED).child("nodeSelectorTerms");
            if required.node_selector_terms.is_empty() {
                errors.required(&at, "must have at least one node selector term");
            }
            for (i, term) in required.node_selector_terms.iter().enumerate() {
                node_term(&at.index(i), term, true, errors);
            }
        }
        for (i, term) in node.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate() {
            let at = path.child(PREFERRED).index(i);
            weight(&at, term.weight, errors);
            node_term(&at.child("preference"), &term.preference, false, errors);
        }
    }
    if let Some(with) = &affinity.pod_affinity {
        let (required, preferred) =
            (&with.required_during_scheduling_ignored_during_execution, &with.preferred_during_scheduling_ignored_during_execution);
        pod_terms(&path.child("podAffinity"), required.as_deref(), preferred.as_deref(), errors);
    }
    if let Some(against) = &affinity.pod_anti_affinity {
        let (required, preferred) =
            (&against.required_during_scheduling_ignored_during_execution, &against.preferred_during_scheduling_ignored_during_execution);
        pod_terms(&path.child("podAntiAffinity"), required.as_deref(), preferred.as_deref(), errors);
    }
}

fn weight(path: &FieldPath, weight: i32, errors: &mut FieldErrors) {
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(path: &FieldPath, term: &NodeSelectorTerm, check_values: bool, errors: &mut FieldErrors) {
    for (i, requirement) in term.match_expressions.iter().flatten().enumerate() {
        node_expression(&path.child("matchExpressions").index(i), requirement, check_values, errors);
    }
    for (i, requirement) in term.match_fields.iter().flatten().enumerate() {
        node_field(&path.child("matchFields").index(i), requirement, errors);
    }
}

fn node_expression(path: &FieldPath, requirement: &NodeSelectorRequirement, check_values: bool, errors: &mut FieldErrors) {
    let (at, values) = (path.child("values"), requirement.values.as_deref().unwrap_or_default());
    match requirement.operator.as_str() {
        "In" | "NotIn" => {
            if values.is_empty() {
                errors.required(&at, "must be specified when `operator` is 'In' or 'NotIn'");
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                errors.forbidden(&at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
        }
        "Gt" | "Lt" => {
            if values.len() != 1 {
                errors.required(&at, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
        }
        other => errors.invalid(&path.child("operator"), other, NO_OPERATOR),
    }
    errors.all_invalid(&path.child("key"), requirement.key.as_str(), names::qualified(&requirement.key));
    for (i, value) in values.iter().enumerate().filter(|_| check_values) {
        errors.all_invalid(&at.index(i), value.as_str(), names::label_value(value));
    }
}

fn node_field(path: &FieldPath, requirement: &NodeSelectorRequirement, errors: &mut FieldErrors) {
    let (at, values) = (path.child("values"), requirement.values.as_deref().unwrap_or_default());
    match requirement.operator.as_str() {
        "In" | "NotIn" => {
            if values.len() != 1 {
                errors.required(&at, "must be only one value when `operator` is 'In' or 'NotIn' for node field selector");
            }
        }
        other => errors.invalid(&path.child("operator"), other, NO_OPERATOR),
    }
    if requirement.key != "metadata.name" {
        errors.invalid(&path.child("key"), requirement.key.as_str(), "not a valid field selector key");
        return;
    }
    for (i, value) in values.iter().enumerate() {
        errors.all_invalid(&at.index(i), value.as_str(), names::subdomain(value));
    }
}

fn pod_terms(
    path: &FieldPath,
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
    errors: &mut FieldErrors,
) {
    for (i, term) in required.unwrap_or_default().iter().enumerate() {
        pod_term(&path.child(REQUIRED).index(i), term, errors);
    }
    for (i, weighted) in preferred.unwrap_or_default().iter().enumerate() {
        let at = path.child(PREFERRED).index(i);
        weight(&at, weighted.weight, errors);
        pod_term(&at.child("podAffinityTerm"), &weighted.pod_affinity_term, errors);
    }
}

fn pod_term(path: &FieldPath, term: &PodAffinityTerm, errors: &mut FieldErrors) {
    for (field, selector) in [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)] {
        if let Some(selector) = selector {
            check::label_selector(&path.child(field), selector, errors);
        }
    }
    for name in term.namespaces.iter().flatten() {
        errors.all_invalid(&path.child("namespace"), name.as_str(), names::label(name));
    }
    let (keys, against) = (term.match_label_keys.as_deref(), term.mismatch_label_keys.as_deref());
    label_keys(path, keys, against, term.label_selector.as_ref(), errors);
    let at = path.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.required(&at, "can not be empty");
    }
    errors.all_invalid(&at, term.topology_key.as_str(), names::qualified(&term.topology_key));
}

/// Keys whose values come from the pod's own labels need a selector to go into, and are not in both lists.
fn label_keys(
    path: &FieldPath,
    keys: Option<&[String]>,
    against: Option<&[String]>,
    selector: Option<&LabelSelector>,
    errors: &mut FieldErrors,
) {
    let (keys, against) = (keys.unwrap_or_default(), against.unwrap_or_default());
    for (field, list) in [("matchLabelKeys", keys), ("mismatchLabelKeys", against)] {
        let at = path.child(field);
        if !list.is_empty() && selector.is_none() {
            errors.forbidden(&at, "must not be specified when labelSelector is not set");
        }
        for (i, key) in list.iter().enumerate() {
            errors.all_invalid(&at.index(i), key.as_str(), names::qualified(key));
        }
    }
    for (i, key) in keys.iter().enumerate().filter(|(_, k)| against.contains(k)) {
        errors.invalid(&path.child("matchLabelKeys").index(i), key.as_str(), "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

pub fn tolerations(path: &FieldPath, tolerations: &[Toleration], errors: &mut FieldErrors) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let at = path.index(i);
        let (key, operator) = (str_of(&toleration.key), str_of(&toleration.operator));
        let (value, effect) = (str_of(&toleration.value), str_of(&toleration.effect));
        if !key.is_empty() {
            errors.all_invalid(&at.child("key"), key, names::qualified(key));
        } else if operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&at.child("operator"), operator, why);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            errors.invalid(&at.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "Equal" | "" => {
                let wrong = names::label_value(value);
                if !wrong.is_empty() {
                    errors.invalid(&at.child("operator"), value, wrong.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.invalid(&at.child("operator"), value, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            "Lt" | "Gt" => errors.not_supported(&at.child("operator"), operator, &["Equal", "Exists", "Lt", "Gt"]),
            other => errors.not_supported(&at.child("operator"), other, &["Equal", "Exists"]),
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effect.is_empty() && !effects.contains(&effect) {
            errors.not_supported(&at.child("effect"), effect, &effects);
        }
    }
}

fn spread(path: &FieldPath, constraints: &[TopologySpreadConstraint], errors: &mut FieldErrors) {
    for (i, c) in constraints.iter().enumerate() {
        let at = path.index(i);
        if c.max_skew <= 0 {
            errors.invalid(&at.child("maxSkew"), c.max_skew, "must be greater than zero");
        }
        if c.topology_key.is_empty() {
            errors.required(&at.child("topologyKey"), "can not be empty");
        }
        let action = c.when_unsatisfiable.as_str();
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            errors.not_supported(&at.child("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        if constraints[i + 1..].iter().any(|o| o.topology_key == c.topology_key && o.when_unsatisfiable == action) {
            errors.duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), format!("{{{}, {action}}}", c.topology_key));
        }
        if let Some(domains) = c.min_domains {
            let at = at.child("minDomains");
            if domains <= 0 {
                errors.invalid(&at, domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                errors.invalid(&at, domains, format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"));
            }
        }
        for (field, policy) in [("nodeAffinityPolicy", &c.node_affinity_policy), ("nodeTaintsPolicy", &c.node_taints_policy)] {
            if let Some(policy) = policy.as_deref().filter(|p| !matches!(*p, "Honor" | "Ignore")) {
                errors.not_supported(&at.child(field), policy, &["Honor", "Ignore"]);
            }
        }
        label_keys(&at, c.match_label_keys.as_deref(), None, c.label_selector.as_ref(), errors);
        if let Some(selector) = &c.label_selector {
            check::label_selector(&at.child("labelSelector"), selector, errors);
        }
    }
}
