//! Listening to a shim: ends of its containers, and its own.

use super::client::{ANSWER, Client};
use super::handle::Inner;
use super::place::{now_ns, write_record};
use super::wire::{Reply, Request};
use super::{RuntimeEvent, StartError, sweep};
use crate::spec::{ContainerState, ContainerStatus, Exit};
use std::sync::{Arc, Weak};

/// Connects to a sandbox's shim and follows it until it ends; returns what it has now.
pub(super) async fn watch(inner: &Arc<Inner>, sandbox: &str) -> Result<Vec<ContainerStatus>, StartError> {
    let mut client = Client::connect(&inner.place(sandbox)).await.map_err(|e| StartError::Shim(e.to_string()))?;
    let (Reply::State { containers }, _) = client.ask(Request::Watch, &[], ANSWER).await? else {
        return Err(StartError::Shim("an answer to another question".into()));
    };
    // It must not keep alive what it serves: a runtime that is dropped ends its watches.
    let weak = Arc::downgrade(inner);
    let closed = inner.events.clone();
    let name = sandbox.to_owned();
    tokio::spawn(async move {
        tokio::select! {
            () = follow(client, &weak, &name) => {}
            () = closed.closed() => {}
        }
    });
    Ok(containers)
}

async fn follow(mut client: Client, inner: &Weak<Inner>, sandbox: &str) {
    loop {
        match client.receive().await {
            Ok((Reply::Exited { container, exit }, _)) => {
                let Some(inner) = inner.upgrade() else { return };
                if inner.note_exit(sandbox, &container, &exit) {
                    inner.tell(RuntimeEvent::ContainerExited { sandbox: sandbox.to_owned(), container, exit }).await;
                }
            }
            Ok((other, _)) => tracing::debug!("shim of {sandbox}: unexpected {other:?}"),
            Err(e) => {
                tracing::debug!("shim of {sandbox}: {e}");
                if let Some(inner) = inner.upgrade() {
                    lost(&inner, sandbox).await;
                }
                return;
            }
        }
    }
}

/// A shim has ended. If nobody asked for that, its containers are killed: nobody could wait for them.
pub(super) async fn lost(inner: &Arc<Inner>, sandbox: &str) {
    let cgroup = {
        let mut sandboxes = inner.lock();
        match sandboxes.get_mut(sandbox) {
            Some(found) if !found.removing && !found.lost => {
                found.lost = true;
                found.status.spec.cgroup_path.clone()
            }
            _ => return,
        }
    };
    if let Err(e) = sweep::kill(inner, &cgroup).await {
        tracing::warn!("killing the containers of sandbox {sandbox}: {e}");
    }
    let place = inner.place(sandbox);
    let mut ended = Vec::new();
    if let Some(found) = inner.lock().get_mut(sandbox) {
        for status in &mut found.status.containers {
            if let ContainerState::Running { started_at_ns, .. } = status.state {
                // It may have ended, and been recorded, before its shim did.
                let recorded = super::place::read_record(&place.exit(&status.spec.id)).ok().flatten();
                let exit = recorded.unwrap_or(Exit {
                    code: 128 + libc::SIGKILL,
                    signal: Some(libc::SIGKILL),
                    oom_killed: false,
                    started_at_ns,
                    finished_at_ns: now_ns(),
                });
                status.state = ContainerState::Exited(exit.clone());
                ended.push((status.spec.id.clone(), exit));
            }
        }
    }
    for (container, exit) in ended {
        if let Err(e) = write_record(&place.exit(&container), &exit) {
            tracing::warn!("recording the end of container {container}: {e}");
        }
        inner.tell(RuntimeEvent::ContainerExited { sandbox: sandbox.to_owned(), container, exit }).await;
    }
    inner.tell(RuntimeEvent::SandboxLost { sandbox: sandbox.to_owned() }).await;
}
