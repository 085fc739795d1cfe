//! A pod's volumes on this node: made before its containers start, kept current while it lives, removed when it ends.

pub mod atomic;
pub mod local;
pub mod payload;
mod tokens;

use super::context::Context;
use super::fields::Addresses;
use super::sources::Claims;
use atomic::Ownership;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokens::Tokens;
use tokio::sync::Notify;

/// Where a volume lies, for mounting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub path: PathBuf,
    /// Whatever the mount asks for.
    pub read_only: bool,
}

/// The volumes of one pod.
pub struct Volumes {
    context: Arc<Context>,
    uid: String,
    claims: Claims,
    tokens: tokio::sync::Mutex<Tokens>,
    /// Set once all is set up; only then is anything kept current.
    settled: tokio::sync::watch::Sender<bool>,
}

/// `MountVolume.SetUp failed…`, the message of a FailedMount event.
fn failed(volume: &str, why: impl std::fmt::Display) -> String {
    format!("MountVolume.SetUp failed for volume \"{volume}\" : {why}")
}

fn ownership(pod: &api::Pod) -> Ownership {
    let group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|c| c.fs_group);
    Ownership { fs_group: group.and_then(|g| u32::try_from(g).ok()) }
}

/// Which plugin serves a volume: the name of its directory.
fn plugin(volume: &api::Volume) -> Option<&'static str> {
    match volume {
        v if v.config_map.is_some() => Some("configmap"),
        v if v.secret.is_some() => Some("secret"),
        v if v.downward_api.is_some() => Some("downward-api"),
        v if v.projected.is_some() => Some("projected"),
        v if v.host_path.is_some() => Some("host-path"),
        v => v.empty_dir.as_ref().map(|e| if e.medium.as_deref() == Some("Memory") { "memory" } else { "empty-dir" }),
    }
}

impl Volumes {
    /// `claims` are the sources of the pod's volumes (and maybe of its environment).
    pub fn new(context: Arc<Context>, uid: &str, claims: Claims) -> Self {
        Self {
            context,
            uid: uid.to_owned(),
            claims,
            tokens: tokio::sync::Mutex::default(),
            settled: tokio::sync::watch::Sender::new(false),
        }
    }

    /// Where each volume lies.
    pub fn sources(&self, pod: &api::Pod) -> BTreeMap<String, Source> {
        let dirs = self.context.dirs.pod(&self.uid);
        let of = |v: &api::Volume| {
            let plugin = plugin(v)?;
            let host = v.host_path.as_ref().map(|h| PathBuf::from(&h.path));
            let path = host.unwrap_or_else(|| dirs.volume(plugin, &v.name));
            let read_only = matches!(plugin, "configmap" | "secret" | "downward-api" | "projected");
            Some((v.name.clone(), Source { path, read_only }))
        };
        payload::volumes(pod).iter().filter_map(of).collect()
    }

    /// Makes every volume.
    ///
    /// # Errors
    /// The message of a FailedMount event. What has been made stays; the next try goes on from there.
    pub async fn set_up(&self, pod: &Arc<api::Pod>, ip: Option<IpAddr>) -> Result<(), String> {
        let dirs = self.context.dirs.pod(&self.uid);
        let local = Arc::clone(pod);
        let made = tokio::task::spawn_blocking(move || set_up_local(&local, &dirs)).await;
        made.map_err(|e| e.to_string())??;
        self.refresh(pod, ip).await?;
        self.settled.send_replace(true);
        Ok(())
    }

    /// Brings all that comes from the API up to date. Returns when a token is to be renewed.
    ///
    /// # Errors
    /// As `set_up`; files stay as they were.
    pub async fn refresh(&self, pod: &Arc<api::Pod>, ip: Option<IpAddr>) -> Result<Option<Timestamp>, String> {
        let now = self.context.clock.now();
        let asks = payload::token_asks(pod);
        let mut tokens = self.tokens.lock().await;
        if !asks.is_empty() {
            let name = payload::volumes(pod).iter().find(|v| v.projected.is_some()).map(|v| v.name.clone()).unwrap_or_default();
            tokens.renew(&*self.context.client, pod, &asks, now).await.map_err(|why| failed(&name, why))?;
        }
        let (texts, next) = (tokens.texts(), tokens.next_renewal());
        // Held on to: two refreshes must not write one volume at once.
        let fetched = self.claims.fetch().await?;
        let context = Arc::clone(&self.context);
        let (uid, pod) = (self.uid.clone(), Arc::clone(pod));
        let write = move || {
            let addresses = Addresses { host: context.node_ip, pod: ip };
            let inputs = payload::Inputs { pod: &pod, addresses, node: &context.allocatable, fetched: &fetched, tokens: &texts };
            write_all(&inputs, &context.dirs.pod(&uid), now)
        };
        tokio::task::spawn_blocking(write).await.map_err(|e| e.to_string())??;
        Ok(next)
    }

    /// Keeps the volumes current for as long as it is polled: after changes of sources and of the pod, and for tokens in
    /// time. Notifies `changed` after a change of a source.
    pub async fn keep_current(
        &self,
        mut pods: tokio::sync::watch::Receiver<Arc<api::Pod>>,
        ip: impl Fn() -> Option<IpAddr>,
        changed: Arc<Notify>,
    ) {
        let mut settled = self.settled.subscribe();
        let (mut seen, mut renew_at) = (Vec::new(), None);
        loop {
            tokio::select! {
                Ok(()) = settled.changed() => {
                    renew_at = self.tokens.lock().await.next_renewal();
                    continue;
                }
                () = self.claims.changed(&mut seen) => changed.notify_one(),
                alive = pods.changed() => if alive.is_err() { return },
                () = self.context.sleep_until(renew_at) => {}
            }
            if !*settled.borrow() {
                continue;
            }
            let pod = Arc::clone(&pods.borrow_and_update());
            renew_at = match self.refresh(&pod, ip()).await {
                Ok(next) => next,
                Err(why) => {
                    // A source that is gone leaves the files as they were; its return is a change that wakes us.
                    tracing::debug!(pod = pod.metadata.name, error = why, "volumes were not refreshed");
                    self.tokens.lock().await.next_renewal()
                }
            };
        }
    }
}

/// emptyDirs and hostPaths.
fn set_up_local(pod: &api::Pod, dirs: &super::dirs::PodDirs) -> Result<(), String> {
    for volume in payload::volumes(pod) {
        let Some(plugin) = plugin(volume) else {
            return Err(failed(&volume.name, "no volume plugin matched"));
        };
        if let Some(source) = &volume.empty_dir {
            local::empty_dir(source, &dirs.volume(plugin, &volume.name), ownership(pod)).map_err(|e| failed(&volume.name, e))?;
        }
        if let Some(source) = &volume.host_path {
            local::host_path(source).map_err(|e| failed(&volume.name, e))?;
        }
    }
    Ok(())
}

fn write_all(inputs: &payload::Inputs<'_>, dirs: &super::dirs::PodDirs, now: Timestamp) -> Result<(), String> {
    for volume in payload::volumes(inputs.pod) {
        let Some(files) = payload::of(inputs, volume).map_err(|why| failed(&volume.name, why))? else { continue };
        let Some(plugin) = plugin(volume) else { continue };
        let target = dirs.volume(plugin, &volume.name);
        atomic::write(&target, &files, ownership(inputs.pod), now).map_err(|e| failed(&volume.name, e))?;
    }
    Ok(())
}
