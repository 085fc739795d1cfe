//! The runtime's handle: the agent's side.

use super::client::{ANSWER, Client, START};
use super::place::{Place, check_id, now_ns, read_record, remove_tree, write_record};
use super::spawn;
use super::wire::{Launch, Reply, Request};
use super::{Options, RuntimeEvent, StartError, sweep};
use crate::cgroup::{Cgroups, Usage};
use crate::image::Images;
use crate::spec::{ContainerSpec, ContainerState, ContainerStatus, Exit, Resources, SandboxSpec, SandboxStatus};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Events that nobody has taken yet; then the shims' connections wait (their records do not).
const MAX_EVENTS: usize = 1024;

/// What the agent knows of a sandbox: what it told the shim, and what the shim told it.
pub(super) struct Sandbox {
    pub status: SandboxStatus,
    /// The shim has died.
    pub lost: bool,
    /// It is being removed: the shim's end is no news.
    pub removing: bool,
}

pub(super) struct Inner {
    pub options: Options,
    pub images: Images,
    pub cgroups: Cgroups,
    pub sandboxes: Mutex<BTreeMap<String, Sandbox>>,
    pub events: mpsc::Sender<RuntimeEvent>,
}

/// The container runtime of a node. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    pub(super) inner: Arc<Inner>,
}

impl Inner {
    pub fn place(&self, sandbox: &str) -> Place {
        Place(self.options.run_dir.join("sandboxes").join(sandbox))
    }

    /// Writable layers of a sandbox's containers.
    pub fn writable(&self, sandbox: &str) -> PathBuf {
        self.options.dir.join("containers").join(sandbox)
    }

    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Sandbox>> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn container_path(&self, sandbox: &str, container: Option<&str>) -> Result<String, StartError> {
        let sandboxes = self.lock();
        let found = sandboxes.get(sandbox).ok_or_else(|| StartError::NoSandbox(sandbox.to_owned()))?;
        let base = &found.status.spec.cgroup_path;
        match container {
            None => Ok(base.clone()),
            Some(id) if found.status.containers.iter().any(|c| c.spec.id == id) => Ok(format!("{base}/{id}")),
            Some(id) => Err(StartError::NoContainer(id.to_owned())),
        }
    }

    /// Notes the end of a container; false if it was known.
    pub fn note_exit(&self, sandbox: &str, container: &str, exit: &Exit) -> bool {
        let mut sandboxes = self.lock();
        let Some(found) = sandboxes.get_mut(sandbox) else { return false };
        let Some(status) = found.status.containers.iter_mut().find(|c| c.spec.id == container) else { return false };
        let news = matches!(status.state, ContainerState::Running { .. });
        status.state = ContainerState::Exited(exit.clone());
        news
    }

    pub async fn tell(&self, event: RuntimeEvent) {
        if self.events.send(event).await.is_err() {
            tracing::debug!("nobody listens to the runtime's events");
        }
    }
}

impl Runtime {
    /// Opens the runtime and finds the shims that still run. Events of what ended meanwhile come as if just now.
    ///
    /// # Errors
    /// A directory cannot be made or read.
    pub async fn open(options: Options) -> Result<(Self, mpsc::Receiver<RuntimeEvent>), StartError> {
        let (dir, run_dir) = (options.dir.clone(), options.run_dir.clone());
        let opened = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(dir.join("containers"))?;
            std::fs::create_dir_all(run_dir.join("sandboxes"))?;
            let images = Images::open(&dir.join("images")).map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>((images, Cgroups::detect()?))
        });
        let (images, cgroups) = opened.await.map_err(std::io::Error::other)??;
        let (events, receiver) = mpsc::channel(MAX_EVENTS);
        let inner = Arc::new(Inner { options, images, cgroups, sandboxes: Mutex::default(), events });
        super::adopt::adopt(&inner).await?;
        Ok((Self { inner }, receiver))
    }

    pub fn images(&self) -> &Images {
        &self.inner.images
    }

    /// Every sandbox and its containers, ended ones included until they are removed.
    pub async fn list(&self) -> Result<Vec<SandboxStatus>, StartError> {
        Ok(self.inner.lock().values().map(|s| s.status.clone()).collect())
    }

    /// Starts a shim that holds the sandbox's namespaces; returns its pid. The network namespace is /proc/<pid>/ns/net,
    /// with loopback up.
    ///
    /// # Errors
    /// See `StartError`; nothing is left then.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<i32, StartError> {
        check_id(&spec.id)?;
        super::check_cgroup_path(&spec.cgroup_path)?;
        let place = self.inner.place(&spec.id);
        let id = spec.id.clone();
        if let Err(e) = std::fs::create_dir(&place.0) {
            let exists = e.kind() == std::io::ErrorKind::AlreadyExists;
            return Err(if exists { StartError::Invalid(format!("sandbox {id} exists")) } else { e.into() });
        }
        let started = async {
            write_record(&place.spec(), &spec)?;
            let pid = spawn::shim(&self.inner.options.exe, &place, &spec).await?;
            let status = SandboxStatus { spec: spec.clone(), pid, containers: Vec::new() };
            self.inner.lock().insert(id.clone(), Sandbox { status, lost: false, removing: false });
            super::watch::watch(&self.inner, &id).await?;
            Ok(pid)
        };
        let started: Result<i32, StartError> = started.await;
        if started.is_err() {
            self.inner.lock().remove(&id);
            if let Err(e) = sweep::sandbox(&self.inner, &id, &spec.cgroup_path).await {
                tracing::warn!("removing what is left of sandbox {id}: {e}");
            }
        }
        started
    }

    /// Connects to a sandbox's shim.
    pub(super) async fn shim(&self, sandbox: &str) -> Result<Client, StartError> {
        {
            let sandboxes = self.inner.lock();
            let found = sandboxes.get(sandbox).ok_or_else(|| StartError::NoSandbox(sandbox.to_owned()))?;
            if found.lost {
                return Err(StartError::Shim(format!("the shim of sandbox {sandbox} has died")));
            }
        }
        Client::connect(&self.inner.place(sandbox)).await.map_err(|e| StartError::Shim(e.to_string()))
    }

    /// Creates and starts a container; returns its pid and start time once its program runs (execve succeeded).
    ///
    /// # Errors
    /// See `StartError`; nothing is left then.
    pub async fn start_container(&self, sandbox: &str, spec: ContainerSpec) -> Result<(i32, i64), StartError> {
        check_id(&spec.id)?;
        if spec.process.args.is_empty() {
            return Err(StartError::Invalid("no command specified".into()));
        }
        let image = self.inner.images.get(&spec.image).ok_or_else(|| StartError::NoImage(spec.image.clone()))?;
        let mut shim = self.shim(sandbox).await?;
        let writable = self.inner.writable(sandbox).join(&spec.id);
        let launch = Launch { spec: spec.clone(), layers: image.layers, writable: writable.clone() };
        // Known before it runs: its end may be told before its start.
        let state = ContainerState::Running { pid: 0, started_at_ns: now_ns() };
        self.add(sandbox, ContainerStatus { spec: spec.clone(), state })?;
        match shim.ask(Request::Start(Box::new(launch)), &[], START).await {
            Ok((Reply::Started { pid, started_at_ns }, _)) => {
                self.started(sandbox, &spec.id, pid, started_at_ns);
                Ok((pid, started_at_ns))
            }
            other => {
                self.forget(sandbox, &spec.id);
                let left = [writable, self.inner.place(sandbox).container(&spec.id)];
                tokio::task::spawn_blocking(move || left.iter().try_for_each(|dir| remove_tree(dir)))
                    .await
                    .map_err(std::io::Error::other)??;
                Err(other.err().unwrap_or_else(|| StartError::Shim("an answer to another question".into())))
            }
        }
    }

    fn add(&self, sandbox: &str, status: ContainerStatus) -> Result<(), StartError> {
        let mut sandboxes = self.inner.lock();
        let found = sandboxes.get_mut(sandbox).ok_or_else(|| StartError::NoSandbox(sandbox.to_owned()))?;
        if found.status.containers.iter().any(|c| c.spec.id == status.spec.id) {
            return Err(StartError::Invalid(format!("container {} exists", status.spec.id)));
        }
        found.status.containers.push(status);
        Ok(())
    }

    fn started(&self, sandbox: &str, container: &str, pid: i32, started_at_ns: i64) {
        let mut sandboxes = self.inner.lock();
        let found = sandboxes.get_mut(sandbox).and_then(|s| s.status.containers.iter_mut().find(|c| c.spec.id == container));
        if let Some(status) = found
            && matches!(status.state, ContainerState::Running { .. })
        {
            status.state = ContainerState::Running { pid, started_at_ns };
        }
    }

    fn forget(&self, sandbox: &str, container: &str) {
        if let Some(found) = self.inner.lock().get_mut(sandbox) {
            found.status.containers.retain(|c| c.spec.id != container);
        }
    }

    /// Sends a signal to the container's first process.
    ///
    /// # Errors
    /// `NoContainer`; one that has ended is no error.
    pub async fn kill(&self, sandbox: &str, container: &str, signal: i32) -> Result<(), StartError> {
        let exited = {
            let sandboxes = self.inner.lock();
            let found = sandboxes.get(sandbox).ok_or_else(|| StartError::NoSandbox(sandbox.to_owned()))?;
            let status = found.status.containers.iter().find(|c| c.spec.id == container);
            matches!(status.ok_or_else(|| StartError::NoContainer(container.to_owned()))?.state, ContainerState::Exited(_))
        };
        if exited {
            return Ok(());
        }
        self.shim(sandbox).await?.ask(Request::Kill { container: container.to_owned(), signal }, &[], ANSWER).await.map(drop)
    }

    /// Removes an ended container: its record, cgroup and writable layer. Logs stay.
    ///
    /// # Errors
    /// It still runs.
    pub async fn remove_container(&self, sandbox: &str, container: &str) -> Result<(), StartError> {
        let lost = {
            let sandboxes = self.inner.lock();
            let Some(found) = sandboxes.get(sandbox) else { return Ok(()) };
            let Some(status) = found.status.containers.iter().find(|c| c.spec.id == container) else { return Ok(()) };
            if matches!(status.state, ContainerState::Running { .. }) {
                return Err(StartError::Invalid(format!("container {container} is running")));
            }
            found.lost
        };
        if lost {
            sweep::cgroup(&self.inner, &self.inner.container_path(sandbox, Some(container))?).await?;
        } else {
            self.shim(sandbox).await?.ask(Request::Remove { container: container.to_owned() }, &[], ANSWER).await?;
        }
        let left = [self.inner.writable(sandbox).join(container), self.inner.place(sandbox).container(container)];
        tokio::task::spawn_blocking(move || left.iter().try_for_each(|dir| remove_tree(dir))).await.map_err(std::io::Error::other)??;
        self.forget(sandbox, container);
        Ok(())
    }

    /// Kills what runs, removes every container, namespaces, cgroup, and ends the shim. One that is gone is no error.
    ///
    /// # Errors
    /// Something could not be removed.
    pub async fn remove_sandbox(&self, sandbox: &str) -> Result<(), StartError> {
        check_id(sandbox)?;
        let known = self.inner.lock().get_mut(sandbox).map(|found| {
            found.removing = true;
            found.status.spec.cgroup_path.clone()
        });
        let cgroup = match known {
            Some(cgroup) => cgroup,
            None => match read_record::<SandboxSpec>(&self.inner.place(sandbox).spec())? {
                Some(spec) => spec.cgroup_path,
                None => return Ok(()),
            },
        };
        if let Ok(mut shim) = self.shim(sandbox).await
            && let Err(e) = shim.ask(Request::Shutdown, &[], ANSWER).await
        {
            tracing::warn!("sandbox {sandbox} does not end by itself: {e}");
        }
        sweep::sandbox(&self.inner, sandbox, &cgroup).await?;
        self.inner.lock().remove(sandbox);
        Ok(())
    }

    /// Changes the limits of a running container, or of the sandbox (no container).
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn update_resources(&self, sandbox: &str, container: Option<&str>, resources: &Resources) -> Result<(), StartError> {
        let request = Request::Update { container: container.map(str::to_owned), resources: resources.clone() };
        self.shim(sandbox).await?.ask(request, &[], ANSWER).await?;
        let mut sandboxes = self.inner.lock();
        if let Some(found) = sandboxes.get_mut(sandbox) {
            match container {
                None => found.status.spec.resources = resources.clone(),
                Some(id) => {
                    if let Some(status) = found.status.containers.iter_mut().find(|c| c.spec.id == id) {
                        status.spec.resources = resources.clone();
                    }
                }
            }
        }
        Ok(())
    }

    /// # Errors
    /// The cgroup is gone.
    pub async fn usage(&self, sandbox: &str, container: Option<&str>) -> Result<Usage, StartError> {
        let path = self.inner.container_path(sandbox, container)?;
        Ok(self.inner.cgroups.usage(&path)?)
    }
}
