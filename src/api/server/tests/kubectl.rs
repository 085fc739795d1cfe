//! The real kubectl against the server.

use super::*;
use std::process::Stdio;

/// Names of kubectl that are tried, the first that runs is used.
const NAMES: [&str; 2] = ["/usr/lib/google-cloud-sdk/bin/kubectl.1.33", "kubectl"];

struct Kubectl {
    program: String,
    kubeconfig: std::path::PathBuf,
    home: std::path::PathBuf,
}

impl Kubectl {
    #[allow(clippy::disallowed_methods, reason = "the ban is for the product; this looks for kubectl")]
    fn new(server: &Running) -> Option<Self> {
        let asked = std::env::var("ORCHD_TEST_KUBECTL").ok();
        let names = asked.iter().map(String::as_str).chain(NAMES);
        let program = names.into_iter().find(|name| {
            let probe = std::process::Command::new(name).args(["version", "--client"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            probe.is_ok_and(|s| s.success())
        })?;
        let kubeconfig = server.dir.path().join("kubeconfig");
        let url = format!("https://{}", server.address);
        std::fs::write(&kubeconfig, server.pki.kubeconfig(&url, "admin", &server.admin())).unwrap();
        Some(Self { program: program.to_owned(), kubeconfig, home: server.dir.path().to_owned() })
    }

    /// Runs kubectl with `input` on its standard input; what it printed, and whether it was content.
    async fn run(&self, line: &str, input: &str) -> (bool, String) {
        use tokio::io::AsyncWriteExt;
        let mut child = tokio::process::Command::new(&self.program)
            .args(line.split_whitespace())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await.expect("kubectl ends").unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }
}

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: 'web:1', ports: [{containerPort: 80}]}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_on_objects() {
    let server = Running::start().await;
    let Some(kubectl) = Kubectl::new(&server) else {
        eprintln!("SKIPPED: no kubectl here");
        return;
    };
    let scaled = DEPLOYMENT.replace("replicas: 2", "replicas: 3");
    let applied = DEPLOYMENT
        .replace("name: web, labels", "name: applied, labels")
        .replace("image: 'web:1'", "image: 'web:1', resources: {limits: {cpu: 0.5}}");
    let ssa = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {a: x}\n";
    for (line, input, fine, wanted) in [
        ("create namespace one", "", true, "namespace/one created"),
        ("create configmap cm --from-literal=k=v", "", true, "configmap/cm created"),
        ("create deployment made --image=made:1 --replicas=2", "", true, "deployment.apps/made created"),
        ("get configmap cm -o jsonpath={.data.k}", "", true, "v"),
        ("get cm,deploy", "", true, "deployment.apps/made"),
        ("get deploy made -o wide", "", true, "made:1"),
        ("get cm cm -o yaml", "", true, "  k: v"),
        ("apply -f -", DEPLOYMENT, true, "deployment.apps/web created"),
        ("apply -f -", DEPLOYMENT, true, "deployment.apps/web unchanged"),
        ("diff -f -", DEPLOYMENT, true, ""),
        ("diff -f -", &scaled, false, "+  replicas: 3"),
        ("apply -f -", &scaled, true, "deployment.apps/web configured"),
        (
            "patch deploy web -p {\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"web\",\"image\":\"web:2\"}]}}}}",
            "",
            true,
            "patched",
        ),
        (
            "get deploy web -o jsonpath={.spec.template.spec.containers[*].ports[0].containerPort}{.spec.template.spec.containers[0].image}",
            "",
            true,
            "80web:2",
        ),
        ("patch deploy web --type=json -p [{\"op\":\"add\",\"path\":\"/spec/paused\",\"value\":true}]", "", true, "patched"),
        ("scale deploy web --replicas=5", "", true, "scaled"),
        ("label cm cm team=a", "", true, "labeled"),
        ("annotate cm cm note=b", "", true, "annotated"),
        ("get cm -l team=a -o name", "", true, "configmap/cm"),
        ("set image deploy/web web=web:3", "", true, "image updated"),
        ("apply --server-side -f -", ssa, true, "serverside-applied"),
        ("apply --server-side -f -", ssa, true, "serverside-applied"),
        ("patch cm ssa --type=merge -p {\"data\":{\"a\":\"y\"}}", "", true, "patched"),
        ("apply --server-side -f -", ssa, false, "conflict with \"kubectl-patch\" using v1: .data.a"),
        ("apply --server-side --force-conflicts -f -", ssa, true, "serverside-applied"),
        ("apply --dry-run=server -f -", &scaled, true, "(server dry run)"),
        ("apply --server-side -f -", &applied, true, "serverside-applied"),
        ("apply --server-side -f -", &applied, true, "serverside-applied"),
        ("get deploy applied -o jsonpath={.metadata.generation}:{.metadata.managedFields[*].operation}", "", true, "1:Apply"),
        ("scale deploy applied --replicas=7", "", true, "scaled"),
        ("apply --server-side -f -", &applied, false, "with subresource \"scale\" using apps/v1: .spec.replicas"),
        ("diff --server-side --force-conflicts -f -", &applied, false, "-  replicas: 7"),
        ("wait --for=jsonpath={.spec.replicas}=7 deploy/applied --timeout=5s", "", true, "condition met"),
        ("get cm cm -w --request-timeout=1s", "", true, "cm "),
        ("get events,secrets,svc,nodes -A", "", true, "No resources found"),
        ("create token default", "", true, "eyJ"),
        ("explain pods.spec.containers --output plaintext-openapiv2", "", true, "List of containers belonging to the pod"),
        ("explain deploy.spec.replicas", "", true, "FIELD: replicas <integer>"),
        ("api-resources", "", true, "deployments"),
        ("auth can-i create pods", "", true, "yes"),
        (
            "create -f -",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\nspec: {x: 1}\n",
            false,
            "strict decoding error: unknown field \"spec\"",
        ),
        ("replace -f -", ssa, true, "replaced"),
        ("delete cm ssa", "", true, "deleted"),
        ("delete cm,deploy --all", "", true, "deleted"),
        ("get cm nothing", "", false, "Error from server (NotFound): configmaps \"nothing\" not found"),
    ] {
        let (ok, text) = kubectl.run(line, input).await;
        assert!(ok == fine && text.contains(wanted), "kubectl {line}\nwanted {wanted:?}, got:\n{text}");
    }
}
