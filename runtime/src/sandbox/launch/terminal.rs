//! A terminal of the container's own devpts, as the process's controlling one.

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Makes a terminal the calling process's standard descriptors (it leads a session); returns the other side. A
/// container's first process also finds it at /dev/console.
pub fn open(console: bool) -> io::Result<OwnedFd> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname_r(&master)?;
    let slave = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&name)?;
    if console {
        let none: Option<&str> = None;
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o666).custom_flags(libc::O_NOFOLLOW).open("/dev/console")?;
        mount(Some(name.as_str()), "/dev/console", none, MsFlags::MS_BIND, none)?;
    }
    // SAFETY: no pointers are passed; the descriptor is open.
    if unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    nix::unistd::dup2_stdin(&slave)?;
    nix::unistd::dup2_stdout(&slave)?;
    nix::unistd::dup2_stderr(&slave)?;
    // SAFETY: `into_raw_fd` gives up ownership of an open descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(master.into_raw_fd()) })
}
