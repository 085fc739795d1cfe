//! The processes of a lab's hosts: started in the host's namespace, found again by pid and start time.

use super::super::CliError;
use super::plan::{Host, Lab};
use crate::network::lan;
use nix::errno::Errno;
use nix::unistd::setsid;
use orchd_runtime::sandbox::pidfd::{PidFd, start_time};
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;
use tokio::process::{Child, Command};

const END_TIMEOUT_MS: u16 = 10_000;

/// Runs this program with `args` inside a namespace.
///
/// # Errors
/// It cannot be started.
pub fn spawn_inside(netns: &Path, args: &[String], log: Stdio) -> Result<Child, CliError> {
    let failed = |e: io::Error| CliError::new("cannot start orchd", e);
    let exe = std::env::current_exe().map_err(failed)?;
    let namespace = File::open(netns).map_err(|e| CliError::new(netns.display().to_string(), e))?;
    let mut command = Command::new(exe);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // SAFETY: setns and setsid are async-signal-safe, and the descriptor is open in the child, too.
    unsafe {
        command.pre_exec(move || {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
            // The lab outlives the terminal that it was made from.
            setsid()?;
            Ok(())
        });
    }
    command.spawn().map_err(failed)
}

/// Starts a host's process; its output goes to the host's log.
///
/// # Errors
/// It cannot be started.
pub fn start(lab: &Lab, host: &Host) -> Result<Child, CliError> {
    let name = &host.name;
    let args = lab.command(host).ok_or_else(|| CliError::text(format!("{name} runs nothing of ours")))?;
    let log = File::options().create(true).append(true).open(lab.log(name));
    let log = log.map_err(|e| CliError::new(lab.log(name).display().to_string(), e))?;
    let child = spawn_inside(&lab.netns(name), &args, log.into())?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(|| CliError::text(format!("{name} ended at once")))?;
    let written = start_time(pid).and_then(|started| std::fs::write(lab.pid_file(name), format!("{pid} {started}\n")));
    written.map_err(|e| CliError::new(lab.pid_file(name).display().to_string(), e))?;
    Ok(child)
}

/// A host's process, if it runs.
pub struct Running {
    pub pid: i32,
    fd: PidFd,
}

/// # Errors
/// What was written down of it cannot be read.
pub fn find(lab: &Lab, host: &str) -> Result<Option<Running>, CliError> {
    let text = match std::fs::read_to_string(lab.pid_file(host)) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(CliError::new(lab.pid_file(host).display().to_string(), e)),
    };
    let mut words = text.split_whitespace();
    let (pid, started) = (words.next().and_then(|w| w.parse::<i32>().ok()), words.next().and_then(|w| w.parse::<u64>().ok()));
    let (Some(pid), Some(started)) = (pid, started) else { return Ok(None) };
    let fd = match PidFd::open(pid) {
        Ok(fd) => fd,
        Err(Errno::ESRCH) => return Ok(None),
        Err(e) => return Err(CliError::new(format!("the process of {host}"), e)),
    };
    // Another process may have got the number since.
    let same = start_time(pid).is_ok_and(|now| now == started) && state(pid) != 'Z';
    Ok(same.then_some(Running { pid, fd }))
}

/// As the kernel's one letter: R and S run, T is stopped, Z has ended.
pub fn state(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('Z')
}

impl Running {
    /// # Errors
    /// The process has ended, or is not ours to signal.
    pub fn signal(&self, signal: i32) -> Result<(), CliError> {
        self.fd.signal(signal).map_err(|e| CliError::new(format!("process {}", self.pid), e))
    }

    /// SIGKILL, and the end of it.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill(&self) -> Result<(), CliError> {
        match self.fd.signal(libc::SIGKILL) {
            Err(Errno::ESRCH) => return Ok(()),
            other => other.map_err(|e| CliError::new(format!("process {}", self.pid), e))?,
        }
        let ended = self.fd.wait(END_TIMEOUT_MS).map_err(|e| CliError::new(format!("process {}", self.pid), e))?;
        if ended { Ok(()) } else { Err(CliError::text(format!("process {} does not end", self.pid))) }
    }
}

/// Becomes `command` inside the host's network namespace: same files, environment and terminal, and its exit code.
///
/// # Errors
/// It cannot be run; if it can, this does not return.
pub fn exec(lab: &Lab, host: &Host, command: &[std::ffi::OsString]) -> Result<(), CliError> {
    use std::os::unix::ffi::OsStrExt;
    lan::enter(&lab.netns(&host.name)).map_err(|e| CliError::new(format!("cannot enter {}", host.name), e))?;
    let words = command.iter().map(|word| std::ffi::CString::new(word.as_bytes())).collect::<Result<Vec<_>, _>>();
    let words = words.map_err(|e| CliError::new("the command", e))?;
    let program = words.first().ok_or_else(|| CliError::text("no command"))?;
    match nix::unistd::execvp(program, &words) {
        Ok(never) => match never {},
        Err(e) => Err(CliError::new(format!("cannot run {}", program.to_string_lossy()), e)),
    }
}
