//! The same requests to a real etcd, where there is one (`ORCHD_ETCD` names it): the golden answers of `errors` are its own.

use super::{errors, pieces};
use orchd_store::etcd::client::Connection;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants etcd 3.7 in ORCHD_ETCD"]
async fn etcd_answers_as_written_down() {
    let etcd = std::env::var("ORCHD_ETCD").expect("ORCHD_ETCD names etcd's program");
    let dir = tempfile::tempdir().unwrap();
    let (client, peer) = (free_port(), free_port());
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let mut command = Command::new(etcd);
    command.arg("--data-dir").arg(dir.path()).args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)]);
    command.args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)]);
    command.args(["--initial-cluster", &format!("default={}", url(peer))]);
    let _etcd = Etcd(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let begun = Instant::now();
    let connection = loop {
        assert!(begun.elapsed() < Duration::from_secs(30), "etcd does not serve");
        if let Ok(connection) = Connection::tcp(&format!("127.0.0.1:{client}")).await
            && super::kv(connection.clone()).range(super::get("ready")).await.is_ok()
        {
            break connection;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let (seen, wanted) = (errors::ask(connection.clone()).await, errors::wanted());
    assert_eq!(seen.len(), wanted.len());
    for (seen, wanted) in seen.iter().zip(&wanted) {
        assert_eq!(seen, wanted);
    }
    // Where they are cut is each one's own matter.
    let said = |line: &str| line.replace(" in pieces", "").replace(" in one piece", "");
    let seen = pieces::ask(connection).await;
    assert_eq!(seen.len(), pieces::WANTED.len());
    for (seen, wanted) in seen.iter().zip(pieces::WANTED) {
        assert!(said(seen) == said(wanted) || seen.ends_with(": not in pieces"), "{seen}, and not {wanted}");
    }
}
