//! What a client sends wrong is refused with a reason, and nothing of it is stored.

use crate::support::{Cluster, root, stderr, stdout};
use std::fmt::Write;
use std::process::Stdio;

/// Sends a body with curl's place taken by the python that is on every test machine: status and answer.
fn post(cluster: &Cluster, path: &str, content_type: &str, body: &[u8]) -> (u16, String) {
    const SCRIPT: &str = r#"
import base64, http.client, ssl, sys, tempfile, re
config = open(sys.argv[1]).read()
def pem(key):
    f = tempfile.NamedTemporaryFile(delete=False); f.write(base64.b64decode(re.search(key + ": (.*)", config).group(1))); f.close(); return f.name
context = ssl.create_default_context(cafile=pem("certificate-authority-data"))
context.load_cert_chain(pem("client-certificate-data"), pem("client-key-data"))
host, port = re.search("server: https://(.*):(\\d+)", config).groups()
connection = http.client.HTTPSConnection(host, int(port), context=context)
try:
    connection.request("POST", sys.argv[2], body=sys.stdin.buffer.read(), headers={"Content-Type": sys.argv[3]})
except (BrokenPipeError, ConnectionResetError):
    pass
answer = connection.getresponse()
print(answer.status); print(answer.read().decode())
"#;
    let mut command = cluster.inside("python3");
    command.args(["-c", SCRIPT]).arg(cluster.kubeconfig()).args([path, content_type]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), body).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = stdout(&output);
    let (status, answer) = text.split_once('\n').unwrap_or_else(|| panic!("{}", stderr(&output)));
    (status.parse().unwrap(), answer.to_owned())
}

#[test]
fn bad_manifests_are_refused_and_nothing_is_stored() {
    if !root("bad manifests") {
        return;
    }
    let cluster = Cluster::start("bad-input");
    let deployments = "/apis/apps/v1/namespaces/default/deployments?fieldValidation=Strict";
    let maps = "/api/v1/namespaces/default/configmaps?fieldValidation=Strict";
    let deployment = |spec: &str| format!(r#"{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"bad"}},"spec":{spec}}}"#);
    let template = |labels: &str, containers: &str| format!(r#"{{"metadata":{{"labels":{labels}}},"spec":{{"containers":{containers}}}}}"#);
    let fine = r#"[{"name":"c","image":"i"}]"#;
    let with = |labels: &str, containers: &str| {
        deployment(&format!(r#"{{"selector":{{"matchLabels":{{"a":"b"}}}},"template":{}}}"#, template(labels, containers)))
    };
    let matching = r#"{"a":"b"}"#;
    let quantity = r#"[{"name":"c","image":"i","resources":{"requests":{"cpu":"lots"}}}]"#;
    let twice = r#"[{"name":"c","image":"i"},{"name":"c","image":"i"}]"#;
    let mut bomb = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb}\na0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let _ = writeln!(bomb, "a{level}: &a{level} [{}]", vec![format!("*a{}", level - 1); 9].join(","));
    }
    let big = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"big"}},"data":{{"k":"{}"}}}}"#, "x".repeat(4 << 20));
    let json = "application/json";
    let mut unknown = with(matching, fine);
    unknown = unknown.replace(r#""selector""#, r#""replicaz":1,"selector""#);
    for (what, path, content_type, body, status, text) in [
        ("an unknown field", deployments, json, unknown.into_bytes(), 400, "unknown field \\\"spec.replicaz\\\""),
        (
            "a bad quantity",
            deployments,
            json,
            with(matching, quantity).into_bytes(),
            422,
            "spec.template.spec.containers[0].resources.requests[cpu]",
        ),
        (
            "a selector that does not match",
            deployments,
            json,
            with(r#"{"a":"c"}"#, fine).into_bytes(),
            422,
            "spec.template.metadata.labels",
        ),
        ("duplicate names", deployments, json, with(matching, twice).into_bytes(), 422, "spec.template.spec.containers[1].name"),
        ("4 MB", maps, json, big.into_bytes(), 413, "RequestEntityTooLarge"),
        ("an alias bomb", maps, "application/yaml", bomb.into_bytes(), 400, "BadRequest"),
        (
            "broken UTF-8",
            maps,
            json,
            b"{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"\xff\"}}".to_vec(),
            400,
            "BadRequest",
        ),
        ("half an object", maps, json, b"{\"apiVersion\":\"v1\",".to_vec(), 400, "BadRequest"),
    ] {
        let (got, answer) = post(&cluster, path, content_type, &body);
        assert!(got == status && answer.contains(text), "{what}: {got} {answer}");
    }
    for (path, kind) in [(deployments, "Deployment"), (maps, "ConfigMap")] {
        let listed = crate::kubectl::raw(&cluster, path.split('?').next().unwrap());
        for name in ["bad", "bomb", "big"] {
            assert!(!listed.contains(&format!("\"name\":\"{name}\"")), "{kind} {name} was stored: {listed}");
        }
    }
}
