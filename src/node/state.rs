//! All that the agent knows of one pod: what `plan` reads and what results of IO change. Pure.
//!
//! Invariant: whatever is in flight is marked here before it starts, so that `plan` never asks for it twice.

use super::backoff::BackOff;
pub use crate::kinds::pod::containers::is_sidecar;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use orchd_runtime::spec::{Exit, ProcessSpec};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Something done once, with retries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    #[default]
    Idle,
    Busy,
    Done,
    Failed {
        message: String,
        retry_at: Timestamp,
    },
}

impl Stage {
    const RETRY: SignedDuration = SignedDuration::from_secs(2);

    pub fn settle(&mut self, result: Result<(), String>, now: Timestamp) {
        *self = match result {
            Ok(()) => Self::Done,
            Err(message) => Self::Failed { message, retry_at: now + Self::RETRY },
        };
    }
}

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Without the scheme.
    pub id: String,
    pub pid: i32,
    pub started_at: Timestamp,
    /// The image as the spec named it when this was started.
    pub image: String,
    /// `sha256:…`.
    pub image_id: String,
    /// What it runs as; exec inherits environment, directory and user from it.
    pub process: ProcessSpec,
    pub log_path: PathBuf,
}

/// A container that has ended, or could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub id: String,
    pub image_id: String,
    pub code: i32,
    pub signal: Option<i32>,
    /// Completed, Error, OOMKilled, StartError, ContainerCannotRun…
    pub reason: String,
    pub message: String,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

impl Ended {
    /// The record of a container that the runtime saw end.
    pub fn of(running: &Running, exit: &Exit, message: String) -> Self {
        let reason = match exit {
            Exit { oom_killed: true, .. } => "OOMKilled",
            Exit { code: 0, .. } => "Completed",
            _ => "Error",
        };
        let time = |ns| Timestamp::from_nanosecond(i128::from(ns)).ok();
        Self {
            id: running.id.clone(),
            image_id: running.image_id.clone(),
            code: exit.code,
            signal: exit.signal,
            reason: reason.into(),
            message,
            started_at: Some(running.started_at),
            finished_at: time(exit.finished_at_ns),
        }
    }

    pub fn succeeded(&self) -> bool {
        self.code == 0
    }
}

/// Where a container stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Never started.
    #[default]
    Waiting,
    /// A start is in flight, the first or one after `Ended`.
    Starting(Option<Ended>),
    Running(Running),
    Ended(Ended),
}

/// Why a container does not start: the waiting reason and its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub reason: &'static str,
    pub message: String,
    pub at: Timestamp,
    /// No new try before this. None: the container's own back-off decides.
    pub retry_at: Option<Timestamp>,
}

impl Problem {
    pub const PULL: &'static str = "ErrImagePull";
    /// How long it is shown before the back-off's own reason takes its place.
    pub const SHOWN: SignedDuration = SignedDuration::from_secs(2);

    pub fn backing_off_at(&self) -> Option<Timestamp> {
        (self.reason == Self::PULL || self.retry_at.is_none()).then(|| self.at + Self::SHOWN)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillStage {
    /// The preStop hook is to be run.
    Hook,
    HookRunning,
    /// Waits until those that must stop before it have stopped.
    Turn,
    /// The stop signal was sent at this time.
    Terminating(Timestamp),
    Killed,
}

/// A container that is being stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    pub stage: KillStage,
    /// When its grace period ends.
    pub deadline: Timestamp,
}

/// One container of the pod through all its restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    pub phase: Phase,
    pub restarts: i32,
    /// The attempt before the present one.
    pub last: Option<Ended>,
    pub back_off: BackOff,
    pub pull_back_off: BackOff,
    pub problem: Option<Problem>,
    /// An event has said that it backs off.
    pub back_off_told: bool,
    pub kill: Option<Kill>,
    /// The startup probe has succeeded, or there is none.
    pub started: bool,
    /// The readiness probe succeeds, or there is none.
    pub ready: bool,
    /// What a failed liveness or startup probe says.
    pub unhealthy: Option<Unhealthy>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unhealthy {
    pub message: String,
    /// The probe's own grace period in seconds.
    pub grace: Option<i64>,
}

impl Run {
    pub fn running(&self) -> Option<&Running> {
        if let Phase::Running(r) = &self.phase { Some(r) } else { None }
    }
    pub fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Starting(_))
    }
    /// The end of the latest attempt, if it has ended.
    pub fn ended(&self) -> Option<&Ended> {
        match &self.phase {
            Phase::Ended(e) | Phase::Starting(Some(e)) => Some(e),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    #[default]
    Absent,
    Creating,
    Ready {
        pid: i32,
    },
    Failed {
        message: String,
        retry_at: Timestamp,
    },
    /// It died; what is left of it is to be removed before another is made.
    Lost,
    Removing,
}

/// Why the pod as a whole has failed: `DeadlineExceeded`, `NodeAffinity`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug)]
pub struct PodState {
    /// As the API last showed it.
    pub pod: Arc<api::Pod>,
    /// The API has it no more.
    pub removed: bool,
    pub sandbox: Sandbox,
    pub volumes: Stage,
    pub ip: Option<IpAddr>,
    pub start_time: Timestamp,
    pub containers: BTreeMap<String, Run>,
    pub failure: Option<Failure>,
    /// The sandbox is a new one: init containers run again before the main ones do.
    pub initialize_again: bool,
    /// When what still runs of a pod that is to stop is killed.
    pub stop_by: Option<Timestamp>,
    pub teardown: Stage,
    /// Final status written and object deleted.
    pub finalized: Stage,
}

impl PodState {
    pub fn new(pod: Arc<api::Pod>, now: Timestamp) -> Self {
        let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(now, |t| t.0);
        let mut state = Self {
            pod,
            removed: false,
            sandbox: Sandbox::default(),
            volumes: Stage::Idle,
            ip: None,
            start_time: started,
            containers: BTreeMap::new(),
            failure: None,
            initialize_again: false,
            stop_by: None,
            teardown: Stage::Idle,
            finalized: Stage::Idle,
        };
        let names: Vec<_> = state.specs().map(|(c, _)| c.name.clone()).collect();
        state.containers = names.into_iter().map(|name| (name, Run::default())).collect();
        state
    }

    pub fn spec(&self) -> &api::PodSpec {
        static EMPTY: std::sync::OnceLock<api::PodSpec> = std::sync::OnceLock::new();
        self.pod.spec.as_ref().unwrap_or_else(|| EMPTY.get_or_init(api::PodSpec::default))
    }
    pub fn inits(&self) -> &[api::Container] {
        self.spec().init_containers.as_deref().unwrap_or_default()
    }
    pub fn mains(&self) -> &[api::Container] {
        &self.spec().containers
    }
    /// Every container and its role, init containers first.
    pub fn specs(&self) -> impl Iterator<Item = (&api::Container, Role)> {
        let inits = self.inits().iter().map(|c| (c, if is_sidecar(c) { Role::Sidecar } else { Role::Init }));
        inits.chain(self.mains().iter().map(|c| (c, Role::Main)))
    }
    pub fn container_spec(&self, name: &str) -> Option<&api::Container> {
        self.specs().find(|(c, _)| c.name == name).map(|(c, _)| c)
    }
    pub fn run(&self, name: &str) -> &Run {
        static NONE: std::sync::OnceLock<Run> = std::sync::OnceLock::new();
        self.containers.get(name).unwrap_or_else(|| NONE.get_or_init(Run::default))
    }
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }
    /// `name_namespace(uid)`, as the kubelet's messages name a pod.
    pub fn display(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }
    pub fn deleted(&self) -> bool {
        self.removed || self.pod.metadata.deletion_timestamp.is_some()
    }
    /// True once any main container has been started in this sandbox: init containers are then history.
    pub fn initialized_before(&self) -> bool {
        !self.initialize_again && self.mains().iter().any(|c| !matches!(self.run(&c.name).phase, Phase::Waiting | Phase::Starting(None)))
    }
    pub fn host_network(&self) -> bool {
        self.spec().host_network == Some(true)
    }
    /// Something is being started, or runs.
    pub fn busy(&self) -> bool {
        self.containers.values().any(|r| r.running().is_some() || r.is_starting())
    }
    /// Something is on its way that will soon change what the status says for the better.
    pub fn comes_up(&self) -> bool {
        let preparing = self.sandbox == Sandbox::Creating || self.volumes == Stage::Busy;
        !self.deleted() && (preparing || self.containers.values().any(Run::is_starting))
    }
    /// Seconds that a container of this pod gets to stop.
    pub fn grace_seconds(&self) -> i64 {
        let meta = &self.pod.metadata;
        let asked = meta.deletion_timestamp.as_ref().and(meta.deletion_grace_period_seconds);
        asked.or(self.spec().termination_grace_period_seconds).unwrap_or(30).max(0)
    }
}

/// What part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Init,
    /// An init container with restartPolicy Always.
    Sidecar,
    Main,
}
