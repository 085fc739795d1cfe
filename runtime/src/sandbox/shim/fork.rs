//! Forking off a shim, which has one thread and so may.

use nix::errno::Errno;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work` in a new process; returns its pid.
///
/// # Errors
/// Out of processes.
pub fn child(work: impl FnOnce()) -> io::Result<i32> {
    // SAFETY: a shim has one thread, so every lock is free in the child.
    let pid = Errno::result(unsafe { libc::fork() })?;
    if pid == 0 {
        run(work);
    }
    Ok(pid)
}

/// The same, as the first process of a new PID namespace.
///
/// # Errors
/// Out of processes.
pub fn child_in_pid_namespace(work: impl FnOnce()) -> io::Result<i32> {
    let flags = libc::c_ulong::try_from(libc::CLONE_NEWPID | libc::SIGCHLD).map_err(io::Error::other)?;
    // SAFETY: with no stack of its own the child goes on here, as after fork; one thread, as above.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    if pid == 0 {
        run(work);
    }
    i32::try_from(pid).map_err(io::Error::other)
}

fn run(work: impl FnOnce()) -> ! {
    let code = i32::from(catch_unwind(AssertUnwindSafe(work)).is_err());
    // SAFETY: ends the process without running what the shim is to run.
    unsafe { libc::_exit(code) }
}

/// The first process of a shared PID namespace: adopts and reaps what others leave, and ends when killed.
pub fn pause() {
    use nix::sys::signal::{SigSet, Signal};
    // SAFETY: nothing in this process uses a descriptor any more.
    unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    loop {
        while nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)).is_ok_and(|w| w.pid().is_some()) {}
        // SIGCHLD is blocked since the shim began: it waits here.
        if signals.wait().is_err() {
            return;
        }
    }
}
