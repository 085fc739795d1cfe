//! Other network namespaces, and the kernel's settings in them.

use super::NetworkError;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;
use std::path::Path;

/// A network namespace, held open.
pub struct Namespace(pub File);

impl Namespace {
    /// # Errors
    /// There is none at `path`.
    pub fn open(path: &Path) -> Result<Self, NetworkError> {
        File::open(path).map(Self).map_err(|source| NetworkError::Io { what: format!("network namespace {}", path.display()), source })
    }

    /// That of the calling thread.
    ///
    /// # Errors
    /// /proc is not there.
    pub fn of_this_thread() -> Result<Self, NetworkError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Runs `work` with the calling thread inside this namespace, and brings the thread back to `home`.
    ///
    /// # Errors
    /// The thread cannot enter. (A thread that cannot come back home must not go on: that is a panic.)
    pub fn inside<T>(&self, home: &Self, work: impl FnOnce() -> T) -> Result<T, NetworkError> {
        let failed = |e: nix::errno::Errno| NetworkError::Io { what: "entering a network namespace".into(), source: e.into() };
        setns(&self.0, CloneFlags::CLONE_NEWNET).map_err(failed)?;
        let result = work();
        setns(&home.0, CloneFlags::CLONE_NEWNET).expect("a namespace that was open at the start can be entered again");
        Ok(result)
    }
}

/// Sets a value below /proc/sys/net of the calling thread's namespace.
///
/// # Errors
/// It cannot be written.
pub fn set(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).map_err(|source| NetworkError::Io { what: path, source })
}

/// As `set`, for a setting of a part that the kernel may not have.
///
/// # Errors
/// It is there and cannot be written.
pub fn set_if_there(name: &str, value: &str) -> Result<(), NetworkError> {
    match set(name, value) {
        Err(NetworkError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
