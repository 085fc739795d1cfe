//! Controllers and scheduler over the real API and store, without a node: pods are bound, and a stand-in for the node
//! agent says that they run.

use orchd::api::{local::LocalClient, verbs::Config, verbs::Verbs};
use orchd::client::{Client, DeleteOptions, ListOptions, PatchType, Target};
use orchd::env::SystemClock;
use orchd::kinds::{ConfigMap, Deployment, EndpointSlice, Event, Namespace, Node, Pod, Registered, ReplicaSet, Service, ServiceAccount};
use orchd::security::{Tokens, User};
use orchd::watch::{Cache, Feed};
use orchd::{controllers, scheduler};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

struct Cluster {
    cache: Arc<Cache>,
    client: Arc<dyn Client>,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = orchd_store::Options { dir: dir.path().join("store"), quota_bytes: 0, group: None };
        let store = orchd_store::Store::open(options).await.unwrap();
        let cache = Cache::start(store.clone()).await.unwrap();
        let tokens = Arc::new(Tokens::new(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap());
        let verbs = Arc::new(Verbs::new(store, cache.clone(), Arc::new(SystemClock), tokens, Config::default()));
        let client: Arc<dyn Client> = Arc::new(LocalClient::new(verbs, User::system("test")));
        let (stop, feed): (_, Arc<dyn Feed>) = (CancellationToken::new(), cache.clone());
        let options = controllers::Options {
            root_ca_pem: "PEM".into(),
            kubernetes_service_ip: "10.96.0.1".parse().unwrap(),
            masters: vec!["192.0.2.1".parse().unwrap()],
            api_port: 6443,
            pod_network: ("10.244.0.0".parse().expect("an address"), 16),
            node_prefix: 23,
        };
        tokio::spawn(controllers::run(feed.clone(), client.clone(), Arc::new(SystemClock), options, stop.clone()));
        tokio::spawn(scheduler::run(feed, client.clone(), Arc::new(SystemClock), stop.clone()));
        Self { cache, client, stop, _dir: dir }
    }

    fn all<K: Registered>(&self, namespace: &str) -> Vec<K::Object> {
        self.cache.snapshot().list::<K>(Some(namespace)).map(|o| (*o).clone()).collect()
    }

    async fn create<K: Registered>(&self, namespace: &str, body: Value) {
        let namespace = (!namespace.is_empty()).then_some(namespace);
        self.client.create(&Target::collection::<K>(namespace), body).await.unwrap();
    }

    /// Waits for what should come about; tells how long it took.
    async fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        start.elapsed()
    }

    async fn status<K: Registered>(&self, namespace: &str, name: &str, status: Value) {
        let target = Target::object::<K>(namespace, name).sub("status");
        let body = json!({"status": status}).to_string();
        self.client.patch(&target, PatchType::Merge, body.into()).await.unwrap();
    }

    /// Waits until nobody writes any more: once all is as it should be, there is nothing to write.
    async fn quiet(&self) {
        let start = Instant::now();
        loop {
            let before = self.cache.snapshot().revision();
            tokio::time::sleep(Duration::from_millis(300)).await;
            if self.cache.snapshot().revision() == before {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "somebody writes without end");
        }
    }

    /// Says of every bound pod that it runs, and takes away what is being deleted.
    async fn run_pods(&self, namespace: &str) {
        for (i, pod) in self.all::<Pod>(namespace).into_iter().enumerate() {
            let name = pod.metadata.name.unwrap();
            let target = Target::object::<Pod>(namespace, &name);
            if pod.metadata.deletion_timestamp.is_some() {
                let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                // Somebody may have been faster.
                drop(self.client.delete(&target, &now).await);
            } else if pod.status.is_none_or(|s| s.phase.as_deref() != Some("Running")) {
                let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
                let ip = format!("10.0.0.{}", i + 1);
                let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": ready});
                let body = json!({"status": status}).to_string();
                drop(self.client.patch(&target.sub("status"), PatchType::Merge, body.into()).await);
            }
        }
    }

    async fn node(&self, name: &str) {
        self.create::<Node>("", json!({"metadata": {"name": name}})).await;
        let ready = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": orchd_now(), "lastTransitionTime": orchd_now()}]);
        let room = json!({"cpu": "8", "memory": "16Gi", "pods": "110", "ephemeral-storage": "100Gi"});
        self.status::<Node>("", name, json!({"capacity": room, "allocatable": room, "conditions": ready})).await;
    }
}

fn orchd_now() -> String {
    k8s_openapi::jiff::Timestamp::now().to_string()
}

fn web(replicas: i32, image: &str) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_lives_and_goes_with_its_namespace() {
    let c = Cluster::start().await;
    c.until("the system namespaces", |c| c.cache.snapshot().list::<Namespace>(None).count() == 4).await;
    c.until("default/kubernetes", |c| c.all::<Service>("default").len() == 1 && c.all::<EndpointSlice>("default").len() == 1).await;
    c.create::<Namespace>("", json!({"metadata": {"name": "n"}})).await;
    let took = c.until("its account and CA", |c| c.all::<ServiceAccount>("n").len() == 1 && c.all::<ConfigMap>("n").len() == 1).await;
    println!("figure namespace_ready {} ms", took.as_millis());
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    c.create::<Service>("n", service).await;
    c.create::<Deployment>("n", web(40, "v1")).await;
    let took = c.until("40 pods", |c| c.all::<Pod>("n").len() >= 40).await;
    println!("figure pods_created_40 {} ms", took.as_millis());
    let waits = |p: &k8s_openapi::api::core::v1::Pod| {
        let conditions = p.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "PodScheduled" && c.message.as_deref() == Some("no nodes available to schedule pods"))
    };
    c.until("a reason why they wait", |c| c.all::<Pod>("n").iter().all(waits)).await;
    c.node("n1").await;
    let bound = |p: &k8s_openapi::api::core::v1::Pod| p.spec.as_ref().unwrap().node_name.is_some();
    let took = c.until("40 bound", |c| c.all::<Pod>("n").iter().filter(|p| bound(p)).count() == 40).await;
    println!("figure pods_bound_40 {} ms", took.as_millis());
    c.run_pods("n").await;
    let status = |c: &Cluster| c.all::<Deployment>("n")[0].status.clone().unwrap_or_default();
    c.until("40 available", |c| status(c).available_replicas == Some(40)).await;
    let slices = |c: &Cluster| c.all::<EndpointSlice>("n").iter().map(|s| s.endpoints.len()).sum::<usize>();
    c.until("40 endpoints", |c| slices(c) == 40).await;
    assert_eq!((c.all::<Pod>("n").len(), c.all::<ReplicaSet>("n").len()), (40, 1));
    let meta = c.all::<Deployment>("n")[0].metadata.clone();
    assert_eq!((meta.generation, meta.annotations.unwrap()["deployment.kubernetes.io/revision"].as_str()), (Some(1), "1"));
    c.quiet().await;

    let body = json!({"spec": {"replicas": 4, "template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}}).to_string();
    c.client.patch(&Target::object::<Deployment>("n", "web"), PatchType::Strategic, body.into()).await.unwrap();
    let start = Instant::now();
    let rolled = |c: &Cluster| {
        let s = status(c);
        s.observed_generation == Some(2) && s.updated_replicas == Some(4) && s.replicas == Some(4) && s.available_replicas == Some(4)
    };
    while !rolled(&c) {
        assert!(start.elapsed() < Duration::from_secs(20), "the roll-out hangs: {:?}", status(&c));
        c.run_pods("n").await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("figure rollout_40_to_4 {} ms", start.elapsed().as_millis());
    assert!(c.client.list(&Target::collection::<Event>(Some("n")), &ListOptions::default()).await.unwrap().items.len() > 3);

    let start = Instant::now();
    c.client.delete(&Target::object::<Namespace>("", "n"), &DeleteOptions::default()).await.unwrap();
    while c.cache.snapshot().get::<Namespace>("", "n").is_some() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the namespace stays: {:?}",
            c.cache.snapshot().get::<Namespace>("", "n").map(|n| (*n).clone())
        );
        c.run_pods("n").await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("figure namespace_deleted {} ms", start.elapsed().as_millis());
    assert_eq!(c.cache.snapshot().everything().filter(|o| o.meta().namespace.as_deref() == Some("n")).count(), 0);
    c.stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_pod_is_bound_within_milliseconds_and_collected_with_its_owner() {
    let c = Cluster::start().await;
    c.until("the default account", |c| c.all::<ServiceAccount>("default").len() == 1).await;
    c.node("n1").await;
    let mut took = Vec::new();
    for i in 0..20 {
        let name = format!("p{i}");
        c.create::<Pod>("default", json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})).await;
        let there =
            |c: &Cluster| c.cache.snapshot().get::<Pod>("default", &name).is_some_and(|p| p.spec.as_ref().unwrap().node_name.is_some());
        took.push(c.until("it is bound", there).await);
    }
    took.sort();
    println!("figure create_to_bound_p50 {} us", took[10].as_micros());
    c.create::<Deployment>("default", web(2, "v1")).await;
    c.until("two pods", |c| c.all::<Pod>("default").len() == 22).await;
    let foreground = DeleteOptions { propagation_policy: Some("Foreground".into()), ..DeleteOptions::default() };
    c.client.delete(&Target::object::<Deployment>("default", "web"), &foreground).await.unwrap();
    let deleting = |c: &Cluster| c.all::<Pod>("default").iter().filter(|p| p.metadata.deletion_timestamp.is_some()).count();
    c.until("the pods are asked to go", |c| deleting(c) == 2).await;
    assert_eq!(c.all::<Deployment>("default").len(), 1);
    c.run_pods("default").await;
    c.until("all of it is gone", |c| c.all::<Deployment>("default").is_empty() && c.all::<ReplicaSet>("default").is_empty()).await;
    c.stop.cancel();
}
