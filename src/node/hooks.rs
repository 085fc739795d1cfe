//! Lifecycle hooks: postStart and preStop.

use super::context::Context;
use super::exec;
use super::probes::http;
use super::state::Running;
use k8s_openapi::api::core::v1 as api;
use std::net::IpAddr;
use std::time::Duration;

/// Runs a hook to its end. The caller bounds the time.
///
/// # Errors
/// Why it failed, for an event.
pub async fn run(
    context: &Context,
    pod: &api::Pod,
    container: &api::Container,
    running: &Running,
    ip: Option<IpAddr>,
    handler: &api::LifecycleHandler,
) -> Result<(), String> {
    if let Some(action) = &handler.exec {
        let command = action.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let failed = |why: String, output: &str| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let container = &container.name;
            format!(
                "Exec lifecycle hook ([{shown}]) for Container \"{container}\" in Pod \"{name}\" failed - error: {why}, message: {output:?}"
            )
        };
        let done = exec::run(&*context.containers, uid, running, command).await.map_err(|why| failed(why, ""))?;
        return match done.code {
            0 => Ok(()),
            code => Err(failed(format!("command '{shown}' exited with {code}: {}", done.output), &done.output)),
        };
    }
    if let Some(action) = &handler.http_get {
        let ip = ip.map(|ip| ip.to_string()).unwrap_or_default();
        let ask = http::Ask::of(action, container, &ip)?;
        // Any answer will do.
        return http::get(&ask).await.map(drop);
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler: a hook has to be exec, httpGet or sleep".into())
}
