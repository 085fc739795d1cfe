//! etcdctl and three members: who they are, who leads, whether they agree; a fourth that comes, gets its vote, and goes.

use super::etcdctl::{Ctl, programs};
use orchd_store::etcd::{self, serve};
use orchd_store::transport::memory::Mesh;
use orchd_store::{Group, Options, Store};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const NAMES: [&str; 3] = ["m1", "m2", "m3"];
const WAIT: Duration = Duration::from_secs(20);

struct Member {
    store: Store,
    address: String,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

fn peer(name: &str) -> String {
    format!("{name}:6444")
}

impl Member {
    /// Founds the group with the others, or joins it.
    async fn start(mesh: &Mesh, dir: &Path, name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let group = Group {
            name: name.into(),
            peers: NAMES.map(|name| (name.to_owned(), peer(name))).into(),
            peer_address: peer(name),
            client_addresses: vec![format!("http://{address}")],
            cluster: 7,
            transport: mesh.listen(&peer(name)),
            force_new_cluster: false,
        };
        let store = Store::open(Options { dir: dir.join(name), quota_bytes: 0, group: Some(group) }).await.unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(store.clone(), listener, etcd::Options::default(), stop.clone()));
        Self { store, address, stop, serving }
    }

    async fn finish(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
        self.store.close().await;
    }
}

/// What etcdctl says, once it says what it should.
fn until(ctl: &Ctl, line: &[&str], holds: impl Fn(&str) -> bool) -> String {
    let begun = Instant::now();
    loop {
        let output = ctl.run(line);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() && holds(&said) {
            return said;
        }
        assert!(begun.elapsed() < WAIT, "{line:?}: {output:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The same hash for every member.
fn agree(ctl: &Ctl, members: usize) {
    until(ctl, &["endpoint", "hashkv"], |said| {
        let hashes: Vec<&str> = said.lines().filter_map(|line| line.split(", ").nth(1)).collect();
        hashes.len() == members && hashes.iter().all(|hash| *hash == hashes[0])
    });
}

/// Names and ids, once so many have started.
fn listed(ctl: &Ctl, members: usize) -> Vec<(String, String)> {
    let said = until(ctl, &["member", "list"], |said| said.matches(", started, ").count() == members);
    let field = |line: &str, at: usize| line.split(", ").nth(at).unwrap().to_owned();
    said.lines().map(|line| (field(line, 2), field(line, 0))).collect()
}

/// Without the fourth.
fn three(ctl: &Ctl) {
    let members = listed(ctl, 3);
    let health = ctl.run(&["endpoint", "health"]);
    // 3.4 says it on one output, 3.5 on the other.
    let said = String::from_utf8([health.stdout, health.stderr].concat()).unwrap();
    assert_eq!(said.matches("is healthy").count(), 3, "{said}");
    for at in 0..20 {
        ctl.ok(&["put", &format!("k{at}"), "v"]);
    }
    agree(ctl, 3);
    let mut transferred = 0;
    for (_, id) in members.iter().cycle().take(4) {
        // It is for the leader to be asked: etcdctl finds it.
        let moved = ctl.run(&["move-leader", id]);
        let said = format!("{moved:?}");
        let done = moved.status.success() && said.contains("Leadership transferred");
        transferred += usize::from(done);
        // The one that leads cannot be given what it has.
        assert!(done || said.contains("bad leader"), "{said}");
        ctl.ok(&["put", "moved", id]);
    }
    assert!(transferred >= 3, "only the first of them can have led already");
    agree(ctl, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_and_a_fourth() {
    for program in programs() {
        let (mesh, dir) = (Mesh::default(), tempfile::tempdir().unwrap());
        let mut members = futures::future::join_all(NAMES.map(|name| Member::start(&mesh, dir.path(), name))).await;
        let endpoint = |members: &[Member]| members.iter().map(|member| member.address.clone()).collect::<Vec<_>>().join(",");
        let ctl = Ctl { program: program.clone(), endpoint: endpoint(&members) };
        let ctl = tokio::task::spawn_blocking(move || {
            three(&ctl);
            let added = ctl.ok(&["member", "add", "m4", "--learner", "--peer-urls", "http://m4:6444"]);
            assert!(added.contains("added to cluster"), "{added}");
            ctl
        })
        .await
        .unwrap();
        members.push(tokio::time::timeout(WAIT, Member::start(&mesh, dir.path(), "m4")).await.unwrap());
        let all = Ctl { program, endpoint: endpoint(&members) };
        tokio::task::spawn_blocking(move || {
            let id = listed(&ctl, 4).into_iter().find(|(name, _)| name == "m4").unwrap().1;
            until(&ctl, &["member", "promote", &id], |said| said.contains("promoted in cluster"));
            agree(&all, 4);
            assert!(ctl.ok(&["member", "remove", &id]).contains("removed from cluster"));
            assert_eq!(listed(&ctl, 3).len(), 3);
            agree(&ctl, 3);
        })
        .await
        .unwrap();
        futures::future::join_all(members.into_iter().map(Member::finish)).await;
    }
}
