//! The status of each container: what state it is in, and why it waits.

use crate::meta::time;
use crate::node::backoff::go_seconds;
use crate::node::plan::{restarts, stopping, waits_until};
use crate::node::state::{Ended, Phase, PodState, Problem, Role, Run, Running, is_sidecar};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;

/// One status for each of `specs`, in their order.
pub fn statuses(state: &PodState, specs: &[api::Container], terminal: bool, now: Timestamp) -> Vec<api::ContainerStatus> {
    let init = specs.first().is_some_and(|c| state.inits().iter().any(|i| i.name == c.name));
    let role = |c: &api::Container| match init {
        true if is_sidecar(c) => Role::Sidecar,
        true => Role::Init,
        false => Role::Main,
    };
    specs.iter().map(|c| one(state, c, role(c), terminal, now)).collect()
}

fn one(state: &PodState, spec: &api::Container, role: Role, terminal: bool, now: Timestamp) -> api::ContainerStatus {
    let run = state.run(&spec.name);
    let (present, last) = states(state, spec, role, run, terminal, now);
    let running = run.running();
    let ready = match role {
        Role::Init => run.ended().is_some_and(Ended::succeeded),
        _ => running.is_some() && run.started && run.ready,
    };
    let image_id = running.map(|r| &r.image_id).or(run.ended().map(|e| &e.image_id)).cloned().unwrap_or_default();
    let id = running.map(|r| &r.id).or(run.ended().map(|e| &e.id)).filter(|id| !id.is_empty());
    api::ContainerStatus {
        name: spec.name.clone(),
        image: running.map_or_else(|| spec.image.clone().unwrap_or_default(), |r| r.image.clone()),
        image_id,
        container_id: id.map(|id| format!("orchd://{id}")),
        restart_count: run.restarts,
        ready,
        started: Some(running.is_some() && run.started),
        state: Some(present),
        last_state: last
            .map(|e| api::ContainerState { terminated: Some(terminated(e)), ..Default::default() })
            .or(Some(api::ContainerState::default())),
        allocated_resources: spec.resources.as_ref().and_then(|r| r.requests.clone()),
        resources: Some(spec.resources.clone().unwrap_or_default()),
        volume_mounts: spec.volume_mounts.as_ref().map(|m| m.iter().map(mount).collect()),
        user: running.map(user),
        stop_signal: spec.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
        ..Default::default()
    }
}

fn mount(mount: &api::VolumeMount) -> api::VolumeMountStatus {
    let read_only = mount.read_only.unwrap_or(false);
    api::VolumeMountStatus {
        mount_path: mount.mount_path.clone(),
        name: mount.name.clone(),
        read_only: Some(read_only),
        recursive_read_only: read_only.then(|| "Disabled".to_owned()),
    }
}

fn user(running: &Running) -> api::ContainerUser {
    let p = &running.process;
    let mut groups: Vec<i64> = std::iter::once(p.gid).chain(p.additional_gids.iter().copied()).map(i64::from).collect();
    groups.dedup();
    api::ContainerUser { linux: Some(api::LinuxContainerUser { uid: p.uid.into(), gid: p.gid.into(), supplemental_groups: Some(groups) }) }
}

/// The present state, and the attempt before it.
fn states<'a>(
    state: &PodState,
    spec: &api::Container,
    role: Role,
    run: &'a Run,
    terminal: bool,
    now: Timestamp,
) -> (api::ContainerState, Option<&'a Ended>) {
    if let Phase::Running(running) = &run.phase {
        let running = api::ContainerStateRunning { started_at: Some(time::seconds(running.started_at)) };
        return (api::ContainerState { running: Some(running), ..Default::default() }, run.last.as_ref());
    }
    match run.ended() {
        None => (waiting_first(state, spec, run, now), run.last.as_ref()),
        Some(ended) => {
            let again = !terminal && !stopping(state) && restarts(state, role, ended.code);
            match again.then(|| reason(state, spec, run, now)).flatten() {
                Some(waiting) => (wait(waiting), Some(ended)),
                None => (api::ContainerState { terminated: Some(terminated(ended)), ..Default::default() }, run.last.as_ref()),
            }
        }
    }
}

fn wait(waiting: api::ContainerStateWaiting) -> api::ContainerState {
    api::ContainerState { waiting: Some(waiting), ..Default::default() }
}

fn waiting_first(state: &PodState, spec: &api::Container, run: &Run, now: Timestamp) -> api::ContainerState {
    let default = if state.inits().is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let waiting = reason(state, spec, run, now);
    wait(waiting.unwrap_or_else(|| api::ContainerStateWaiting { reason: Some(default.into()), message: None }))
}

/// Why the container is not started right now, if there is more to say than that it is on its way.
fn reason(state: &PodState, spec: &api::Container, run: &Run, now: Timestamp) -> Option<api::ContainerStateWaiting> {
    let say = |reason: &str, message: String| {
        Some(api::ContainerStateWaiting { reason: Some(reason.into()), message: Some(message).filter(|m| !m.is_empty()) })
    };
    let crash_loop = || {
        let delay = go_seconds(run.back_off.delay());
        say("CrashLoopBackOff", format!("back-off {delay} restarting failed container={} pod={}", spec.name, state.display()))
    };
    let Some(problem) = &run.problem else {
        let waits = if run.is_starting() { run.back_off_told } else { waits_until(run, now).is_some() };
        return if waits { crash_loop() } else { None };
    };
    let backing_off = problem.backing_off_at().is_some_and(|at| now >= at);
    if backing_off && problem.reason == Problem::PULL {
        let image = spec.image.as_deref().unwrap_or_default();
        return say("ImagePullBackOff", format!("Back-off pulling image \"{image}\": ErrImagePull: {}", problem.message));
    }
    if backing_off && problem.retry_at.is_none() && waits_until(run, now).is_some() {
        return crash_loop();
    }
    say(problem.reason, problem.message.clone())
}

fn terminated(ended: &Ended) -> api::ContainerStateTerminated {
    api::ContainerStateTerminated {
        exit_code: ended.code,
        signal: ended.signal,
        reason: Some(ended.reason.clone()),
        message: Some(ended.message.clone()).filter(|m| !m.is_empty()),
        started_at: ended.started_at.map(time::seconds),
        finished_at: ended.finished_at.map(time::seconds),
        container_id: Some(format!("orchd://{}", ended.id)).filter(|_| !ended.id.is_empty()),
    }
}

/// The inverse of `terminated`, for what the API remembers and the runtime no longer does.
pub fn ended_of(status: &api::ContainerStatus, terminated: &api::ContainerStateTerminated) -> Ended {
    let id = terminated.container_id.as_deref().unwrap_or_default();
    Ended {
        id: id.strip_prefix("orchd://").unwrap_or(id).to_owned(),
        image_id: status.image_id.clone(),
        code: terminated.exit_code,
        signal: terminated.signal,
        reason: terminated.reason.clone().unwrap_or_default(),
        message: terminated.message.clone().unwrap_or_default(),
        started_at: terminated.started_at.as_ref().map(|t| t.0),
        finished_at: terminated.finished_at.as_ref().map(|t| t.0),
    }
}

/// Statuses by container name, as the API shows them.
pub fn by_name(status: &api::PodStatus) -> BTreeMap<&str, &api::ContainerStatus> {
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    all.map(|s| (s.name.as_str(), s)).collect()
}
