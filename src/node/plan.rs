//! What is to be done next for a pod, from what is known of it: the heart of the agent, as a pure function.
//!
//! `plan` looks at a `PodState` and a time and answers with steps and with when to look again at the latest. `mark` notes
//! in the state that a step is on its way. Results of IO change the state in `outcome`; nothing else does.

use super::state::{Failure, Kill, KillStage, Phase, PodState, Role, Run, Sandbox, Stage, is_sidecar};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The least time between SIGTERM and SIGKILL.
const LEAST_GRACE: SignedDuration = SignedDuration::from_secs(2);

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    CreateSandbox,
    /// What is left of a sandbox that died.
    RemoveSandbox,
    SetUpVolumes,
    /// Image, environment, process; one at a time in a pod.
    Start {
        container: String,
    },
    /// An event: the container waits for its back-off, or its image's.
    TellBackOff {
        container: String,
    },
    /// Begin to stop a container. No IO but the event.
    Kill {
        container: String,
        message: String,
        deadline: Timestamp,
    },
    RunPreStop {
        container: String,
        deadline: Timestamp,
    },
    /// The stop signal, or SIGKILL if `last`.
    Signal {
        container: String,
        last: bool,
    },
    /// The pod as a whole has failed.
    Fail(Failure),
    /// Sandbox, network, volumes: all that the pod had on this node but its logs.
    TearDown,
    /// Write the final status, then delete the object.
    Finalize,
    /// Nothing is left to do, ever: the pod is gone from the API and from the node.
    Forget,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// When time alone changes what is to be done, or shown.
    pub wake: Option<Timestamp>,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
    fn step(&mut self, step: Step) {
        self.steps.push(step);
    }
}

/// See the module's header.
pub fn plan(state: &PodState, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if let Some(failure) = deadline_exceeded(state, now, &mut plan) {
        plan.step(Step::Fail(failure));
        return plan;
    }
    if stopping(state) {
        stop_all(state, now, &mut plan);
    } else if recover_sandbox(state, &mut plan) {
        prepare(state, now, &mut plan);
        if matches!(state.sandbox, Sandbox::Ready { .. }) && state.volumes == Stage::Done {
            run_containers(state, now, &mut plan);
        }
    }
    continue_kills(state, now, &mut plan);
    plan
}

/// True if the pod's containers are all to end and stay so.
pub fn stopping(state: &PodState) -> bool {
    state.deleted() || finished(state)
}

/// True if the pod has failed or succeeded for good, whatever may still have to be stopped.
pub fn finished(state: &PodState) -> bool {
    if state.failure.is_some() || already_terminal(state) {
        return true;
    }
    let over = |c: &api::Container, role| state.run(&c.name).ended().is_some_and(|e| !restarts(state, role, e.code));
    let init_failed = !state.initialized_before()
        && state.inits().iter().any(|c| {
            let failed = state.run(&c.name).ended().is_some_and(|e| !e.succeeded());
            !is_sidecar(c) && failed && over(c, Role::Init)
        });
    init_failed || (!state.mains().is_empty() && state.mains().iter().all(|c| over(c, Role::Main)))
}

/// The API shows it as ended: a terminal phase is never left again.
pub fn already_terminal(state: &PodState) -> bool {
    let phase = state.pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a container that ended with `code` is started again, its pod living on.
pub fn restarts(state: &PodState, role: Role, code: i32) -> bool {
    let policy = state.spec().restart_policy.as_deref().unwrap_or("Always");
    match (role, policy) {
        (Role::Sidecar, _) | (Role::Main, "Always") => true,
        (_, "Never") => false,
        _ => code != 0,
    }
}

fn deadline_exceeded(state: &PodState, now: Timestamp, plan: &mut Plan) -> Option<Failure> {
    let seconds = state.spec().active_deadline_seconds?;
    if stopping(state) {
        return None;
    }
    let deadline = state.start_time + SignedDuration::from_secs(seconds);
    if now < deadline {
        plan.wake_at(deadline);
        return None;
    }
    let message = "Pod was active on the node longer than the specified deadline".into();
    Some(Failure { reason: "DeadlineExceeded".into(), message })
}

/// A lost sandbox goes before anything else; false while it does.
fn recover_sandbox(state: &PodState, plan: &mut Plan) -> bool {
    match state.sandbox {
        Sandbox::Lost => {
            if !state.busy() {
                plan.step(Step::RemoveSandbox);
            }
            false
        }
        Sandbox::Removing => false,
        _ => true,
    }
}

/// Sandbox and volumes, both at once.
fn prepare(state: &PodState, now: Timestamp, plan: &mut Plan) {
    match &state.sandbox {
        Sandbox::Absent => plan.step(Step::CreateSandbox),
        Sandbox::Failed { retry_at, .. } if *retry_at <= now => plan.step(Step::CreateSandbox),
        Sandbox::Failed { retry_at, .. } => plan.wake_at(*retry_at),
        _ => {}
    }
    match &state.volumes {
        Stage::Idle => plan.step(Step::SetUpVolumes),
        Stage::Failed { retry_at, .. } if *retry_at <= now => plan.step(Step::SetUpVolumes),
        Stage::Failed { retry_at, .. } => plan.wake_at(*retry_at),
        _ => {}
    }
}

fn run_containers(state: &PodState, now: Timestamp, plan: &mut Plan) {
    for (container, _) in state.specs() {
        kill_if_wrong(state, container, now, plan);
    }
    let initialized = state.initialized_before();
    for container in state.inits() {
        let run = state.run(&container.name);
        if is_sidecar(container) {
            start_if_due(state, container, Role::Sidecar, now, plan);
            let up = run.running().is_some() && run.started;
            if !initialized && !up {
                return;
            }
        } else if !initialized && !run.ended().is_some_and(|e| e.succeeded()) {
            start_if_due(state, container, Role::Init, now, plan);
            return;
        }
    }
    for container in state.mains() {
        start_if_due(state, container, Role::Main, now, plan);
    }
}

/// A container whose probe failed, or whose image is no longer the one asked for.
fn kill_if_wrong(state: &PodState, container: &api::Container, now: Timestamp, plan: &mut Plan) {
    let run = state.run(&container.name);
    let Some(running) = run.running().filter(|_| run.kill.is_none()) else { return };
    let (message, grace) = if let Some(unhealthy) = &run.unhealthy {
        (unhealthy.message.clone(), unhealthy.grace)
    } else if container.image.as_deref().is_some_and(|i| i != running.image) {
        (format!("Container {} definition changed, will be restarted", container.name), None)
    } else {
        return;
    };
    let grace = SignedDuration::from_secs(grace.unwrap_or_else(|| state.grace_seconds()));
    plan.step(Step::Kill { container: container.name.clone(), message, deadline: now + grace });
}

fn start_if_due(state: &PodState, container: &api::Container, role: Role, now: Timestamp, plan: &mut Plan) {
    let run = state.run(&container.name);
    let due = match &run.phase {
        Phase::Waiting => true,
        Phase::Ended(ended) => restarts(state, role, ended.code),
        Phase::Starting(_) | Phase::Running(_) => false,
    };
    if !due {
        return;
    }
    if let Some(until) = waits_until(run, now) {
        plan.wake_at(until);
        tell_back_off(container, run, now, plan);
        return;
    }
    let other_starts = state.containers.values().any(Run::is_starting) || plan.steps.iter().any(|s| matches!(s, Step::Start { .. }));
    if !other_starts {
        plan.step(Step::Start { container: container.name.clone() });
    }
}

/// Until when a container may not be started; None if it may be now.
pub fn waits_until(run: &Run, now: Timestamp) -> Option<Timestamp> {
    if let Some(retry_at) = run.problem.as_ref().and_then(|p| p.retry_at) {
        return Some(retry_at).filter(|t| now < *t);
    }
    run.back_off.until(run.ended()?.finished_at?, now)
}

/// The event, once for each wait, when the back-off's own reason is what is shown.
fn tell_back_off(container: &api::Container, run: &Run, now: Timestamp, plan: &mut Plan) {
    if run.back_off_told {
        return;
    }
    match &run.problem {
        Some(problem) => match problem.backing_off_at() {
            Some(at) if now < at => plan.wake_at(at),
            Some(_) => plan.step(Step::TellBackOff { container: container.name.clone() }),
            None => {}
        },
        None => plan.step(Step::TellBackOff { container: container.name.clone() }),
    }
}

/// Kills what runs, then takes down what is left, then lets the object go.
fn stop_all(state: &PodState, now: Timestamp, plan: &mut Plan) {
    // A second delete may ask for less time than the first.
    let asked = now + SignedDuration::from_secs(state.grace_seconds());
    let deadline = state.stop_by.map_or(asked, |by| by.min(asked));
    for (container, _) in state.specs() {
        let run = state.run(&container.name);
        if run.running().is_some() && run.kill.as_ref().is_none_or(|k| k.deadline > deadline) {
            let message = format!("Stopping container {}", container.name);
            plan.step(Step::Kill { container: container.name.clone(), message, deadline });
        }
    }
    let preparing = matches!(state.sandbox, Sandbox::Creating | Sandbox::Removing) || state.volumes == Stage::Busy;
    if state.busy() || preparing {
        return;
    }
    match &state.teardown {
        Stage::Idle => plan.step(Step::TearDown),
        Stage::Failed { retry_at, .. } if *retry_at <= now => plan.step(Step::TearDown),
        Stage::Failed { retry_at, .. } => plan.wake_at(*retry_at),
        Stage::Busy => {}
        Stage::Done if state.removed => plan.step(Step::Forget),
        Stage::Done if state.deleted() => match &state.finalized {
            Stage::Idle => plan.step(Step::Finalize),
            Stage::Failed { retry_at, .. } if *retry_at <= now => plan.step(Step::Finalize),
            Stage::Failed { retry_at, .. } => plan.wake_at(*retry_at),
            Stage::Busy | Stage::Done => {}
        },
        Stage::Done => {}
    }
}

fn continue_kills(state: &PodState, now: Timestamp, plan: &mut Plan) {
    for (container, _) in state.specs() {
        let run = state.run(&container.name);
        let (Some(kill), Some(_)) = (&run.kill, run.running()) else { continue };
        let name = || container.name.clone();
        match kill.stage {
            KillStage::Hook => plan.step(Step::RunPreStop { container: name(), deadline: kill.deadline }),
            // A hook that takes longer than the grace period, or whose grace period was cut, is not waited for.
            KillStage::HookRunning if now >= kill.deadline => plan.step(Step::Signal { container: name(), last: false }),
            KillStage::Killed => {}
            KillStage::Turn if now >= kill.deadline || is_its_turn(state, container) => {
                plan.step(Step::Signal { container: name(), last: false });
            }
            KillStage::HookRunning | KillStage::Turn => plan.wake_at(kill.deadline),
            KillStage::Terminating(since) => match kill.deadline.max(since + LEAST_GRACE) {
                due if now >= due => plan.step(Step::Signal { container: name(), last: true }),
                due => plan.wake_at(due),
            },
        }
    }
}

/// Sidecars stop after the main containers, the last one first.
fn is_its_turn(state: &PodState, container: &api::Container) -> bool {
    if !is_sidecar(container) || !stopping(state) {
        return true;
    }
    let later = state.inits().iter().skip_while(|c| c.name != container.name).skip(1).filter(|c| is_sidecar(c));
    later.chain(state.mains()).all(|c| state.run(&c.name).running().is_none())
}

/// Notes that `step` is on its way.
pub fn mark(state: &mut PodState, step: &Step, now: Timestamp) {
    match step {
        Step::CreateSandbox => state.sandbox = Sandbox::Creating,
        Step::RemoveSandbox => state.sandbox = Sandbox::Removing,
        Step::SetUpVolumes => state.volumes = Stage::Busy,
        Step::TearDown => state.teardown = Stage::Busy,
        Step::Finalize => state.finalized = Stage::Busy,
        Step::Fail(failure) => state.failure = Some(failure.clone()),
        Step::Forget => {}
        Step::Start { container } => change(state, container, mark_start),
        Step::TellBackOff { container } => change(state, container, |run| run.back_off_told = true),
        Step::Kill { container, deadline, .. } => mark_kill(state, container, *deadline),
        Step::RunPreStop { container, .. } => set_kill_stage(state, container, KillStage::HookRunning),
        Step::Signal { container, last: true } => set_kill_stage(state, container, KillStage::Killed),
        Step::Signal { container, last: false } => set_kill_stage(state, container, KillStage::Terminating(now)),
    }
}

pub(super) fn change(state: &mut PodState, container: &str, with: impl FnOnce(&mut Run)) {
    if let Some(run) = state.containers.get_mut(container) {
        with(run);
    }
}

fn mark_start(run: &mut Run) {
    let before = std::mem::take(&mut run.phase);
    run.phase = Phase::Starting(if let Phase::Ended(ended) = before { Some(ended) } else { None });
}

fn mark_kill(state: &mut PodState, container: &str, deadline: Timestamp) {
    let stop = stopping(state);
    let has_hook = state.container_spec(container).and_then(|c| c.lifecycle.as_ref()).is_some_and(|l| l.pre_stop.is_some());
    if stop {
        state.stop_by = Some(state.stop_by.map_or(deadline, |by| by.min(deadline)));
    }
    change(state, container, |run| match &mut run.kill {
        // A shorter grace period than the one that runs already.
        Some(kill) => kill.deadline = kill.deadline.min(deadline),
        None => run.kill = Some(Kill { stage: if has_hook { KillStage::Hook } else { KillStage::Turn }, deadline }),
    });
}

fn set_kill_stage(state: &mut PodState, container: &str, stage: KillStage) {
    change(state, container, |run| {
        if let Some(kill) = &mut run.kill {
            kill.stage = stage;
        }
    });
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
