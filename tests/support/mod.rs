//! A real orchd for tests and benchmarks: the built binary, `up` in a network namespace of its own.
//!
//! The cluster's addresses exist in that namespace alone; programs that are to reach them are run inside it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const ORCHD: &str = env!("CARGO_BIN_EXE_orchd");

/// Says loudly that a test does not run; where CI asks, that is a failure.
fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "SKIPPED: {why}");
    eprintln!("SKIPPED: {why}");
}

/// True if the test can run here; says loudly if not.
pub fn root(test: &str) -> bool {
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skip(&format!("{test} needs root"));
    }
    root
}

/// Unmodified kubectl, by version: `kubectl-1.33` and so on in ORCHD_KUBECTL_DIR, else the one that the Cloud SDK brings.
pub fn kubectls(test: &str) -> Vec<PathBuf> {
    let dir = std::env::var_os("ORCHD_KUBECTL_DIR").map(PathBuf::from);
    let mut found: Vec<PathBuf> =
        dir.iter().flat_map(|d| ["kubectl-1.33", "kubectl-1.37"].map(|n| d.join(n))).filter(|p| p.exists()).collect();
    let sdk = PathBuf::from("/usr/lib/google-cloud-sdk/bin/kubectl.1.33");
    if found.is_empty() && sdk.exists() {
        found.push(sdk);
    }
    if found.is_empty() {
        skip(&format!("{test} needs kubectl (set ORCHD_KUBECTL_DIR to a folder with kubectl-1.33 and kubectl-1.37)"));
    }
    found
}

/// A directory that is removed with its owner.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("orchd-{name}-{}-{:x}", std::process::id(), rand::random::<u32>()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// A running `orchd up`.
pub struct Cluster {
    pub dir: Dir,
    pub node: String,
    child: Option<Child>,
    /// Keeps the network namespace while orchd is down.
    holder: Child,
}

impl Cluster {
    pub fn start(name: &str) -> Self {
        Self::start_in(Dir::new(name), name)
    }

    /// Starts in a data dir that something has been done to.
    pub fn start_in(dir: Dir, name: &str) -> Self {
        let holder = hold_namespace();
        let node = format!("{name}-node");
        let mut cluster = Self { dir, node, child: None, holder };
        cluster.up();
        cluster
    }

    /// Starts orchd and waits until its API serves.
    pub fn up(&mut self) {
        let kubeconfig = self.kubeconfig();
        match std::fs::remove_file(&kubeconfig) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => panic!("{e}"),
            _ => {}
        }
        let log = File::options().create(true).append(true).open(self.dir.0.join("orchd.log")).unwrap();
        let mut command = self.inside(ORCHD);
        command
            .args(["up", "--node-name", &self.node, "--data-dir"])
            .arg(&self.dir.0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
        let child = self.child.as_mut().unwrap();
        eventually("the API serves", Duration::from_secs(30), || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("orchd up ended: {status}");
            }
            kubeconfig.exists().then_some(()).ok_or_else(|| "no kubeconfig yet".into())
        });
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.0.join("kubeconfig")
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().expect("it runs").id()).unwrap()
    }

    /// A command that will run in the cluster's network namespace.
    pub fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let namespace = File::open(format!("/proc/{}/ns/net", self.holder.id())).unwrap();
        let mut command = Command::new(program);
        // SAFETY: setns is async-signal-safe, and the descriptor is open in the child, too.
        unsafe {
            command.pre_exec(move || match libc::setns(std::os::fd::AsRawFd::as_raw_fd(&namespace), libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        command
    }

    /// kill -9, and nothing else.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.0.join("orchd.log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // SAFETY: the child has not been waited for, so the pid is its own.
            unsafe { libc::kill(i32::try_from(child.id()).unwrap_or(0), libc::SIGTERM) };
            if let Err(error) = child.wait() {
                eprintln!("orchd up: {error}");
            }
        }
        let reset = self.inside(ORCHD).args(["reset", "--node-name", &self.node, "--data-dir"]).arg(&self.dir.0).status();
        if !reset.as_ref().is_ok_and(std::process::ExitStatus::success) {
            eprintln!("orchd reset: {reset:?}");
        }
        if let Err(error) = self.holder.kill().and_then(|()| self.holder.wait()) {
            eprintln!("the namespace's holder: {error}");
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("orchd's log ends:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

/// Where kubectl runs, and what it speaks to.
pub trait Place {
    /// A command that will run where the cluster can be reached.
    fn command(&self, program: &Path) -> Command;
    fn kubeconfig(&self) -> PathBuf;
    /// kubectl's home directory.
    fn home(&self) -> &Path;

    fn kubectl(&self, program: &Path, args: &[&str]) -> Output {
        let mut command = self.command(program);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args).env("HOME", self.home()).env("KUBECTL_KYAML", "false");
        command.stdin(Stdio::null()).output().unwrap()
    }
}

impl Place for Cluster {
    fn command(&self, program: &Path) -> Command {
        self.inside(program)
    }
    fn kubeconfig(&self) -> PathBuf {
        Self::kubeconfig(self)
    }
    fn home(&self) -> &Path {
        &self.dir.0
    }
}

/// One of a lab's masters, from its client's host.
pub struct AtMaster<'a> {
    lab: &'a Lab,
    home: Dir,
}

impl<'a> AtMaster<'a> {
    pub fn new(lab: &'a Lab, master: &str) -> Self {
        let home = Dir::new("kubectl");
        let config = std::fs::read_to_string(lab.dir.join("kubeconfig")).unwrap();
        let own = config.replace("current-context: m1", &format!("current-context: {master}"));
        std::fs::write(home.0.join("kubeconfig"), own).unwrap();
        Self { lab, home }
    }
}

impl Place for AtMaster<'_> {
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(ORCHD);
        command.args(["lab", "--dir"]).arg(&self.lab.dir).args(["exec", "client", "--"]).arg(program);
        command
    }
    fn kubeconfig(&self) -> PathBuf {
        self.home.0.join("kubeconfig")
    }
    fn home(&self) -> &Path {
        &self.home.0
    }
}

/// `orchd lab`: taken down with its owner.
pub struct Lab {
    pub dir: PathBuf,
    pub masters: u8,
}

impl Lab {
    pub fn start(name: &str, masters: u8, nodes: u8) -> Self {
        let dir = std::env::temp_dir().join(format!("orchd-{name}-{}-{:x}", std::process::id(), rand::random::<u32>()));
        let lab = Self { dir, masters };
        let (masters, nodes) = (masters.to_string(), nodes.to_string());
        lab.ok(&["--masters", &masters, "--nodes", &nodes]);
        lab
    }

    /// `orchd lab` with these arguments.
    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(ORCHD).args(["lab", "--dir"]).arg(&self.dir).args(args).stdin(Stdio::null()).output().unwrap()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "lab {args:?}: {}{}", stdout(&output), stderr(&output));
        stdout(&output)
    }

    /// A command on the client's host.
    pub fn client(&self, program: &Path, args: &[&str]) -> Output {
        let program = program.to_string_lossy();
        let args: Vec<&str> = ["exec", "client", "--", &program].into_iter().chain(args.iter().copied()).collect();
        self.run(&args)
    }

    /// kubectl through this master.
    pub fn kubectl(&self, program: &Path, master: &str, args: &[&str]) -> Output {
        let config = self.dir.join("kubeconfig");
        let config = config.to_string_lossy();
        let all: Vec<&str> = ["--kubeconfig", &config, "--context", master].into_iter().chain(args.iter().copied()).collect();
        self.client(program, &all)
    }

    pub fn log(&self, host: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("{host}.log"))).unwrap_or_default()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in ["m1", "m2", "m3", "n1", "n2"] {
                let log = self.log(host);
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("{host}'s log ends:\n{}", lines[lines.len().saturating_sub(25)..].join("\n"));
            }
        }
        let output = self.run(&["down"]);
        if !output.status.success() && self.dir.exists() {
            eprintln!("orchd lab down: {}", stderr(&output));
        }
    }
}

/// A process that sits in a network namespace of its own.
fn hold_namespace() -> Child {
    let mut command = Command::new(ORCHD);
    command.args(["internal-hello", "wait"]).stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: unshare and prctl are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            match libc::unshare(libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    command.spawn().unwrap()
}

/// Asks until the answer is good; the last answer is the panic's text.
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(found) => return found,
            Err(why) if start.elapsed() > limit => panic!("{what}: not within {limit:?}: {why}"),
            Err(_) => std::thread::park_timeout(Duration::from_millis(20)),
        }
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
