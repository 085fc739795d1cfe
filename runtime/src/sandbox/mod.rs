//! Sandboxes: namespaces, the shim (one per pod), container launch.

use crate::image::Images;
use crate::spec::{ContainerSpec, Exit, ProcessSpec, Resources, SandboxSpec, SandboxStatus};
use std::path::PathBuf;
use thiserror::Error;
use tokio::sync::mpsc;

/// Why a container or process does not start. The texts are those that kubectl users know from runc and containerd.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("failed to create containerd task: failed to create shim task: OCI runtime create failed: {0}")]
    /// The program does not exist or may not be run, or a mount fails: reason `StartError`, code 128.
    Create(String),
    #[error("no such sandbox: {0}")]
    NoSandbox(String),
    #[error("no such container: {0}")]
    NoContainer(String),
    #[error("no such image: {0}")]
    NoImage(String),
    #[error("{0}")]
    Invalid(String),
    #[error("the shim does not answer: {0}")]
    Shim(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// How a runtime is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Images and writable layers; on disk.
    pub dir: PathBuf,
    /// Sockets, exit records; should be on tmpfs, gone at boot.
    pub run_dir: PathBuf,
    /// This program, to be started again as a shim.
    pub exe: PathBuf,
}

/// What happens without being asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    ContainerExited {
        sandbox: String,
        container: String,
        exit: Exit,
    },
    /// The shim is gone; its containers have been killed.
    SandboxLost {
        sandbox: String,
    },
}

/// A process that `exec` started. Output ends arrive as the process (or whoever inherited them) closes them.
pub struct ExecSession {
    /// None unless asked for. With a tty, this is the terminal: write stdin here, read output from `stdout`.
    pub stdin: Option<tokio::fs::File>,
    pub stdout: tokio::net::unix::pipe::Receiver,
    pub stderr: Option<tokio::net::unix::pipe::Receiver>,
    /// Terminal sizes (columns, rows).
    pub resize: mpsc::Sender<(u16, u16)>,
    /// The exit, once.
    pub exit: tokio::sync::oneshot::Receiver<Result<Exit, StartError>>,
}

/// The container runtime of a node. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {}

/// Resource usage of a cgroup, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    pub memory_working_set_bytes: u64,
    pub pids: u64,
}

impl Runtime {
    /// Opens the runtime and finds the shims that still run. Events of what ended meanwhile come as if just now.
    ///
    /// # Errors
    /// A directory cannot be made or read.
    pub async fn open(_options: Options) -> Result<(Self, mpsc::Receiver<RuntimeEvent>), StartError> {
        unimplemented!("the runtime")
    }

    pub fn images(&self) -> &Images {
        unimplemented!("the runtime")
    }

    /// Every sandbox and its containers, ended ones included until they are removed.
    pub async fn list(&self) -> Result<Vec<SandboxStatus>, StartError> {
        unimplemented!("the runtime")
    }

    /// Starts a shim that holds the sandbox's namespaces; returns its pid. The network namespace is /proc/<pid>/ns/net,
    /// with loopback up.
    ///
    /// # Errors
    /// See `StartError`; nothing is left then.
    pub async fn create_sandbox(&self, _spec: SandboxSpec) -> Result<i32, StartError> {
        unimplemented!("the runtime")
    }

    /// Creates and starts a container; returns its pid and start time once its program runs (execve succeeded).
    ///
    /// # Errors
    /// See `StartError`; nothing is left then.
    pub async fn start_container(&self, _sandbox: &str, _spec: ContainerSpec) -> Result<(i32, i64), StartError> {
        unimplemented!("the runtime")
    }

    /// Sends a signal to the container's first process.
    ///
    /// # Errors
    /// `NoContainer`; one that has ended is no error.
    pub async fn kill(&self, _sandbox: &str, _container: &str, _signal: i32) -> Result<(), StartError> {
        unimplemented!("the runtime")
    }

    /// Removes an ended container: its record, cgroup and writable layer. Logs stay.
    ///
    /// # Errors
    /// It still runs.
    pub async fn remove_container(&self, _sandbox: &str, _container: &str) -> Result<(), StartError> {
        unimplemented!("the runtime")
    }

    /// Kills what runs, removes every container, namespaces, cgroup, and ends the shim. One that is gone is no error.
    ///
    /// # Errors
    /// Something could not be removed.
    pub async fn remove_sandbox(&self, _sandbox: &str) -> Result<(), StartError> {
        unimplemented!("the runtime")
    }

    /// Changes the limits of a running container, or of the sandbox (no container).
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn update_resources(&self, _sandbox: &str, _container: Option<&str>, _resources: &Resources) -> Result<(), StartError> {
        unimplemented!("the runtime")
    }

    /// Runs another process in a running container, with the container's seccomp filter and cgroup.
    ///
    /// # Errors
    /// See `StartError`.
    pub async fn exec(&self, _sandbox: &str, _container: &str, _process: ProcessSpec, _stdin: bool) -> Result<ExecSession, StartError> {
        unimplemented!("the runtime")
    }

    /// # Errors
    /// The cgroup is gone.
    pub async fn usage(&self, _sandbox: &str, _container: Option<&str>) -> Result<Usage, StartError> {
        unimplemented!("the runtime")
    }
}

/// The shim's main function: what the program runs when started with `Options::exe` and the shim's arguments. Never
/// returns to a caller that has threads: call it first thing in `main`. Gives the exit code.
pub fn shim_main(_args: &[String]) -> i32 {
    unimplemented!("the runtime")
}

/// The first argument that marks the process as a shim.
pub const SHIM_VERB: &str = "internal-shim";
