//! Starting shims.

use super::StartError;
use super::place::Place;
use super::shim::namespace_list;
use super::wire::{Assignment, Decoder, Ready, encode};
use crate::spec::SandboxSpec;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

const READY: Duration = Duration::from_secs(30);

/// Starts a shim for a sandbox whose directory exists; returns its pid once it serves.
///
/// # Errors
/// What the shim says, or that it says nothing.
pub async fn shim(exe: &Path, place: &Place, spec: &SandboxSpec) -> Result<i32, StartError> {
    let mut child = start(exe, &namespace_list(spec))?;
    let assignment = Assignment { dir: place.0.clone(), spec: spec.clone() };
    let ready = tokio::time::timeout(READY, assign(&mut child, &assignment)).await;
    let failed = match ready {
        Ok(Ok(Ready::Pid(pid))) => {
            tokio::spawn(reap(child));
            return Ok(pid);
        }
        Ok(Ok(Ready::Failed(why))) => StartError::Create(format!("failed to create sandbox: {why}")),
        Ok(Err(e)) => StartError::Shim(e.to_string()),
        Err(_) => StartError::Shim(format!("not ready within {READY:?}")),
    };
    child.kill().await?;
    Err(failed)
}

fn start(exe: &Path, namespaces: &str) -> std::io::Result<Child> {
    // The one program that orchd runs: itself.
    #[allow(clippy::disallowed_methods)]
    let mut command = Command::new(exe);
    command.arg(super::SHIM_VERB).arg(namespaces).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn()
}

async fn assign(child: &mut Child, assignment: &Assignment) -> std::io::Result<Ready> {
    let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(std::io::Error::other("the shim has no pipes"));
    };
    input.write_all(&encode(assignment)?).await?;
    let mut decoder = Decoder::default();
    let mut chunk = [0; 1024];
    loop {
        if let Some(ready) = decoder.next()? {
            return Ok(ready);
        }
        match output.read(&mut chunk).await? {
            0 => return Err(std::io::Error::other("it ended before it served")),
            length => decoder.push(&chunk[..length]),
        }
    }
}

/// No zombie is left of a shim that ends while this agent lives.
async fn reap(mut child: Child) {
    if let Err(e) = child.wait().await {
        tracing::debug!("waiting for a shim: {e}");
    }
}
