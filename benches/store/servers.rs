//! The sides: etcd, orchd's store, and the stub; as processes on loopback, with their data on the same file system.

use super::pool::call;
use super::proto;
use super::serve::{DONE, Native};
use super::usage::cpu_seconds;
use crate::figures::{Rounds, pss_mib};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(5);
/// As large as etcd recommends.
const QUOTA_BYTES: u64 = 8 << 30;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Etcd,
    Orchd,
    Stub,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Orchd => "orchd",
            Self::Stub => "stub",
        }
    }
}

struct Member {
    child: Child,
    client: SocketAddr,
    peer: SocketAddr,
}

/// Running servers of one side. They and their data go with it.
pub struct Servers {
    side: Side,
    dir: PathBuf,
    members: Vec<Member>,
}

/// Where data is kept: beside the build, on a real disk.
fn scratch() -> PathBuf {
    std::env::current_exe().expect("a path").with_file_name("bench-store-data")
}

/// etcd's program, from ETCD_BIN, PATH, or where `../shared/conformance/build reference` puts it.
pub fn etcd() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("ETCD_BIN") {
        return Some(named.into());
    }
    let built = PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/orchd-k8s/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([built]).map(|dir| dir.join("etcd")).find(|file| file.exists())
}

fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}

fn etcd_command(name: &str, dir: &Path, client: SocketAddr, peer: SocketAddr, cluster: &[(String, SocketAddr)]) -> Command {
    let mut command = Command::new(etcd().expect("there is an etcd"));
    let cluster: Vec<String> = cluster.iter().map(|(name, peer)| format!("{name}=http://{peer}")).collect();
    command.args(["--name", name, "--data-dir"]).arg(dir);
    for (flag, address) in [
        ("listen-client-urls", client),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer),
        ("initial-advertise-peer-urls", peer),
    ] {
        command.arg(format!("--{flag}=http://{address}"));
    }
    command.arg(format!("--initial-cluster={}", cluster.join(",")));
    command.args(["--initial-cluster-state=new", "--log-level=error"]);
    command.arg(format!("--quota-backend-bytes={QUOTA_BYTES}"));
    command
}

fn orchd_command(name: &str, dir: &Path, client: SocketAddr, peer: SocketAddr, cluster: &[(String, SocketAddr)]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    let cluster: Vec<String> = cluster.iter().map(|(name, peer)| format!("{name}={peer}")).collect();
    command.args(["--serve-store", name]).arg(dir).arg(client.to_string()).arg(peer.to_string()).arg(cluster.join(","));
    command.arg(QUOTA_BYTES.to_string());
    command
}

fn stub_command(client: SocketAddr, value_bytes: usize) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.arg("--serve-stub").arg(client.to_string()).arg(value_bytes.to_string());
    command
}

/// What the members had to say.
fn logs(dir: &Path) -> String {
    let files = std::fs::read_dir(dir).expect("the data is there").flatten().map(|entry| entry.path());
    let logs = files.filter(|file| file.extension().is_some_and(|e| e == "log"));
    logs.map(|file| std::fs::read_to_string(file).expect("a log can be read")).collect::<Vec<_>>().join("\n")
}

impl Servers {
    /// Starts this many members with nothing in them, and waits until each serves.
    pub fn start(side: Side, members: usize, value_bytes: usize) -> Self {
        let dir = scratch().join(format!("{}-{}", side.name(), std::process::id()));
        if dir.exists() {
            std::fs::remove_dir_all(&dir).expect("old data can go");
        }
        std::fs::create_dir_all(&dir).expect("a place for data");
        let places: Vec<(String, SocketAddr, SocketAddr)> = (1..=members).map(|at| (format!("m{at}"), free_port(), free_port())).collect();
        let mut servers = Self { side, dir, members: Vec::new() };
        for (name, client, peer) in &places {
            let child = servers.command(name, *client, *peer, &places, value_bytes).spawn().expect("the server starts");
            servers.members.push(Member { child, client: *client, peer: *peer });
        }
        servers.wait();
        servers
    }

    fn command(
        &self,
        name: &str,
        client: SocketAddr,
        peer: SocketAddr,
        places: &[(String, SocketAddr, SocketAddr)],
        value: usize,
    ) -> Command {
        let cluster: Vec<(String, SocketAddr)> = places.iter().map(|(name, _, peer)| (name.clone(), *peer)).collect();
        let dir = self.dir.join(name);
        let mut command = match self.side {
            Side::Etcd => etcd_command(name, &dir, client, peer, &cluster),
            Side::Orchd => orchd_command(name, &dir, client, peer, &cluster),
            Side::Stub => stub_command(client, value),
        };
        let log = std::fs::File::create(self.dir.join(format!("{name}.log"))).expect("a log can be made");
        // A store of ours takes orders on its input, and ends with it.
        let orders = if self.side == Side::Orchd { Stdio::piped } else { Stdio::null };
        command.stdin(orders()).stdout(orders()).stderr(log);
        command
    }

    /// Returns once every member answers a linearizable read.
    fn wait(&mut self) {
        let deadline = Instant::now() + START;
        let mut request = Vec::new();
        proto::range(&mut request, b"health", None, 0);
        for member in &mut self.members {
            while call(member.client, proto::RANGE, &request, Duration::from_secs(5)).is_err() {
                let late = Instant::now() > deadline;
                if late || member.child.try_wait().expect("a child").is_some() {
                    panic!("{:?}: a member does not serve: {}", self.side, logs(&self.dir));
                }
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Where clients reach the members; the leader first.
    fn endpoints(&self) -> Vec<SocketAddr> {
        const LIMIT: Duration = Duration::from_secs(10);
        let leads = |endpoint: SocketAddr| {
            let status = call(endpoint, proto::STATUS, &[], LIMIT).expect("a member tells its status").remove(0);
            let member = proto::field_bytes(&status, 1).and_then(|header| proto::field_int(header, 2));
            member == proto::field_int(&status, 4)
        };
        let mut endpoints: Vec<SocketAddr> = self.members.iter().map(|member| member.client).collect();
        if self.side != Side::Stub {
            endpoints.sort_by_key(|endpoint| !leads(*endpoint));
        }
        endpoints
    }

    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.child.id()).collect()
    }

    /// Proportional set size of all members, MiB.
    pub fn pss_mib(&self) -> f64 {
        pss_mib(&self.pids().iter().map(|pid| *pid as i32).collect::<Vec<_>>())
    }

    /// Waits until the servers have done what their load left to be done: they use next to no CPU. Not for ever.
    pub fn rest(&self) {
        const MOST: Duration = Duration::from_secs(60);
        const LOOK: Duration = Duration::from_secs(1);
        const QUIET_S: f64 = 0.1;
        let began = Instant::now();
        let mut before = cpu_seconds(&self.pids());
        while began.elapsed() < MOST {
            std::thread::sleep(LOOK);
            let now = cpu_seconds(&self.pids());
            if now - before < QUIET_S {
                break;
            }
            before = now;
        }
    }

    fn kill(&mut self) {
        for member in &mut self.members {
            member.child.kill().expect("it can be killed");
            member.child.wait().expect("it ends");
        }
    }

    /// Kills every member as a power cut would, starts them again on the same data, and returns how long it took until all serve.
    pub fn restart(&mut self) -> Duration {
        self.kill();
        let places: Vec<(String, SocketAddr, SocketAddr)> =
            self.members.iter().enumerate().map(|(at, member)| (format!("m{}", at + 1), member.client, member.peer)).collect();
        let began = Instant::now();
        for (at, (name, client, peer)) in places.iter().enumerate() {
            self.members[at].child = self.command(name, *client, *peer, &places, 0).spawn().expect("the server starts");
        }
        self.wait();
        began.elapsed()
    }

    /// Has the member of ours that leads load itself; the others only answer that they do not.
    pub fn native(&mut self, ask: &Native, name: &str, rounds: &mut Rounds) {
        let mut figures = 0;
        for member in &mut self.members {
            member.child.stdin.as_mut().expect("a pipe").write_all(ask.line().as_bytes()).expect("the member listens");
            let answers = BufReader::new(member.child.stdout.as_mut().expect("a pipe"));
            for line in answers.lines().map(|line| line.expect("the member answers")).take_while(|line| line != DONE) {
                rounds.take(&format!("orchd_{name}"), &line);
                figures += 1;
            }
        }
        assert!(figures > 0, "no member leads");
    }

    /// Has the generator, in a process of its own, drive them.
    pub fn drive(&self, ask: &super::drive::Ask, name: &str, rounds: &mut Rounds) {
        let ask = super::drive::Ask { endpoints: self.endpoints(), pids: self.pids(), ..ask.clone() };
        let mut command = Command::new(std::env::current_exe().expect("a path"));
        command.arg("--drive").args(ask.words()).stderr(Stdio::inherit());
        rounds.run(&format!("{}_{name}", self.side.name()), command);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}: {}", self.side, logs(&self.dir));
        }
        for member in &mut self.members {
            if let Err(error) = member.child.kill().and_then(|()| member.child.wait()) {
                eprintln!("{}: {error}", self.side.name());
            }
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("{}: {error}", self.dir.display());
        }
    }
}
