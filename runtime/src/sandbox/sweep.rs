//! Removing what a sandbox leaves, whether or not its shim helps.

use super::StartError;
use super::handle::Inner;
use super::pidfd::{PidFd, start_time};
use super::place::{ShimRecord, read_record, remove_tree};
use crate::cgroup::Cgroups;
use nix::errno::Errno;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long killed processes may take to be gone.
const GONE: Duration = Duration::from_secs(10);
/// One look at a descriptor.
const LOOK_MS: u16 = 1000;
/// The kernel lets go of a cgroup a moment after its last process, and says so to nobody.
const AGAIN: Duration = Duration::from_millis(2);

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Kills every process of a cgroup and waits until they are gone.
pub(super) async fn kill(inner: &Arc<Inner>, cgroup: &str) -> io::Result<()> {
    let (cgroups, cgroup) = (inner.cgroups.clone(), cgroup.to_owned());
    blocking(move || kill_all(&cgroups, &cgroup)).await
}

fn kill_all(cgroups: &Cgroups, cgroup: &str) -> io::Result<()> {
    let deadline = Instant::now() + GONE;
    loop {
        let killed = cgroups.kill(cgroup)?;
        if killed.is_empty() {
            return Ok(());
        }
        for process in killed {
            process.wait(LOOK_MS)?;
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("processes of {cgroup} do not end")));
        }
    }
}

/// Removes a cgroup, and whoever is in it.
pub(super) async fn cgroup(inner: &Arc<Inner>, cgroup: &str) -> io::Result<()> {
    let deadline = Instant::now() + GONE;
    loop {
        kill(inner, cgroup).await?;
        match inner.cgroups.remove(cgroup) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => tokio::time::sleep(AGAIN).await,
            other => return other,
        }
    }
}

/// Kills a shim and waits until it is gone.
pub(super) fn kill_shim(shim: ShimRecord) -> io::Result<()> {
    let process = match PidFd::open(shim.pid) {
        Err(Errno::ESRCH) => return Ok(()),
        other => other?,
    };
    // With the descriptor in hand, so that it is about this process.
    if !start_time(shim.pid).is_ok_and(|t| t == shim.start_time) {
        return Ok(());
    }
    if !process.wait(LOOK_MS)? {
        match process.signal(libc::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => drop(process.wait(LOOK_MS)?),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Ends a sandbox's shim if it has not ended, kills its processes, removes cgroup and directories.
pub(super) async fn sandbox(inner: &Arc<Inner>, id: &str, cgroup_path: &str) -> Result<(), StartError> {
    let place = inner.place(id);
    let shim: Option<ShimRecord> = read_record(&place.shim()).unwrap_or_default();
    if let Some(shim) = shim {
        blocking(move || kill_shim(shim)).await?;
    }
    if !cgroup_path.is_empty() {
        cgroup(inner, cgroup_path).await?;
    }
    let writable = inner.writable(id);
    Ok(blocking(move || remove_tree(&writable).and_then(|()| remove_tree(&place.0))).await?)
}
