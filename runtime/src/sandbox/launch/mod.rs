//! Launching: what happens in a process forked off a shim, up to the container's program. The only module that names
//! libcontainer, which works in the calling process and changes it: never call it from a shim itself, or with threads.

mod capabilities;
mod overlay;
mod program;
pub mod report;
mod spec;
mod terminal;
mod volumes;

use crate::cgroup::Cgroups;
use crate::sandbox::place::{ContainerRecord, Place};
use crate::sandbox::wire::Launch;
use crate::seccomp;
use crate::spec::{ContainerSpec, ProcessSpec, SandboxSpec, Seccomp};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::sched::{CloneFlags, unshare};
use program::Program;
use report::Message;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// What launches of one sandbox have in common.
pub struct Context<'a> {
    pub sandbox: &'a SandboxSpec,
    pub place: &'a Place,
    pub cgroups: &'a Cgroups,
    /// The mount namespace that the shim came from.
    pub host: &'a File,
    pub pause: Option<i32>,
}

/// Standard descriptors of a process; none with a terminal.
#[derive(Debug, Default)]
pub struct Stdio {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// Whose fault a failure is.
enum Wrong {
    Create(String),
    Invalid(String),
}

impl From<String> for Wrong {
    fn from(text: String) -> Self {
        Self::Create(text)
    }
}

impl From<std::io::Error> for Wrong {
    fn from(e: std::io::Error) -> Self {
        Self::Create(e.to_string())
    }
}

/// A failure with its causes, but for those that repeat what was said.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

/// Runs in a forked process: makes a container and starts it, telling the shim over `socket`.
pub fn create(context: &Context<'_>, launch: &Launch, cgroup: &str, stdio: Stdio, socket: &OwnedFd) {
    match try_create(context, launch, cgroup, stdio, socket) {
        Ok(()) => {}
        Err(Wrong::Create(text)) => report::tell(socket.as_raw_fd(), &Message::Create(text)),
        Err(Wrong::Invalid(text)) => report::tell(socket.as_raw_fd(), &Message::Invalid(text)),
    }
}

fn try_create(context: &Context<'_>, launch: &Launch, cgroup: &str, stdio: Stdio, socket: &OwnedFd) -> Result<(), Wrong> {
    let container = &launch.spec;
    let place = context.place;
    // Mounts made here die with this process and the container's first.
    unshare(CloneFlags::CLONE_NEWNS).map_err(std::io::Error::from)?;
    warm_up(context.cgroups, cgroup);
    let rootfs = place.rootfs(&container.id);
    overlay::mount(&launch.layers, &launch.writable, &rootfs).map_err(|e| format!("mount root of the container: {e}"))?;
    let volumes =
        volumes::bind(&container.mounts, &place.container(&container.id).join("volumes"), context.host).map_err(Wrong::Invalid)?;
    volumes::make_cwd(&container.process.cwd, &volumes, &rootfs)?;
    let inputs = spec::Inputs {
        sandbox: context.sandbox,
        container,
        place,
        cgroups: context.cgroups,
        cgroup,
        volumes: &volumes,
        pause: context.pause,
    };
    let spec = spec::build(&inputs).map_err(Wrong::Invalid)?;
    let bundle = place.container(&container.id);
    std::fs::write(bundle.join("config.json"), serde_json::to_vec(&spec).map_err(std::io::Error::other)?)?;
    set_oom_score(container.resources.oom_score_adj);
    let members = context.cgroups.open_members(cgroup)?;
    let mut program = program(container, &container.process, socket, &members)?;
    program.first = true;
    program.propagation = volumes.iter().map(|v| (v.destination.clone(), v.propagation)).collect();
    let mut container = builder(place, &container.id, stdio, program)?
        .as_init(&bundle)
        .with_systemd(false)
        .as_sibling(true)
        .build()
        .map_err(|e| chain(&e))?;
    let pid = container.pid().ok_or_else(|| "libcontainer names no process".to_owned())?;
    report::tell(socket.as_raw_fd(), &Message::Pid(pid.as_raw()));
    container.start().map_err(|e| Wrong::Create(chain(&e)))
}

fn builder(place: &Place, id: &str, stdio: Stdio, program: Program) -> Result<ContainerBuilder, Wrong> {
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(place.libcontainer())
        .map_err(|e| chain(&e))?
        .with_executor(program);
    builder.stdin = stdio.stdin;
    builder.stdout = stdio.stdout;
    builder.stderr = stdio.stderr;
    Ok(builder)
}

fn program(container: &ContainerSpec, process: &ProcessSpec, socket: &OwnedFd, members: &[File]) -> Result<Program, Wrong> {
    let bounding =
        if container.privileged { capabilities::all() } else { capabilities::bits(&process.capabilities).map_err(Wrong::Invalid)? };
    let wanted = if container.privileged { &Seccomp::Unconfined } else { &container.seccomp };
    Ok(Program {
        socket: socket.as_raw_fd(),
        members: members.iter().map(AsRawFd::as_raw_fd).collect(),
        process: process.clone(),
        bounding,
        filters: seccomp::compile(wanted, bounding)?,
        first: false,
        propagation: Vec::new(),
    })
}

/// Children inherit it. Root of a container or VM may not lower it: then the kernel's order of victims stays as it is.
fn set_oom_score(score: Option<i32>) {
    // Without one of its own it must not keep the shim's.
    let score = score.unwrap_or(0);
    let done = std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/oom_score_adj")
        .and_then(|mut f| f.write_all(score.to_string().as_bytes()));
    if let Err(e) = done {
        tracing::debug!("oom_score_adj {score} is not permitted here: {e}");
    }
}

/// Joining a cgroup waits for an RCU grace period (9 ms here) unless another has just joined one. Let a process that does
/// nothing else wait for it, while this one makes the container.
fn warm_up(cgroups: &Cgroups, cgroup: &str) {
    // SAFETY: this process has one thread, and the child calls nothing that would not bear a fork.
    if unsafe { libc::fork() } == 0 {
        let joined = cgroups.open_members(cgroup).is_ok_and(|members| Cgroups::join(&members[..1]).is_ok());
        // SAFETY: ends this process without running what its parent is to run.
        unsafe { libc::_exit(i32::from(!joined)) };
    }
}

/// Runs in a forked process: runs another process in a container, telling the shim over `socket`.
pub fn exec(context: &Context<'_>, record: &ContainerRecord, process: &ProcessSpec, cgroup: &str, stdio: Stdio, socket: &OwnedFd) {
    match try_exec(context, record, process, cgroup, stdio, socket) {
        Ok(pid) => report::tell(socket.as_raw_fd(), &Message::Pid(pid)),
        Err(Wrong::Create(text)) => report::tell(socket.as_raw_fd(), &Message::Create(text)),
        Err(Wrong::Invalid(text)) => report::tell(socket.as_raw_fd(), &Message::Invalid(text)),
    }
}

fn try_exec(
    context: &Context<'_>,
    record: &ContainerRecord,
    process: &ProcessSpec,
    cgroup: &str,
    stdio: Stdio,
    socket: &OwnedFd,
) -> Result<i32, Wrong> {
    set_oom_score(record.spec.resources.oom_score_adj);
    let dir = context.place.container(&record.spec.id);
    let file = tempfile::Builder::new().prefix("process-").suffix(".json").tempfile_in(&dir)?;
    let oci = spec::process(process).map_err(Wrong::Invalid)?;
    serde_json::to_writer(&file, &oci).map_err(std::io::Error::other)?;
    let members = context.cgroups.open_members(cgroup)?;
    let program = program(&record.spec, process, socket, &members)?;
    let pid = builder(context.place, &record.spec.id, stdio, program)?
        .as_tenant()
        .with_process(Some(Path::new(file.path())))
        .as_sibling(true)
        .with_detach(true)
        .build()
        .map_err(|e| chain(&e))?;
    Ok(pid.as_raw())
}
