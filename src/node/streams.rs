//! What the tunnels ask of the agent: logs, commands, and whose address is whose.

use super::agent::Agent;
use super::serve::{ExecRequest, LogSource, Pods};
use super::state::PodState;
use crate::meta::{Reason, Status};
use async_trait::async_trait;
use orchd_runtime::{ExecSession, StartError};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[async_trait]
impl Pods for Agent {
    fn log(&self, namespace: &str, pod: &str, container: &str, previous: bool) -> Result<LogSource, Status> {
        let found = self.container(namespace, pod, Some(container), previous)?;
        let ended = CancellationToken::new();
        match self.follow(namespace, pod) {
            Some(view) if found.running => drop(tokio::spawn(until_ended(view, found.name, found.id, ended.clone()))),
            _ => ended.cancel(),
        }
        Ok(LogSource { path: found.log_path, ended })
    }

    async fn exec(&self, namespace: &str, pod: &str, container: &str, request: ExecRequest) -> Result<ExecSession, Status> {
        let found = self.container(namespace, pod, Some(container), false)?;
        let not_running = || Status::new(Reason::InternalError, format!("container not found (\"{container}\")"));
        let mut process = found.process.ok_or_else(not_running)?;
        (process.args, process.tty) = (request.command, request.tty);
        if request.tty && !process.env.iter().any(|v| v.starts_with("TERM=")) {
            process.env.push("TERM=xterm".into());
        }
        self.containers().exec(&found.sandbox, &found.id, process, request.stdin).await.map_err(|error| match error {
            StartError::NoContainer(_) | StartError::NoSandbox(_) => not_running(),
            error => Status::internal(format!("error executing command in container: {error}")),
        })
    }

    fn has_address(&self, address: IpAddr) -> bool {
        self.pods().iter().any(|p| p.ip == Some(address))
    }
}

/// Cancels `ended` once that run of the container is over.
async fn until_ended(mut view: watch::Receiver<Arc<PodState>>, name: String, id: String, ended: CancellationToken) {
    let _guard = ended.drop_guard();
    // An error means that the pod's task has ended, and its containers with it.
    let over = view.wait_for(|state| state.removed || state.run(&name).running().is_none_or(|r| r.id != id)).await;
    tracing::trace!(known = over.is_ok(), "a followed container has ended");
}
