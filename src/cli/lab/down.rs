//! A lab goes: processes, pods, namespaces, files; and a look whether anything is left.

use super::super::{CliError, leftovers, worker::Places};
use super::plan::{Host, Lab, Role};
use super::{block_on, process};
use crate::network::lan;
use orchd_runtime::sandbox::pidfd::PidFd;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

const END_TIMEOUT_MS: u16 = 5_000;

/// # Errors
/// Something could not be removed, or is left.
pub fn run(lab: &Lab) -> Result<(), CliError> {
    for host in lab.hosts() {
        if let Some(running) = process::find(lab, &host.name)? {
            running.kill()?;
        }
    }
    let nodes = lab.of_role(Role::Node);
    block_on(async { futures::future::try_join_all(nodes.iter().map(|node| remove_pods(lab, node))).await.map(drop) })?;
    end_inhabitants(lab)?;
    for netns in lab.hosts().iter().map(|host| lab.netns(&host.name)).chain([lab.hub()]) {
        lan::unpin(&netns).map_err(|e| CliError::new("cannot remove a namespace", e))?;
    }
    let places: Vec<Places> = nodes.iter().map(|node| lab.places(&node.name)).collect();
    remove_files(lab)?;
    leftovers::check(&[&lab.netns_dir()], &places)
}

/// A node's pods, with what they have of the kernel; done on the node's host, as its network is there.
async fn remove_pods(lab: &Lab, node: &Host) -> Result<(), CliError> {
    let netns = lab.netns(&node.name);
    let data = lab.data(&node.name);
    // A lab that did not get that far.
    if !netns.exists() || !data.exists() || !lab.places(&node.name).run.exists() {
        return Ok(());
    }
    let args = ["reset", "--node-name", &node.name, "--data-dir", &data.to_string_lossy()].map(str::to_owned);
    let child = process::spawn_inside(&netns, &args, Stdio::piped())?;
    let output = child.wait_with_output().await.map_err(|e| CliError::new("orchd reset", e))?;
    if output.status.success() {
        return Ok(());
    }
    Err(CliError::text(format!("the pods of {} could not be removed: {}", node.name, String::from_utf8_lossy(&output.stderr).trim())))
}

/// Ends whoever is on a host still: what `exec` started, and processes that lost their lab.
fn end_inhabitants(lab: &Lab) -> Result<(), CliError> {
    let paths = lab.hosts().into_iter().map(|host| lab.netns(&host.name)).chain([lab.hub()]);
    let id = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let namespaces: Vec<(u64, u64)> = paths.filter_map(|path| id(&path)).collect();
    for pid in leftovers::pids() {
        let Some(pid) = id(Path::new(&format!("/proc/{pid}/ns/net"))).filter(|ns| namespaces.contains(ns)).and_then(|_| pid.parse().ok())
        else {
            continue;
        };
        // One that has ended meanwhile is as good.
        let Ok(fd) = PidFd::open(pid) else { continue };
        if fd.signal(libc::SIGKILL).is_ok() && !fd.wait(END_TIMEOUT_MS).is_ok_and(|ended| ended) {
            return Err(CliError::text(format!("process {pid} on a host of the lab does not end")));
        }
    }
    Ok(())
}

/// What the lab has made, and nothing else that may lie in its directory.
fn remove_files(lab: &Lab) -> Result<(), CliError> {
    let hosts: Vec<Host> = lab.hosts().into_iter().filter(|host| host.role != Role::Client).collect();
    let mut paths = vec![lab.netns_dir()];
    for host in &hosts {
        paths.extend([lab.data(&host.name), lab.log(&host.name), lab.pid_file(&host.name)]);
    }
    // The file that says that there is a lab goes last.
    paths.extend([lab.cluster_key(), lab.node_token(), lab.kubeconfig(), lab.file()]);
    for path in paths {
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(CliError::new(format!("cannot remove {}", path.display()), e)),
            _ => {}
        }
    }
    match std::fs::remove_dir(&lab.dir) {
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
            Err(CliError::new(format!("cannot remove {}", lab.dir.display()), e))
        }
        _ => Ok(()),
    }
}
