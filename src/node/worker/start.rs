//! Starts one attempt of a container: image, files, specification, process, postStart hook.

use crate::node::container::{self, specification};
use crate::node::context::Context;
use crate::node::dirs::PodDirs;
use crate::node::env;
use crate::node::fields::Addresses;
use crate::node::files::{self, HostName};
use crate::node::hooks;
use crate::node::outcome::{Outcome, StartFailure};
use crate::node::sources::Claims;
use crate::node::state::{Ended, PodState, Running};
use crate::node::termination;
use crate::node::volumes::Source;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use orchd_runtime::StartError;
use orchd_runtime::image::Image;
use orchd_runtime::spec::ContainerSpec;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long the first list of services is waited for.
const SERVICES: Duration = Duration::from_secs(10);

/// What a start needs to know.
pub struct Request {
    pub context: Arc<Context>,
    pub pod: Arc<api::Pod>,
    pub container: api::Container,
    pub attempt: i32,
    pub ip: Option<IpAddr>,
    pub volumes: BTreeMap<String, Source>,
    /// Tells when the pod is deleted: nothing that may take long is then waited for.
    pub view: watch::Receiver<Arc<PodState>>,
    /// The id of the attempt before, which is removed once this one is there.
    pub before: Option<String>,
}

pub async fn run(request: Request) -> Outcome {
    let name = request.container.name.clone();
    let result = start(&request).await;
    let hook_failure = match &result {
        // Who is deleted meanwhile is stopped, whatever the hook would have said.
        Ok(running) => unless_deleted(&request, post_start(&request, running)).await.and_then(Result::err),
        Err(failure) => {
            tell_failure(&request, failure);
            None
        }
    };
    if matches!(result, Ok(_) | Err(StartFailure::Run(_))) {
        remove_before(&request);
    }
    Outcome::Started { container: name, result, hook_failure }
}

/// None if the pod is deleted before the work is done.
async fn unless_deleted<T>(request: &Request, work: impl Future<Output = T>) -> Option<T> {
    let mut view = request.view.clone();
    let deleted = async {
        // An error means that the pod's task has ended.
        let _ = view.wait_for(|state| state.deleted()).await;
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = deleted => None,
    }
}

fn tell_failure(request: &Request, failure: &StartFailure) {
    let message = match failure {
        StartFailure::Image(reason, _) => format!("Error: {reason}"),
        StartFailure::Config(message) | StartFailure::Create(message) => format!("Error: {message}"),
        StartFailure::Run(ended) => format!("Error: {}", ended.message),
    };
    request.context.events.pod(&request.pod, Some(&request.container.name), true, "Failed", message);
}

async fn start(request: &Request) -> Result<Running, StartFailure> {
    let Request { context, pod, container, .. } = request;
    let deleted = || StartFailure::Create("the pod is being deleted".into());
    let image = unless_deleted(request, context.puller.ensure(pod, container)).await.ok_or_else(deleted)??;
    let spec = prepare(request, &image).await.map_err(StartFailure::Config)?;
    let tell = |reason, text: &str| context.events.pod(pod, Some(&container.name), false, reason, text);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match context.containers.start_container(uid, spec.clone()).await {
        Ok((pid, started_at_ns)) => {
            tell("Created", "Container created");
            tell("Started", "Container started");
            let started_at = Timestamp::from_nanosecond(i128::from(started_at_ns)).unwrap_or_else(|_| context.clock.now());
            Ok(running(spec, pid, started_at))
        }
        Err(error @ StartError::Create(_)) => {
            tell("Created", "Container created");
            Err(StartFailure::Run(never_ran(context, &spec, &error)))
        }
        Err(error) => Err(StartFailure::Create(error.to_string())),
    }
}

fn running(spec: ContainerSpec, pid: i32, started_at: Timestamp) -> Running {
    Running {
        id: spec.id,
        pid,
        started_at,
        image: spec.labels.get(container::IMAGE).cloned().unwrap_or_default(),
        image_id: spec.image,
        process: spec.process,
        log_path: spec.log_path,
    }
}

/// As containerd and the kubelet show a container whose program could not be run.
fn never_ran(context: &Context, spec: &ContainerSpec, error: &StartError) -> Ended {
    Ended {
        id: spec.id.clone(),
        image_id: spec.image.clone(),
        code: 128,
        signal: None,
        reason: "StartError".into(),
        message: error.to_string(),
        started_at: Some(Timestamp::UNIX_EPOCH),
        finished_at: Some(context.clock.now()),
    }
}

/// The managed files, and the specification. The error is the message of CreateContainerConfigError.
async fn prepare(request: &Request, image: &Image) -> Result<ContainerSpec, String> {
    let Request { context, pod, container, .. } = request;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let claims = Claims::new(&context.sources, namespace, env::references(container));
    let synced = tokio::time::timeout(SERVICES, context.services.synced()).await;
    synced.map_err(|_| "services have not yet been read at least once, cannot construct envvars")?;
    let fetched = claims.fetch().await?;
    let mut services = context.services.in_namespace(namespace);
    if namespace != "default" {
        services.extend(context.services.in_namespace("default"));
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let dirs = context.dirs.pod(uid);
    let hostname = HostName::of(pod, &context.dns.domain);
    let host_network = pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true));
    let inputs = container::Inputs {
        env: env::Inputs {
            pod,
            container,
            addresses: Addresses { host: context.node_ip, pod: request.ip },
            node: &context.allocatable,
            services: &services,
            fetched: &fetched,
        },
        image,
        attempt: request.attempt,
        volumes: &request.volumes,
        dirs: &dirs,
        log_path: context.dirs.log(namespace, name, uid, &container.name, request.attempt),
        hostname: if host_network { &context.node_name } else { &hostname.name },
        seccomp_profiles: &context.dirs.seccomp,
        node_memory_bytes: context.memory_bytes,
    };
    let spec = specification(&inputs)?;
    let files = managed_files(request, &dirs, &hostname, host_network);
    let termination = dirs.termination_log(&container.name, request.attempt);
    let (log, attempt) = (spec.log_path.clone(), request.attempt);
    let write = move || write_files(&files, &termination, &log, attempt);
    tokio::task::spawn_blocking(write).await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    Ok(spec)
}

/// Path and text of what every container of the pod shares.
fn managed_files(request: &Request, dirs: &PodDirs, hostname: &HostName, host_network: bool) -> Vec<(PathBuf, String)> {
    let Request { context, pod, .. } = request;
    // Where the node has no such file, neither has the pod.
    let node = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    let hosts =
        if host_network { files::host_network_hosts(&node("/etc/hosts"), aliases) } else { files::hosts(request.ip, hostname, aliases) };
    let shown = if host_network { &context.node_name } else { &hostname.name };
    vec![
        (dirs.hosts(), hosts),
        (dirs.resolv_conf(), files::resolv_conf(pod, &node("/etc/resolv.conf"), &context.dns)),
        (dirs.hostname(), format!("{shown}\n")),
    ]
}

fn write_files(files: &[(PathBuf, String)], termination: &Path, log: &Path, attempt: i32) -> std::io::Result<()> {
    for (path, text) in files {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        // Other containers have it mounted: what is right already is left alone.
        if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
            continue;
        }
        std::fs::write(path, text)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    }
    termination::prepare(termination)?;
    let Some(dir) = log.parent() else { return Ok(()) };
    std::fs::create_dir_all(dir)?;
    // Of ended attempts, the last one's log and message are kept.
    let old = attempt - 2;
    for gone in [dir.join(format!("{old}.log")), termination.with_file_name(old.to_string())] {
        match std::fs::remove_file(gone) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// The hook runs before anyone hears that the container does.
async fn post_start(request: &Request, running: &Running) -> Result<(), String> {
    let Request { context, pod, container, .. } = request;
    let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
    let result = hooks::run(context, pod, container, running, request.ip, hook).await;
    if result.is_err() {
        let tell = |warning, reason, text: &str| context.events.pod(pod, Some(&container.name), warning, reason, text);
        tell(true, "FailedPostStartHook", "PostStartHook failed");
        tell(false, "Killing", "FailedPostStartHook");
    }
    result
}

/// The attempt before has been told about in the status; the runtime need not keep it.
fn remove_before(request: &Request) {
    let Some(id) = request.before.clone().filter(|id| !id.is_empty()) else { return };
    let (context, uid) = (Arc::clone(&request.context), request.pod.metadata.uid.clone().unwrap_or_default());
    tokio::spawn(async move {
        match context.containers.remove_container(&uid, &id).await {
            Ok(()) | Err(StartError::NoContainer(_) | StartError::NoSandbox(_)) => {}
            Err(error) => tracing::warn!(container = id, %error, "an ended container was not removed"),
        }
    });
}
