//! A store in a process of its own, which can be killed and stopped as processes are. The test binary starts itself again.

use crate::target::{Target, serve};
use futures::future::BoxFuture;
use orchd_store::transport::{Connection, Transport};
use orchd_store::{Group, Options, Store};
use std::io;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};

const DIR: &str = "ORCHD_SAFETY_CHILD_DIR";
const SOCKET: &str = "ORCHD_SAFETY_CHILD_SOCKET";
/// Name in a group of three; without it, the store is alone.
const NAME: &str = "ORCHD_SAFETY_CHILD_NAME";

/// How long opening may take.
const PATIENCE: Duration = Duration::from_secs(90);

pub const NAMES: [&str; 3] = ["m1", "m2", "m3"];

/// Peers reach each other over sockets in one directory.
struct Sockets(UnixListener);

impl Transport for Sockets {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Connection>> {
        let address = address.to_owned();
        Box::pin(async move { Ok(Box::new(UnixStream::connect(address).await?) as Connection) })
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move { Ok(Box::new(self.0.accept().await?.0) as Connection) })
    }
}

fn peer_socket(dir: &Path, name: &str) -> String {
    dir.join(format!("{name}.peer")).to_str().expect("a plain path").to_owned()
}

fn group(name: String, socket: &Path) -> Group {
    let dir = socket.parent().expect("the socket lies in a directory");
    let mine = peer_socket(dir, &name);
    // Left by the one that was killed.
    let _ = std::fs::remove_file(&mine);
    Group {
        name,
        peers: NAMES.map(|name| (name.to_owned(), peer_socket(dir, name))).into(),
        transport: Arc::new(Sockets(UnixListener::bind(&mine).unwrap())),
        peer_address: mine,
        client_addresses: Vec::new(),
        cluster: 5,
        force_new_cluster: false,
    }
}

/// The child's part: does nothing unless it is told where.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_until_killed() {
    let (Ok(dir), Ok(socket)) = (std::env::var(DIR), std::env::var(SOCKET)) else { return };
    let group = std::env::var(NAME).ok().map(|name| group(name, socket.as_ref()));
    let opening = Store::open(Options { dir: dir.into(), quota_bytes: 0, group });
    let Ok(opened) = tokio::time::timeout(PATIENCE, opening).await else {
        println!("\nREFUSES it does not open in time");
        return;
    };
    match opened {
        Ok(store) => {
            let listener = UnixListener::bind(socket).unwrap();
            println!("\nSERVES");
            serve(store, listener).await.unwrap();
        }
        Err(error) => println!("\nREFUSES {error}"),
    }
}

/// The running child; killed when dropped.
pub struct Process {
    child: Child,
    pub target: Target,
    socket: PathBuf,
}

impl Process {
    /// Starts a store on `dir`, alone or as that member of a group, and returns once it serves.
    ///
    /// # Errors
    /// It does not: what it says.
    #[allow(clippy::disallowed_methods, reason = "the test starts itself as the process that is killed")]
    pub fn start(dir: &Path, socket: PathBuf, name: Option<&str>) -> Result<Self, String> {
        let child = Command::new(std::env::current_exe().unwrap())
            .envs(name.map(|name| (NAME, name)))
            .args(["--exact", "child::serves_until_killed", "--nocapture", "--test-threads=1"])
            .env(DIR, dir)
            .env(SOCKET, &socket)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut process = Self { child, target: Target::Socket(socket.clone()), socket };
        let lines = BufReader::new(process.child.stdout.take().unwrap()).lines();
        for line in lines {
            let Ok(line) = line else { break };
            if line == "SERVES" {
                return Ok(process);
            }
            if let Some(error) = line.strip_prefix("REFUSES ") {
                return Err(error.to_owned());
            }
        }
        Err("it ended without a word".into())
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// SIGSTOP: it stands still, its connections too.
    pub fn pause(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
    }

    pub fn go_on(&self) {
        self.signal(nix::sys::signal::Signal::SIGCONT);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Of one that is gone already, both fail, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}
