//! The pod conditions that are the node's: PodReadyToStartContainers, Initialized, ContainersReady, Ready.

use crate::meta::time;
use crate::node::state::{PodState, is_sidecar};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;

/// A condition's value: true, or false with reason and message.
struct Verdict {
    status: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes() -> Self {
        Self { status: true, reason: "", message: String::new() }
    }
    fn no(reason: &'static str, message: String) -> Self {
        Self { status: false, reason, message }
    }
}

/// In the kubelet's order, with transition times kept from `previous` where nothing changed.
pub fn of(state: &PodState, status: &api::PodStatus, previous: &api::PodStatus, network: bool, now: Timestamp) -> Vec<api::PodCondition> {
    let start = if network { Verdict::yes() } else { Verdict::no("", String::new()) };
    let ready = pod_ready(state, status, previous);
    let verdicts = [
        ("PodReadyToStartContainers", start),
        ("Initialized", initialized(state, status)),
        ("Ready", ready),
        ("ContainersReady", containers_ready(state, status)),
        ("PodScheduled", Verdict::yes()),
    ];
    verdicts.into_iter().map(|(kind, verdict)| condition(state, kind, verdict, previous, now)).collect()
}

fn condition(state: &PodState, kind: &str, verdict: Verdict, previous: &api::PodStatus, now: Timestamp) -> api::PodCondition {
    let status = if verdict.status { "True" } else { "False" };
    let before = previous.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
    api::PodCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(verdict.reason.to_owned()).filter(|r| !r.is_empty()),
        message: Some(verdict.message).filter(|m| !m.is_empty()),
        last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(time::seconds(now))),
        observed_generation: state.pod.metadata.generation,
        ..Default::default()
    }
}

fn find<'a>(status: &'a api::PodStatus, name: &str) -> Option<&'a api::ContainerStatus> {
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    all.into_iter().find(|s| s.name == name)
}

fn initialized(state: &PodState, status: &api::PodStatus) -> Verdict {
    if status.phase.as_deref() == Some("Succeeded") {
        return Verdict { status: true, reason: "PodCompleted", message: String::new() };
    }
    if state.initialized_before() {
        return Verdict::yes();
    }
    let incomplete = |c: &&api::Container| {
        let done = find(status, &c.name).is_some_and(|s| if is_sidecar(c) { s.started == Some(true) } else { s.ready });
        !done
    };
    let names: Vec<&str> = state.inits().iter().filter(incomplete).map(|c| c.name.as_str()).collect();
    if names.is_empty() {
        return Verdict::yes();
    }
    Verdict::no("ContainersNotInitialized", format!("containers with incomplete status: [{}]", names.join(" ")))
}

fn containers_ready(state: &PodState, status: &api::PodStatus) -> Verdict {
    match status.phase.as_deref() {
        Some("Succeeded") => return Verdict::no("PodCompleted", String::new()),
        Some("Failed") => return Verdict::no("PodFailed", String::new()),
        _ => {}
    }
    let counted = state.inits().iter().filter(|c| is_sidecar(c)).chain(state.mains());
    let unready: Vec<&str> = counted.filter(|c| !find(status, &c.name).is_some_and(|s| s.ready)).map(|c| c.name.as_str()).collect();
    if unready.is_empty() {
        return Verdict::yes();
    }
    Verdict::no("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
}

fn pod_ready(state: &PodState, status: &api::PodStatus, previous: &api::PodStatus) -> Verdict {
    let containers = containers_ready(state, status);
    if !containers.status {
        return containers;
    }
    // Gates are set by others: what the API shows now counts, not what was written from here.
    let shown = state.pod.status.as_ref().unwrap_or(previous);
    let mut unready = Vec::new();
    for gate in state.spec().readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match shown.conditions.iter().flatten().find(|c| c.type_ == *kind) {
            None => unready.push(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
            Some(c) if c.status != "True" => {
                unready.push(format!("the status of pod readiness gate \"{kind}\" is not \"True\", but {}", c.status));
            }
            Some(_) => {}
        }
    }
    if unready.is_empty() { Verdict::yes() } else { Verdict::no("ReadinessGatesNotReady", unready.join(", ")) }
}
