//! Several machines: `orchd lab`, with pods on two nodes that reach each other, and nodes and masters that come and go.

use crate::support::{Lab, eventually, kubectls, root, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// Two web servers, one on each node, behind one Service.
const WEB: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
"#;

fn pod(node: &str) -> String {
    format!(
        r#"
---
apiVersion: v1
kind: Pod
metadata: {{name: web-{node}, labels: {{app: web}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: orchd.dev/hello:builtin
    args: [web]
    env: [{{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
"#
    )
}

/// A lab whose two nodes run one web server each.
struct Pair {
    lab: Lab,
    kubectl: PathBuf,
    ips: [String; 2],
}

impl Pair {
    fn start(name: &str, masters: u8) -> Option<Self> {
        if !root(name) {
            return None;
        }
        let kubectl = kubectls(name).pop()?;
        let lab = Lab::start(name, masters, 2);
        let manifest = lab.dir.join("web.yaml");
        std::fs::write(&manifest, format!("{WEB}{}{}", pod("n1"), pod("n2"))).unwrap();
        let mut pair = Self { lab, kubectl, ips: Default::default() };
        // The namespace's service account comes a moment after the API.
        eventually("the pods are created", LIMIT, || {
            let output = pair.kubectl("m1", &["apply", "-f", &manifest.to_string_lossy()]);
            if output.status.success() { Ok(()) } else { Err(stderr(&output)) }
        });
        std::fs::remove_file(&manifest).unwrap();
        pair.k("m1", &["wait", "--for=condition=Ready", "pod/web-n1", "pod/web-n2", "--timeout=60s"]);
        pair.ips = ["n1", "n2"].map(|node| pair.k("m1", &["get", "pod", &format!("web-{node}"), "-o", "jsonpath={.status.podIP}"]));
        Some(pair)
    }

    fn kubectl(&self, master: &str, args: &[&str]) -> Output {
        self.lab.kubectl(&self.kubectl, master, args)
    }

    fn k(&self, master: &str, args: &[&str]) -> String {
        let output = self.kubectl(master, args);
        assert!(output.status.success(), "kubectl {args:?} at {master}: {}{}", stdout(&output), stderr(&output));
        stdout(&output)
    }

    /// What a web server tells a pod.
    fn get(&self, pod: &str, address: &str, path: &str) -> Result<String, String> {
        let output = self.kubectl("m1", &["exec", pod, "--", "/orchd", "internal-hello", "get", address, path]);
        if output.status.success() { Ok(stdout(&output).trim().to_owned()) } else { Err(stderr(&output)) }
    }

    /// What a web server tells the client's host.
    fn curl(&self, url: &str) -> Result<String, String> {
        let output = self.lab.client(Path::new("curl"), &["-sS", "-m", "3", url]);
        if output.status.success() { Ok(stdout(&output).trim().to_owned()) } else { Err(stderr(&output)) }
    }

    /// Container id and restarts of a node's web server: what must not change while orchd comes and goes.
    fn run_of(&self, master: &str, node: &str) -> String {
        let path = "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
        self.k(master, &["get", "pod", &format!("web-{node}"), "-o", path])
    }
}

#[test]
fn pods_of_two_nodes_reach_each_other_and_every_node_serves() {
    let Some(pair) = Pair::start("two-nodes", 1) else { return };
    let ranges = pair.k("m1", &["get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}"]);
    let mut ranges: Vec<&str> = ranges.split(' ').collect();
    ranges.sort_unstable();
    assert_eq!(ranges, ["10.244.0.0/23", "10.244.2.0/23"]);
    let [ip1, ip2] = &pair.ips;
    assert!(ip1[..8] != ip2[..8], "pods of different nodes have addresses of different ranges: {ip1} {ip2}");
    for (from, from_ip, to, to_ip) in [("web-n1", ip1, "web-n2", ip2), ("web-n2", ip2, "web-n1", ip1)] {
        let address = format!("{to_ip}:8080");
        let answer = eventually("a pod reaches the other node's", LIMIT, || pair.get(from, &address, "/"));
        assert_eq!(answer, format!("hello from {to} version 0"));
        assert_eq!(pair.get(from, &address, "/caller").unwrap(), *from_ip, "a pod keeps its address across nodes");
    }
    let service = pair.k("m1", &["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    for pod in ["web-n1", "web-n2"] {
        both_answer(&format!("the Service from {pod}"), || pair.get(pod, &format!("{service}:80"), "/"));
    }
    for node in ["10.251.0.101", "10.251.0.102"] {
        both_answer(&format!("the node port of {node}"), || pair.curl(&format!("http://{node}:30080/")));
    }
    // The client's host runs nothing of ours and reaches pods.
    assert_eq!(pair.curl(&format!("http://{ip1}:8080/")).unwrap(), "hello from web-n1 version 0");
    assert_eq!(pair.curl(&format!("http://{ip2}:8080/caller")).unwrap(), "10.251.0.2");
    for node in ["n1", "n2"] {
        assert_eq!(pair.k("m1", &["logs", &format!("web-{node}")]), "version 0 serves on port 8080\n");
    }
    let ended = pair.lab.client(Path::new("sh"), &["-c", "exit 42"]);
    assert_eq!(ended.status.code(), Some(42));
}

/// Asks until both web servers have answered.
fn both_answer(what: &str, ask: impl Fn() -> Result<String, String>) {
    let mut seen = std::collections::BTreeSet::new();
    eventually(what, LIMIT, || {
        seen.insert(ask()?);
        let all = ["n1", "n2"].iter().all(|node| seen.contains(&format!("hello from web-{node} version 0")));
        if all { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    assert_eq!(seen.len(), 2, "{what}: {seen:?}");
}

#[test]
fn hosts_that_come_and_go_leave_pods_alone() {
    let Some(pair) = Pair::start("come-and-go", 1) else { return };
    let before = ["n1", "n2"].map(|node| pair.run_of("m1", node));
    let url = format!("http://{}:8080/", pair.ips[0]);
    // The agent dies: its pod serves on, and is found again.
    pair.lab.ok(&["kill", "n1"]);
    assert!(pair.lab.run(&["kill", "n1"]).status.code() == Some(1), "a host that has ended cannot be killed");
    assert!(pair.lab.ok(&["status"]).lines().any(|l| l.starts_with("n1") && l.contains("ended")));
    pair.curl(&url).unwrap();
    pair.lab.ok(&["start", "n1"]);
    // The master dies: pods serve on, and the nodes come back to it by themselves.
    pair.lab.ok(&["kill", "m1"]);
    pair.curl(&url).unwrap();
    pair.lab.ok(&["start", "m1"]);
    for node in ["n1", "n2"] {
        let pod = format!("web-{node}");
        let said = eventually("exec works again", LIMIT, || {
            let output = pair.kubectl("m1", &["exec", &pod, "--", "/orchd", "internal-hello", "echo", "here"]);
            if output.status.success() { Ok(stdout(&output)) } else { Err(stderr(&output)) }
        });
        assert_eq!(said, "here\n");
    }
    // Cut off and healed.
    pair.lab.ok(&["partition", "n1", "--from", "client"]);
    pair.curl(&url).unwrap_err();
    pair.curl(&format!("http://{}:8080/", pair.ips[1])).unwrap();
    pair.lab.ok(&["heal"]);
    eventually("the healed node answers", LIMIT, || pair.curl(&url));
    assert_eq!(["n1", "n2"].map(|node| pair.run_of("m1", node)), before, "a pod was restarted");
    assert_eq!(pair.get("web-n1", &format!("{}:8080", pair.ips[1]), "/").unwrap(), "hello from web-n2 version 0");
}

#[test]
fn three_masters_lose_any_one_and_neither_nodes_nor_pods_notice() {
    let Some(pair) = Pair::start("three", 3) else { return };
    let all = ["m1", "m2", "m3"];
    let before = ["n1", "n2"].map(|node| pair.run_of("m1", node));
    let through = |master: &str, node: &str| {
        let pod = format!("web-{node}");
        let said = eventually("exec and logs through a master", LIMIT, || {
            let output = pair.kubectl(master, &["exec", &pod, "--", "/orchd", "internal-hello", "echo", master]);
            if output.status.success() { Ok(stdout(&output)) } else { Err(stderr(&output)) }
        });
        assert_eq!(said, format!("{master}\n"));
        assert_eq!(pair.k(master, &["logs", &pod]), "version 0 serves on port 8080\n");
    };
    for (master, node) in all.iter().flat_map(|m| ["n1", "n2"].map(|n| (*m, n))) {
        through(master, node);
    }
    let served = |master: &str, victim: &str| {
        // Started on both nodes: whichever master a node spoke to, it hears of its pod by another one.
        for node in ["n1", "n2"] {
            let name = format!("{victim}-{node}");
            let manifest = pair.lab.dir.join(format!("{name}.yaml"));
            std::fs::write(&manifest, pod(node).replace("web-", &format!("{victim}-")).replace("app: web", "app: other")).unwrap();
            eventually("a write succeeds without the victim", LIMIT, || {
                let output = pair.kubectl(master, &["--request-timeout=8s", "apply", "-f", &manifest.to_string_lossy()]);
                if output.status.success() { Ok(()) } else { Err(stderr(&output)) }
            });
            std::fs::remove_file(&manifest).unwrap();
            pair.k(master, &["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
        }
    };
    for (at, victim) in all.into_iter().enumerate() {
        let other = all[(at + 1) % 3];
        if at == 1 {
            pair.lab.ok(&["partition", victim]);
        } else {
            pair.lab.ok(&["kill", victim]);
        }
        served(other, victim);
        through(other, "n1");
        let again = if at == 1 { vec!["heal"] } else { vec!["start", victim] };
        pair.lab.ok(&again);
        // Both tunnels come back to it.
        through(victim, "n1");
        through(victim, "n2");
    }
    assert_eq!(["n1", "n2"].map(|node| pair.run_of("m1", node)), before, "a pod was restarted");
    for ip in &pair.ips {
        pair.curl(&format!("http://{ip}:8080/")).unwrap();
    }
    let nodes = pair.k("m1", &["get", "nodes", "--no-headers"]);
    assert!(nodes.lines().count() == 2 && nodes.lines().all(|l| l.contains(" Ready ")), "{nodes}");
}

#[test]
fn a_lab_leaves_nothing() {
    let Some(pair) = Pair::start("gone", 1) else { return };
    let dir = pair.lab.dir.clone();
    let again = Command::new(crate::support::ORCHD).args(["lab", "--masters", "1", "--dir"]).arg(&dir).output().unwrap();
    assert!(!again.status.success() && stderr(&again).contains("is at"), "{}", stderr(&again));
    // Someone still works on a host, and a node has died.
    let mut busy = Command::new(crate::support::ORCHD);
    busy.args(["lab", "--dir"]).arg(&dir).args(["exec", "n2", "--", "sleep", "1000"]);
    let mut busy = busy.spawn().unwrap();
    pair.lab.ok(&["kill", "n1"]);
    pair.lab.ok(&["down"]);
    busy.wait().unwrap();
    assert!(!dir.exists());
    let name = dir.file_name().unwrap().to_string_lossy().into_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&name), "{mounts}");
    let left: Vec<String> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            command.contains(&name).then_some(command)
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!pair.lab.run(&["status"]).status.success());
}
