//! The status that the API is to show for a pod. Pure.

mod conditions;
mod containers;
pub use containers::{by_name, ended_of};
mod phase;

use super::plan::{already_terminal, stopping};
use super::state::{PodState, Sandbox};
use crate::meta::time;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use std::net::IpAddr;

/// The whole status. `previous` is the last one written (or found in the API), for what must not go back: the phase, and
/// the times at which conditions changed. Conditions that are not the node's are left out; the write merges.
pub fn of(state: &PodState, previous: &api::PodStatus, host_ip: IpAddr, now: Timestamp) -> api::PodStatus {
    let terminal = stopping(state) && !state.busy();
    let inits = containers::statuses(state, state.inits(), terminal, now);
    let mains = containers::statuses(state, state.mains(), terminal, now);
    let mut phase = phase::of(state, &inits, &mains, terminal).to_owned();
    let (mut reason, mut message) = (previous.reason.clone(), previous.message.clone());
    if previous.phase.as_deref() != Some(&phase) && !already_terminal(state) {
        (reason, message) = (None, None);
    }
    if let Some(failure) = &state.failure {
        // Said only once nothing runs any more, so that a terminal phase means what it says.
        (reason, message) = (Some(failure.reason.clone()), Some(failure.message.clone()));
        if !state.busy() {
            phase = "Failed".into();
        }
    }
    if let Some(over @ ("Succeeded" | "Failed")) = previous.phase.as_deref() {
        phase = over.to_owned();
    }
    // What stops without having been anything has failed.
    if terminal && !matches!(phase.as_str(), "Succeeded" | "Failed") {
        phase = "Failed".into();
    }
    let host = host_ip.to_string();
    let ip = if state.host_network() { Some(host.clone()) } else { state.ip.map(|ip| ip.to_string()) };
    let ip = ip.or_else(|| previous.pod_ip.clone());
    let mut status = api::PodStatus {
        host_ips: Some(vec![api::HostIP { ip: host.clone() }]),
        host_ip: Some(host),
        pod_ips: ip.as_ref().map(|ip| vec![api::PodIP { ip: ip.clone() }]),
        pod_ip: ip,
        start_time: Some(time::seconds(state.start_time)),
        qos_class: Some(crate::node::resources::qos_class(state.spec()).into()),
        observed_generation: state.pod.metadata.generation,
        phase: Some(phase),
        reason,
        message,
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        container_statuses: (!mains.is_empty()).then_some(mains),
        ..api::PodStatus::default()
    };
    let network = matches!(state.sandbox, Sandbox::Ready { .. }) && (state.ip.is_some() || state.host_network());
    status.conditions = Some(conditions::of(state, &status, previous, network, now));
    status
}

/// True if `theirs` says something else than `ours` about what is the node's to say: phase, conditions, readiness.
pub fn differs(ours: &api::PodStatus, theirs: &api::PodStatus) -> bool {
    let condition =
        |status: &api::PodStatus, kind: &str| status.conditions.iter().flatten().find(|c| c.type_ == kind).map(|c| c.status.clone());
    let conditions = ours.conditions.iter().flatten().any(|c| condition(theirs, &c.type_).as_ref() != Some(&c.status));
    let ready = |status: &api::PodStatus| by_name(status).into_iter().map(|(name, s)| (name.to_owned(), s.ready)).collect::<Vec<_>>();
    ours.phase != theirs.phase || conditions || ready(ours) != ready(theirs)
}

#[cfg(test)]
mod tests;
