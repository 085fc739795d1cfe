//! Carries out the steps of a plan, each in a task of its own that sends its outcome to the pod's task.

use super::{Message, Worker, start};
use crate::client::{DeleteOptions, Target};
use crate::kinds::Pod;
use crate::meta::Reason;
use crate::node::backoff::go_seconds;
use crate::node::container::{POD_NAME, POD_NAMESPACE, POD_UID};
use crate::node::context::Context;
use crate::node::files::HostName;
use crate::node::hooks;
use crate::node::outcome::Outcome;
use crate::node::plan::Step;
use crate::node::resources;
use crate::node::state::{Failure, Problem, Running};
use crate::node::status;
use crate::node::volumes::local;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use orchd_runtime::StartError;
use orchd_runtime::spec::{Exit, SandboxSpec};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

impl Worker {
    /// Runs `io` and sends what comes of it.
    fn spawn(&self, io: impl Future<Output = Option<Message>> + Send + 'static) {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            if let Some(message) = io.await {
                // A closed inbox means that the agent has stopped; it will find out anew what there is.
                let _ = sender.send(message).await;
            }
        });
    }

    fn spawn_outcome(&self, io: impl Future<Output = Outcome> + Send + 'static) {
        self.spawn(async move { Some(io.await.into()) });
    }

    pub(super) fn carry_out(&mut self, step: Step) {
        let (context, pod) = (Arc::clone(&self.context), Arc::clone(&self.state.pod));
        let uid = self.state.uid().to_owned();
        match step {
            Step::CreateSandbox => self.spawn_outcome(async move { Outcome::Sandbox(create_sandbox(&context, &pod).await) }),
            Step::RemoveSandbox => self.spawn_outcome(async move { Outcome::SandboxRemoved(remove_sandbox(&context, &uid).await) }),
            Step::SetUpVolumes => self.set_up_volumes(),
            Step::Start { container } => self.start(&container),
            Step::TellBackOff { container } => self.tell_back_off(&container),
            Step::Kill { container, message, .. } => self.context.events.pod(&pod, Some(&container), false, "Killing", message),
            Step::RunPreStop { container, deadline } => self.run_pre_stop(&container, deadline),
            Step::Signal { container, last } => self.signal(&container, last),
            Step::Fail(Failure { reason: _, message }) => context.events.pod(&pod, None, false, "DeadlineExceeded", message),
            Step::TearDown => {
                let host_network = self.state.host_network();
                self.spawn_outcome(async move { Outcome::TornDown(tear_down(&context, &uid, host_network).await) });
            }
            Step::Finalize => self.finalize(),
            Step::Forget => {}
        }
    }

    fn set_up_volumes(&self) {
        let (volumes, context, pod) = (Arc::clone(&self.volumes), Arc::clone(&self.context), Arc::clone(&self.state.pod));
        let ip = self.state.ip;
        self.spawn_outcome(async move {
            let result = volumes.set_up(&pod, ip).await;
            if let Err(why) = &result {
                context.events.pod(&pod, None, true, "FailedMount", why.clone());
            }
            Outcome::Volumes(result)
        });
    }

    fn start(&self, name: &str) {
        let Some(container) = self.state.container_spec(name).cloned() else { return };
        let run = self.state.run(name);
        let before = run.ended().map(|e| e.id.clone());
        let request = start::Request {
            context: Arc::clone(&self.context),
            pod: Arc::clone(&self.state.pod),
            attempt: run.restarts + i32::from(before.is_some()),
            container,
            ip: self.state.ip,
            volumes: self.volumes.sources(&self.state.pod),
            view: self.view.subscribe(),
            before,
        };
        self.spawn_outcome(start::run(request));
    }

    fn tell_back_off(&self, name: &str) {
        let run = self.state.run(name);
        let image = self.state.container_spec(name).and_then(|c| c.image.clone()).unwrap_or_default();
        let tell = |warning, message| self.context.events.pod(&self.state.pod, Some(name), warning, "BackOff", message);
        if run.problem.as_ref().is_some_and(|p| p.reason == Problem::PULL) {
            tell(false, format!("Back-off pulling image \"{image}\""));
            self.context.events.pod(&self.state.pod, Some(name), true, "Failed", "Error: ImagePullBackOff");
        } else {
            tracing::debug!(pod = self.state.display(), container = name, "backs off for {}", go_seconds(run.back_off.delay()));
            tell(true, format!("Back-off restarting failed container {name} in pod {}", self.state.display()));
        }
    }

    fn run_pre_stop(&self, name: &str, deadline: Timestamp) {
        let (Some(container), Some(running)) = (self.state.container_spec(name).cloned(), self.state.run(name).running().cloned()) else {
            return;
        };
        let (context, pod, ip) = (Arc::clone(&self.context), Arc::clone(&self.state.pod), self.state.ip);
        self.spawn_outcome(async move {
            let left = Duration::try_from(deadline.duration_since(context.clock.now())).unwrap_or_default();
            if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
                let run = hooks::run(&context, &pod, &container, &running, ip, hook);
                let result = tokio::time::timeout(left, run).await.unwrap_or_else(|_| Err("it did not end within the grace period".into()));
                if let Err(why) = result {
                    tracing::debug!(pod = pod.metadata.name, container = container.name, error = why, "preStop hook failed");
                    context.events.pod(&pod, Some(&container.name), true, "FailedPreStopHook", "PreStopHook failed");
                }
            }
            Outcome::PreStopDone { id: running.id }
        });
    }

    fn signal(&self, name: &str, last: bool) {
        let Some(running) = self.state.run(name).running().cloned() else { return };
        let (context, uid) = (Arc::clone(&self.context), self.state.uid().to_owned());
        let asked = self.state.container_spec(name).and_then(|c| c.lifecycle.as_ref()?.stop_signal.clone());
        self.spawn(async move {
            let signal = if last { libc::SIGKILL } else { stop_signal(&context, asked, &running) };
            match context.containers.kill(&uid, &running.id, signal).await {
                Ok(()) => None,
                // Nothing will tell of the end of what is not there.
                Err(StartError::NoContainer(_) | StartError::NoSandbox(_)) => {
                    let now = i64::try_from(context.clock.now().as_nanosecond()).unwrap_or(i64::MAX);
                    let exit = Exit { code: 137, signal: None, oom_killed: false, started_at_ns: 0, finished_at_ns: now };
                    Some(Message::Exit { id: running.id, exit })
                }
                Err(error) => {
                    tracing::warn!(container = running.id, %error, "a container could not be signalled");
                    None
                }
            }
        });
    }

    fn finalize(&mut self) {
        let status = status::of(&self.state, &self.written, self.context.node_ip, self.context.clock.now());
        if status != self.written {
            self.write(status);
        }
        let flushed = self.writer.flushed();
        let (context, pod) = (Arc::clone(&self.context), Arc::clone(&self.state.pod));
        self.spawn_outcome(async move {
            flushed.await;
            let meta = &pod.metadata;
            let text = |t: &Option<String>| t.clone().unwrap_or_default();
            let options = DeleteOptions { grace_period_seconds: Some(0), uid: meta.uid.clone(), ..DeleteOptions::default() };
            let target = Target::object::<Pod>(&text(&meta.namespace), &text(&meta.name));
            match context.client.delete(&target, &options).await {
                Ok(()) => Outcome::Finalized(Ok(())),
                Err(status) if status.is(Reason::NotFound) || status.is(Reason::Conflict) => Outcome::Finalized(Ok(())),
                Err(status) => Outcome::Finalized(Err(status.message)),
            }
        });
    }

    /// Logs are the last that is left of a pod.
    pub(super) fn forget(&self) {
        let dir = self.context.dirs.logs(self.state.namespace(), self.state.name(), self.state.uid());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = local::remove_tree(&dir) {
                tracing::warn!(dir = %dir.display(), %error, "the logs of a pod that is gone were not removed");
            }
        });
    }
}

async fn create_sandbox(context: &Context, pod: &Arc<api::Pod>) -> Result<(i32, Option<IpAddr>), String> {
    let made = try_create_sandbox(context, pod).await;
    if let Err(why) = &made {
        context.events.pod(pod, None, true, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {why}"));
    }
    made
}

async fn try_create_sandbox(context: &Context, pod: &Arc<api::Pod>) -> Result<(i32, Option<IpAddr>), String> {
    let spec = sandbox_spec(context, pod)?;
    let (uid, host_network) = (spec.id.clone(), spec.host_network);
    let pid = context.containers.create_sandbox(spec).await.map_err(|e| e.to_string())?;
    let connected = async {
        if host_network {
            return Ok(context.node_ip);
        }
        let netns = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let ip = context.links.attach(&uid, &netns).await.map_err(|e| e.to_string())?;
        let file = context.dirs.pod(&uid).ip();
        write_ip(file, ip).await.map_err(|e| e.to_string())?;
        Ok(ip)
    };
    match connected.await {
        Ok(ip) => Ok((pid, Some(ip))),
        Err(why) => {
            // What cannot be removed now is removed with the pod.
            if let Err(error) = remove_sandbox(context, &uid).await {
                tracing::warn!(pod = pod.metadata.name, error, "a sandbox without network was not removed");
            }
            Err(why)
        }
    }
}

async fn write_ip(file: PathBuf, ip: IpAddr) -> std::io::Result<()> {
    if let Some(dir) = file.parent() {
        tokio::fs::create_dir_all(dir).await?;
    }
    tokio::fs::write(file, ip.to_string()).await
}

fn sandbox_spec(context: &Context, pod: &api::Pod) -> Result<SandboxSpec, String> {
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let meta = &pod.metadata;
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let labels = [(POD_NAME, &meta.name), (POD_NAMESPACE, &meta.namespace), (POD_UID, &meta.uid)];
    let host_network = spec.host_network == Some(true);
    let sysctls = spec.security_context.as_ref().and_then(|c| c.sysctls.as_ref());
    let name = HostName::of(pod, &context.dns.domain);
    let uid = text(&meta.uid);
    Ok(SandboxSpec {
        labels: labels.into_iter().map(|(k, v)| (k.to_owned(), text(v))).collect(),
        hostname: if host_network { context.node_name.clone() } else { name.kernel_name(spec.set_hostname_as_fqdn == Some(true))? },
        cgroup_path: resources::cgroup_path(&context.cgroup, spec, &uid),
        resources: resources::of_pod(spec),
        host_network,
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        share_process_namespace: spec.share_process_namespace == Some(true),
        sysctls: sysctls.into_iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect(),
        id: uid,
    })
}

/// Sandbox and link.
async fn remove_sandbox(context: &Context, uid: &str) -> Result<(), String> {
    let detached = context.links.detach(uid).await.map_err(|e| e.to_string());
    context.containers.remove_sandbox(uid).await.map_err(|e| e.to_string())?;
    detached
}

/// All that a pod has on the node but its logs.
pub async fn tear_down(context: &Context, uid: &str, host_network: bool) -> Result<(), String> {
    if host_network {
        context.containers.remove_sandbox(uid).await.map_err(|e| e.to_string())?;
    } else {
        remove_sandbox(context, uid).await?;
    }
    let dirs = context.dirs.pod(uid);
    let remove = move || local::remove_tree(&dirs.run).and_then(|()| local::remove_tree(&dirs.data));
    tokio::task::spawn_blocking(remove).await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// The pod's, else the image's, else SIGTERM.
fn stop_signal(context: &Context, asked: Option<String>, running: &Running) -> i32 {
    let image = || context.puller.images().get(&running.image_id)?.config.config().as_ref()?.stop_signal().clone();
    asked.or_else(image).and_then(|name| signal_number(&name)).unwrap_or(libc::SIGTERM)
}

/// `SIGUSR1`, `USR1`, `10`, `SIGRTMIN+3`.
fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return Some(number).filter(|n| (1..=64).contains(n));
    }
    let upper = name.to_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = bare.strip_prefix("RTMIN") {
        return Some(libc::SIGRTMIN() + offset.trim_start_matches('+').parse::<i32>().unwrap_or(0));
    }
    if let Some(offset) = bare.strip_prefix("RTMAX") {
        return Some(libc::SIGRTMAX() - offset.trim_start_matches('-').parse::<i32>().unwrap_or(0));
    }
    format!("SIG{bare}").parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, number) in [("SIGTERM", 15), ("quit", 3), ("SIGUSR1", 10), ("9", 9), ("SIGRTMIN+3", libc::SIGRTMIN() + 3)] {
            assert_eq!(signal_number(name), Some(number), "{name}");
        }
        assert_eq!((signal_number("SIGNONE"), signal_number("0"), signal_number("99")), (None, None, None));
    }
}
