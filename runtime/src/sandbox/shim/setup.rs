//! What a shim makes before it serves: its session, namespaces, mounts, cgroup.

use crate::cgroup::Cgroups;
use crate::sandbox::place::Place;
use crate::spec::SandboxSpec;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;

/// Which namespaces a shim has of its own, as its argument says it: `net,ipc,uts`.
pub fn namespaces(list: &str) -> CloneFlags {
    list.split(',').fold(CloneFlags::empty(), |flags, name| {
        flags
            | match name {
                "net" => CloneFlags::CLONE_NEWNET,
                "ipc" => CloneFlags::CLONE_NEWIPC,
                "uts" => CloneFlags::CLONE_NEWUTS,
                _ => CloneFlags::empty(),
            }
    })
}

/// The argument for a sandbox.
pub fn namespace_list(spec: &SandboxSpec) -> String {
    let own = [(!spec.host_network, "net"), (!spec.host_ipc, "ipc"), (!spec.host_network, "uts")];
    own.iter().filter(|(own, _)| *own).map(|o| o.1).collect::<Vec<_>>().join(",")
}

/// Open files that a container may have unless it asks for more: what a program that selects on them can bear.
const OPEN_FILES: u64 = 1024;

/// The agent has raised its own limit; containers begin with the usual one, and may raise it as far as the agent could.
fn usual_open_files() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.min(hard), hard)?)
}

/// Leaves the agent's session and enters new namespaces; returns the mount namespace that it came from.
pub fn detach(flags: CloneFlags) -> io::Result<File> {
    nix::unistd::setsid()?;
    nix::sys::prctl::set_child_subreaper(true)?;
    nix::unistd::setgroups(&[])?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    nix::unistd::chdir("/")?;
    usual_open_files()?;
    // Who stops the agent's service does not mean its pods.
    for each in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
        // SAFETY: ignoring is no handler of ours.
        unsafe { signal(each, SigHandler::SigIgn)? };
    }
    let score = fs::OpenOptions::new().write(true).open("/proc/self/oom_score_adj").and_then(|mut f| f.write_all(b"-998"));
    if let Err(e) = score {
        tracing::debug!("a low oom_score_adj is not permitted here: {e}");
    }
    let host = File::open("/proc/self/ns/mnt")?;
    unshare(flags | CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    if flags.contains(CloneFlags::CLONE_NEWNET) {
        loopback_up()?;
    }
    Ok(host)
}

fn loopback_up() -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request is an ifreq with a name that ends in a zero byte.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Everything that needs to know the sandbox.
pub fn furnish(place: &Place, spec: &SandboxSpec) -> io::Result<Cgroups> {
    for dir in [place.containers(), place.libcontainer(), place.shm(), place.cgroups()] {
        fs::create_dir_all(dir)?;
    }
    let log = fs::OpenOptions::new().create(true).append(true).open(place.0.join("shim.log"))?;
    nix::unistd::dup2_stderr(&log)?;
    if !spec.host_network && !spec.hostname.is_empty() {
        nix::unistd::sethostname(&spec.hostname)?;
    }
    for (name, value) in &spec.sysctls {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        fs::write(&path, value).map_err(|e| io::Error::new(e.kind(), format!("sysctl {name}={value}: {e}")))?;
    }
    if !spec.host_ipc {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("shm"), &place.shm(), Some("tmpfs"), flags, Some("mode=1777,size=65536k"))?;
    }
    let mut cgroups = Cgroups::detect()?;
    cgroups.create(&spec.cgroup_path)?;
    cgroups.limit(&spec.cgroup_path, &spec.resources)?;
    cgroups.hide(&place.cgroups())?;
    Ok(cgroups)
}
