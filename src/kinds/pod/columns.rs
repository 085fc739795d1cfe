//! The pod's table row (printPod of pkg/printers/internalversion).

use super::{containers, state};
use crate::kinds::fill::str_of;
use crate::kinds::{Column, table};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Ready", "The aggregate readiness state of this pod for accepting traffic.", 0),
    table::text("Status", "The aggregate status of the containers in this pod.", 0),
    table::text(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        0,
    ),
    table::AGE,
    table::text("IP", "The pod's first address.", 1),
    table::text("Node", "The node that the pod is bound to.", 1),
    table::text("Nominated Node", "The node on which lower-priority pods make room for this pod.", 1),
    table::text("Readiness Gates", "How many of the conditions that the pod's readiness waits for are true.", 1),
];

pub fn cells(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (PodSpec::default(), PodStatus::default());
    let (spec, status) = (pod.spec.as_ref().unwrap_or(&spec), pod.status.as_ref().unwrap_or(&status));
    let summary = Summary::of(pod, spec, status);
    let or_none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
    vec![
        json!(pod.metadata.name),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.reason),
        json!(summary.restarts_text(now)),
        json!(table::age(&pod.metadata, now)),
        json!(or_none(state::first_ip(pod))),
        json!(or_none(str_of(&spec.node_name))),
        json!(or_none(str_of(&status.nominated_node_name))),
        json!(readiness_gates(spec, status)),
    ]
}

struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: Restarts,
}

/// Restarts, and when the last container that restarted had ended.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn note(&mut self, container: &ContainerStatus) {
        self.count += i64::from(container.restart_count);
        let ended = container.last_state.as_ref().and_then(|s| s.terminated.as_ref()).and_then(|t| t.finished_at.as_ref()).map(|t| t.0);
        self.last = self.last.max(ended);
    }
}

impl Summary {
    fn of(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> Self {
        let sidecars = spec.init_containers.iter().flatten().filter(|c| containers::is_sidecar(c)).count();
        let mut summary =
            Self { reason: first_reason(status), ready: 0, total: spec.containers.len() + sidecars, restarts: Restarts::default() };
        let (initializing, of_sidecars) = summary.init_containers(spec, status);
        if !initializing || state::is_initialized(pod) {
            summary.restarts = of_sidecars;
            summary.containers(status);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            if status.reason.as_deref() == Some("NodeLost") {
                summary.reason = "Unknown".into();
            } else if !state::is_terminal(pod) {
                summary.reason = "Terminating".into();
            }
        }
        summary
    }

    /// True if an init container still runs or failed, and the restarts of sidecars alone.
    fn init_containers(&mut self, spec: &PodSpec, status: &PodStatus) -> (bool, Restarts) {
        let mut of_sidecars = Restarts::default();
        for (i, container) in status.init_container_statuses.iter().flatten().enumerate() {
            self.restarts.note(container);
            let sidecar = containers::names_sidecar(spec, &container.name);
            if sidecar {
                of_sidecars.note(container);
            }
            let none = ContainerState::default();
            let now = container.state.as_ref().unwrap_or(&none);
            let waiting = now.waiting.as_ref().map_or("", |w| str_of(&w.reason));
            if now.terminated.as_ref().is_some_and(|t| t.exit_code == 0) {
                continue;
            }
            if sidecar && container.started == Some(true) {
                self.ready += usize::from(container.ready);
                continue;
            }
            self.reason = match &now.terminated {
                Some(ended) => format!("Init:{}", ended_text(ended)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
                None => format!("Init:{i}/{}", spec.init_containers.as_ref().map_or(0, Vec::len)),
            };
            return (true, of_sidecars);
        }
        (false, of_sidecars)
    }

    fn containers(&mut self, status: &PodStatus) {
        let (mut running, mut failure) = (false, None);
        for container in status.container_statuses.iter().flatten().rev() {
            self.restarts.note(container);
            let none = ContainerState::default();
            let now = container.state.as_ref().unwrap_or(&none);
            let waiting = now.waiting.as_ref().map_or("", |w| str_of(&w.reason));
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(ended) = &now.terminated {
                self.reason = ended_text(ended);
                if ended.exit_code != 0 {
                    failure = Some(self.reason.clone());
                }
            } else if container.ready && now.running.is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" {
            let ready = state::condition(status, "Ready").is_some_and(|c| c.status == "True");
            match (running, failure) {
                (true, _) if ready => self.reason = "Running".into(),
                (_, Some(failure)) => self.reason = failure,
                (true, None) => self.reason = "NotReady".into(),
                (false, None) => {}
            }
        }
    }

    fn restarts_text(&self, now: Timestamp) -> String {
        match self.restarts {
            Restarts { count, last: Some(last) } if count != 0 => {
                format!("{count} ({} ago)", table::human_duration(now.as_second() - last.as_second()))
            }
            Restarts { count, .. } => count.to_string(),
        }
    }
}

fn first_reason(status: &PodStatus) -> String {
    let gated = |c: &k8s_openapi::api::core::v1::PodCondition| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated");
    if status.conditions.iter().flatten().any(gated) {
        return "SchedulingGated".into();
    }
    let reason = str_of(&status.reason);
    if reason.is_empty() { str_of(&status.phase).to_owned() } else { reason.to_owned() }
}

fn ended_text(ended: &ContainerStateTerminated) -> String {
    match (str_of(&ended.reason), ended.signal.unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", ended.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> String {
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    if gates.is_empty() {
        return "<none>".into();
    }
    let ready = gates.iter().filter(|g| state::condition(status, &g.condition_type).is_some_and(|c| c.status == "True")).count();
    format!("{ready}/{}", gates.len())
}
