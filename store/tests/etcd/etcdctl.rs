//! Unmodified etcdctl, of every version that `ORCHD_ETCDCTL_DIR` holds, and other clients.

use super::Served;
use nix::sched::{CloneFlags, unshare};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// etcdctl against one store.
pub struct Ctl {
    pub program: PathBuf,
    pub endpoint: String,
}

impl Ctl {
    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(&self.endpoint).args(line);
        command
    }

    pub fn run(&self, line: &[&str]) -> Output {
        self.command(line).output().unwrap()
    }

    /// What it prints; it must succeed.
    pub fn ok(&self, line: &[&str]) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{} {line:?}: {output:?}", self.program.display());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What it says when it fails.
    fn fails(&self, line: &[&str]) -> String {
        let output = self.run(line);
        assert!(!output.status.success(), "{} {line:?}: {output:?}", self.program.display());
        String::from_utf8(output.stderr).unwrap()
    }

    /// The first lines of what would go on for ever.
    fn first_lines(&self, line: &[&str], count: usize) -> Vec<String> {
        use std::io::BufRead;
        let mut child = self.command(line).stdout(Stdio::piped()).spawn().unwrap();
        let told = std::io::BufReader::new(child.stdout.take().unwrap()).lines().take(count).map(Result::unwrap).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        told
    }

    fn with_input(&self, line: &[&str], input: &str) -> String {
        use std::io::Write;
        let mut child = self.command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{line:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

pub fn programs() -> Vec<PathBuf> {
    let Ok(dir) = std::env::var("ORCHD_ETCDCTL_DIR") else {
        println!("SKIPPED: ORCHD_ETCDCTL_DIR names no directory of etcdctl programs");
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

/// Runs a list of commands with every etcdctl, each on a store of its own.
async fn each(work: fn(&Ctl, &Path)) {
    for program in programs() {
        let served = Served::start().await;
        let ctl = Ctl { program, endpoint: served.address.to_string() };
        let dir = served.dir.path().to_owned();
        tokio::task::spawn_blocking(move || work(&ctl, &dir)).await.unwrap();
        served.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_transactions() {
    each(|ctl, _| {
        assert_eq!(ctl.ok(&["put", "a", "1"]), "OK");
        assert_eq!(ctl.ok(&["put", "a", "2", "--prev-kv"]), "OK\na\n1");
        assert_eq!(ctl.ok(&["get", "a"]), "a\n2");
        assert_eq!(ctl.ok(&["get", "a", "--rev", "2", "--print-value-only"]), "1");
        for at in 1..=5 {
            ctl.ok(&["put", &format!("p/{at}"), &(10 - at).to_string()]);
        }
        assert_eq!(ctl.ok(&["get", "p/", "--prefix", "--keys-only", "--limit", "2"]), "p/1\n\np/2");
        assert_eq!(ctl.ok(&["get", "p/", "--prefix", "--print-value-only", "--sort-by", "VALUE", "--order", "ASCEND"]), "5\n6\n7\n8\n9");
        assert_eq!(ctl.ok(&["get", "p/4", "--from-key", "--print-value-only"]), "6\n5");
        assert!(ctl.ok(&["get", "p/", "--prefix", "--limit", "1", "--write-out", "fields"]).contains("\"Count\" : 5"));
        assert_eq!(ctl.ok(&["del", "p/", "--prefix"]), "5");
        assert_eq!(ctl.with_input(&["txn"], "value(\"a\") = \"2\"\n\nput a 3\nget a\n\nput a no\n\n"), "SUCCESS\n\nOK\n\na\n3");
        assert_eq!(ctl.with_input(&["txn"], "mod(\"a\") < \"2\"\n\nput a no\n\nget a\n\n"), "FAILURE\n\na\n3");
        assert!(ctl.ok(&["compaction", "5"]).contains("compacted revision 5"));
        assert!(ctl.fails(&["get", "a", "--rev", "2"]).contains("etcdserver: mvcc: required revision has been compacted"));
        assert!(ctl.fails(&["get", "a", "--rev", "999"]).contains("etcdserver: mvcc: required revision is a future revision"));
        assert!(ctl.fails(&["put", "none", "--ignore-value"]).contains("etcdserver: key not found"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_leases_locks_and_elections() {
    each(|ctl, _| {
        ctl.ok(&["put", "w", "1"]);
        ctl.ok(&["put", "w", "2"]);
        ctl.ok(&["del", "w"]);
        let told = ctl.first_lines(&["watch", "w", "--rev", "2", "--prev-kv"], 13);
        assert_eq!(told.join(" "), "PUT w 1 PUT w 1 w 2 DELETE w 2 w ");

        let granted = ctl.ok(&["lease", "grant", "100"]);
        let id = granted.split(' ').nth(1).unwrap().to_owned();
        ctl.ok(&["put", "leased", "v", "--lease", &id]);
        let left = ctl.ok(&["lease", "timetolive", &id, "--keys"]);
        assert!(left.contains("granted with TTL(100s)") && left.contains("attached keys([leased])"), "{left}");
        assert!(ctl.ok(&["lease", "list"]).contains(&id));
        assert!(ctl.ok(&["lease", "keep-alive", "--once", &id]).contains("keepalived with TTL(100)"));
        assert!(ctl.ok(&["lease", "revoke", &id]).contains("revoked"));
        assert_eq!(ctl.ok(&["get", "leased"]), "");
        assert!(ctl.ok(&["lease", "timetolive", &id]).contains("already expired"));
        assert!(ctl.fails(&["lease", "revoke", &id]).contains("etcdserver: requested lease not found"));
        assert!(ctl.fails(&["put", "x", "y", "--lease", "1234"]).contains("etcdserver: requested lease not found"));

        assert_eq!(ctl.ok(&["lock", "l", "echo", "held"]), "held");
        let told = ctl.first_lines(&["elect", "e", "me"], 2);
        assert!(told[0].starts_with("e/") && told[1] == "me", "{told:?}");
    })
    .await;
}

/// A minute, whatever the store can do. That it is fast enough is not for a test to say: only that it can be asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_perf_comes_to_its_end() {
    let Some(program) = programs().pop() else { return };
    let served = Served::start().await;
    let ctl = Ctl { program, endpoint: served.address.to_string() };
    let output = tokio::task::spawn_blocking(move || ctl.run(&["check", "perf"])).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(["Throughput", "Slowest request", "Stddev"].iter().all(|figure| said.contains(figure)), "{output:?}");
    served.finish().await;
}

/// With python's client from PyPI, where there is one (`ORCHD_ETCD_PYTHON` names the directory that it is installed in).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_client() {
    let Ok(library) = std::env::var("ORCHD_ETCD_PYTHON") else {
        return println!("SKIPPED: ORCHD_ETCD_PYTHON names no directory with etcd-sdk-python");
    };
    let served = Served::start().await;
    let (host, port) = (served.address.ip().to_string(), served.address.port().to_string());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/etcd/client.py");
    let run = move || Command::new("python3").env("PYTHONPATH", library).arg(script).args([host, port]).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"fine\n");
    served.finish().await;
}

/// Rust's client, etcd-client from crates.io, by its own tests (`ORCHD_ETCD_RUST` names their program). They want a store at
/// port 2379: it gets a network of its own. Left out are those of users and roles, which we do not have, and one that wants
/// a fourth host.
#[test]
fn rusts_client() {
    let Ok(program) = std::env::var("ORCHD_ETCD_RUST") else {
        return println!("SKIPPED: ORCHD_ETCD_RUST names no program of etcd-client's tests");
    };
    let apart = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("as root");
        loopback_up().unwrap();
        // Its threads are this one's children, and so in its network.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let served = Served::start_at("127.0.0.1:2379", Default::default()).await;
            let left_out = ["test_auth", "test_role", "test_user", "test_cluster"].map(|name| format!("--skip={name}"));
            let run = || Command::new(program).args(["--include-ignored", "--test-threads=1"]).args(left_out).output().unwrap();
            let output = tokio::task::spawn_blocking(run).await.unwrap();
            served.finish().await;
            output
        })
    });
    let output = apart.join().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success() && said.contains("22 passed; 0 failed"), "{output:?}");
}

fn loopback_up() -> std::io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all zeros are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the kernel reads one `ifreq`, which outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_endpoints_and_upkeep() {
    each(|ctl, dir| {
        ctl.ok(&["put", "a", "1"]);
        let members = ctl.ok(&["member", "list"]);
        assert!(members.contains(", started, default, "), "{members}");
        assert!(ctl.ok(&["endpoint", "status", "--write-out", "fields"]).contains("\"Leader\""));
        let health = ctl.run(&["endpoint", "health"]);
        let said = [health.stdout, health.stderr].concat();
        assert!(health.status.success() && String::from_utf8(said).unwrap().contains("is healthy"));
        let (one, two) = (ctl.ok(&["endpoint", "hashkv"]), ctl.ok(&["endpoint", "hashkv"]));
        assert_eq!(one, two);
        ctl.ok(&["put", "a", "2"]);
        assert_ne!(ctl.ok(&["endpoint", "hashkv"]), one);
        assert_eq!(ctl.ok(&["alarm", "list"]), "");
        assert_eq!(ctl.ok(&["alarm", "disarm"]), "");
        assert!(ctl.ok(&["defrag"]).contains("Finished defragmenting"));
        let file = dir.join("saved");
        ctl.ok(&["snapshot", "save", file.to_str().unwrap()]);
        let summary = orchd_store::saved::inspect(&file).unwrap();
        assert_eq!((summary.revision, summary.keys), (3, 1));
        // It reads our metrics.
        assert!(ctl.ok(&["check", "datascale", "--load", "s"]).contains("PASS: Approximate system memory used"));
        let target = ctl.fails(&["move-leader", "4711"]);
        assert!(target.contains("etcdserver: bad leader transferee") || target.contains("etcdserver: member not found"), "{target}");
        assert!(ctl.fails(&["member", "remove", "4711"]).contains("etcdserver: member not found"));
        assert!(ctl.fails(&["user", "list"]).contains("etcdserver: authentication is not enabled"));
    })
    .await;
}
