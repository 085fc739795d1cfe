//! What IO brought, and how it changes a pod's state. Pure.

use super::plan::change;
use super::state::{Ended, Kill, KillStage, Phase, PodState, Problem, Role, Run, Running, Sandbox, Stage, Unhealthy};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::net::IpAddr;
use std::sync::Arc;

/// How long what needs another's help (a ConfigMap, a registry's name) waits before it is tried again unasked.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

/// Why a container did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartFailure {
    /// The image is not here: reason (`ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`) and message.
    Image(&'static str, String),
    /// `CreateContainerConfigError`: what the container refers to is missing or wrong.
    Config(String),
    /// `CreateContainerError`: the runtime made nothing.
    Create(String),
    /// The runtime made it but its program does not run: terminated `StartError` with code 128, then `RunContainerError`.
    Run(Ended),
}

#[derive(Clone, Debug)]
pub enum Outcome {
    /// The sandbox's process and the pod's address.
    Sandbox(Result<(i32, Option<IpAddr>), String>),
    SandboxRemoved(Result<(), String>),
    SandboxLost,
    Volumes(Result<(), String>),
    Started {
        container: String,
        result: Result<Running, StartFailure>,
        /// The postStart hook failed: the container is to be stopped.
        hook_failure: Option<String>,
    },
    Exited {
        id: String,
        ended: Ended,
    },
    PreStopDone {
        id: String,
    },
    /// The startup probe succeeded.
    StartedUp {
        id: String,
    },
    Readiness {
        id: String,
        ready: bool,
    },
    /// A liveness or startup probe failed for good.
    Unhealthy {
        id: String,
        unhealthy: Unhealthy,
    },
    /// Something that the pod refers to has changed: what waits for it may try again.
    SourceChanged,
    TornDown(Result<(), String>),
    Finalized(Result<(), String>),
    Pod(Arc<api::Pod>),
    Removed,
}

/// Changes the state by what has happened.
pub fn apply(state: &mut PodState, outcome: Outcome, now: Timestamp) {
    match outcome {
        Outcome::Pod(pod) => renew(state, pod),
        Outcome::Removed => state.removed = true,
        Outcome::Sandbox(result) => sandbox(state, result, now),
        Outcome::SandboxRemoved(result) => state.sandbox = if result.is_ok() { Sandbox::Absent } else { Sandbox::Lost },
        Outcome::SandboxLost => lost(state, now),
        Outcome::Volumes(result) => state.volumes.settle(result, now),
        Outcome::TornDown(result) => torn_down(state, result, now),
        Outcome::Finalized(result) => state.finalized.settle(result, now),
        Outcome::Started { container, result, hook_failure } => started(state, &container, result, hook_failure, now),
        Outcome::Exited { id, ended } => with_running(state, &id, |run| run.phase = Phase::Ended(ended), true),
        Outcome::PreStopDone { id } => with_running(state, &id, hook_done, false),
        Outcome::StartedUp { id } => with_running(state, &id, |run| run.started = true, false),
        Outcome::Readiness { id, ready } => with_running(state, &id, |run| run.ready = ready, false),
        Outcome::Unhealthy { id, unhealthy } => with_running(state, &id, |run| run.unhealthy = Some(unhealthy), false),
        Outcome::SourceChanged => retry_now(state),
    }
}

fn sandbox(state: &mut PodState, result: Result<(i32, Option<IpAddr>), String>, now: Timestamp) {
    match result {
        Ok((pid, ip)) => {
            state.sandbox = Sandbox::Ready { pid };
            state.ip = ip;
        }
        Err(message) => state.sandbox = Sandbox::Failed { message, retry_at: now + RETRY },
    }
}

/// The shim is gone and its containers with it.
fn lost(state: &mut PodState, now: Timestamp) {
    state.sandbox = Sandbox::Lost;
    for run in state.containers.values_mut() {
        if let Some(running) = run.running() {
            let ended = Ended {
                id: running.id.clone(),
                image_id: running.image_id.clone(),
                code: 137,
                signal: None,
                reason: "ContainerStatusUnknown".into(),
                message: "The container could not be located when the pod was terminated".into(),
                started_at: Some(running.started_at),
                finished_at: Some(now),
            };
            run.phase = Phase::Ended(ended);
            forget_attempt(run);
        }
    }
    state.initialize_again = true;
    let inits: Vec<String> = state.specs().filter(|(_, role)| *role == Role::Init).map(|(c, _)| c.name.clone()).collect();
    for name in inits {
        change(state, &name, |run| {
            if let Phase::Ended(ended) = &run.phase {
                run.last = Some(ended.clone());
                run.phase = Phase::Waiting;
                run.restarts += 1;
            }
        });
    }
}

fn torn_down(state: &mut PodState, result: Result<(), String>, now: Timestamp) {
    if result.is_ok() {
        state.sandbox = Sandbox::Absent;
        state.volumes = Stage::Idle;
    }
    state.teardown.settle(result, now);
}

fn renew(state: &mut PodState, pod: Arc<api::Pod>) {
    let changed = pod.spec != state.pod.spec
        || pod.metadata.annotations != state.pod.metadata.annotations
        || pod.metadata.labels != state.pod.metadata.labels;
    state.pod = pod;
    if changed {
        retry_now(state);
    }
}

/// Lets what failed for want of something outside try again at once.
fn retry_now(state: &mut PodState) {
    if matches!(state.volumes, Stage::Failed { .. }) {
        state.volumes = Stage::Idle;
    }
    for run in state.containers.values_mut() {
        if let Some(problem) = &mut run.problem
            && problem.reason == "CreateContainerConfigError"
        {
            problem.retry_at = Some(problem.at);
        }
    }
}

fn with_running(state: &mut PodState, id: &str, with: impl FnOnce(&mut Run), over: bool) {
    let found = state.containers.values_mut().find(|r| r.running().is_some_and(|running| running.id == id));
    if let Some(run) = found {
        with(run);
        if over {
            forget_attempt(run);
        }
    }
}

fn forget_attempt(run: &mut Run) {
    run.kill = None;
    run.started = false;
    run.ready = false;
    run.unhealthy = None;
}

fn hook_done(run: &mut Run) {
    if let Some(kill) = run.kill.as_mut().filter(|k| k.stage == KillStage::HookRunning) {
        kill.stage = KillStage::Turn;
    }
}

fn started(state: &mut PodState, container: &str, result: Result<Running, StartFailure>, hook_failure: Option<String>, now: Timestamp) {
    let grace = SignedDuration::from_secs(state.grace_seconds());
    if state.mains().iter().any(|c| c.name == container) && result.is_ok() {
        state.initialize_again = false;
    }
    let spec = state.container_spec(container);
    let (startup, readiness) = spec.map_or((false, false), |c| (c.startup_probe.is_some(), c.readiness_probe.is_some()));
    change(state, container, |run| {
        let before = match std::mem::take(&mut run.phase) {
            Phase::Starting(before) => before,
            other => return run.phase = other,
        };
        run.back_off_told = false;
        match result {
            Ok(running) => {
                made(run, before, now);
                run.phase = Phase::Running(running);
                (run.problem, run.started, run.ready) = (None, !startup, !readiness);
                run.pull_back_off.reset();
                if let Some(message) = hook_failure {
                    run.problem = Some(Problem { reason: "PostStartHookError", message, at: now, retry_at: None });
                    run.kill = Some(Kill { stage: KillStage::Turn, deadline: now + grace });
                }
            }
            Err(StartFailure::Run(ended)) => {
                made(run, before, now);
                run.problem = Some(Problem { reason: "RunContainerError", message: ended.message.clone(), at: now, retry_at: None });
                run.phase = Phase::Ended(ended);
            }
            Err(failure) => {
                run.phase = before.map_or(Phase::Waiting, Phase::Ended);
                run.problem = Some(problem(run, failure, now));
            }
        }
    });
}

/// Another attempt has come into being.
fn made(run: &mut Run, before: Option<Ended>, now: Timestamp) {
    if let Some(before) = before {
        run.restarts += 1;
        run.back_off.advance(before.finished_at.unwrap_or(now), now);
        run.last = Some(before);
    }
}

fn problem(run: &mut Run, failure: StartFailure, now: Timestamp) -> Problem {
    let (reason, message) = match failure {
        StartFailure::Image(reason, message) => (reason, message),
        StartFailure::Config(message) => ("CreateContainerConfigError", message),
        StartFailure::Create(message) | StartFailure::Run(Ended { message, .. }) => ("CreateContainerError", message),
    };
    let wait = if reason == Problem::PULL {
        run.pull_back_off.advance(now, now);
        run.pull_back_off.delay()
    } else {
        RETRY
    };
    Problem { reason, message, at: now, retry_at: Some(now + wait) }
}
