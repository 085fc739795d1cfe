//! The kernel's file-descriptor mounts (5.2 and later): mounts made without a path that another could swap.

use nix::errno::Errno;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;

fn text(s: &str) -> Result<CString, Errno> {
    CString::new(s).map_err(|_| Errno::EINVAL)
}

fn owned(fd: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A file system being configured.
pub struct FileSystem(OwnedFd);

impl FileSystem {
    pub fn open(kind: &str) -> Result<Self, Errno> {
        let kind = text(kind)?;
        // SAFETY: the name ends in a zero byte.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) }).map(Self)
    }

    fn config(&self, command: u32, key: Option<&CString>, value: Option<&CString>) -> Result<(), Errno> {
        let pointer = |s: Option<&CString>| s.map_or(std::ptr::null(), |s| s.as_ptr());
        // SAFETY: both texts end in a zero byte and outlive the call.
        let done = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, pointer(key), pointer(value), 0) };
        Errno::result(done).map(drop)
    }

    pub fn set(&self, key: &str, value: &str) -> Result<(), Errno> {
        self.config(FSCONFIG_SET_STRING, Some(&text(key)?), Some(&text(value)?))
    }

    pub fn flag(&self, key: &str) -> Result<(), Errno> {
        self.config(FSCONFIG_SET_FLAG, Some(&text(key)?), None)
    }

    /// Makes the mount, attached nowhere yet.
    pub fn mount(&self, attributes: u64) -> Result<OwnedFd, Errno> {
        self.config(FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY: no pointers are passed.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
    }
}

/// A copy of the mounts at an open file or directory and below, attached nowhere yet.
pub fn clone_tree(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH.cast_unsigned() | libc::AT_RECURSIVE.cast_unsigned();
    // SAFETY: the path is empty and ends in a zero byte.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, fd.as_fd().as_raw_fd(), c"".as_ptr(), flags) })
}

/// Attaches a mount at a path.
pub fn attach(mount: &OwnedFd, target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: both paths end in a zero byte.
    let done = unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD, target.as_ptr(), MOVE_MOUNT_F_EMPTY_PATH)
    };
    Errno::result(done)?;
    Ok(())
}
