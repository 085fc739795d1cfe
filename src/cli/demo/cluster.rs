//! The demo's cluster: a child process `orchd up` on a data dir of its own, and the client that speaks to it.

use super::super::worker::Places;
use super::super::{CliError, leftovers, up};
use super::view::View;
use crate::client::HttpsClient;
use crate::client::kubeconfig::Kubeconfig;
use crate::env::DirWatch;
use crate::security::CertKey;
use crate::security::pki::client_config;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::timeout;

pub(super) const NODE: &str = "demo";
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const LOG_LINES: usize = 30;

pub(super) struct Cluster {
    dir: PathBuf,
    child: Option<Child>,
}

impl Cluster {
    pub fn new() -> Result<Self, CliError> {
        let made = tempfile::Builder::new().prefix("orchd-demo-").tempdir();
        let dir = made.map_err(|e| CliError::new("cannot make a data dir", e))?.keep();
        Ok(Self { dir, child: None })
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("orchd.log")
    }

    /// Starts the child and returns a client once its API serves.
    pub async fn start(&mut self) -> Result<Arc<HttpsClient>, CliError> {
        let log = File::create(self.log()).map_err(|e| CliError::new("cannot write the log", e))?;
        let exe = std::env::current_exe().map_err(|e| CliError::new("cannot find this program", e))?;
        let mut watch = DirWatch::new(&self.dir).map_err(|e| CliError::new("cannot watch the data dir", e))?;
        let mut child = Command::new(exe)
            .args(["up", "--node-name", NODE, "--data-dir"])
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| CliError::new("cannot start orchd up", e))?;
        let path = self.kubeconfig();
        let written = tokio::select! {
            written = appears(&mut watch, &path) => written,
            ended = child.wait() => Err(CliError::text(format!("orchd up ended: {ended:?}"))),
        };
        self.child = Some(child);
        written?;
        self.client()
    }

    fn client(&self) -> Result<Arc<HttpsClient>, CliError> {
        let config = Kubeconfig::load(&self.kubeconfig()).map_err(CliError::text)?;
        let identity = CertKey { cert_pem: config.client_cert_pem, key_pem: config.client_key_pem };
        let tls = client_config(&config.ca_pem, Some(&identity), &["h2"]).map_err(|e| CliError::new("TLS", e))?;
        let client = HttpsClient::new(&[config.server], Arc::new(tls), "orchd-demo").map_err(CliError::text)?;
        Ok(Arc::new(client))
    }

    /// Stops the child, then removes its pods and files.
    pub async fn stop(&mut self) -> Result<(), CliError> {
        if let Some(mut child) = self.child.take() {
            if let Some(pid) = child.id().and_then(|p| i32::try_from(p).ok()) {
                let told = kill(Pid::from_raw(pid), Signal::SIGTERM);
                tracing::debug!(?told, "orchd up is to stop");
            }
            if timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
                child.kill().await.map_err(|e| CliError::new("cannot kill orchd up", e))?;
            }
        }
        up::remove_pods(&self.dir, NODE).await?;
        std::fs::remove_dir_all(&self.dir).map_err(|e| CliError::new(format!("cannot remove {}", self.dir.display()), e))
    }

    /// # Errors
    /// Something of the cluster is left.
    pub fn check_leftovers(&self) -> Result<(), CliError> {
        leftovers::check_namespace(&[&self.dir], &[Places::new(&self.dir, NODE)])
    }

    /// The end of the child's log, for whoever has to find out what failed.
    pub fn print_log(&self, view: &View) {
        let Ok(text) = std::fs::read_to_string(self.log()) else { return };
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            view.line(&format!("   | {line}"));
        }
    }
}

/// Returns once the file is there.
async fn appears(watch: &mut DirWatch, path: &Path) -> Result<(), CliError> {
    while !path.exists() {
        watch.wait().await.map_err(|e| CliError::new("cannot watch the data dir", e))?;
    }
    Ok(())
}
