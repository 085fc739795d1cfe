//! What the runtime is asked to run: sandboxes and containers, in OCI's terms, nothing of Kubernetes.
//!
//! These types travel between agent and shim (versioned with the protocol) and are kept on disk beside a container, so
//! that an agent that starts anew finds out what runs.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A sandbox: the namespaces that a pod's containers share, held by one shim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Unique on the node; a pod's uid.
    pub id: String,
    /// Opaque to the runtime, given back by `list`: the agent keeps the pod's namespace and name here.
    pub labels: BTreeMap<String, String>,
    pub hostname: String,
    /// Below every controller's root, without leading slash: `orchd/<node>/kubepods/burstable/pod<uid>`.
    pub cgroup_path: String,
    /// Limits of the sandbox's cgroup as a whole.
    pub resources: Resources,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// All containers in one PID namespace.
    pub share_process_namespace: bool,
    pub sysctls: BTreeMap<String, String>,
}

/// cgroup limits; None leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub memory_limit_bytes: Option<i64>,
    pub pids_limit: Option<i64>,
    pub oom_score_adj: Option<i32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// A path of the host; bind-mounted.
    pub source: PathBuf,
    pub destination: PathBuf,
    pub read_only: bool,
    pub propagation: Propagation,
    /// If set, `source` is the volume's root, and what is mounted is this path below it, resolved without ever leaving
    /// it (a symlink that leads outside is an error, as with the kubelet) and made if missing (a subPath).
    pub sub_path: Option<PathBuf>,
}

/// Which seccomp filter a container gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    #[default]
    Unconfined,
    RuntimeDefault,
    /// A profile file (OCI's JSON) of the host.
    Localhost(PathBuf),
}

/// A process: the container's own, or one that exec adds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program and arguments, entrypoint of the image already merged in; never empty.
    pub args: Vec<String>,
    /// `NAME=value`, the image's first; of a name that comes twice the last counts. The runtime adds PATH, HOME (of the
    /// container's /etc/passwd) and, with a terminal, TERM if they are missing.
    pub env: Vec<String>,
    pub cwd: PathBuf,
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    /// Names such as `CAP_CHOWN`: the bounding, permitted and effective sets (the latter two for root only).
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub tty: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Unique within the node; 64 hexadecimal digits, as users of `containerID` expect.
    pub id: String,
    /// Opaque, given back by `list`: the agent keeps name and attempt here.
    pub labels: BTreeMap<String, String>,
    /// The id (`sha256:…`) of an image that is here.
    pub image: String,
    pub process: ProcessSpec,
    pub mounts: Vec<Mount>,
    pub read_only_root: bool,
    pub privileged: bool,
    pub seccomp: Seccomp,
    /// Paths to hide and to make read-only; empty for `procMount: Unmasked`.
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub resources: Resources,
    /// CRI-format log file; its directory exists.
    pub log_path: PathBuf,
    /// Keeps stdin open for attach; else it is /dev/null.
    pub stdin: bool,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, 128 + signal if one killed it.
    pub code: i32,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    /// Nanoseconds since 1970.
    pub started_at_ns: i64,
    pub finished_at_ns: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Running { pid: i32, started_at_ns: i64 },
    Exited(Exit),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    pub spec: ContainerSpec,
    pub state: ContainerState,
}

/// What runs in a sandbox, as `list` finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStatus {
    pub spec: SandboxSpec,
    /// The shim's; its namespaces are under /proc/<pid>/ns.
    pub pid: i32,
    pub containers: Vec<ContainerStatus>,
}
