//! What the workload controllers need to know of pods: activity, availability, and who is deleted first.

use crate::kinds::pod::{containers::names_sidecar, state};
pub use crate::kinds::pod::state::{is_active, is_available, is_ready, is_terminal, is_terminating, node_name, phase};
use crate::kinds::{Pod, Ref};
use crate::meta::time;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::cmp::Ordering;
use std::collections::HashMap;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Being deleted, but not yet stopped: what a ReplicaSet counts as terminating.
pub fn is_stopping(pod: &api::Pod) -> bool {
    !is_terminal(pod) && is_terminating(pod)
}

pub fn condition<'a>(pod: &'a api::Pod, kind: &str) -> Option<&'a api::PodCondition> {
    state::condition(pod.status.as_ref()?, kind)
}

/// When a ready pod will have been ready for `min_ready_seconds`; None if it is not ready.
pub fn available_at(pod: &api::Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    if min_ready_seconds == 0 {
        return Some(Timestamp::UNIX_EPOCH);
    }
    Some(ready.last_transition_time.as_ref()?.0 + SignedDuration::from_secs(i64::from(min_ready_seconds)))
}

/// The first `count` pods to delete. `related` are the pods that should spread with them (those of all ReplicaSets of
/// one Deployment): of two pods alike, the one that shares its node with more of them goes first.
pub fn to_delete(mut pods: Vec<Ref<Pod>>, related: &[Ref<Pod>], count: usize, now: Timestamp) -> Vec<Ref<Pod>> {
    if count < pods.len() {
        let mut on_node: HashMap<&str, usize> = HashMap::new();
        for pod in related.iter().filter(|p| is_active(p)) {
            *on_node.entry(node_name(pod)).or_default() += 1;
        }
        let rank = |pod: &Ref<Pod>| on_node.get(node_name(pod)).copied().unwrap_or(0);
        pods.sort_by(|a, b| deletion_order(a, rank(a), b, rank(b), now));
    }
    pods.truncate(count);
    pods
}

/// controller.ActivePodsWithRanks: what is `Less` is deleted first.
fn deletion_order(a: &api::Pod, rank_a: usize, b: &api::Pod, rank_b: usize, now: Timestamp) -> Ordering {
    let assigned = |p: &api::Pod| !node_name(p).is_empty();
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| if is_ready(a) && is_ready(b) { younger(ready_since(a), ready_since(b), a, b, now) } else { Ordering::Equal })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| younger(a.metadata.creation_timestamp.as_ref(), b.metadata.creation_timestamp.as_ref(), a, b, now))
}

fn phase_order(pod: &api::Pod) -> u8 {
    match phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    }
}

fn deletion_cost(pod: &api::Pod) -> i32 {
    let annotation = pod.metadata.annotations.as_ref().and_then(|a| a.get(DELETION_COST));
    annotation.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn ready_since(pod: &api::Pod) -> Option<&Time> {
    condition(pod, "Ready").and_then(|c| c.last_transition_time.as_ref())
}

/// The later time first, no time before any; ages of one power of two count as equal and are told apart by uid.
fn younger(a: Option<&Time>, b: Option<&Time>, pod_a: &api::Pod, pod_b: &api::Pod, now: Timestamp) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) if a == b => Ordering::Equal,
        (Some(a), Some(b)) => log_age(a, now).cmp(&log_age(b, now)).then_with(|| pod_a.metadata.uid.cmp(&pod_b.metadata.uid)),
    }
}

fn log_age(since: &Time, now: Timestamp) -> i32 {
    let age = now.duration_since(since.0).as_nanos();
    u128::try_from(age).ok().and_then(u128::checked_ilog2).and_then(|log| i32::try_from(log).ok()).unwrap_or(-1)
}

/// The most restarts of a container, then of a sidecar.
fn restarts(pod: &api::Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let sidecar = |name: &str| pod.spec.as_ref().is_some_and(|s| names_sidecar(s, name));
    let regular = status.container_statuses.iter().flatten().map(|c| c.restart_count).max();
    let sidecars = status.init_container_statuses.iter().flatten().filter(|c| sidecar(&c.name)).map(|c| c.restart_count).max();
    (regular.unwrap_or(0), sidecars.unwrap_or(0))
}

/// The time of a new condition.
pub fn transition(now: Timestamp) -> Option<Time> {
    Some(time::seconds(now))
}
