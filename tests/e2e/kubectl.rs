//! Unmodified kubectl, of two versions: what its users do all day.

use crate::support::{AtMaster, Cluster, Lab, Place, eventually, kubectls, root, stderr, stdout};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const IMAGE: &str = "orchd.dev/hello:builtin";

/// GET of a path with the newest kubectl there is.
pub fn raw(cluster: &Cluster, path: &str) -> String {
    let program = kubectls("kubectl").pop().expect("kubectl");
    stdout(&cluster.kubectl(&program, &["get", "--raw", path]))
}

/// One version of kubectl, in a namespace of its own.
pub struct Kubectl<'a> {
    pub cluster: &'a dyn Place,
    pub program: PathBuf,
    pub namespace: String,
}

impl<'a> Kubectl<'a> {
    pub fn new(cluster: &'a dyn Place, program: &Path, namespace: &str) -> Self {
        let this = Self { cluster, program: program.to_owned(), namespace: namespace.to_owned() };
        this.run(&["create", "namespace", namespace]);
        this
    }

    fn args<'b>(&'b self, args: &[&'b str]) -> Vec<&'b str> {
        let mut all = vec!["-n", &self.namespace];
        all.extend_from_slice(args);
        all
    }

    /// Runs it; it must succeed.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.cluster.kubectl(&self.program, &self.args(args));
        assert!(output.status.success(), "{} {args:?}: {}{}", self.program.display(), stdout(&output), stderr(&output));
        stdout(&output)
    }

    /// Runs it; it must fail. Returns what it complains of.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.cluster.kubectl(&self.program, &self.args(args));
        assert!(!output.status.success(), "{args:?} succeeded: {}", stdout(&output));
        stderr(&output)
    }

    /// Runs it with a manifest as its input.
    pub fn with_input(&self, args: &[&str], input: &str) -> String {
        let mut command = self.cluster.command(&self.program);
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig()).args(self.args(args)).env("HOME", self.cluster.home());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}: {}{}", stdout(&output), stderr(&output));
        stdout(&output)
    }

    /// Asks until the answer holds what is wanted.
    pub fn until(&self, args: &[&str], wanted: &str) -> String {
        eventually(&format!("{args:?} says {wanted:?}"), Duration::from_secs(60), || {
            let output = self.cluster.kubectl(&self.program, &self.args(args));
            let text = stdout(&output);
            if text.contains(wanted) { Ok(text) } else { Err(format!("{text}{}", stderr(&output))) }
        })
    }

    fn holds(&self, args: &[&str], wanted: &[&str]) -> String {
        let text = self.run(args);
        for wanted in wanted {
            assert!(text.contains(wanted), "{args:?} lacks {wanted:?}:\n{text}");
        }
        text
    }
}

fn deployment(replicas: u32, version: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, labels: {{app: web}}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 2\n      containers:\n      - name: web\n        image: {IMAGE}\n        args: [web]\n        \
         env: [{{name: VERSION, value: \"{version}\"}}, {{name: GREETING_FILE, value: /orchd}}]\n        \
         ports: [{{containerPort: 8080}}]\n"
    )
}

fn with_each(test: &str, work: impl Fn(&Kubectl<'_>)) {
    if !root(test) {
        return;
    }
    let programs = kubectls(test);
    if programs.is_empty() {
        return;
    }
    let cluster = Cluster::start(&format!("kubectl-{}", test.len()));
    for (at, program) in programs.iter().enumerate() {
        with_one(&cluster, program, at, &work);
    }
    drop(cluster);
    // The same against three masters, each version at another one.
    let lab = Lab::start(&format!("kubectl-lab-{}", test.len()), 3, 2);
    for (at, program) in programs.iter().enumerate() {
        with_one(&AtMaster::new(&lab, &format!("m{}", at % 3 + 1)), program, at, &work);
    }
}

fn with_one(place: &dyn Place, program: &Path, at: usize, work: impl Fn(&Kubectl<'_>)) {
    let kubectl = Kubectl::new(place, program, &format!("ns{at}"));
    work(&kubectl);
    kubectl.run(&["delete", "namespace", &kubectl.namespace, "--wait=true", "--timeout=60s"]);
}

#[test]
fn objects_are_made_shown_and_changed() {
    with_each("kubectl on objects", |k| {
        k.holds(&["version"], &["Server Version: v1.35"]);
        k.holds(&["cluster-info"], &["Kubernetes control plane", "is running at"]);
        k.holds(&["api-resources"], &["deployments", "deploy", "configmaps", "cm"]);
        k.holds(&["explain", "deployment.spec.strategy"], &["rollingUpdate", "FIELDS"]);
        k.run(&["create", "configmap", "settings", "--from-literal=a=1"]);
        k.holds(&["get", "cm", "settings", "-o", "yaml"], &["a: \"1\"", "kind: ConfigMap"]);
        k.run(&["label", "cm", "settings", "tier=back"]);
        k.run(&["annotate", "cm", "settings", "note=hello"]);
        k.holds(&["get", "cm", "-l", "tier=back"], &["settings"]);
        k.holds(&["get", "cm", "-A", "--field-selector", "metadata.name=settings"], &["settings", &k.namespace]);
        k.run(&["patch", "cm", "settings", "-p", "{\"data\":{\"b\":\"2\"}}"]);
        k.run(&["patch", "cm", "settings", "--type=merge", "-p", "{\"data\":{\"c\":\"3\"}}"]);
        k.run(&["patch", "cm", "settings", "--type=json", "-p", "[{\"op\":\"remove\",\"path\":\"/data/a\"}]"]);
        k.holds(&["get", "cm", "settings", "-o", "jsonpath={.data}"], &["{\"b\":\"2\",\"c\":\"3\"}"]);
        let changed = k.run(&["get", "cm", "settings", "-o", "yaml"]).replace("b: \"2\"", "b: \"20\"");
        k.with_input(&["replace", "-f", "-"], &changed);
        k.holds(&["get", "cm", "settings", "-o", "json"], &["\"b\": \"20\""]);
        k.holds(&["describe", "cm", "settings"], &["note: hello", "20"]);
        edit(k);
        k.run(&["delete", "cm", "settings"]);
        assert!(k.fails(&["get", "cm", "settings"]).contains("configmaps \"settings\" not found"));
    });
}

fn edit(k: &Kubectl<'_>) {
    let mut command = k.cluster.command(&k.program);
    command.arg("--kubeconfig").arg(k.cluster.kubeconfig()).args(["-n", &k.namespace, "edit", "cm", "settings"]);
    let output = command.env("KUBE_EDITOR", "sed -i s/hello/edited/").env("HOME", k.cluster.home()).output().unwrap();
    assert!(output.status.success(), "edit: {}{}", stdout(&output), stderr(&output));
    k.holds(&["get", "cm", "settings", "-o", "jsonpath={.metadata.annotations.note}"], &["edited"]);
}

#[test]
fn deployments_are_rolled_out_and_back() {
    with_each("kubectl on deployments", |k| {
        k.with_input(&["apply", "-f", "-"], &deployment(2, "1"));
        k.holds(&["rollout", "status", "deployment/web", "--timeout=60s"], &["successfully rolled out"]);
        k.holds(&["get", "deploy,rs,pods", "-o", "wide"], &["2/2", IMAGE, "1/1", "Running"]);
        diff(k);
        k.with_input(&["apply", "-f", "-"], &deployment(2, "2"));
        k.run(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        k.holds(&["rollout", "history", "deployment/web"], &["REVISION", "1", "2"]);
        k.run(&["rollout", "undo", "deployment/web"]);
        k.run(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        k.holds(&["get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].env[0].value}"], &["1"]);
        k.run(&["scale", "deployment/web", "--replicas=3"]);
        k.run(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        k.run(&["rollout", "pause", "deployment/web"]);
        k.run(&["set", "image", "deployment/web", &format!("web={IMAGE}")]);
        k.run(&["set", "env", "deployment/web", "VERSION=4"]);
        k.run(&["rollout", "resume", "deployment/web"]);
        k.run(&["rollout", "restart", "deployment/web"]);
        k.run(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        k.run(&["wait", "--for=condition=Available", "deployment/web", "--timeout=30s"]);
        k.run(&["expose", "deployment", "web", "--port=80", "--target-port=8080"]);
        k.until(&["get", "endpoints", "web", "-o", "jsonpath={.subsets[0].addresses[*].ip}"], "10.244.");
        k.holds(&["get", "--raw", &format!("/api/v1/namespaces/{}/services/web/proxy/", k.namespace)], &["version 4"]);
        k.holds(&["describe", "deployment", "web"], &["RollingUpdate", "ScalingReplicaSet"]);
        k.holds(&["events"], &["SuccessfulCreate"]);
        k.run(&["delete", "deployment", "web", "--wait=true"]);
        k.until(&["get", "pods", "-o", "name"], "");
    });
}

fn diff(k: &Kubectl<'_>) {
    let mut command = k.cluster.command(&k.program);
    command.arg("--kubeconfig").arg(k.cluster.kubeconfig()).args(["-n", &k.namespace, "diff", "-f", "-"]).env("HOME", k.cluster.home());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(deployment(5, "1").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = stdout(&output);
    assert!(output.status.code() == Some(1) && text.contains("+  replicas: 5"), "diff: {text}{}", stderr(&output));
}

#[test]
fn pods_are_run_entered_and_read() {
    with_each("kubectl on pods", |k| {
        k.run(&["run", "one", &format!("--image={IMAGE}"), "--restart=Never", "--", "wait"]);
        k.run(&["wait", "--for=condition=Ready", "pod/one", "--timeout=30s"]);
        k.holds(&["describe", "pod", "one"], &["Scheduled", "Started", "Status:", "Running"]);
        k.holds(&["exec", "one", "--", "/orchd", "internal-hello", "echo", "from", "inside"], &["from inside"]);
        assert_eq!(k.with_input(&["exec", "-i", "one", "--", "/orchd", "internal-hello", "cat"], "through stdin"), "through stdin");
        let code = k.cluster.kubectl(&k.program, &["-n", &k.namespace, "exec", "one", "--", "/orchd", "internal-hello", "exit", "7"]);
        assert_eq!(code.status.code(), Some(7), "{}", stderr(&code));
        assert!(k.fails(&["exec", "one", "--", "/none"]).contains("no such file or directory"));
        terminal(k);
        k.run(&["run", "says", &format!("--image={IMAGE}"), "--restart=Never", "--", "echo", "a line of log"]);
        k.until(&["get", "pod", "says"], "Completed");
        assert_eq!(k.run(&["logs", "says"]), "a line of log\n");
        k.run(&["run", "web", &format!("--image={IMAGE}"), "--", "web"]);
        k.run(&["wait", "--for=condition=Ready", "pod/web", "--timeout=30s"]);
        k.holds(&["logs", "web", "--tail=1"], &["serves on port 8080"]);
        follow(k);
        k.run(&["delete", "pod", "one", "says", "--wait=true", "--grace-period=1"]);
        assert!(k.fails(&["get", "pod", "one"]).contains("pods \"one\" not found"));
    });
}

/// `exec -it` on a terminal that script(1) makes.
fn terminal(k: &Kubectl<'_>) {
    let line = format!(
        "{} --kubeconfig {} -n {} exec -it one -- /orchd internal-hello echo on a terminal",
        k.program.display(),
        k.cluster.kubeconfig().display(),
        k.namespace
    );
    let output = k
        .cluster
        .command(Path::new("script"))
        .args(["-qec", &line, "/dev/null"])
        .env("HOME", k.cluster.home())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(stdout(&output).contains("on a terminal\r\n"), "{}{}", stdout(&output), stderr(&output));
}

/// `logs -f` and `get -w` end when what they follow is gone or has enough.
fn follow(k: &Kubectl<'_>) {
    let mut command = k.cluster.command(&k.program);
    command.arg("--kubeconfig").arg(k.cluster.kubeconfig()).args(["-n", &k.namespace, "logs", "-f", "web"]).env("HOME", k.cluster.home());
    let logs = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut command = k.cluster.command(&k.program);
    command.arg("--kubeconfig").arg(k.cluster.kubeconfig()).args(["-n", &k.namespace, "get", "pods", "-w"]).env("HOME", k.cluster.home());
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
    assert!(lines.next().unwrap().unwrap().starts_with("NAME"));
    k.run(&["delete", "pod", "web", "--wait=true"]);
    assert!(lines.map_while(Result::ok).any(|l| l.starts_with("web") && l.contains("Terminating")));
    watch.kill().unwrap();
    watch.wait().unwrap();
    let followed = stdout(&logs.wait_with_output().unwrap());
    assert!(followed.contains("serves on port 8080") && followed.contains("draining"), "{followed}");
}
