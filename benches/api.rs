//! The API under load, orchd and the real kube-apiserver in turn: writes and reads of 100 clients, a long list, watch fan-out.
//!
//! `cargo bench --bench api`, as root; prints `figure <name> <value> <unit>` lines.

mod support;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::cluster::{Cluster, root};
use support::{Reference, Rounds, Server, asked, figure, load, percentile};

const ROUNDS: usize = 3;
const CLIENTS: usize = 100;
const SPAN: Duration = Duration::from_secs(4);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LISTED: usize = 4000;
const WATCHERS: usize = 1000;
const STREAMS_PER_CONNECTION: usize = 100;
const CHANGES: usize = 300;
const WRITERS: usize = 10;
/// A watcher that hears nothing for so long has missed an event.
const SILENCE: Duration = Duration::from_secs(30);

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some((name, server)) = asked() {
        return runtime.block_on(run(&name, server));
    }
    if !root("the API benchmark") {
        return;
    }
    let orchd = Cluster::start("bench-api");
    let reference = Reference::start(false);
    let me = std::env::current_exe().unwrap();
    let mut rounds = Rounds::default();
    for name in ["requests", "list", "watch"] {
        for _ in 0..ROUNDS {
            rounds.run("orchd", load(orchd.inside(&me), name, &orchd.kubeconfig()));
            if let Some(reference) = &reference {
                rounds.run("reference", load(reference.inside(&me), name, &reference.kubeconfig()));
            }
        }
    }
    rounds.print("reference");
}

async fn run(name: &str, server: Server) {
    match name {
        "requests" => requests(server).await,
        "list" => list(server).await,
        "watch" => watch(server).await,
        other => panic!("no load {other}"),
    }
}

fn map(name: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"of": "bench"}}, "data": {"key": "v".repeat(200)}})
}

async fn clear(server: &Server) {
    server.connect().await.send(Method::DELETE, &format!("{MAPS}?labelSelector=of%3Dbench"), "application/json", "").await;
}

/// Lets every client send one request after the other for a while; prints the rate and the tail.
async fn measure(
    server: &Server,
    name: &str,
    request: impl Fn(usize, usize) -> (Method, String, &'static str, Bytes) + Clone + Send + 'static,
) {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(server.connect().await);
    }
    let began = Instant::now();
    let tasks = clients.into_iter().enumerate().map(|(client, mut connection)| {
        let request = request.clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            while began.elapsed() < SPAN {
                let (method, path, content_type, body) = request(client, times.len());
                let sent = Instant::now();
                connection.send(method, &path, content_type, body).await;
                times.push(sent.elapsed().as_secs_f64() * 1e3);
            }
            times
        })
    });
    let mut times = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        times.extend(task.await.unwrap());
    }
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    figure(&format!("configmap_{name}_rate"), rate, "per_second");
    figure(&format!("configmap_{name}_p50"), percentile(&mut times, 0.5), "ms");
    figure(&format!("configmap_{name}_p99"), percentile(&mut times, 0.99), "ms");
}

async fn requests(server: Server) {
    let name = |client: usize, n: usize| format!("bench-{client}-{n}");
    measure(&server, "create", move |client, n| (Method::POST, MAPS.into(), "application/json", map(&name(client, n)).to_string().into()))
        .await;
    measure(&server, "get", move |client, n| (Method::GET, format!("{MAPS}/{}", name(client, n % 10)), "", Bytes::new())).await;
    measure(&server, "merge_patch", move |client, n| {
        let patch = json!({"data": {"key": n.to_string()}}).to_string();
        (Method::PATCH, format!("{MAPS}/{}", name(client, n % 10)), "application/merge-patch+json", patch.into())
    })
    .await;
    clear(&server).await;
}

async fn list(server: Server) {
    let mut connection = server.connect().await;
    for n in 0..LISTED {
        connection.post(MAPS, &map(&format!("listed-{n}"))).await;
    }
    let mut times = Vec::new();
    for _ in 0..20 {
        let sent = Instant::now();
        connection.send(Method::GET, MAPS, "", "").await;
        times.push(sent.elapsed().as_secs_f64() * 1e3);
    }
    figure("list_4000_p50", percentile(&mut times, 0.5), "ms");
    clear(&server).await;
}

async fn watch(server: Server) {
    let path = format!("{MAPS}?watch=true&labelSelector=of%3Dbench");
    let delivered = Arc::new(AtomicU64::new(0));
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS / STREAMS_PER_CONNECTION {
        let mut connection = server.connect_http2().await;
        for _ in 0..STREAMS_PER_CONNECTION {
            let mut body = connection.open(Method::GET, &path, "", "").await;
            let delivered = delivered.clone();
            watchers.push(tokio::spawn(async move {
                let mut seen = 0;
                while seen < CHANGES {
                    let frame = tokio::time::timeout(SILENCE, body.frame()).await.expect("events come").expect("it goes on").unwrap();
                    let Ok(data) = frame.into_data() else { continue };
                    let lines = data.iter().filter(|b| **b == b'\n').count();
                    seen += lines;
                    delivered.fetch_add(lines as u64, Ordering::Relaxed);
                }
            }));
        }
        watchers.push(tokio::spawn(async move { drop(connection) }));
    }
    let began = Instant::now();
    let writers = (0..WRITERS).map(|writer| {
        let server = server.clone();
        tokio::spawn(async move {
            let mut connection = server.connect().await;
            for n in 0..CHANGES / WRITERS {
                connection.post(MAPS, &map(&format!("watched-{writer}-{n}"))).await;
            }
        })
    });
    for task in writers.collect::<Vec<_>>().into_iter().chain(watchers) {
        task.await.unwrap();
    }
    let rate = delivered.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    figure("watch_1000_watchers", rate, "events_per_second");
    clear(&server).await;
}
