//! Process descriptors: a process that cannot become another one behind one's back.

use nix::errno::Errno;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A pidfd; readable once the process has ended.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl PidFd {
    /// # Errors
    /// `ESRCH` if there is no such process.
    pub fn open(pid: i32) -> Result<Self, Errno> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = Errno::result(fd)?;
        // SAFETY: the kernel has just made this descriptor for us; it is close-on-exec.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::EBADF)?) }))
    }

    /// # Errors
    /// `ESRCH` if it has ended.
    pub fn signal(&self, signal: i32) -> Result<(), Errno> {
        // SAFETY: no siginfo is passed, the descriptor is open.
        let done =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0) };
        Errno::result(done).map(drop)
    }

    /// Waits until the process has ended; false if it has not by then. Blocks.
    ///
    /// # Errors
    /// poll fails.
    pub fn wait(&self, timeout_ms: u16) -> io::Result<bool> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::from(timeout_ms)) {
                Err(Errno::EINTR) => {}
                other => return Ok(other? > 0),
            }
        }
    }
}

/// When a process started, in clock ticks since boot: with its pid, who it is.
///
/// # Errors
/// There is no such process.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let after = stat.rsplit_once(") ").ok_or_else(|| io::Error::other("/proc/pid/stat has no name"))?.1;
    after.split(' ').nth(19).and_then(|t| t.parse().ok()).ok_or_else(|| io::Error::other("/proc/pid/stat is short"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_found() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(me).unwrap() > 0);
        let fd = PidFd::open(me).unwrap();
        fd.signal(0).unwrap();
        assert!(!fd.wait(0).unwrap());
        assert_eq!(PidFd::open(i32::MAX).unwrap_err(), Errno::ESRCH);
    }
}
