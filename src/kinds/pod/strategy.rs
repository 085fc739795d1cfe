//! What the API does to a pod around a write: status at create, what a status update keeps, grace of a delete, and what
//! the subresources `resize` and `ephemeralcontainers` let through (pkg/registry/core/pod/strategy.go).

use super::{default, resources, state};
use crate::meta::ObjectMeta;
use k8s_openapi::api::core::v1::{Container, Pod, PodAffinityTerm, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// A new pod is Pending, has its QoS class (of the defaulted requests), and nothing of what the client said of its status.
pub fn prepare_create(pod: &mut Pod) {
    default::pod(pod);
    let spec = pod.spec.get_or_insert_default();
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    let condition = PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("SchedulingGated".into()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".into()),
        last_transition_time: pod.metadata.creation_timestamp.clone(),
        ..PodCondition::default()
    };
    pod.status = Some(PodStatus {
        phase: Some("Pending".into()),
        qos_class: Some(resources::qos_class(spec).into()),
        conditions: gated.then(|| vec![condition]),
        ..PodStatus::default()
    });
    resolve_label_keys(spec, pod.metadata.labels.as_ref().unwrap_or(&BTreeMap::new()));
}

/// Turns `matchLabelKeys` and `mismatchLabelKeys` into requirements of their selectors, by the pod's own labels.
fn resolve_label_keys(spec: &mut PodSpec, labels: &BTreeMap<String, String>) {
    let affinity = spec.affinity.iter_mut();
    for affinity in affinity {
        let with = affinity.pod_affinity.iter_mut().flat_map(|a| {
            let preferred = a.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten().map(|w| &mut w.pod_affinity_term);
            preferred.chain(a.required_during_scheduling_ignored_during_execution.iter_mut().flatten())
        });
        let against = affinity.pod_anti_affinity.iter_mut().flat_map(|a| {
            let preferred = a.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten().map(|w| &mut w.pod_affinity_term);
            preferred.chain(a.required_during_scheduling_ignored_during_execution.iter_mut().flatten())
        });
        with.chain(against).for_each(|term| resolve_term(term, labels));
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        if let (Some(selector), Some(keys)) = (&mut constraint.label_selector, &constraint.match_label_keys) {
            require(selector, keys, "In", labels);
        }
    }
}

fn resolve_term(term: &mut PodAffinityTerm, labels: &BTreeMap<String, String>) {
    let Some(selector) = &mut term.label_selector else { return };
    require(selector, term.match_label_keys.as_deref().unwrap_or_default(), "In", labels);
    require(selector, term.mismatch_label_keys.as_deref().unwrap_or_default(), "NotIn", labels);
}

fn require(selector: &mut LabelSelector, keys: &[String], operator: &str, labels: &BTreeMap<String, String>) {
    for (key, value) in keys.iter().filter_map(|k| labels.get_key_value(k)) {
        let requirement = LabelSelectorRequirement { key: key.clone(), operator: operator.into(), values: Some(vec![value.clone()]) };
        selector.match_expressions.get_or_insert_default().push(requirement);
    }
}

/// Keeps all but the status; owners and the time of deletion are not the status's to change, and a status that says
/// nothing of its QoS class or of observed generations keeps the old ones.
pub fn prepare_status_update(new: &mut Pod, old: &Pod) {
    new.spec = old.spec.clone();
    new.metadata.deletion_timestamp = old.metadata.deletion_timestamp.clone();
    new.metadata.owner_references = old.metadata.owner_references.clone();
    let (Some(status), Some(before)) = (&mut new.status, &old.status) else {
        new.status = old.status.as_ref().map(|s| PodStatus { qos_class: s.qos_class.clone(), ..PodStatus::default() });
        return;
    };
    if status.qos_class.as_deref().unwrap_or_default().is_empty() {
        status.qos_class.clone_from(&before.qos_class);
    }
    if status.observed_generation.unwrap_or_default() == 0 {
        status.observed_generation = before.observed_generation;
    }
    let mut generations: HashMap<&str, VecDeque<Option<i64>>> = HashMap::new();
    for condition in before.conditions.iter().flatten() {
        generations.entry(&condition.type_).or_default().push_back(condition.observed_generation);
    }
    for condition in status.conditions.iter_mut().flatten() {
        let old = generations.get_mut(condition.type_.as_str()).and_then(VecDeque::pop_front).flatten();
        if condition.observed_generation.unwrap_or_default() == 0 {
            condition.observed_generation = old;
        }
    }
}

/// Seconds a deleted pod gets: what was asked, else its own grace period; none if no node has it or it has ended.
pub fn grace_period_seconds(pod: &Pod, asked: Option<i64>) -> i64 {
    if state::node_name(pod).is_empty() || state::is_terminal(pod) {
        return 0;
    }
    let period = asked.or_else(|| pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds)).unwrap_or(0);
    if period < 0 { 1 } else { period }
}

/// What an update of the subresource `ephemeralcontainers` may change: the ephemeral containers alone.
pub fn prepare_ephemeral_containers(new: &mut Pod, old: &Pod) {
    let containers = new.spec.take().and_then(|s| s.ephemeral_containers);
    new.spec = old.spec.clone();
    new.status = old.status.clone();
    new.metadata = kept_metadata(&new.metadata, old);
    if let Some(spec) = &mut new.spec {
        spec.ephemeral_containers = containers;
    }
}

/// What an update of the subresource `resize` may change: resources and resize policies of the containers. A list that
/// gained, lost, renamed or reordered containers is left as it came, for validation to refuse.
pub fn prepare_resize(new: &mut Pod, old: &Pod) {
    let (Some(asked), Some(before)) = (&new.spec, &old.spec) else { return };
    let init = |s: &PodSpec| s.init_containers.clone().unwrap_or_default();
    let Some(containers) = resized(&asked.containers, &before.containers) else { return };
    let Some(init_containers) = resized(&init(asked), &init(before)) else { return };
    let mut spec = before.clone();
    spec.containers = containers;
    spec.init_containers = Some(init_containers).filter(|l| !l.is_empty());
    new.spec = Some(spec);
    new.status = old.status.clone();
    new.metadata = kept_metadata(&new.metadata, old);
}

/// The old metadata, with the version and uid that the client means.
fn kept_metadata(new: &ObjectMeta, old: &Pod) -> ObjectMeta {
    let uid = new.uid.clone().or_else(|| old.metadata.uid.clone());
    ObjectMeta { resource_version: new.resource_version.clone(), uid, ..old.metadata.clone() }
}

fn resized(new: &[Container], old: &[Container]) -> Option<Vec<Container>> {
    let same = new.len() == old.len() && new.iter().zip(old).all(|(n, o)| n.name == o.name);
    same.then(|| {
        let pairs = new.iter().zip(old);
        pairs.map(|(n, o)| Container { resources: n.resources.clone(), resize_policy: n.resize_policy.clone(), ..o.clone() }).collect()
    })
}
