//! A pod's state from what is found when the agent starts: sandboxes that run, and what the API remembers. Pure.

use super::container::{ATTEMPT, IMAGE, NAME};
use super::state::{Ended, Phase, PodState, Run, Running, Sandbox};
use super::status::{by_name, ended_of};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use orchd_runtime::spec::{ContainerState, ContainerStatus, Exit, SandboxStatus};
use std::net::IpAddr;
use std::sync::Arc;

/// The state to begin with. `found` is the pod's sandbox, if it has one; `message` gives the termination message of a
/// container that has ended (name, attempt, record).
pub fn state(
    pod: Arc<api::Pod>,
    found: Option<&SandboxStatus>,
    ip: Option<IpAddr>,
    now: Timestamp,
    message: impl Fn(&str, i32, &Running, &Exit) -> String,
) -> PodState {
    let mut state = PodState::new(Arc::clone(&pod), now);
    if let Some(sandbox) = found {
        state.sandbox = Sandbox::Ready { pid: sandbox.pid };
        state.ip = ip;
    }
    let status = pod.status.clone().unwrap_or_default();
    let shown = by_name(&status);
    for (name, run) in &mut state.containers {
        let shown = shown.get(name.as_str()).copied();
        let mut attempts: Vec<(i32, &ContainerStatus)> = found
            .into_iter()
            .flat_map(|s| &s.containers)
            .filter(|c| c.spec.labels.get(NAME) == Some(name))
            .map(|c| (c.spec.labels.get(ATTEMPT).and_then(|a| a.parse().ok()).unwrap_or(0), c))
            .collect();
        attempts.sort_by_key(|(attempt, _)| *attempt);
        match attempts.last() {
            Some((attempt, newest)) => from_runtime(run, *attempt, newest, shown, &message),
            None => from_api(run, shown, now),
        }
    }
    state
}

fn running_of(status: &ContainerStatus, pid: i32, started_at_ns: i64) -> Running {
    let spec = &status.spec;
    Running {
        id: spec.id.clone(),
        pid,
        started_at: Timestamp::from_nanosecond(i128::from(started_at_ns)).unwrap_or(Timestamp::UNIX_EPOCH),
        image: spec.labels.get(IMAGE).cloned().unwrap_or_default(),
        image_id: spec.image.clone(),
        process: spec.process.clone(),
        log_path: spec.log_path.clone(),
    }
}

fn from_runtime(
    run: &mut Run,
    attempt: i32,
    found: &ContainerStatus,
    shown: Option<&api::ContainerStatus>,
    message: &impl Fn(&str, i32, &Running, &Exit) -> String,
) {
    run.restarts = attempt;
    let id = format!("orchd://{}", found.spec.id);
    let same = shown.filter(|s| s.container_id.as_deref() == Some(&id));
    // What the API shows as this attempt's end, or as the one before it, is the one before if its id differs.
    run.last = shown
        .and_then(|s| {
            let of = |state: &Option<api::ContainerState>| state.as_ref().and_then(|t| t.terminated.clone());
            let before = if same.is_some() { of(&s.last_state) } else { of(&s.state).or_else(|| of(&s.last_state)) };
            before.map(|t| ended_of(s, &t))
        })
        .filter(|e| e.id != found.spec.id);
    match &found.state {
        ContainerState::Running { pid, started_at_ns } => {
            run.phase = Phase::Running(running_of(found, *pid, *started_at_ns));
            run.started = same.is_some_and(|s| s.started == Some(true));
            run.ready = same.is_some_and(|s| s.ready);
        }
        ContainerState::Exited(exit) => {
            let running = running_of(found, 0, exit.started_at_ns);
            let name = found.spec.labels.get(NAME).map(String::as_str).unwrap_or_default();
            let text = message(name, attempt, &running, exit);
            run.phase = Phase::Ended(Ended::of(&running, exit, text));
        }
    }
}

/// Nothing of it is on the node any more.
fn from_api(run: &mut Run, shown: Option<&api::ContainerStatus>, now: Timestamp) {
    let Some(shown) = shown else { return };
    run.restarts = shown.restart_count;
    let terminated = |state: &Option<api::ContainerState>| state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| ended_of(shown, t));
    let last = terminated(&shown.last_state);
    if let Some(ended) = terminated(&shown.state) {
        (run.phase, run.last) = (Phase::Ended(ended), last);
    } else if let Some(running) = shown.state.as_ref().and_then(|s| s.running.as_ref()) {
        let id = shown.container_id.as_deref().unwrap_or_default();
        run.phase = Phase::Ended(Ended {
            id: id.strip_prefix("orchd://").unwrap_or(id).to_owned(),
            image_id: shown.image_id.clone(),
            code: 137,
            signal: None,
            reason: "ContainerStatusUnknown".into(),
            message: "The container could not be located when the pod was terminated".into(),
            started_at: running.started_at.as_ref().map(|t| t.0),
            finished_at: Some(now),
        });
        run.last = last;
    } else if let Some(last) = last {
        run.phase = Phase::Ended(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchd_runtime::spec::{ContainerSpec, SandboxSpec};
    use serde_json::json;

    fn pod(status: serde_json::Value) -> Arc<api::Pod> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "status": status,
            "spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}}))
            .unwrap(),
        )
    }

    fn container(name: &str, attempt: i32, id: &str, state: ContainerState) -> ContainerStatus {
        let labels = [(NAME, name.to_owned()), (ATTEMPT, attempt.to_string()), (IMAGE, "i".into())];
        let labels = labels.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        ContainerStatus { spec: ContainerSpec { id: id.into(), labels, ..ContainerSpec::default() }, state }
    }

    fn exit(code: i32) -> ContainerState {
        ContainerState::Exited(Exit { code, signal: None, oom_killed: false, started_at_ns: 1, finished_at_ns: 2 })
    }

    #[test]
    fn what_runs_is_found_again_and_what_ended_is_remembered() {
        let status = json!({"containerStatuses": [
            {"name": "a", "image": "i", "imageID": "", "ready": true, "started": true, "restartCount": 2, "containerID": "orchd://a2",
                "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 7, "containerID": "orchd://a1"}}},
            {"name": "b", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "containerID": "orchd://b0", "state": {"running": {}}}]});
        let found = SandboxStatus {
            spec: SandboxSpec::default(),
            pid: 9,
            containers: vec![
                container("a", 2, "a2", ContainerState::Running { pid: 5, started_at_ns: 1 }),
                container("a", 1, "a1", exit(7)),
                container("b", 0, "b0", exit(3)),
            ],
        };
        let now = Timestamp::from_second(100).unwrap();
        let state = state(pod(status.clone()), Some(&found), None, now, |name, attempt, _, _| format!("{name}{attempt}"));
        assert_eq!(state.sandbox, Sandbox::Ready { pid: 9 });
        let a = state.run("a");
        assert_eq!((a.running().unwrap().pid, a.restarts, a.ready, a.started), (5, 2, true, true));
        assert_eq!(a.last.as_ref().unwrap().code, 7);
        let b = state.run("b").ended().unwrap();
        assert_eq!((b.code, b.message.as_str()), (3, "b0"));

        let gone = super::state(pod(status), None, None, now, |_, _, _, _| String::new());
        assert_eq!(gone.sandbox, Sandbox::Absent);
        let a = gone.run("a");
        assert_eq!((a.ended().unwrap().reason.as_str(), a.ended().unwrap().code, a.restarts), ("ContainerStatusUnknown", 137, 2));
    }
}
