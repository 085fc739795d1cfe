//! Where things are on disk, and records that come into being whole.
//!
//! Below the run directory: `sandboxes/<id>/` with `spec.json`, `shim.json`, `sock`, and for each container `c/<id>/` with
//! `container.json` (once it runs) and `exit.json` (once it has ended). Writable layers are on disk, below
//! `containers/<sandbox>/<container>`.

use super::StartError;
use crate::spec::ContainerSpec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// A sandbox's directory on tmpfs.
#[derive(Clone, Debug)]
pub struct Place(pub PathBuf);

/// Who the shim is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ShimRecord {
    pub pid: i32,
    /// Clock ticks since boot, so that a pid used again is not mistaken for it.
    pub start_time: u64,
}

/// A container that was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub spec: ContainerSpec,
    pub pid: i32,
    pub started_at_ns: i64,
}

impl Place {
    pub fn spec(&self) -> PathBuf {
        self.0.join("spec.json")
    }
    pub fn shim(&self) -> PathBuf {
        self.0.join("shim.json")
    }
    pub fn shm(&self) -> PathBuf {
        self.0.join("shm")
    }
    pub fn cgroups(&self) -> PathBuf {
        self.0.join("cg")
    }
    pub fn containers(&self) -> PathBuf {
        self.0.join("c")
    }
    /// libcontainer's own records.
    pub fn libcontainer(&self) -> PathBuf {
        self.0.join("lc")
    }
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }
    pub fn rootfs(&self, id: &str) -> PathBuf {
        self.container(id).join("rootfs")
    }
    pub fn record(&self, id: &str) -> PathBuf {
        self.container(id).join("container.json")
    }
    pub fn exit(&self, id: &str) -> PathBuf {
        self.container(id).join("exit.json")
    }

    /// The socket, by a path short enough for a socket's address; the file must outlive its use.
    ///
    /// # Errors
    /// The sandbox is gone.
    pub fn socket(&self) -> io::Result<(File, PathBuf)> {
        let dir = File::open(&self.0)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/sock", dir.as_raw_fd()));
        Ok((dir, path))
    }
}

/// A name that is one file name and nothing else.
///
/// # Errors
/// `Invalid`.
pub fn check_id(id: &str) -> Result<(), StartError> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if id.is_empty() || id.len() > 128 || id.starts_with('.') || !id.bytes().all(plain) {
        return Err(StartError::Invalid(format!("invalid id {id:?}: letters, digits, '-', '_' and '.' only")));
    }
    Ok(())
}

/// Writes a record under its name only once it is whole.
///
/// # Errors
/// The directory is gone or full.
pub fn write_record<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    let part = path.with_extension("new");
    fs::write(&part, serde_json::to_vec(record)?)?;
    fs::rename(part, path)
}

/// None if there is none.
///
/// # Errors
/// It is not what was expected.
pub fn read_record<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        bytes => serde_json::from_slice(&bytes?).map(Some).map_err(|e| io::Error::other(format!("{}: {e}", path.display()))),
    }
}

/// Removes a directory and what is in it; one that is gone is no error.
///
/// # Errors
/// Something in it cannot be removed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Nanoseconds since 1970.
pub fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_names() {
        for good in ["a", "0f-1", "pod_1.x"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", ".hidden", "a b", "a\0"] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn records_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shim.json");
        assert!(read_record::<ShimRecord>(&path).unwrap().is_none());
        write_record(&path, &ShimRecord { pid: 7, start_time: 8 }).unwrap();
        assert_eq!(read_record::<ShimRecord>(&path).unwrap().unwrap().start_time, 8);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(&path, "{").unwrap();
        assert!(read_record::<ShimRecord>(&path).is_err());
    }
}
