//! Commands that the node itself runs in a container: probes and hooks.

use super::containers::Containers;
use super::state::Running;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// As much output as is kept.
const MAX_OUTPUT: usize = 10 * 1024;

/// How long output is read after the exit.
const LATE_OUTPUT: Duration = Duration::from_millis(100);

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub code: i32,
    /// stdout, then stderr.
    pub output: String,
}

/// Runs a command as the container's own user and in its environment. The caller bounds the time.
///
/// # Errors
/// It could not be started.
pub async fn run(containers: &dyn Containers, sandbox: &str, running: &Running, command: Vec<String>) -> Result<Done, String> {
    let mut process = running.process.clone();
    (process.args, process.tty) = (command, false);
    let session = containers.exec(sandbox, &running.id, process, false).await.map_err(|e| e.to_string())?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let stderr = async {
        match session.stderr {
            Some(stderr) => drain(stderr, &mut err).await,
            None => Ok(()),
        }
    };
    let exit = {
        let mut read = pin!(futures::future::join(drain(session.stdout, &mut out), stderr));
        let mut exit = session.exit;
        tokio::select! {
            _ = &mut read => (&mut exit).await,
            // Whoever inherited the pipes may keep them open; what was written before the exit is there at once.
            exit = &mut exit => {
                // Too late is no error: the exit is what counts.
                let _ = timeout(LATE_OUTPUT, read).await;
                exit
            }
        }
    };
    let exit = exit.map_err(|_| "the runtime gave no exit".to_owned())?.map_err(|e| e.to_string())?;
    out.extend_from_slice(&err);
    out.truncate(MAX_OUTPUT);
    Ok(Done { code: exit.code, output: String::from_utf8_lossy(&out).into_owned() })
}

/// Reads to the end, keeping the beginning.
async fn drain(mut from: impl AsyncRead + Unpin, into: &mut Vec<u8>) -> std::io::Result<()> {
    let mut chunk = [0; 4096];
    loop {
        let n = from.read(&mut chunk).await?;
        if n == 0 {
            return Ok(());
        }
        into.extend_from_slice(&chunk[..n.min(MAX_OUTPUT.saturating_sub(into.len()))]);
    }
}
