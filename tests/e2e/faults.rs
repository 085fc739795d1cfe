//! What goes wrong around orchd, and what it says and keeps then.

use crate::kubectl::Kubectl;
use crate::support::{Cluster, Dir, ORCHD, eventually, kubectls, root, stderr, stdout};
use std::process::{Command, Stdio};
use std::time::Duration;

const IMAGE: &str = "orchd.dev/hello:builtin";

fn with_cluster(test: &str, name: &str, work: impl FnOnce(&mut Cluster, &std::path::Path)) {
    if !root(test) {
        return;
    }
    let Some(program) = kubectls(test).pop() else { return };
    let mut cluster = Cluster::start(name);
    work(&mut cluster, &program);
}

fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: c\n    \
         image: {image}\n    imagePullPolicy: IfNotPresent\n{more}"
    )
}

#[test]
fn containers_that_cannot_run_say_why() {
    with_cluster("failing containers", "failing", |cluster, program| {
        let k = Kubectl::new(cluster, program, "failing");
        // An address on loopback where no registry listens.
        k.with_input(&["apply", "-f", "-"], &pod("no-image", "localhost:1/none:1", ""));
        k.until(&["get", "pod", "no-image"], "ErrImagePull");
        k.until(&["get", "pod", "no-image"], "ImagePullBackOff");
        k.until(&["get", "events"], "Failed to pull image");
        k.with_input(&["apply", "-f", "-"], &pod("no-command", IMAGE, "    command: [/none]\n"));
        let reason =
            "jsonpath={.status.containerStatuses[0].lastState.terminated.reason}{.status.containerStatuses[0].state.terminated.reason}";
        k.until(&["get", "pod", "no-command", "-o", reason], "StartError");
        k.until(&["get", "pod", "no-command"], "CrashLoopBackOff");
        k.until(&["describe", "pod", "no-command"], "no such file or directory");
        let limits = "    args: [eat, '256']\n    resources: {limits: {memory: 32Mi}}\n";
        k.with_input(&["apply", "-f", "-"], &pod("hungry", IMAGE, limits));
        k.until(&["get", "pod", "hungry", "-o", reason], "OOMKilled");
        k.until(&["get", "pod", "hungry", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"], "1");
    });
}

#[test]
fn a_killed_orchd_loses_nothing_and_its_pods_run_on() {
    with_cluster("kill -9", "killed", |cluster, program| {
        let k = Kubectl::new(cluster, program, "killed");
        k.run(&["run", "steady", &format!("--image={IMAGE}"), "--", "wait"]);
        k.run(&["wait", "--for=condition=Ready", "pod/steady", "--timeout=30s"]);
        let started = "jsonpath={.status.containerStatuses[0].state.running.startedAt} {.status.containerStatuses[0].containerID}";
        let before = k.run(&["get", "pod", "steady", "-o", started]);
        let mut acknowledged = Vec::new();
        for round in 0..20 {
            let writer = writer(cluster, round);
            eventually("some writes are acknowledged", Duration::from_secs(20), || {
                match std::fs::read_to_string(writer.1.0.join("acknowledged")) {
                    Ok(text) if text.lines().count() > 20 => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
            cluster.kill();
            let (mut child, dir) = writer;
            child.kill().unwrap();
            child.wait().unwrap();
            let text = std::fs::read_to_string(dir.0.join("acknowledged")).unwrap();
            // The last line may be half written.
            acknowledged.extend(text.lines().filter(|l| l.ends_with(';')).map(|l| l.trim_end_matches(';').to_owned()));
            cluster.up();
        }
        let listed = crate::kubectl::raw(cluster, "/api/v1/namespaces/killed/configmaps");
        let missing: Vec<&String> = acknowledged.iter().filter(|name| !listed.contains(&format!("\"name\":\"{name}\""))).collect();
        assert!(missing.is_empty(), "{} of {} acknowledged writes are lost: {missing:?}", missing.len(), acknowledged.len());
        let k = Kubectl { cluster, program: program.to_owned(), namespace: "killed".into() };
        assert_eq!(k.run(&["get", "pod", "steady", "-o", started]), before, "the pod was restarted");
        k.holds_running("steady");
    });
}

impl Kubectl<'_> {
    fn holds_running(&self, pod: &str) {
        self.until(&["get", "pod", pod], "Running");
    }
}

/// A process that creates ConfigMaps one after another and writes down each that was acknowledged.
fn writer(cluster: &Cluster, round: usize) -> (std::process::Child, Dir) {
    const SCRIPT: &str = r#"
import base64, http.client, json, ssl, sys, tempfile, re
config = open(sys.argv[1]).read()
def pem(key):
    f = tempfile.NamedTemporaryFile(dir=sys.argv[2], delete=False); f.write(base64.b64decode(re.search(key + ": (.*)", config).group(1))); f.close(); return f.name
context = ssl.create_default_context(cafile=pem("certificate-authority-data"))
context.load_cert_chain(pem("client-certificate-data"), pem("client-key-data"))
host, port = re.search("server: https://(.*):(\\d+)", config).groups()
connection = http.client.HTTPSConnection(host, int(port), context=context)
log = open(sys.argv[2] + "/acknowledged", "w")
for n in range(100000):
    name = "w-%s-%d" % (sys.argv[3], n)
    body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "x" * 200}})
    connection.request("POST", "/api/v1/namespaces/killed/configmaps", body=body, headers={"Content-Type": "application/json"})
    answer = connection.getresponse(); answer.read()
    if answer.status == 201:
        log.write(name + ";\n"); log.flush()
"#;
    let dir = Dir::new("writer");
    let mut command = cluster.inside("python3");
    command.args(["-c", SCRIPT]).arg(cluster.kubeconfig()).arg(&dir.0).arg(round.to_string());
    (command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(), dir)
}

/// Runs a lone master that must not start; returns its one line.
fn refuses(args: &[&str]) -> String {
    let output = Command::new(ORCHD).args(args).stdin(Stdio::null()).env("ORCHD_LOG", "off").output().unwrap();
    assert!(!output.status.success(), "{args:?}: {}", stdout(&output));
    let text = stderr(&output);
    assert_eq!(text.trim_end().lines().count(), 1, "one clear line, not:\n{text}");
    text
}

#[test]
fn a_master_that_cannot_start_says_why_in_one_line() {
    let dir = Dir::new("start");
    let at = |name: &str| dir.0.join(name).to_string_lossy().into_owned();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let text = refuses(&["--listen", &port, "--data-dir", &at("port")]);
    assert!(text.contains("cannot serve the API") && text.contains(&port) && text.to_lowercase().contains("in use"), "{text}");
    std::fs::write(at("file"), "").unwrap();
    let text = refuses(&["--listen", "127.0.0.1:0", "--data-dir", &at("file/below")]);
    assert!(text.contains("data dir") && text.contains("file/below"), "{text}");
    std::fs::create_dir(at("newer")).unwrap();
    std::fs::write(at("newer/FORMAT"), "99\n").unwrap();
    let text = refuses(&["--listen", "127.0.0.1:0", "--data-dir", &at("newer")]);
    assert!(text.contains("newer orchd"), "{text}");
    assert_eq!(std::fs::read_dir(at("newer")).unwrap().count(), 1, "nothing is half made");
}

#[test]
fn only_root_runs_containers() {
    if !root("running as somebody else") {
        return;
    }
    for verb in ["up", "demo"] {
        let mut command = Command::new(ORCHD);
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
        let output = match command.arg(verb).env("ORCHD_LOG", "off").output() {
            Ok(output) => output,
            // The binary may lie where nobody may look; then nobody cannot run it either.
            Err(error) => return assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
        };
        assert!(!output.status.success() && stderr(&output).contains("as root"), "{}", stderr(&output));
    }
}
