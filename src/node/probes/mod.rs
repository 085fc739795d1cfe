//! Probes: a task for each probe of each running container, which counts results and reports what they amount to.

pub mod grpc;
pub mod http;

pub use http::connect;

use super::context::Context;
use super::exec;
use super::outcome::Outcome;
use super::state::{Running, Unhealthy};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub fn of(self, container: &api::Container) -> Option<&api::Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What one try says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Success,
    /// A success to be told about.
    Warning(String),
    Failure(String),
    /// It could not be tried; counts as nothing.
    Error(String),
}

/// Counts tries in a row.
#[derive(Debug)]
struct Counter {
    success: i32,
    failure: i32,
    last: Option<bool>,
    run: i32,
}

impl Counter {
    fn of(probe: &api::Probe) -> Self {
        let positive = |n: Option<i32>, default| n.filter(|n| *n > 0).unwrap_or(default);
        Self { success: positive(probe.success_threshold, 1), failure: positive(probe.failure_threshold, 3), last: None, run: 0 }
    }

    /// The probe's result, once its threshold is reached.
    fn count(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        (self.run >= if success { self.success } else { self.failure }).then_some(success)
    }
}

/// What a probe task knows.
pub struct Target {
    pub context: Arc<Context>,
    pub pod: Arc<api::Pod>,
    pub container: api::Container,
    pub running: Running,
    pub ip: Option<IpAddr>,
}

/// The port of an action: a number, or the name of one of the container's ports.
///
/// # Errors
/// The container has no such port.
pub fn port(port: &IntOrString, container: &api::Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    let shown = || match port {
        IntOrString::Int(n) => n.to_string(),
        IntOrString::String(name) => format!("{name:?}"),
    };
    number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0).ok_or_else(|| format!("couldn't find port: {}", shown()))
}

/// Probes until the result is final (startup), the container is to be restarted, or the task is aborted.
pub async fn run(target: Target, kind: ProbeKind, report: impl AsyncFn(Outcome)) {
    let Some(probe) = kind.of(&target.container).cloned() else { return };
    let seconds = |n: Option<i32>, default: u64| n.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default);
    let delay = Duration::from_secs(probe.initial_delay_seconds.and_then(|n| u64::try_from(n).ok()).unwrap_or(0));
    let since = target.context.clock.now().duration_since(target.running.started_at);
    let wait = delay.saturating_sub(Duration::try_from(since).unwrap_or_default());
    let mut ticks = interval_at(tokio::time::Instant::now() + wait, Duration::from_secs(seconds(probe.period_seconds, 10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let limit = Duration::from_secs(seconds(probe.timeout_seconds, 1));
    let mut counter = Counter::of(&probe);
    let mut shown = None;
    loop {
        ticks.tick().await;
        let verdict = attempt(&target, &probe, limit).await;
        tell(&target, kind, &verdict);
        let success = match verdict {
            Verdict::Success | Verdict::Warning(_) => true,
            Verdict::Failure(_) => false,
            Verdict::Error(_) => continue,
        };
        let Some(result) = counter.count(success) else { continue };
        if shown != Some(result) && kind == ProbeKind::Readiness {
            report(Outcome::Readiness { id: target.running.id.clone(), ready: result }).await;
        }
        shown = Some(result);
        match (kind, result) {
            (ProbeKind::Startup, true) => return report(Outcome::StartedUp { id: target.running.id.clone() }).await,
            (ProbeKind::Startup | ProbeKind::Liveness, false) => return report(unhealthy(&target, kind, &probe)).await,
            _ => {}
        }
    }
}

fn unhealthy(target: &Target, kind: ProbeKind, probe: &api::Probe) -> Outcome {
    let message = format!("Container {} failed {} probe, will be restarted", target.container.name, kind.title().to_lowercase());
    let unhealthy = Unhealthy { message, grace: probe.termination_grace_period_seconds };
    Outcome::Unhealthy { id: target.running.id.clone(), unhealthy }
}

fn tell(target: &Target, kind: ProbeKind, verdict: &Verdict) {
    let title = kind.title();
    let (reason, message) = match verdict {
        Verdict::Success => return,
        Verdict::Warning(text) => ("ProbeWarning", format!("{title} probe warning: {text}")),
        Verdict::Failure(text) => ("Unhealthy", format!("{title} probe failed: {text}")),
        Verdict::Error(text) => ("Unhealthy", format!("{title} probe errored and resulted in unknown state: {text}")),
    };
    target.context.events.pod(&target.pod, Some(&target.container.name), true, reason, message);
}

/// One try.
async fn attempt(target: &Target, probe: &api::Probe, limit: Duration) -> Verdict {
    let ip = target.ip.map(|ip| ip.to_string()).unwrap_or_default();
    if let Some(action) = &probe.exec {
        return exec_probe(target, action, limit).await;
    }
    if let Some(action) = &probe.http_get {
        return match http::Ask::of(action, &target.container, &ip) {
            Ok(ask) => http_probe(&ask, limit).await,
            Err(why) => Verdict::Error(why),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or(ip);
        return match port(&action.port, &target.container) {
            Ok(port) => tcp_probe(&host, port, limit).await,
            Err(why) => Verdict::Error(why),
        };
    }
    if let Some(action) = &probe.grpc {
        return grpc_probe(&ip, action, limit).await;
    }
    Verdict::Error(format!("missing probe handler for {}", target.container.name))
}

async fn exec_probe(target: &Target, action: &api::ExecAction, limit: Duration) -> Verdict {
    let command = action.command.clone().unwrap_or_default();
    let uid = target.pod.metadata.uid.as_deref().unwrap_or_default();
    match timeout(limit, exec::run(&*target.context.containers, uid, &target.running, command.clone())).await {
        Ok(Ok(done)) if done.code == 0 => Verdict::Success,
        Ok(Ok(done)) => Verdict::Failure(done.output),
        Ok(Err(why)) => Verdict::Error(why),
        Err(_) => Verdict::Failure(format!("command timed out: {:?} timed out after {}s", command.join(" "), limit.as_secs())),
    }
}

async fn http_probe(ask: &http::Ask, limit: Duration) -> Verdict {
    match timeout(limit, http::get(ask)).await {
        Ok(Ok(answer)) if answer.redirected_away => Verdict::Warning(format!("Probe terminated redirects, Response body: {}", answer.body)),
        Ok(Ok(answer)) if (200..400).contains(&answer.status.as_u16()) => Verdict::Success,
        Ok(Ok(answer)) => Verdict::Failure(format!("HTTP probe failed with statuscode: {}", answer.status.as_u16())),
        Ok(Err(why)) => Verdict::Failure(why),
        Err(_) => {
            let why = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
            Verdict::Failure(format!("Get \"{}\": {why}", ask.url()))
        }
    }
}

async fn tcp_probe(host: &str, port: u16, limit: Duration) -> Verdict {
    match timeout(limit, connect(host, port)).await {
        Ok(Ok(_)) => Verdict::Success,
        Ok(Err(why)) => Verdict::Failure(why),
        Err(_) => Verdict::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}

async fn grpc_probe(ip: &str, action: &api::GRPCAction, limit: Duration) -> Verdict {
    let Ok(port) = u16::try_from(action.port) else { return Verdict::Error(format!("couldn't find port: {}", action.port)) };
    match timeout(limit, grpc::check(ip, port, action.service.as_deref().unwrap_or_default())).await {
        Ok(Ok(())) => Verdict::Success,
        Ok(Err(why)) => Verdict::Failure(why),
        Err(_) => {
            let seconds = limit.as_secs();
            Verdict::Failure(format!("timeout: failed to connect service \"{ip}:{port}\" within {seconds}s: context deadline exceeded"))
        }
    }
}

#[cfg(test)]
mod tests;
