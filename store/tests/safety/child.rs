//! A store in a process of its own, which can be killed and stopped as processes are. The test binary starts itself again.

use crate::target::{Target, serve};
use orchd_store::{Options, Store};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const DIR: &str = "ORCHD_SAFETY_CHILD_DIR";
const SOCKET: &str = "ORCHD_SAFETY_CHILD_SOCKET";

/// The child's part: does nothing unless it is told where.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_until_killed() {
    let (Ok(dir), Ok(socket)) = (std::env::var(DIR), std::env::var(SOCKET)) else { return };
    match Store::open(Options { dir: dir.into(), quota_bytes: 0, group: None }).await {
        Ok(store) => {
            let listener = tokio::net::UnixListener::bind(socket).unwrap();
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
    /// Starts a store on `dir`, and returns once it serves.
    ///
    /// # Errors
    /// It does not: what it says.
    #[allow(clippy::disallowed_methods, reason = "the test starts itself as the process that is killed")]
    pub fn start(dir: &Path, socket: PathBuf) -> Result<Self, String> {
        let child = Command::new(std::env::current_exe().unwrap())
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
    pub fn stop(&self) {
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
