//! The eight steps of the demo, each verified and timed.

use super::super::CliError;
use super::super::watching::{Answer, Objects, wait};
use super::cluster::Cluster;
use super::traffic::{Caller, Calls, call, settle, spread, word_after};
use super::view::View;
use crate::client::{Client, DeleteOptions, HttpsClient, PatchType, Target};
use crate::kinds::{self, Deployment, Namespace, Pod, Ref, ReplicaSet, Service};
use bytes::Bytes;
use k8s_openapi::api::core::v1::PodStatus;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

const MANIFEST: &str = include_str!("../../../docs/examples/hello.yaml");
const NAMESPACE: &str = "hello";
const NAME: &str = "hello";
const LIMIT: Duration = Duration::from_secs(30);
const REQUESTS: usize = 300;

/// Steps 1 to 8 but for the stop, which follows whatever happens.
pub(super) async fn all(cluster: &mut Cluster, view: &mut View) -> Result<(), CliError> {
    view.step(1, "Start a master and a node, TLS on");
    let client = cluster.start().await?;
    let version = client.call(http::Method::GET, "/version", "", Bytes::new()).await.map_err(|e| CliError::new("GET /version", e))?;
    let version: Value = serde_json::from_slice(&version).map_err(|e| CliError::new("GET /version", e))?;
    view.done(&format!("the API is ready, Kubernetes {}", version["gitVersion"].as_str().unwrap_or("?")));

    let demo = Demo { client };
    demo.apply(view).await?;
    demo.show_pods(view).await?;
    let service = demo.spread(view).await?;
    demo.heal(view).await?;
    demo.scale(view).await?;
    demo.roll_out(view, service).await?;
    demo.delete(view).await
}

/// The stop that ends step 8, and the look at what is left.
pub(super) async fn clean_up(cluster: &mut Cluster, view: &mut View, held: bool) -> Result<(), CliError> {
    cluster.stop().await?;
    cluster.check_leftovers()?;
    if held {
        view.done("stopped; no process, mount, cgroup, namespace, link or file is left");
    }
    Ok(())
}

struct Demo {
    client: Arc<HttpsClient>,
}

impl Demo {
    fn deployment() -> Target {
        Target::object::<Deployment>(NAMESPACE, NAME)
    }

    async fn apply(&self, view: &mut View) -> Result<(), CliError> {
        view.step(2, "Apply docs/examples/hello.yaml");
        let mut count = 0;
        for document in serde_yaml::Deserializer::from_str(MANIFEST) {
            let object = Value::deserialize(document).map_err(|e| CliError::new("hello.yaml", e))?;
            let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
            let (api_version, kind) = (text("apiVersion"), text("kind"));
            let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
            let resource = kinds::find_kind(group, version, &kind).ok_or_else(|| CliError::text(format!("hello.yaml: no kind {kind}")))?;
            let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
            let target = Target { resource, namespace, name: None, subresource: None };
            self.client.create(&target, object).await.map_err(|e| CliError::new(format!("create {kind}"), e))?;
            count += 1;
        }
        view.done(&format!("{count} objects created"));
        Ok(())
    }

    /// Waits until exactly `count` pods are there and ready, and returns them.
    async fn pods(&self, view: &mut View, count: usize, also: impl Fn(&Objects<Pod>) -> bool) -> Result<Vec<Ref<Pod>>, CliError> {
        let ask = |pods: &Objects<Pod>| {
            let ready = pods.values().filter(|p| is_ready(p)).count();
            if ready == count && pods.len() == count && also(pods) {
                return Answer::Yes(pods.values().cloned().collect());
            }
            let states: Vec<String> = pods.values().map(describe).collect();
            Answer::NotYet(format!("{ready} of {count} pods are ready ({})", states.join(", ")))
        };
        wait::<Pod, _>(&*self.client, Some(NAMESPACE), LIMIT, "the pods' readiness", |t| view.progress(t), ask).await
    }

    async fn show_pods(&self, view: &mut View) -> Result<(), CliError> {
        view.step(3, "Wait for the pods");
        let pods = self.pods(view, 3, |_| true).await?;
        for pod in &pods {
            let (status, node) = (pod.status.clone().unwrap_or_default(), pod.spec.as_ref().and_then(|s| s.node_name.clone()));
            view.line(&format!("       {:<24} {:<14} {}", name(pod), status.pod_ip.unwrap_or_default(), node.unwrap_or_default()));
        }
        view.done("3 pods of 2 containers each are ready");
        Ok(())
    }

    async fn spread(&self, view: &mut View) -> Result<SocketAddr, CliError> {
        view.step(4, &format!("Send {REQUESTS} requests to the Service's address"));
        let service = self.client.as_ref() as &dyn Client;
        let service = service.fetch::<Service>(NAMESPACE, NAME).await.map_err(|e| CliError::new("get the Service", e))?;
        let ip = service.spec.and_then(|s| s.cluster_ip).and_then(|ip| ip.parse::<Ipv4Addr>().ok());
        let address = SocketAddr::from((ip.ok_or_else(|| CliError::text("the Service has no address"))?, 80));
        settle(address, 3).await?;
        let by_pod = spread(address, REQUESTS).await?;
        for (pod, count) in &by_pod {
            view.line(&format!("       {pod:<24} {count:>4}"));
        }
        if by_pod.len() != 3 {
            return Err(CliError::text(format!("{} pods answered, not 3", by_pod.len())));
        }
        view.done(&format!("{address}: 3 pods answered"));
        Ok(address)
    }

    async fn heal(&self, view: &mut View) -> Result<(), CliError> {
        view.step(5, "Kill a container's process, then delete a pod");
        let pods = self.pods(view, 3, |_| true).await?;
        let victim = name(&pods[0]).to_owned();
        let pid = web_process(&victim)?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).map_err(|e| CliError::new("kill", e))?;
        self.pods(view, 3, |pods| pods.values().any(|p| name(p) == victim && restarts(p) == 1)).await?;
        view.done(&format!("process {pid} of {victim} was killed and the container restarted"));
        let target = Target::object::<Pod>(NAMESPACE, &victim);
        self.client.delete(&target, &DeleteOptions::default()).await.map_err(|e| CliError::new("delete the pod", e))?;
        let pods = self.pods(view, 3, |pods| pods.values().all(|p| name(p) != victim)).await?;
        let new = pods.iter().map(name).find(|n| !n.is_empty() && *n != victim).unwrap_or_default();
        view.done(&format!("{victim} was deleted and replaced ({new} serves on)"));
        Ok(())
    }

    async fn scale(&self, view: &mut View) -> Result<(), CliError> {
        view.step(6, "Scale to 6 and back to 3");
        for replicas in [6, 3] {
            let path = format!("{}/scale", crate::client::https::path_of(&Self::deployment()));
            let body = json!({"spec": {"replicas": replicas}}).to_string();
            let patched = self.client.call(http::Method::PATCH, &path, "application/merge-patch+json", body.into()).await;
            patched.map_err(|e| CliError::new("scale", e))?;
            self.pods(view, replicas, |_| true).await?;
            view.done(&format!("{replicas} pods are ready"));
        }
        Ok(())
    }

    async fn patch(&self, body: Value) -> Result<(), CliError> {
        let patched = self.client.patch(&Self::deployment(), PatchType::Strategic, body.to_string().into()).await;
        patched.map(drop).map_err(|e| CliError::new("patch the Deployment", e))
    }

    /// Waits until every pod is of the Deployment's newest template.
    async fn rolled_out(&self, view: &mut View) -> Result<(), CliError> {
        let ask = |all: &Objects<Deployment>| {
            let Some(d) = all.values().find(|d| d.metadata.name.as_deref() == Some(NAME)) else {
                return Answer::NotYet("no Deployment".into());
            };
            let (status, want) = (d.status.clone().unwrap_or_default(), d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1));
            let n = |v: Option<i32>| v.unwrap_or(0);
            let current = status.observed_generation >= d.metadata.generation;
            if current && n(status.updated_replicas) == want && n(status.replicas) == want && n(status.available_replicas) == want {
                return Answer::Yes(());
            }
            Answer::NotYet(format!("{} of {want} replicas are of the new version", if current { n(status.updated_replicas) } else { 0 }))
        };
        wait::<Deployment, _>(&*self.client, Some(NAMESPACE), LIMIT, "the rollout", |t| view.progress(t), ask).await?;
        self.pods(view, 3, |_| true).await.map(drop)
    }

    async fn roll_out(&self, view: &mut View, service: SocketAddr) -> Result<(), CliError> {
        view.step(7, "Roll out version 2 while a client keeps calling; then one that cannot start, and undo it");
        let caller = Caller::start(service);
        let web = |more: Value| {
            let mut container = json!({"name": "web"});
            if let Some((container, more)) = container.as_object_mut().zip(more.as_object()) {
                container.extend(more.clone());
            }
            json!({"spec": {"template": {"spec": {"containers": [container]}}}})
        };
        self.patch(web(json!({"env": [{"name": "VERSION", "value": "2"}]}))).await?;
        self.rolled_out(view).await?;
        let answer = call(service).await.map_err(|e| CliError::new("a request to the Service", e))?;
        if word_after(&answer, "version") != "2" {
            return Err(CliError::text(format!("version 2 is rolled out, but the Service answers {answer:?}")));
        }
        let calls = caller.finish().await?;
        view.done(&format!("version 2 serves; {}", verdict(&calls)?));

        let caller = Caller::start(service);
        self.patch(web(json!({"env": [{"name": "VERSION", "value": "3"}], "args": ["no-such-role"]}))).await?;
        let reason = self.stuck(view).await?;
        let answer = call(service).await.map_err(|e| CliError::new("a request to the Service", e))?;
        view.done(&format!("version 3 does not start ({reason}); the Service still answers {answer:?}"));
        self.undo().await?;
        self.rolled_out(view).await?;
        let calls = caller.finish().await?;
        view.done(&format!("undone; {}", verdict(&calls)?));
        Ok(())
    }

    /// Waits until the new version's container has failed; returns why.
    async fn stuck(&self, view: &mut View) -> Result<String, CliError> {
        let ask = |pods: &Objects<Pod>| {
            let ready = pods.values().filter(|p| is_ready(p)).count();
            match pods.values().find_map(failure) {
                Some(reason) if ready == 3 => Answer::Yes(reason),
                _ => Answer::NotYet(format!("{ready} pods are ready")),
            }
        };
        wait::<Pod, _>(&*self.client, Some(NAMESPACE), LIMIT, "the failure of version 3", |t| view.progress(t), ask).await
    }

    /// What `kubectl rollout undo` does: the template of the revision before goes back into the Deployment.
    async fn undo(&self) -> Result<(), CliError> {
        let failed = |e: crate::meta::Status| CliError::new("undo", e);
        let listed = self.client.list(&Target::collection::<ReplicaSet>(Some(NAMESPACE)), &crate::client::ListOptions::default()).await;
        let mut sets: Vec<Ref<ReplicaSet>> = listed.map_err(failed)?.items.into_iter().filter_map(Ref::new).collect();
        let revision = |r: &Ref<ReplicaSet>| -> i64 {
            let annotation = r.metadata.annotations.as_ref().and_then(|a| a.get("deployment.kubernetes.io/revision"));
            annotation.and_then(|v| v.parse().ok()).unwrap_or(0)
        };
        sets.sort_by_key(revision);
        let before = sets.len().checked_sub(2).map(|at| &sets[at]).ok_or_else(|| CliError::text("undo: no earlier revision"))?;
        let mut template = before.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
        if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
            labels.remove("pod-template-hash");
        }
        let body = json!([{"op": "replace", "path": "/spec/template", "value": template}]).to_string();
        self.client.patch(&Self::deployment(), PatchType::Json, body.into()).await.map(drop).map_err(failed)
    }

    async fn delete(&self, view: &mut View) -> Result<(), CliError> {
        view.step(8, "Delete the namespace and stop");
        let target = Target::object::<Namespace>("", NAMESPACE);
        self.client.delete(&target, &DeleteOptions::default()).await.map_err(|e| CliError::new("delete the namespace", e))?;
        let ask = |all: &Objects<Namespace>| match all.values().find(|n| n.metadata.name.as_deref() == Some(NAMESPACE)) {
            None => Answer::Yes(()),
            Some(_) => Answer::NotYet("the namespace is terminating".into()),
        };
        wait::<Namespace, _>(&*self.client, None, LIMIT, "the end of the namespace", |t| view.progress(t), ask).await?;
        view.done("the namespace and all that was in it are gone");
        Ok(())
    }
}

fn verdict(calls: &Calls) -> Result<String, CliError> {
    match calls.failures.first() {
        None => Ok(format!("{} requests meanwhile, 0 failed", calls.calls)),
        Some(first) => {
            Err(CliError::text(format!("{} of {} requests failed meanwhile, the first: {first}", calls.failures.len(), calls.calls)))
        }
    }
}

fn name(pod: &Ref<Pod>) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn status(pod: &Ref<Pod>) -> PodStatus {
    pod.status.clone().unwrap_or_default()
}

fn is_ready(pod: &Ref<Pod>) -> bool {
    let ready = status(pod).conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

fn restarts(pod: &Ref<Pod>) -> i32 {
    status(pod).container_statuses.iter().flatten().map(|c| c.restart_count).sum()
}

/// Why a container of the pod does not run, if it has failed.
fn failure(pod: &Ref<Pod>) -> Option<String> {
    status(pod).container_statuses.iter().flatten().find_map(|c| {
        let state = c.state.as_ref()?;
        let waiting = state.waiting.as_ref().and_then(|w| w.reason.clone()).filter(|r| r == "CrashLoopBackOff");
        waiting.or_else(|| state.terminated.as_ref().filter(|t| t.exit_code != 0).map(|t| format!("exit code {}", t.exit_code)))
    })
}

fn describe(pod: &Ref<Pod>) -> String {
    let phase = status(pod).phase.unwrap_or_default();
    match (pod.metadata.deletion_timestamp.is_some(), is_ready(pod)) {
        (true, _) => "Terminating".into(),
        (false, true) => "Ready".into(),
        (false, false) => failure(pod).unwrap_or(phase),
    }
}

/// The pid of the pod's web server, found by its command line and environment.
fn web_process(pod: &str) -> Result<i32, CliError> {
    let wanted = format!("POD_NAME={pod}");
    for entry in std::fs::read_dir("/proc").map_err(|e| CliError::new("/proc", e))?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let web = read("cmdline").split(|b| *b == 0).any(|a| a == b"web");
        if web && read("environ").split(|b| *b == 0).any(|v| v == wanted.as_bytes()) {
            return Ok(pid);
        }
    }
    Err(CliError::text(format!("no process of pod {pod} is to be found")))
}
