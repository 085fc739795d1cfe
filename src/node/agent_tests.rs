use super::*;
use crate::client::DeleteOptions;
use crate::env::SystemClock;
use crate::node::fakes::{FakeApi, FakeContainers, FakeImages, FakeLinks};
use serde_json::{Value, json};
use std::path::Path;

struct Node {
    api: FakeApi,
    containers: FakeContainers,
    agent: Agent,
    dir: tempfile::TempDir,
}

fn dirs(at: &Path) -> Dirs {
    Dirs { data: at.join("data"), run: at.join("run"), seccomp: at.join("seccomp") }
}

async fn agent(api: &FakeApi, containers: &FakeContainers, events: mpsc::Receiver<RuntimeEvent>, at: &Path) -> Agent {
    let options = AgentOptions {
        node_name: "node-1".into(),
        node_ip: Ipv4Addr::new(192, 168, 0, 1).into(),
        client: Arc::new(api.clone()),
        containers: Arc::new(containers.clone()),
        events,
        images: Arc::new(FakeImages),
        links: Arc::new(FakeLinks),
        dirs: dirs(at),
        cgroup: "orchd/node-1".into(),
        dns: ClusterDns { server: None, domain: "cluster.local".into() },
        clock: Arc::new(SystemClock),
        identity: Identity {
            kubelet_version: "v1.35.4".into(),
            version: "0.1.0".into(),
            max_pods: 110,
            labels: Default::default(),
            kubelet_port: 0,
            pod_cidr: None,
        },
    };
    Agent::start(options).await.unwrap()
}

impl Node {
    async fn new() -> Self {
        let api = FakeApi::default();
        let (containers, events) = FakeContainers::new();
        let dir = tempfile::tempdir().unwrap();
        let agent = agent(&api, &containers, events, dir.path()).await;
        Self { api, containers, agent, dir }
    }

    fn pod(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("node-1");
        self.api.put("pods", json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec}));
    }

    async fn phase(&self, name: &str, phase: &str) -> Value {
        self.api.until("pods", name, |p| p.is_some_and(|p| p["status"]["phase"] == phase)).await.unwrap()
    }

    async fn delete(&self, name: &str, grace: i64) {
        let options = DeleteOptions { grace_period_seconds: Some(grace), ..DeleteOptions::default() };
        self.api.delete(&Target::object::<Pod>("n", name), &options).await.unwrap();
    }

    async fn end(self) {
        self.agent.stop().await;
        if nix::unistd::geteuid().is_root() {
            local::remove_tree(self.dir.path()).unwrap();
        }
    }
}

fn container(args: &[&str]) -> Value {
    json!([{"name": "c", "image": "img:1", "args": args}])
}

#[tokio::test]
async fn the_node_registers_and_renews() {
    let node = Node::new().await;
    let found = async |plural, namespace: &str, name: &str| {
        for _ in 0..1000 {
            if let Some(found) = node.api.get_json(plural, namespace, name) {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{plural} {name} does not come")
    };
    let object = found("nodes", "", "node-1").await;
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/hostname"], "node-1");
    let ready = object["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap().clone();
    assert_eq!((ready["status"].as_str(), ready["reason"].as_str()), (Some("True"), Some("KubeletReady")));
    let lease = found("leases", "kube-node-lease", "node-1").await;
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
    node.end().await;
}

#[tokio::test]
async fn a_pod_runs_to_completion() {
    let node = Node::new().await;
    node.pod(
        "p",
        json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "image": "img:1", "args": ["exit", "0"]}],
        "containers": container(&["exit", "0"])}),
    );
    let pod = node.phase("p", "Succeeded").await;
    assert_eq!(pod["status"]["podIP"], "10.1.0.7");
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((ended["reason"].as_str(), ended["exitCode"].as_i64()), (Some("Completed"), Some(0)));
    let gone = |p: Option<&Value>| {
        let conditions = p.unwrap()["status"]["conditions"].as_array().unwrap().clone();
        conditions.iter().any(|c| c["type"] == "PodReadyToStartContainers" && c["status"] == "False")
    };
    node.api.until("pods", "p", gone).await;
    assert!(node.containers.sandboxes().is_empty(), "nothing is left of it");
    let events = node.api.events("p");
    for wanted in ["Created: Container created", "Started: Container started"] {
        assert!(events.iter().any(|e| e == wanted), "{events:?}");
    }
    node.end().await;
}

#[tokio::test]
async fn a_crashing_container_backs_off() {
    let node = Node::new().await;
    node.pod("p", json!({"restartPolicy": "Always", "containers": container(&["exit", "3"])}));
    let waits =
        |p: Option<&Value>| p.is_some_and(|p| p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff");
    let pod = node.api.until("pods", "p", waits).await.unwrap();
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!((status["restartCount"].as_i64(), status["lastState"]["terminated"]["exitCode"].as_i64()), (Some(1), Some(3)));
    assert_eq!(pod["status"]["phase"], "Running");
    let found = node.agent.container("n", "p", None, true).unwrap();
    assert!(found.log_path.ends_with("c/0.log") && !found.running);
    node.end().await;
}

#[tokio::test]
async fn a_deleted_pod_is_stopped_and_let_go() {
    let node = Node::new().await;
    node.pod("p", json!({"containers": container(&["run"])}));
    node.phase("p", "Running").await;
    let found = node.agent.container("n", "p", Some("c"), false).unwrap();
    assert!(found.running && found.process.unwrap().env.contains(&"HOSTNAME=p".to_owned()));
    let why = node.agent.container("n", "p", Some("x"), false).unwrap_err().message;
    assert_eq!(why, "container x is not valid for pod p");
    node.delete("p", 30).await;
    node.api.until("pods", "p", |p| p.is_none()).await;
    assert!(node.containers.sandboxes().is_empty());
    assert!(node.api.events("p").iter().any(|e| e == "Killing: Stopping container c"));
    assert_eq!(std::fs::read_dir(node.dir.path().join("data/pods")).unwrap().count(), 0);
    node.end().await;
}

#[tokio::test]
async fn a_status_that_another_changed_is_said_again() {
    let node = Node::new().await;
    node.pod("p", json!({"containers": container(&["run"])}));
    let mut pod = node.phase("p", "Running").await;
    let ready = |p: &Value| p["status"]["conditions"].as_array().unwrap().iter().position(|c| c["type"] == "Ready").unwrap();
    let at = ready(&pod);
    assert_eq!(pod["status"]["conditions"][at]["status"], "True");
    // The agent has heard of its own write.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    pod["status"]["conditions"][at]["status"] = json!("False");
    node.api.put("pods", pod);
    node.api.until("pods", "p", |p| p.is_some_and(|p| p["status"]["conditions"][ready(p)]["status"] == "True")).await;
    node.end().await;
}

#[tokio::test]
async fn a_pod_that_comes_up_at_once_is_one_write() {
    let node = Node::new().await;
    node.pod("p", json!({"containers": [{"name": "c", "image": "i:1", "args": ["run"]}, {"name": "d", "image": "i:1", "args": ["run"]}]}));
    node.phase("p", "Running").await;
    assert_eq!(node.api.changes("pods", "p"), 2, "created and running");
    node.end().await;
}

#[tokio::test]
async fn one_that_does_not_listen_is_killed() {
    let node = Node::new().await;
    node.pod("p", json!({"containers": container(&["stubborn"])}));
    node.phase("p", "Running").await;
    let started = std::time::Instant::now();
    node.delete("p", 1).await;
    node.api.until("pods", "p", |p| p.is_none()).await;
    assert!((1900..4000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    node.end().await;
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let node = Node::new().await;
    node.pod("never", json!({"restartPolicy": "Never", "containers": container(&["nonsense"])}));
    let pod = node.phase("never", "Failed").await;
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((ended["reason"].as_str(), ended["exitCode"].as_i64()), (Some("StartError"), Some(128)));
    assert!(ended["message"].as_str().unwrap().contains("executable file not found in $PATH"));
    node.pod("image", json!({"containers": [{"name": "c", "image": "missing:1"}]}));
    let reason = |wanted: &'static str| {
        move |p: Option<&Value>| p.unwrap()["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == wanted
    };
    node.api.until("pods", "image", reason("ErrImagePull")).await;
    node.api.until("pods", "image", reason("ImagePullBackOff")).await;
    let events = node.api.events("image");
    assert!(events.iter().any(|e| e == "Failed: Failed to pull image \"missing:1\": manifest unknown"), "{events:?}");
    node.end().await;
}

#[tokio::test]
async fn volumes_come_and_follow_their_sources() {
    let node = Node::new().await;
    let spec = json!({
        "serviceAccountName": "default",
        "containers": [{"name": "c", "image": "img:1", "args": ["run"],
            "env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "e", "mountPath": "/e"}, {"name": "t", "mountPath": "/t"}]}],
        "volumes": [{"name": "v", "configMap": {"name": "m"}}, {"name": "e", "emptyDir": {}},
            {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]}}]
    });
    node.pod("p", spec);
    let mounts = node.api.until("events", "none", |_| node.api.events("p").iter().any(|e| e.starts_with("FailedMount"))).await;
    assert_eq!(mounts, None);
    let why = "FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found";
    assert!(node.api.events("p").iter().any(|e| e == why), "{:?}", node.api.events("p"));
    node.api.put("configmaps", json!({"metadata": {"name": "m", "namespace": "n"}, "data": {"k": "one"}}));
    node.phase("p", "Running").await;
    let status = node.containers.container("c").unwrap();
    assert!(status.spec.process.env.contains(&"E=one".to_owned()));
    let source = |at: &str| status.spec.mounts.iter().find(|m| m.destination == Path::new(at)).unwrap().source.clone();
    assert_eq!(std::fs::read_to_string(source("/v").join("k")).unwrap(), "one");
    assert_eq!(std::fs::read_to_string(source("/t").join("token")).unwrap(), "token-of-p");
    assert!(source("/e").is_dir());
    assert!(std::fs::read_to_string(source("/etc/hosts")).unwrap().contains("10.1.0.7\tp\n"));
    node.api.put("configmaps", json!({"metadata": {"name": "m", "namespace": "n", "uid": "uid-m"}, "data": {"k": "two"}}));
    let started = std::time::Instant::now();
    while std::fs::read_to_string(source("/v").join("k")).unwrap() != "two" {
        assert!(started.elapsed().as_secs() < 5, "the change does not arrive");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    node.end().await;
}

#[tokio::test]
async fn a_new_agent_finds_what_runs_and_removes_what_nobody_knows() {
    let node = Node::new().await;
    node.pod("p", json!({"containers": container(&["run"])}));
    node.pod("q", json!({"containers": container(&["run"])}));
    node.phase("p", "Running").await;
    node.phase("q", "Running").await;
    let before = node.api.get_json("pods", "n", "p").unwrap();
    let Node { api, containers, agent: old, dir } = node;
    old.stop().await;
    let at = dirs(dir.path());
    assert_eq!(live_pods(&containers, &at).await.unwrap().len(), 2);
    // While no agent looks, one pod is deleted for good.
    api.delete(&Target::object::<Pod>("n", "q"), &DeleteOptions { grace_period_seconds: Some(0), ..Default::default() }).await.unwrap();
    std::fs::create_dir_all(at.data.join("logs/n_long-gone_uid-77/c")).unwrap();
    let (containers, events) = containers.reopened();
    let node = Node { agent: agent(&api, &containers, events, dir.path()).await, api, containers, dir };
    let started = std::time::Instant::now();
    while node.containers.sandboxes().len() > 1 || node.agent.pod("n", "p").is_none() {
        assert!(started.elapsed().as_secs() < 5, "the orphan stays");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let found = node.containers.container("c").unwrap();
    assert!(matches!(found.state, ContainerState::Running { .. }));
    let logs = || std::fs::read_dir(node.dir.path().join("data/logs")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    while logs().any(|l| l.ends_with("uid-77")) {
        assert!(started.elapsed().as_secs() < 5, "logs of a pod that is gone");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(node.api.get_json("pods", "n", "p").unwrap()["status"], before["status"], "it was not even touched");
    let sandbox = node.containers.sandboxes().keys().next().unwrap().clone();
    node.containers.end(&sandbox, &found.spec.id, 5, None).await;
    let again = |p: Option<&Value>| p.unwrap()["status"]["containerStatuses"][0]["restartCount"] == 1;
    node.api.until("pods", "p", again).await;
    node.end().await;
}
