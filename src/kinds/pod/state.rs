//! What a pod's status says: questions that the scheduler, the controllers and the node agent ask of it.

use crate::kinds::fill::str_of;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::jiff::Timestamp;

/// The phase, empty if there is none yet.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().map_or("", |s| str_of(&s.phase))
}

/// Succeeded or Failed: the pod will run no more.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither terminal nor being deleted: what a ReplicaSet counts.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Being deleted.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

fn condition_is_true(pod: &Pod, kind: &str) -> bool {
    pod.status.as_ref().and_then(|s| condition(s, kind)).is_some_and(|c| c.status == "True")
}

/// True if the condition Ready is.
pub fn is_ready(pod: &Pod) -> bool {
    condition_is_true(pod, "Ready")
}

/// Ready since at least `min_ready_seconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    let Some(ready) = pod.status.as_ref().and_then(|s| condition(s, "Ready")).filter(|c| c.status == "True") else { return false };
    min_ready_seconds <= 0
        || ready.last_transition_time.as_ref().is_some_and(|t| t.0.as_second() + i64::from(min_ready_seconds) <= now.as_second())
}

/// The node that the pod is bound to, empty if none.
pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().map_or("", |s| str_of(&s.node_name))
}

/// The pod's first address, empty if none.
pub fn first_ip(pod: &Pod) -> &str {
    let Some(status) = &pod.status else { return "" };
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).next();
    listed.unwrap_or_else(|| str_of(&status.pod_ip))
}

/// True if the condition Initialized is.
pub fn is_initialized(pod: &Pod) -> bool {
    condition_is_true(pod, "Initialized")
}
