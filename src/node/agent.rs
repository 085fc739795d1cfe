//! The agent: registers the node, follows the pods that are bound to it, gives each a task, and finds them for streams.
//!
//! Stopping the agent leaves the pods running; the next agent finds them again.

use super::containers::Containers;
use super::context::{Context, Links};
use super::dirs::Dirs;
use super::events::Recorder;
use super::files::ClusterDns;
use super::images::{ImageService, Puller};
use super::lookup::{self, ContainerRef};
use super::machine::Machine;
use super::outcome::Outcome;
use super::registration::{Identity, Registration};
use super::sources::Sources;
use super::state::{Failure, Phase, PodState};
use super::volumes::local;
use super::worker::{self, Handle, Message};
use super::{recover, termination};
use crate::client::reflector::{Cache, Change, reflect};
use crate::client::{Client, ListOptions, Target};
use crate::env::Clock;
use crate::kinds::{Object, ObjectKey, Pod, Service};
use crate::meta::{Selector, Status};
use k8s_openapi::api::core::v1 as api;
use orchd_runtime::spec::{ContainerState, SandboxStatus};
use orchd_runtime::{RuntimeEvent, StartError};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

#[derive(Debug, Error)]
pub enum AgentError {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error(transparent)]
    Runtime(#[from] StartError),
}

/// All that an agent is made of.
pub struct AgentOptions {
    pub node_name: String,
    pub node_ip: IpAddr,
    pub client: Arc<dyn Client>,
    pub containers: Arc<dyn Containers>,
    /// What `Runtime::open` gave along with the runtime.
    pub events: mpsc::Receiver<RuntimeEvent>,
    pub images: Arc<dyn ImageService>,
    pub links: Arc<dyn Links>,
    pub dirs: Dirs,
    /// Below every cgroup hierarchy, without leading slash: `orchd/<instance>`.
    pub cgroup: String,
    pub dns: ClusterDns,
    pub clock: Arc<dyn Clock>,
    pub identity: Identity,
}

type Handles = HashMap<String, Handle>;

/// A running agent; dropping it stops it. Pods stay.
pub struct Agent {
    context: Arc<Context>,
    handles: Arc<Mutex<Handles>>,
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// Pods whose sandboxes run, with their addresses: what `PodNetwork::open` is to keep. To be called before the agent starts.
///
/// # Errors
/// The runtime does not answer.
pub async fn live_pods(containers: &dyn Containers, dirs: &Dirs) -> Result<Vec<(String, Ipv4Addr)>, StartError> {
    let found = containers.list().await?;
    Ok(found.into_iter().filter_map(|s| Some((s.spec.id.clone(), saved_ip(dirs, &s.spec.id)?))).collect())
}

fn saved_ip(dirs: &Dirs, uid: &str) -> Option<Ipv4Addr> {
    std::fs::read_to_string(dirs.pod(uid).ip()).ok()?.trim().parse().ok()
}

impl Agent {
    /// Starts the agent. Sandboxes of pods that the API does not know any more are removed once it has been asked.
    ///
    /// # Errors
    /// A directory cannot be made, or the runtime does not answer.
    pub async fn start(options: AgentOptions) -> Result<Self, AgentError> {
        prepare_dirs(&options.dirs)?;
        let machine = Machine::of(&options.dirs.data);
        let client = options.client;
        let recorder = Recorder::new(Arc::clone(&client), Arc::clone(&options.clock), &options.node_name);
        let services = Cache::new(Arc::clone(&client), Target::collection::<Service>(None), ListOptions::default());
        let context = Arc::new(Context {
            node_name: options.node_name,
            node_ip: options.node_ip,
            allocatable: machine.capacity,
            memory_bytes: machine.capacity.memory_bytes,
            containers: options.containers,
            links: options.links,
            puller: Puller::new(options.images, Arc::clone(&client), recorder.clone()),
            clock: options.clock,
            dirs: options.dirs,
            cgroup: options.cgroup,
            dns: options.dns,
            sources: Sources::new(Arc::clone(&client)),
            services,
            events: recorder,
            client,
        });
        let found = context.containers.list().await?.into_iter().map(|s| (s.spec.id.clone(), s)).collect();
        let registration = Registration { context: Arc::clone(&context), machine, identity: options.identity };
        let handles = Arc::new(Mutex::new(Handles::new()));
        let follower = Follower { context: Arc::clone(&context), handles: Arc::clone(&handles), found, swept: false };
        let tasks = vec![
            AbortOnDropHandle::new(tokio::spawn(registration.run())),
            AbortOnDropHandle::new(tokio::spawn(follower.run(options.events))),
        ];
        Ok(Self { context, handles, tasks })
    }

    /// Stops the agent; pods run on. Mounts of our own go if no pod is left.
    pub async fn stop(mut self) {
        self.tasks.clear();
        let empty = {
            let mut handles = lock(&self.handles);
            handles.clear();
            self.context.containers.list()
        };
        if empty.await.is_ok_and(|sandboxes| sandboxes.is_empty()) {
            let dir = self.context.dirs.run.join("pods");
            let removed = tokio::task::spawn_blocking(move || local::remove_tree(&dir)).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(%error, "the pods' directory was not removed");
            }
        }
    }

    /// A container for log, exec or proxy.
    ///
    /// # Errors
    /// 404 for a pod that is not here; else see `lookup::find`.
    pub fn container(&self, namespace: &str, pod: &str, container: Option<&str>, previous: bool) -> Result<ContainerRef, Status> {
        let state = self.pod(namespace, pod).ok_or_else(|| Status::not_found("", "pods", pod))?;
        lookup::find(&state, &self.context.dirs, container, previous)
    }

    /// The state of a pod as it changes.
    pub fn follow(&self, namespace: &str, name: &str) -> Option<watch::Receiver<Arc<PodState>>> {
        let uid = self.pod(namespace, name)?.uid().to_owned();
        lock(&self.handles).get(&uid).map(|h| h.view.clone())
    }

    /// The present state of a pod of this node.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<PodState>> {
        let key = ObjectKey::new(namespace, name);
        let handles = lock(&self.handles);
        let states = handles.values().filter(|h| h.key == key).map(|h| Arc::clone(&h.view.borrow()));
        // An older pod of the same name may still be on its way out.
        states.max_by_key(|s| (!s.removed, s.pod.metadata.creation_timestamp.as_ref().map(|t| t.0)))
    }

    /// All pods of this node.
    pub fn pods(&self) -> Vec<Arc<PodState>> {
        lock(&self.handles).values().map(|h| Arc::clone(&h.view.borrow())).collect()
    }

    /// Every Service, as the agent follows them.
    pub fn services(&self) -> Cache {
        self.context.services.clone()
    }

    pub fn containers(&self) -> &Arc<dyn Containers> {
        &self.context.containers
    }
}

/// Removes what a node that does not run keeps for pods: volumes (and their mounts), managed files, logs.
///
/// # Errors
/// Something could not be removed.
pub fn clear(dirs: &Dirs) -> std::io::Result<()> {
    [dirs.run.join("pods"), dirs.data.join("pods"), dirs.data.join("logs")].iter().try_for_each(|dir| local::remove_tree(dir))
}

fn lock(handles: &Mutex<Handles>) -> MutexGuard<'_, Handles> {
    handles.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Volumes that are mounts of their own must reach the shims, which live in mount namespaces of their own.
fn prepare_dirs(dirs: &Dirs) -> Result<(), AgentError> {
    let (pods, logs, run) = (dirs.data.join("pods"), dirs.data.join("logs"), dirs.run.join("pods"));
    for dir in [&pods, &logs, &run] {
        std::fs::create_dir_all(dir).map_err(|source| AgentError::Io { what: dir.display().to_string(), source })?;
    }
    if nix::unistd::geteuid().is_root() {
        local::share(&run).map_err(|source| AgentError::Io { what: format!("cannot share {}", run.display()), source })?;
    }
    Ok(())
}

/// Follows pods and runtime events.
struct Follower {
    context: Arc<Context>,
    handles: Arc<Mutex<Handles>>,
    /// Sandboxes found at the start that no pod has claimed yet.
    found: HashMap<String, SandboxStatus>,
    /// Directories of pods that are gone have been removed.
    swept: bool,
}

/// Removes directories and logs of pods that are not among `known` (uids). Blocks.
fn sweep(dirs: &Dirs, known: &[String]) {
    let bases = [dirs.data.join("pods"), dirs.run.join("pods"), dirs.data.join("logs")];
    for entry in bases.iter().filter_map(|base| std::fs::read_dir(base).ok()).flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Logs lie under namespace_name_uid.
        let uid = name.rsplit('_').next().unwrap_or_default();
        if known.iter().any(|k| k == uid) {
            continue;
        }
        if let Err(error) = local::remove_tree(&entry.path()) {
            tracing::warn!(dir = %entry.path().display(), %error, "what a pod left was not removed");
        }
    }
}

impl Follower {
    async fn run(mut self, mut events: mpsc::Receiver<RuntimeEvent>) {
        let options = ListOptions { field_selector: Some(format!("spec.nodeName={}", self.context.node_name)), ..ListOptions::default() };
        let mut pods = reflect(Arc::clone(&self.context.client), Target::collection::<Pod>(None), options);
        loop {
            tokio::select! {
                change = pods.recv() => match change {
                    Some(change) => self.change(change).await,
                    None => return,
                },
                event = events.recv() => match event {
                    Some(event) => self.event(event).await,
                    None => {
                        tracing::error!("the runtime has ended");
                        return;
                    }
                },
            }
        }
    }

    async fn change(&mut self, change: Change) {
        match change {
            Change::Put(object) => self.put(&object).await,
            Change::Gone(object) => self.gone(object.uid()).await,
            Change::Reset(objects) => {
                let uids: Vec<String> = lock(&self.handles).keys().cloned().collect();
                for uid in uids.iter().filter(|uid| !objects.iter().any(|o| o.uid() == uid.as_str())) {
                    self.gone(uid).await;
                }
                for object in &objects {
                    self.put(object).await;
                }
                self.remove_orphans();
            }
        }
    }

    async fn send(&self, uid: &str, message: Message) {
        let inbox = lock(&self.handles).get(uid).map(|h| h.inbox.clone());
        if let Some(inbox) = inbox {
            // A task that has just ended has nothing left to be told.
            let _ = inbox.send(message).await;
        }
    }

    async fn gone(&self, uid: &str) {
        self.send(uid, Outcome::Removed.into()).await;
    }

    async fn put(&mut self, object: &Object) {
        let Some(pod) = object.get::<Pod>().map(|p| Arc::new(p.clone())) else { return };
        let uid = object.uid().to_owned();
        let known = {
            let mut handles = lock(&self.handles);
            handles.retain(|_, h| !h.is_finished());
            handles.contains_key(&uid)
        };
        if known {
            return self.send(&uid, Outcome::Pod(pod).into()).await;
        }
        let state = self.first_state(pod, &uid);
        let handle = worker::start(&self.context, state);
        lock(&self.handles).insert(uid, handle);
    }

    fn first_state(&mut self, pod: Arc<api::Pod>, uid: &str) -> PodState {
        let found = self.found.remove(uid);
        let dirs = &self.context.dirs;
        let message = |name: &str, attempt, running: &super::state::Running, exit: &orchd_runtime::spec::Exit| {
            let spec = pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
            let spec = spec.into_iter().find(|c| c.name == name);
            termination::message(spec, &dirs.pod(uid).termination_log(name, attempt), &running.log_path, exit.code != 0)
        };
        let host_network = pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true));
        let ip = if host_network { Some(self.context.node_ip) } else { saved_ip(dirs, uid).map(IpAddr::V4) };
        let mut state = recover::state(Arc::clone(&pod), found.as_ref(), ip, self.context.clock.now(), message);
        if let Some(failure) = self.refusal(&state) {
            self.context.events.pod(&pod, None, true, "NodeAffinity", failure.message.clone());
            state.failure = Some(failure);
        }
        state
    }

    /// A pod that was bound here past the scheduler and does not fit.
    fn refusal(&self, state: &PodState) -> Option<Failure> {
        let labels = [("kubernetes.io/hostname", self.context.node_name.as_str()), ("kubernetes.io/os", "linux")];
        let fresh = state.containers.values().all(|r| r.phase == Phase::Waiting) && !state.deleted();
        let wanted = state.spec().node_selector.as_ref().filter(|_| fresh)?;
        // Labels that others put on the node are the scheduler's to judge; those that only this node can know are ours.
        let own = wanted.iter().filter(|(k, _)| labels.iter().any(|(own, _)| own == k)).map(|(k, v)| (k.clone(), v.clone())).collect();
        let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let fits = Selector::from_map(&own).matches(Some(&labels));
        let message = "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        (!fits).then(|| Failure { reason: "NodeAffinity".into(), message: message.into() })
    }

    /// What was found at the start and belongs to no pod of the API goes.
    fn remove_orphans(&mut self) {
        if !std::mem::replace(&mut self.swept, true) {
            let known: Vec<String> = lock(&self.handles).keys().cloned().chain(self.found.keys().cloned()).collect();
            let dirs = self.context.dirs.clone();
            tokio::task::spawn_blocking(move || sweep(&dirs, &known));
        }
        for (uid, sandbox) in self.found.drain() {
            let context = Arc::clone(&self.context);
            tokio::spawn(async move {
                tracing::info!(sandbox = uid, "removing a sandbox whose pod is gone");
                if let Err(error) = worker::tear_down(&context, &uid, sandbox.spec.host_network).await {
                    tracing::warn!(sandbox = uid, error, "a sandbox whose pod is gone was not removed");
                }
            });
        }
    }

    async fn event(&mut self, event: RuntimeEvent) {
        match event {
            RuntimeEvent::ContainerExited { sandbox, container, exit } => {
                // Of a sandbox whose pod has not been heard of yet, the end is noted where it was found.
                let found = self.found.get_mut(&sandbox).and_then(|s| s.containers.iter_mut().find(|c| c.spec.id == container));
                if let Some(found) = found {
                    found.state = ContainerState::Exited(exit);
                    return;
                }
                self.send(&sandbox, Message::Exit { id: container, exit }).await;
            }
            RuntimeEvent::SandboxLost { sandbox } => {
                self.found.remove(&sandbox);
                self.send(&sandbox, Outcome::SandboxLost.into()).await;
            }
        }
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
