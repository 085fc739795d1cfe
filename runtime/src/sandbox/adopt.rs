//! Finding again what an earlier agent left: shims that run, shims that died, and what neither has.

use super::handle::{Inner, Sandbox};
use super::pidfd::start_time;
use super::place::{ContainerRecord, Place, ShimRecord, read_record};
use super::{RuntimeEvent, StartError, sweep, watch};
use crate::spec::{ContainerState, ContainerStatus, Exit, SandboxSpec, SandboxStatus};
use std::io;
use std::sync::Arc;

/// # Errors
/// The run directory cannot be read.
pub(super) async fn adopt(inner: &Arc<Inner>) -> Result<(), StartError> {
    let mut sandboxes = Vec::new();
    for entry in std::fs::read_dir(inner.options.run_dir.join("sandboxes"))? {
        sandboxes.push(entry?.file_name().to_string_lossy().into_owned());
    }
    for id in &sandboxes {
        let spec: Option<SandboxSpec> = read_record(&inner.place(id).spec()).unwrap_or_else(|e| {
            tracing::warn!("sandbox {id}: {e}");
            None
        });
        let shim: Option<ShimRecord> = read_record(&inner.place(id).shim()).unwrap_or_default();
        match (spec, shim) {
            (Some(spec), Some(shim)) => adopt_one(inner, spec, shim).await?,
            // Its creation was interrupted.
            (spec, _) => sweep::sandbox(inner, id, &spec.map(|s| s.cgroup_path).unwrap_or_default()).await?,
        }
    }
    // Writable layers of sandboxes that a reboot has ended.
    for entry in std::fs::read_dir(inner.options.dir.join("containers"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !inner.lock().contains_key(&name) {
            super::place::remove_tree(&inner.writable(&name))?;
        }
    }
    Ok(())
}

async fn adopt_one(inner: &Arc<Inner>, spec: SandboxSpec, shim: ShimRecord) -> Result<(), StartError> {
    let id = spec.id.clone();
    let containers = recorded(&inner.place(&id))?;
    let status = SandboxStatus { spec, pid: shim.pid, containers };
    inner.lock().insert(id.clone(), Sandbox { status, lost: false, removing: false });
    let lives = start_time(shim.pid).is_ok_and(|t| t == shim.start_time);
    let followed = if lives { watch::watch(inner, &id).await } else { Err(StartError::Shim("it has died".into())) };
    match followed {
        Ok(containers) => {
            let ended = containers.iter().filter_map(|c| match &c.state {
                ContainerState::Exited(exit) => Some((c.spec.id.clone(), exit.clone())),
                ContainerState::Running { .. } => None,
            });
            let ended: Vec<(String, Exit)> = ended.collect();
            if let Some(found) = inner.lock().get_mut(&id) {
                found.status.containers = containers;
            }
            tell(inner, &id, ended);
        }
        Err(e) => {
            tracing::warn!("the shim of sandbox {id} is lost: {e}");
            if lives {
                // One that does not answer is of no use to its containers.
                sweep::kill_shim(shim)?;
            }
            let inner = inner.clone();
            // Events wait for their reader, who has not begun.
            tokio::spawn(async move { watch::lost(&inner, &id).await });
        }
    }
    Ok(())
}

fn tell(inner: &Arc<Inner>, sandbox: &str, ended: Vec<(String, Exit)>) {
    let (inner, sandbox) = (inner.clone(), sandbox.to_owned());
    tokio::spawn(async move {
        for (container, exit) in ended {
            inner.tell(RuntimeEvent::ContainerExited { sandbox: sandbox.clone(), container, exit }).await;
        }
    });
}

/// What the records of a sandbox say of its containers.
fn recorded(place: &Place) -> io::Result<Vec<ContainerStatus>> {
    let entries = match std::fs::read_dir(place.containers()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut containers = Vec::new();
    for entry in entries {
        let id = entry?.file_name().to_string_lossy().into_owned();
        let Some(record) = read_record::<ContainerRecord>(&place.record(&id))? else { continue };
        let state = match read_record::<Exit>(&place.exit(&id))? {
            Some(exit) => ContainerState::Exited(exit),
            None => ContainerState::Running { pid: record.pid, started_at_ns: record.started_at_ns },
        };
        containers.push(ContainerStatus { spec: record.spec, state });
    }
    Ok(containers)
}
