//! The store's own port, off loopback.

use crate::support::{Cluster, Dir, ORCHD, eventually, root, stderr, stdout};
use std::process::Stdio;
use std::time::Duration;

/// Asks a store for its health as an administrator, as nobody, and without TLS; prints what each is told.
const ASKS: &str = r#"
import base64, http.client, re, ssl, sys, tempfile
config = open(sys.argv[1]).read()
def pem(key):
    f = tempfile.NamedTemporaryFile(); f.write(base64.b64decode(re.search(key + ": (.*)", config).group(1))); f.flush(); return f
ca, cert, key = (pem(k) for k in ("certificate-authority-data", "client-certificate-data", "client-key-data"))
admin, nobody = (ssl.create_default_context(cafile=ca.name) for _ in range(2))
admin.load_cert_chain(cert.name, key.name)
for context in (admin, nobody, None):
    kind = http.client.HTTPSConnection if context else http.client.HTTPConnection
    connection = kind(sys.argv[2], 2379, timeout=10, **({"context": context} if context else {}))
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        print(answer.status, answer.read().decode())
    except (OSError, http.client.HTTPException):
        print("refused")
"#;

#[test]
fn it_lets_administrators_in_alone_and_over_tls() {
    if !root("the store's port") {
        return;
    }
    // For its network namespace, and the address in it.
    let cluster = Cluster::start("store-port");
    let config = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    let address = config.split_once("server: https://").and_then(|(_, rest)| rest.split(':').next()).unwrap();
    assert!(!address.starts_with("127."), "{address}");
    let dir = Dir::new("store-port-master");
    let mut command = cluster.inside(ORCHD);
    command.arg("--data-dir").arg(&dir.0).args(["--advertise-address", address]);
    command.args(["--listen", &format!("{address}:6553"), "--store-listen", &format!("{address}:2379")]);
    let mut master = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let kubeconfig = dir.0.join("kubeconfig");
    eventually("the master serves", Duration::from_secs(30), || {
        kubeconfig.exists().then_some(()).ok_or_else(|| "no kubeconfig yet".into())
    });
    let told = cluster.inside("python3").args(["-c", ASKS]).arg(&kubeconfig).arg(address).output().unwrap();
    master.kill().unwrap();
    master.wait().unwrap();
    assert_eq!(stdout(&told), "200 {\"health\":\"true\",\"reason\":\"\"}\nrefused\nrefused\n", "{}", stderr(&told));
}
