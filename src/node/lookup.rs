//! Finding a container for log, exec and proxy requests.

use super::dirs::Dirs;
use super::state::{Phase, PodState};
use crate::meta::Status;
use orchd_runtime::spec::ProcessSpec;
use std::net::IpAddr;
use std::path::PathBuf;

/// A container, as a stream needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    /// The sandbox's id: the pod's uid.
    pub sandbox: String,
    /// The container's id in the runtime; empty if it was never there.
    pub id: String,
    pub name: String,
    /// CRI log of the attempt that was asked for.
    pub log_path: PathBuf,
    /// It runs: its log may still grow, and commands can be run in it.
    pub running: bool,
    /// What a command inherits (environment, directory, user, capabilities); None if it does not run.
    pub process: Option<ProcessSpec>,
    pub pod_ip: Option<IpAddr>,
}

/// The container called `name`, or the pod's only one; its present attempt, or the one before it.
///
/// # Errors
/// 400 in the kubelet's words: no such container, none named where there are several, or not started yet.
pub fn find(state: &PodState, dirs: &Dirs, name: Option<&str>, previous: bool) -> Result<ContainerRef, Status> {
    let (pod, wanted) = (state.name(), name.filter(|n| !n.is_empty()));
    let name = match wanted {
        Some(name) => name,
        None if state.mains().len() == 1 => &state.mains()[0].name,
        None => {
            let names: Vec<&str> = state.specs().map(|(c, _)| c.name.as_str()).collect();
            let choices = names.join(" ");
            return Err(Status::bad_request(format!("a container name must be specified for pod {pod}, choose one of: [{choices}]")));
        }
    };
    if state.container_spec(name).is_none() {
        return Err(Status::bad_request(format!("container {name} is not valid for pod {pod}")));
    }
    let run = state.run(name);
    let running = run.running();
    let attempt = match (previous, &run.phase) {
        (false, Phase::Running(_) | Phase::Ended(_) | Phase::Starting(Some(_))) => run.restarts,
        (false, Phase::Waiting | Phase::Starting(None)) => {
            let why =
                run.problem.as_ref().map_or(if state.inits().is_empty() { "ContainerCreating" } else { "PodInitializing" }, |p| p.reason);
            return Err(Status::bad_request(format!("container \"{name}\" in pod \"{pod}\" is waiting to start: {why}")));
        }
        // The attempt before the one that runs, or the one that has ended and is to be restarted.
        (true, Phase::Running(_)) if run.last.is_some() => run.restarts - 1,
        (true, Phase::Ended(_) | Phase::Starting(Some(_))) => {
            if run.last.is_some() {
                run.restarts - 1
            } else {
                run.restarts
            }
        }
        (true, _) => {
            return Err(Status::bad_request(format!("previous terminated container \"{name}\" in pod \"{pod}\" not found")));
        }
    };
    let running = running.filter(|_| !previous);
    let log_path = running.map_or_else(|| dirs.log(state.namespace(), pod, state.uid(), name, attempt), |r| r.log_path.clone());
    Ok(ContainerRef {
        sandbox: state.uid().to_owned(),
        id: running.map(|r| r.id.clone()).or_else(|| run.ended().map(|e| e.id.clone())).unwrap_or_default(),
        name: name.to_owned(),
        log_path,
        running: running.is_some(),
        process: running.map(|r| r.process.clone()),
        pod_ip: state.ip,
    })
}
