//! Pods from their creation to Running, one at a time and many at once; the start to ready; the memory of an idle cluster.
//! orchd and the real Kubernetes in turn.
//!
//! `cargo bench --bench pods`, as root; prints `figure <name> <value> <unit>` lines.

mod support;

use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};
use support::cluster::{Cluster, root};
use support::{Connection, Reference, Rounds, Server, asked, figure, load, percentile, pss_mib, settle};

const ROUNDS: usize = 3;
const ONE_BY_ONE: usize = 50;
const AT_ONCE: usize = 40;
const PODS: &str = "/api/v1/namespaces/default/pods";
/// How long a cluster is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(60);

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some((name, server)) = asked() {
        return runtime.block_on(run(&name, server));
    }
    if !root("the pod benchmark") {
        return;
    }
    let mut rounds = Rounds::default();
    let began = Instant::now();
    let orchd = Cluster::start("bench-pods");
    rounds.add("orchd_start_to_ready", began.elapsed().as_secs_f64() * 1e3, "ms");
    let reference = Reference::start(true);
    #[allow(clippy::disallowed_methods, reason = "idle time is what is measured")]
    std::thread::sleep(IDLE);
    rounds.add("orchd_idle_memory", pss_mib(&[orchd.pid()]), "MiB");
    if let Some(reference) = &reference {
        rounds.add("reference_start_to_ready", reference.started_in.as_secs_f64() * 1e3, "ms");
        rounds.add("reference_idle_memory", pss_mib(&reference.pids()), "MiB");
    }
    let me = std::env::current_exe().unwrap();
    for name in ["one_by_one", "at_once"] {
        for _ in 0..ROUNDS {
            settle();
            let ours = format!("{name}=orchd.dev/hello:builtin");
            rounds.run("orchd", load(orchd.inside(&me), &ours, &orchd.kubeconfig()));
            if let Some(reference) = &reference {
                settle();
                let theirs = format!("{name}=registry.k8s.io/pause:3.10.1");
                rounds.run("reference", load(reference.inside(Path::new(&me)), &theirs, &reference.kubeconfig()));
            }
        }
    }
    rounds.add("orchd_memory_after_pods", pss_mib(&[orchd.pid()]), "MiB");
    rounds.print("reference");
}

async fn run(name: &str, server: Server) {
    let (kind, image) = name.split_once('=').expect("LOAD=IMAGE");
    match kind {
        "one_by_one" => one_by_one(server, image).await,
        "at_once" => at_once(server, image).await,
        other => panic!("no load {other}"),
    }
}

fn pod(name: &str, image: &str) -> Value {
    let args = if image.starts_with("orchd.dev/") { json!(["wait"]) } else { Value::Null };
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"of": "bench"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": image, "imagePullPolicy": "Never", "args": args}]}})
}

/// The pods of this benchmark, as they change.
struct Watch {
    body: Incoming,
    text: Vec<u8>,
}

impl Watch {
    async fn start(server: &Server) -> Self {
        let mut connection = server.connect().await;
        let body = connection.open(Method::GET, &format!("{PODS}?watch=true&labelSelector=of%3Dbench"), "", "").await;
        Self { body, text: Vec::new() }
    }

    /// What happened, the pod's name and its phase.
    async fn next(&mut self) -> (String, String, String) {
        loop {
            if let Some(end) = self.text.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let object = &event["object"];
                return (word(&event["type"]), word(&object["metadata"]["name"]), word(&object["status"]["phase"]));
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await.expect("events come").expect("it goes on").unwrap();
            self.text.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }

    /// Returns once `count` pods are gone.
    async fn gone(&mut self, count: usize) {
        let mut gone = 0;
        while gone < count {
            gone += usize::from(self.next().await.0 == "DELETED");
        }
    }
}

async fn remove(connection: &mut Connection, name: &str) {
    let now = json!({"gracePeriodSeconds": 0}).to_string();
    connection.send(Method::DELETE, &format!("{PODS}/{name}"), "application/json", now).await;
}

async fn one_by_one(server: Server, image: &str) {
    let mut watch = Watch::start(&server).await;
    let mut connection = server.connect().await;
    let mut times = Vec::new();
    for n in 0..ONE_BY_ONE {
        let name = format!("bench-{n}");
        let began = Instant::now();
        connection.post(PODS, &pod(&name, image)).await;
        while watch.next().await.2 != "Running" {}
        times.push(began.elapsed().as_secs_f64() * 1e3);
        remove(&mut connection, &name).await;
        watch.gone(1).await;
    }
    figure("pod_create_to_running_p50", percentile(&mut times, 0.5), "ms");
    figure("pod_create_to_running_p99", percentile(&mut times, 0.99), "ms");
}

async fn at_once(server: Server, image: &str) {
    let mut watch = Watch::start(&server).await;
    let mut clients = HashMap::new();
    for n in 0..AT_ONCE {
        clients.insert(format!("bench-{n}"), server.connect().await);
    }
    let began = Instant::now();
    let mut tasks = Vec::new();
    for (name, mut connection) in clients {
        let pod = pod(&name, image);
        tasks.push(tokio::spawn(async move {
            connection.post(PODS, &pod).await;
            (name, connection)
        }));
    }
    let mut running = HashSet::new();
    while running.len() < AT_ONCE {
        let (_, name, phase) = watch.next().await;
        if phase == "Running" {
            running.insert(name);
        }
    }
    figure("40_pods_at_once", began.elapsed().as_secs_f64() * 1e3, "ms");
    for task in tasks {
        let (name, mut connection) = task.await.unwrap();
        remove(&mut connection, &name).await;
    }
    watch.gone(AT_ONCE).await;
}
