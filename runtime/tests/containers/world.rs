//! A runtime of its own for a test, and shorthand for what tests ask of it.

use orchd_runtime::spec::*;
use orchd_runtime::{ExecSession, Options, Runtime, RuntimeEvent};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
const WAIT: Duration = Duration::from_secs(20);

pub struct World {
    pub name: String,
    /// Kept by the runner, too, until what a failed test left is removed.
    pub dir: Arc<tempfile::TempDir>,
    pub run: Arc<tempfile::TempDir>,
    pub runtime: Runtime,
    pub events: mpsc::Receiver<RuntimeEvent>,
    pub image: String,
    next: u32,
}

/// A layer with this program and a passwd file.
fn layer() -> &'static Vec<u8> {
    static LAYER: OnceLock<Vec<u8>> = OnceLock::new();
    LAYER.get_or_init(|| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |name: &str, mode: u32, kind, bytes: &[u8]| {
            let mut h = tar::Header::new_gnu();
            h.set_entry_type(kind);
            h.set_size(bytes.len() as u64);
            h.set_mode(mode);
            h.set_uid(0);
            h.set_gid(0);
            h.set_mtime(0);
            tar.append_data(&mut h, name, bytes).unwrap();
        };
        add("bin/t", 0o755, tar::EntryType::Regular, &std::fs::read(std::env::current_exe().unwrap()).unwrap());
        add("etc/passwd", 0o644, tar::EntryType::Regular, b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n");
        add("etc/plain", 0o644, tar::EntryType::Regular, b"not a program");
        add("tmp", 0o1777, tar::EntryType::Directory, b"");
        tar.into_inner().unwrap()
    })
}

fn hex_digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

pub fn options(dir: &Path, run: &Path) -> Options {
    Options { dir: dir.to_owned(), run_dir: run.to_owned(), exe: std::env::current_exe().unwrap() }
}

impl World {
    pub async fn new(name: &str) -> Self {
        let dir: Arc<tempfile::TempDir> = tempfile::Builder::new().prefix("orchd-test-").tempdir_in("/var/tmp").unwrap().into();
        let run: Arc<tempfile::TempDir> = tempfile::Builder::new().prefix("orchd-test-").tempdir_in("/dev/shm").unwrap().into();
        let (runtime, events) = Runtime::open(options(dir.path(), run.path())).await.unwrap();
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}},"history":[]}}"#,
            hex_digest(layer())
        );
        let image = runtime.images().ingest(&["t:1".to_owned()], config.as_bytes(), [Ok(&layer()[..])].into_iter()).unwrap().digest;
        Self { name: name.to_owned(), dir, run, runtime, events, image, next: 0 }
    }

    /// Drops the runtime and opens it again, as a new agent would.
    pub async fn reopen(&mut self) {
        let (runtime, events) = Runtime::open(options(self.dir.path(), self.run.path())).await.unwrap();
        self.runtime = runtime;
        self.events = events;
    }

    pub fn cgroup(&self) -> String {
        format!("orchd-test-{}/{}", std::process::id(), self.name)
    }

    pub fn sandbox(&self) -> SandboxSpec {
        SandboxSpec {
            id: format!("pod-{}", self.name),
            hostname: "here".into(),
            cgroup_path: format!("{}/pod", self.cgroup()),
            ..SandboxSpec::default()
        }
    }

    pub async fn pod(&self) -> String {
        let spec = self.sandbox();
        let id = spec.id.clone();
        self.runtime.create_sandbox(spec).await.unwrap();
        id
    }

    pub fn process(args: &[&str]) -> ProcessSpec {
        ProcessSpec {
            args: std::iter::once("t").chain(args.iter().copied()).map(str::to_owned).collect(),
            cwd: "/".into(),
            capabilities: DEFAULT_CAPABILITIES.map(str::to_owned).to_vec(),
            ..ProcessSpec::default()
        }
    }

    pub fn container(&mut self, args: &[&str]) -> ContainerSpec {
        self.next += 1;
        let id = format!("{:064x}", self.next);
        ContainerSpec {
            log_path: self.log(&id),
            id,
            image: self.image.clone(),
            process: Self::process(args),
            seccomp: Seccomp::RuntimeDefault,
            masked_paths: vec!["/proc/kcore".into(), "/proc/keys".into()],
            readonly_paths: vec!["/proc/sys".into()],
            ..ContainerSpec::default()
        }
    }

    pub fn log(&self, id: &str) -> PathBuf {
        self.dir.path().join(format!("{id}.log"))
    }

    /// Runs a container to its end: exit, and its log's lines without times.
    pub async fn run(&mut self, pod: &str, spec: ContainerSpec) -> (Exit, String) {
        let id = spec.id.clone();
        self.runtime.start_container(pod, spec).await.unwrap();
        let exit = self.exit_of(&id).await;
        (exit, self.output(&id))
    }

    pub async fn run_ok(&mut self, pod: &str, spec: ContainerSpec) -> String {
        let (exit, text) = self.run(pod, spec).await;
        assert_eq!(exit.code, 0, "{text}");
        text
    }

    pub fn output(&self, id: &str) -> String {
        let text = std::fs::read_to_string(self.log(id)).unwrap_or_default();
        text.lines().map(|l| format!("{}\n", l.splitn(4, ' ').nth(3).unwrap_or_default())).collect()
    }

    pub async fn exit_of(&mut self, id: &str) -> Exit {
        loop {
            match self.event().await {
                RuntimeEvent::ContainerExited { container, exit, .. } if container == id => return exit,
                _ => {}
            }
        }
    }

    pub async fn event(&mut self) -> RuntimeEvent {
        tokio::time::timeout(WAIT, self.events.recv()).await.expect("an event within 20 s").expect("a runtime")
    }

    pub async fn exec(&self, pod: &str, container: &str, args: &[&str]) -> (i32, String, String) {
        let session = self.runtime.exec(pod, container, Self::process(args), false).await.unwrap();
        finish(session).await
    }

    /// Removes all, and checks that nothing is left.
    pub async fn end(&self, pod: &str) {
        self.runtime.remove_sandbox(pod).await.unwrap();
        self.runtime.remove_sandbox(pod).await.unwrap();
        assert!(self.runtime.list().await.unwrap().is_empty());
        self.nothing_left();
    }

    pub fn nothing_left(&self) {
        assert_eq!(std::fs::read_dir(self.run.path().join("sandboxes")).unwrap().count(), 0, "directories");
        assert_eq!(std::fs::read_dir(self.dir.path().join("containers")).unwrap().count(), 0, "writable layers");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.run.path().to_str().unwrap()) && !mounts.contains(self.dir.path().to_str().unwrap()), "mounts");
        for controller in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
            let pod = controller.unwrap().path().join(self.cgroup()).join("pod");
            assert!(!pod.exists(), "{}", pod.display());
        }
        let name = self.run.path().to_str().unwrap();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let cmd = std::fs::read(entry.path().join("mountinfo")).unwrap_or_default();
            let text = String::from_utf8_lossy(&cmd);
            assert!(!text.contains(name), "process {:?} still has our mounts", entry.file_name());
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for controller in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let parent = controller.path().join(format!("orchd-test-{}", std::process::id()));
            let _ = std::fs::remove_dir(parent.join(&self.name));
            let _ = std::fs::remove_dir(parent);
        }
    }
}

/// Everything an exec says, and its exit code.
pub async fn finish(mut session: ExecSession) -> (i32, String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    session.stdout.read_to_string(&mut out).await.unwrap();
    if let Some(errors) = &mut session.stderr {
        errors.read_to_string(&mut err).await.unwrap();
    }
    let exit = tokio::time::timeout(WAIT, session.exit).await.unwrap().unwrap().unwrap();
    (exit.code, out, err)
}
