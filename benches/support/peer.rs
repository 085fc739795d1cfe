//! The real Kubernetes, where it is built (`../shared/conformance/build reference`): in a network namespace of its own.

use super::cluster::eventually;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A running reference cluster; stopped with its owner.
pub struct Reference {
    script: PathBuf,
    /// From its start until its command returned, which waits for the API.
    pub started_in: Duration,
}

fn home() -> PathBuf {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    std::env::var_os("ORCHD_K8S").map_or(home.join(".cache/orchd-k8s"), PathBuf::from)
}

impl Reference {
    /// None, with a line that says so, where it is not built.
    pub fn start(node: bool) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/reference");
        if !script.exists() || !home().join("bin/kube-apiserver").exists() {
            println!("no reference cluster is built here: its figures are left out");
            return None;
        }
        let began = Instant::now();
        let mut command = Command::new(&script);
        command.arg("up").args((!node).then_some("--no-node")).stdin(Stdio::null()).stdout(Stdio::null());
        assert!(command.status().unwrap().success(), "the reference cluster does not start");
        let reference = Self { script, started_in: began.elapsed() };
        eventually("the namespace default has its account", Duration::from_secs(30), || {
            let asked = Command::new(&reference.script).args(["exec", "kubectl", "get", "serviceaccount", "default"]).output().unwrap();
            asked.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&asked.stderr).into_owned())
        });
        Some(reference)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        home().join("reference/admin.conf")
    }

    /// A command that will run in its network namespace.
    pub fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--net=/run/netns/k8sref").arg(program);
        command
    }

    /// Its processes.
    pub fn pids(&self) -> Vec<i32> {
        let files = std::fs::read_dir(home().join("reference/pid")).unwrap().flatten();
        files.filter_map(|f| std::fs::read_to_string(f.path()).ok()?.trim().parse().ok()).collect()
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let down = Command::new(&self.script).arg("down").status();
        if !down.as_ref().is_ok_and(std::process::ExitStatus::success) {
            eprintln!("reference down: {down:?}");
        }
    }
}
