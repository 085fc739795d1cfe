//! Sandboxes: namespaces, the shim (one per pod), container launch.
//!
//! The agent's side (`handle` and what it uses) runs under tokio and never calls libcontainer; the shim's side (`shim`,
//! `launch`) has one thread and no tokio. They share `wire`, `place` and `pidfd`.

mod adopt;
mod client;
mod exec;
mod fsmount;
mod handle;
mod launch;
pub mod pidfd;
mod place;
mod shim;
mod spawn;
mod sweep;
mod watch;
mod wire;

pub use crate::cgroup::Usage;
pub use handle::Runtime;
pub use shim::main as shim_main;

use crate::spec::Exit;
use std::path::PathBuf;
use thiserror::Error;
use tokio::sync::mpsc;

/// Why a container or process does not start. The texts are those that kubectl users know from runc and containerd.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("failed to create containerd task: failed to create shim task: OCI runtime create failed: {0}")]
    /// The program does not exist or may not be run, or a mount fails: reason `StartError`, code 128.
    Create(String),
    /// The same for exec.
    #[error("failed to exec in container: failed to start exec: OCI runtime exec failed: {0}")]
    Exec(String),
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

/// Cgroup paths come from the agent; none may lead out of its tree.
fn check_cgroup_path(path: &str) -> Result<(), StartError> {
    let parts: Vec<&str> = path.split('/').collect();
    if parts.iter().any(|p| p.is_empty() || *p == "." || *p == "..") {
        return Err(StartError::Invalid(format!("invalid cgroup path {path:?}")));
    }
    Ok(())
}

/// The first argument that marks the process as a shim.
pub const SHIM_VERB: &str = "internal-shim";
