//! Where the agent keeps what belongs to a pod. Pure.

use std::path::{Path, PathBuf};

/// The agent's directories.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// On disk: logs, emptyDirs.
    pub data: PathBuf,
    /// On tmpfs: volumes that hold secrets, managed files.
    pub run: PathBuf,
    /// Profiles for `seccompProfile.type: Localhost`.
    pub seccomp: PathBuf,
}

impl Dirs {
    pub fn pod(&self, uid: &str) -> PodDirs {
        PodDirs { data: self.data.join("pods").join(uid), run: self.run.join("pods").join(uid) }
    }

    /// Log directory of a pod, in the kubelet's layout.
    pub fn logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.data.join("logs").join(format!("{namespace}_{name}_{uid}"))
    }

    /// Log of one attempt of a container.
    pub fn log(&self, namespace: &str, name: &str, uid: &str, container: &str, attempt: i32) -> PathBuf {
        self.logs(namespace, name, uid).join(container).join(format!("{attempt}.log"))
    }
}

/// One pod's directories.
#[derive(Clone, Debug)]
pub struct PodDirs {
    pub data: PathBuf,
    pub run: PathBuf,
}

impl PodDirs {
    /// Of a volume; those that may hold secrets, and memory, lie in `run`.
    pub fn volume(&self, plugin: &str, name: &str) -> PathBuf {
        let base: &Path = if plugin == "empty-dir" { &self.data } else { &self.run };
        base.join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
    }
    pub fn hosts(&self) -> PathBuf {
        self.run.join("etc-hosts")
    }
    pub fn resolv_conf(&self) -> PathBuf {
        self.run.join("resolv.conf")
    }
    pub fn hostname(&self) -> PathBuf {
        self.run.join("hostname")
    }
    /// The pod's address, for an agent that starts anew.
    pub fn ip(&self) -> PathBuf {
        self.run.join("ip")
    }
    pub fn termination_log(&self, container: &str, attempt: i32) -> PathBuf {
        self.run.join("containers").join(container).join(attempt.to_string())
    }
}
