//! One task for each pod: it plans, starts the steps, waits for what comes of them, and publishes the pod's status.
//!
//! The task itself does no slow IO; steps run in tasks of their own and send their outcome here. It ends when nothing of
//! the pod is left anywhere, or when the agent stops (the pod's containers then run on).

mod start;
mod status_writer;
mod steps;

pub use steps::tear_down;

use super::context::Context;
use super::env;
use super::outcome::{Outcome, apply};
use super::plan::{Plan, Step, mark, plan};
use super::probes::{self, ProbeKind};
use super::sources::Claims;
use super::state::{Ended, Phase, PodState};
use super::volumes::{Volumes, payload};
use super::{status, termination};
use crate::kinds::ObjectKey;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use orchd_runtime::spec::Exit;
use status_writer::StatusWriter;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

/// Messages that wait for a pod's task.
const INBOX: usize = 64;
/// Exits of containers whose start has not been heard of yet.
const EARLY_EXITS: usize = 16;
/// How long a change of status may wait for the next one while something is being started.
const COALESCE: SignedDuration = SignedDuration::from_millis(100);
/// Steps that lead to steps, in one go; a bound, never reached by a plan that marks what it does.
const MAX_ROUNDS: usize = 32;

/// What a pod's task is sent.
#[derive(Debug)]
pub enum Message {
    Outcome(Box<Outcome>),
    Exit { id: String, exit: Exit },
}

impl From<Outcome> for Message {
    fn from(outcome: Outcome) -> Self {
        Self::Outcome(Box::new(outcome))
    }
}

/// The agent's hold on a pod's task.
pub struct Handle {
    pub key: ObjectKey,
    pub inbox: mpsc::Sender<Message>,
    pub view: watch::Receiver<Arc<PodState>>,
    task: AbortOnDropHandle<()>,
}

impl Handle {
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

pub struct Worker {
    context: Arc<Context>,
    state: PodState,
    inbox: mpsc::Receiver<Message>,
    sender: mpsc::Sender<Message>,
    view: watch::Sender<Arc<PodState>>,
    pods: watch::Sender<Arc<api::Pod>>,
    volumes: Arc<Volumes>,
    writer: StatusWriter,
    written: api::PodStatus,
    /// Since when a change of status waits to be written.
    held_since: Option<Timestamp>,
    probes: HashMap<(String, ProbeKind), AbortOnDropHandle<()>>,
    early: VecDeque<(String, Exit)>,
    source_changed: Arc<Notify>,
    _current: AbortOnDropHandle<()>,
}

/// Starts a pod's task from what is known of the pod.
pub fn start(context: &Arc<Context>, state: PodState) -> Handle {
    let (sender, inbox) = mpsc::channel(INBOX);
    let pod = Arc::clone(&state.pod);
    let key = ObjectKey::of(&pod.metadata);
    let view = watch::Sender::new(Arc::new(state.clone()));
    let pods = watch::Sender::new(Arc::clone(&pod));
    let volumes = Arc::new(Volumes::new(Arc::clone(context), state.uid(), claims(context, &pod)));
    let source_changed = Arc::new(Notify::new());
    let current = keep_current(&volumes, &pods, view.subscribe(), Arc::clone(&source_changed));
    let handle_view = view.subscribe();
    let worker = Worker {
        writer: StatusWriter::start(context, &pod),
        context: Arc::clone(context),
        written: pod.status.clone().unwrap_or_default(),
        state,
        inbox,
        sender: sender.clone(),
        view,
        pods,
        volumes,
        held_since: None,
        probes: HashMap::new(),
        early: VecDeque::new(),
        source_changed,
        _current: current,
    };
    let task = AbortOnDropHandle::new(tokio::spawn(worker.run()));
    Handle { key, inbox: sender, view: handle_view, task }
}

/// Every ConfigMap and Secret that the pod refers to.
fn claims(context: &Context, pod: &api::Pod) -> Claims {
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let names = payload::references(pod).into_iter().chain(containers.flat_map(env::references));
    Claims::new(&context.sources, pod.metadata.namespace.as_deref().unwrap_or_default(), names)
}

fn keep_current(
    volumes: &Arc<Volumes>,
    pods: &watch::Sender<Arc<api::Pod>>,
    view: watch::Receiver<Arc<PodState>>,
    source_changed: Arc<Notify>,
) -> AbortOnDropHandle<()> {
    let (volumes, pods) = (Arc::clone(volumes), pods.subscribe());
    AbortOnDropHandle::new(tokio::spawn(async move {
        volumes.keep_current(pods, || view.borrow().ip, source_changed).await;
    }))
}

impl Worker {
    async fn run(mut self) {
        loop {
            let (wake, over) = self.act();
            if over {
                return;
            }
            let held = self.publish();
            let shown = self.shown_changes(wake).into_iter().chain(held).min();
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                () = self.source_changed.notified() => self.outcome(Outcome::SourceChanged),
                () = self.context.sleep_until(shown) => {}
            }
            // What else is here already is one change of status, not several.
            while let Ok(message) = self.inbox.try_recv() {
                self.take(message);
            }
        }
    }

    /// Carries out the plan until it asks for nothing more. True if the pod is done with.
    fn act(&mut self) -> (Option<Timestamp>, bool) {
        for _ in 0..MAX_ROUNDS {
            let now = self.context.clock.now();
            let Plan { steps, wake } = plan(&self.state, now);
            if steps.is_empty() {
                return (wake, false);
            }
            for step in steps {
                mark(&mut self.state, &step, now);
                if step == Step::Forget {
                    self.forget();
                    return (None, true);
                }
                self.carry_out(step);
            }
        }
        tracing::error!(pod = self.state.display(), "a plan does not come to rest");
        (Some(self.context.clock.now() + std::time::Duration::from_secs(1)), false)
    }

    /// When, by time alone, another waiting reason is to be shown.
    fn shown_changes(&self, wake: Option<Timestamp>) -> Option<Timestamp> {
        let now = self.context.clock.now();
        let changes = self.state.containers.values().filter_map(|r| r.problem.as_ref()?.backing_off_at());
        changes.filter(|at| *at > now).chain(wake).min()
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Outcome(outcome) => self.outcome(*outcome),
            Message::Exit { id, exit } => self.exit(id, &exit),
        }
    }

    fn outcome(&mut self, outcome: Outcome) {
        let now = self.context.clock.now();
        if let Outcome::Pod(pod) = &outcome {
            // Volumes show what is in the metadata, not the status.
            let (new, old) = (&pod.metadata, self.pods.borrow().metadata.clone());
            if (&new.labels, &new.annotations) != (&old.labels, &old.annotations) {
                self.pods.send_replace(Arc::clone(pod));
            }
            self.reconcile(pod);
        }
        if matches!(outcome, Outcome::SandboxLost) {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.context.events.pod(&self.state.pod, None, false, "SandboxChanged", message);
        }
        let started = matches!(&outcome, Outcome::Started { result: Ok(_), .. });
        apply(&mut self.state, outcome, now);
        if started {
            for (id, exit) in std::mem::take(&mut self.early) {
                self.exit(id, &exit);
            }
        }
    }

    /// A container has ended: now, or before its start was heard of.
    fn exit(&mut self, id: String, exit: &Exit) {
        let found = self.state.containers.iter().find_map(|(name, run)| {
            let running = run.running().filter(|r| r.id == id)?;
            Some((name.clone(), running.clone(), run.restarts))
        });
        let Some((name, running, attempt)) = found else {
            if self.early.len() == EARLY_EXITS {
                self.early.pop_front();
            }
            return self.early.push_back((id, exit.clone()));
        };
        let file = self.context.dirs.pod(self.state.uid()).termination_log(&name, attempt);
        let spec = self.state.container_spec(&name);
        let message = termination::message(spec, &file, &running.log_path, exit.code != 0);
        let ended = Ended::of(&running, exit, message);
        apply(&mut self.state, Outcome::Exited { id, ended }, self.context.clock.now());
    }

    /// Status, view and probes follow the state. Gives the time by which a status that is held back is to be written.
    fn publish(&mut self) -> Option<Timestamp> {
        let now = self.context.clock.now();
        let status = status::of(&self.state, &self.written, self.context.node_ip, now);
        self.view.send_replace(Arc::new(self.state.clone()));
        self.sync_probes();
        if status == self.written || self.state.removed {
            self.held_since = None;
            return None;
        }
        // One write for a pod that comes up at once, instead of one for each step on the way.
        let until = *self.held_since.get_or_insert(now) + COALESCE;
        if self.state.comes_up() && now < until {
            return Some(until);
        }
        self.write(status);
        None
    }

    fn write(&mut self, status: api::PodStatus) {
        self.held_since = None;
        self.writer.write(status.clone());
        self.written = status;
    }

    /// Another writer has changed what is the node's to say: it is said again.
    fn reconcile(&mut self, pod: &api::Pod) {
        let revision = pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
        let theirs = pod.status.as_ref().filter(|theirs| self.writer.is_behind(revision) && status::differs(&self.written, theirs));
        if let Some(theirs) = theirs {
            self.written = theirs.clone();
        }
    }

    /// Starts the probes that should run and stops the others.
    fn sync_probes(&mut self) {
        let wanted = wanted_probes(&self.state);
        self.probes.retain(|key, _| wanted.iter().any(|(_, id, kind)| (id, *kind) == (&key.0, key.1)));
        for (name, id, kind) in wanted {
            if self.probes.contains_key(&(id.clone(), kind)) {
                continue;
            }
            let (Some(container), Some(running)) = (self.state.container_spec(&name), self.state.run(&name).running()) else { continue };
            let target = probes::Target {
                context: Arc::clone(&self.context),
                pod: Arc::clone(&self.state.pod),
                container: container.clone(),
                running: running.clone(),
                ip: self.state.ip,
            };
            let sender = self.sender.clone();
            let report = async move |outcome: Outcome| drop(sender.send(outcome.into()).await);
            let task = tokio::spawn(async move { probes::run(target, kind, report).await });
            self.probes.insert((id, kind), AbortOnDropHandle::new(task));
        }
    }
}

/// Name, id and kind of every probe that should run. Startup holds back the others; nothing but readiness is asked of a
/// container that is being stopped.
fn wanted_probes(state: &PodState) -> Vec<(String, String, ProbeKind)> {
    let mut out = Vec::new();
    for (container, _) in state.specs() {
        let run = state.run(&container.name);
        let Phase::Running(running) = &run.phase else { continue };
        let dying = run.kill.is_some() || run.unhealthy.is_some();
        for kind in [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness] {
            let due = match kind {
                ProbeKind::Startup => !run.started && !dying,
                ProbeKind::Liveness => run.started && !dying,
                ProbeKind::Readiness => run.started,
            };
            if due && kind.of(container).is_some() {
                out.push((container.name.clone(), running.id.clone(), kind));
            }
        }
    }
    out
}
