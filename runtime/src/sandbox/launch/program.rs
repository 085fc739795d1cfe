//! The last steps of a process before its program: what libcontainer leaves to its executor hook.
//!
//! libcontainer has entered the namespaces, pivoted and set the user by then; all capabilities are still held. Filters
//! that must not set no_new_privs need CAP_SYS_ADMIN to load, so they go first and the capabilities after them.

use super::report::{self, Message};
use super::{capabilities, terminal};
use crate::cgroup::Cgroups;
use crate::seccomp::{self, Filters};
use crate::spec::{ProcessSpec, Propagation};
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{AccessFlags, access};
use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process and what to make of it.
#[derive(Clone)]
pub struct Program {
    /// Of the launch.
    pub socket: RawFd,
    /// The `cgroup.procs` files of its cgroup, open.
    pub members: Vec<RawFd>,
    pub process: ProcessSpec,
    pub bounding: u64,
    pub filters: Filters,
    /// A container's first process sets up what its mount namespace still needs.
    pub first: bool,
    /// Where volumes are, and whether host and container see each other's later mounts.
    pub propagation: Vec<(PathBuf, Propagation)>,
}

impl Executor for Program {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let Err(why) = self.become_it();
        report::tell(self.socket, &Message::Create(why.clone()));
        Err(ExecutorError::Other(why))
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // It is passed to execve, in order.
        Ok(())
    }
}

impl Program {
    fn become_it(&self) -> Result<std::convert::Infallible, String> {
        Cgroups::join(&self.members).map_err(|e| format!("join the cgroup: {e}"))?;
        if self.first {
            self.propagate()?;
        }
        reset_signals().map_err(|e| format!("reset signals: {e}"))?;
        if self.process.tty {
            let master = terminal::open(self.first).map_err(|e| format!("open a terminal: {e}"))?;
            report::tell(self.socket, &Message::Terminal(master));
        }
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        let cwd = &self.process.cwd;
        let enter = || nix::unistd::chdir(cwd).map_err(|e| format!("chdir to cwd ({cwd:?}) set in config.json failed: {}", text(e)));
        let refused = nix::unistd::chdir(cwd) == Err(Errno::EACCES);
        if !refused {
            enter()?;
        }
        let load = || seccomp::install(&self.filters).map_err(|e| format!("unable to init seccomp: {e}"));
        if !self.process.no_new_privileges {
            load()?;
        }
        // Another user's program gets none of the permitted set on execve; holding it until then would only help a bug.
        let permitted = if self.process.uid == 0 { self.bounding } else { 0 };
        capabilities::set(self.bounding, permitted).map_err(|e| format!("unable to apply caps: {e}"))?;
        if refused {
            enter()?;
        }
        let env = environment(&self.process, home);
        let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
        let name = self.process.args.first().map(String::as_str).unwrap_or_default();
        let program = look_up(name, path)?;
        let (path, args, env) = arguments(&program, &self.process.args, &env)?;
        if self.process.no_new_privileges {
            load()?;
        }
        let Err(e) = nix::unistd::execve(&path, &args, &env);
        Err(format!("exec {}: {}", program.display(), text(e)))
    }

    /// libcontainer 0.7 ignores the propagation of bind mounts.
    fn propagate(&self) -> Result<(), String> {
        for (place, propagation) in &self.propagation {
            let flag = match propagation {
                Propagation::Private => MsFlags::MS_PRIVATE,
                Propagation::HostToContainer => MsFlags::MS_SLAVE,
                Propagation::Bidirectional => MsFlags::MS_SHARED,
            };
            let none: Option<&str> = None;
            mount(none, place, none, flag | MsFlags::MS_REC, none).map_err(|e| format!("set propagation of {}: {e}", place.display()))?;
        }
        Ok(())
    }
}

type Arguments = (CString, Vec<CString>, Vec<CString>);

fn arguments(program: &Path, args: &[String], env: &[String]) -> Result<Arguments, String> {
    let all = |list: &[String]| list.iter().map(|s| CString::new(s.as_bytes())).collect::<Result<Vec<_>, _>>();
    let zero = |_| "an argument or environment variable holds a zero byte".to_owned();
    let path = CString::new(program.as_os_str().as_bytes()).map_err(zero)?;
    Ok((path, all(args).map_err(zero)?, all(env).map_err(zero)?))
}

/// What the shim ignores or blocks, or was born ignoring, a program must not. Past libc, which keeps two signals to itself.
fn reset_signals() -> nix::Result<()> {
    const KERNEL_SIGNALS: libc::c_int = 64;
    // The kernel's sigaction, whose layout differs; all zero is the default action on all architectures.
    let default = [0u64; 8];
    for signal in (1..=KERNEL_SIGNALS).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s)) {
        // SAFETY: the action is larger than any kernel's and outlives the call; a default action is no handler of ours.
        let done = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8) };
        Errno::result(done)?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// The environment: of a name that comes twice the last counts; PATH, HOME and (with a terminal) TERM are filled in as runc
/// and containerd do.
fn environment(process: &ProcessSpec, home: impl Fn(u32) -> String) -> Vec<String> {
    fn name(entry: &str) -> &str {
        entry.split_once('=').map_or(entry, |e| e.0)
    }
    let mut env: Vec<String> = Vec::with_capacity(process.env.len() + 3);
    let mut at: HashMap<&str, usize> = HashMap::new();
    for entry in &process.env {
        match at.get(name(entry)) {
            Some(&index) => env[index].clone_from(entry),
            None => {
                at.insert(name(entry), env.len());
                env.push(entry.clone());
            }
        }
    }
    if !at.contains_key("PATH") {
        env.push(format!("PATH={DEFAULT_PATH}"));
    }
    if at.get("HOME").is_none_or(|&i| env[i] == "HOME=") {
        env.retain(|e| e != "HOME=");
        env.push(format!("HOME={}", home(process.uid)));
    }
    if process.tty && !at.contains_key("TERM") {
        env.push("TERM=xterm".into());
    }
    env
}

/// The user's home in the container's own /etc/passwd.
fn home(uid: u32) -> String {
    let Ok(file) = std::fs::read_to_string("/etc/passwd") else { return "/".into() };
    let entry = file.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f.get(2).is_some_and(|u| u.parse() == Ok(uid)));
    entry.and_then(|f| f.get(5).map(|h| (*h).to_owned())).filter(|h| !h.is_empty()).unwrap_or_else(|| "/".into())
}

/// An errno in Go's words.
pub fn text(e: Errno) -> String {
    match e {
        Errno::ELOOP => "too many levels of symbolic links".into(),
        other => other.desc().to_lowercase(),
    }
}

/// Finds a program as Go's exec.LookPath does, with its texts.
fn look_up(name: &str, path: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        return executable(Path::new(name)).map(|()| name.into()).map_err(|why| format!("exec: \"{name}\": {why}"));
    }
    let found = path.split(':').map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name)).find(|p| executable(p).is_ok());
    match found {
        Some(program) if program.is_absolute() => Ok(program),
        Some(_) => Err(format!("exec: \"{name}\": cannot run executable found relative to current directory")),
        None => Err(format!("exec: \"{name}\": executable file not found in $PATH")),
    }
}

fn executable(path: &Path) -> Result<(), String> {
    let meta = std::fs::metadata(path).map_err(|e| format!("stat {}: {}", path.display(), io_text(&e)))?;
    if meta.is_dir() {
        return Err("is a directory".into());
    }
    // Real and effective ids are the same here.
    access(path, AccessFlags::X_OK).map_err(text)
}

fn io_text(e: &io::Error) -> String {
    e.raw_os_error().map_or_else(|| e.to_string(), |n| text(Errno::from_raw(n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_told_as_go_tells_them() {
        assert_eq!(look_up("nope", "/bin:/usr/bin").unwrap_err(), "exec: \"nope\": executable file not found in $PATH");
        assert_eq!(look_up("/nope", "").unwrap_err(), "exec: \"/nope\": stat /nope: no such file or directory");
        assert_eq!(look_up("/etc", "").unwrap_err(), "exec: \"/etc\": is a directory");
        assert_eq!(look_up("/etc/passwd", "").unwrap_err(), "exec: \"/etc/passwd\": permission denied");
        assert!(look_up("sh", "/nope:/bin").unwrap().is_absolute());
    }

    #[test]
    fn the_last_of_a_name_counts_and_defaults_are_filled_in() {
        let process = ProcessSpec { env: ["A=1", "B=2", "A=3", "HOME="].map(str::to_owned).to_vec(), tty: true, ..ProcessSpec::default() };
        let env = environment(&process, |_| "/h".into());
        assert_eq!(env, ["A=3".to_owned(), "B=2".into(), format!("PATH={DEFAULT_PATH}"), "HOME=/h".into(), "TERM=xterm".into()]);
    }
}
