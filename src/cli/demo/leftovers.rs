//! What a cluster could leave behind, looked for after it has been stopped: processes, mounts, cgroups, links, files.

use super::super::{CliError, up};
use super::cluster::{Cluster, NODE};
use std::fs;
use std::path::{Path, PathBuf};

/// # Errors
/// Names everything that is still there.
pub(super) fn check(cluster: &Cluster) -> Result<(), CliError> {
    let dir = cluster.dir();
    let run_dir = up::run_dir(dir, NODE);
    let mut found = Vec::new();
    found.extend([dir, &run_dir].into_iter().filter(|p| p.exists()).map(|p| format!("directory {}", p.display())));
    found.extend(processes(dir, &run_dir));
    found.extend(mounts(dir, &run_dir));
    found.extend(cgroups(&up::cgroup_root(dir, NODE)).into_iter().map(|p| format!("cgroup {}", p.display())));
    found.extend(links());
    if found.is_empty() { Ok(()) } else { Err(CliError::text(format!("left behind: {}", found.join(", ")))) }
}

/// Processes that name the cluster's directories, or sit in this network namespace and are not this one.
fn processes(dir: &Path, run_dir: &Path) -> Vec<String> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = namespace("self");
    let names: Vec<String> = [dir, run_dir].iter().map(|p| p.to_string_lossy().into_owned()).collect();
    let mut found = Vec::new();
    for pid in pids().filter(|pid| *pid != std::process::id().to_string()) {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let ours = names.iter().any(|n| command.contains(n.as_str())) || (own.is_some() && namespace(&pid) == own);
        // A zombie has no command line left and waits only for its parent.
        if ours && !command.is_empty() {
            found.push(format!("process {pid} ({})", command.trim()));
        }
    }
    found
}

fn pids() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
}

fn mounts(dir: &Path, run_dir: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = |place: &str| Path::new(place).starts_with(dir) || Path::new(place).starts_with(run_dir);
    table.lines().filter_map(|l| l.split(' ').nth(4)).filter(|p| ours(p)).map(|p| format!("mount {p}")).collect()
}

/// The node's cgroup in every hierarchy.
fn cgroups(root: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top).into_iter().flatten().flatten().map(|e| e.path());
    hierarchies.chain([top.to_owned()]).map(|h| h.join(root)).filter(|p| p.exists()).collect()
}

/// Links of this network namespace other than loopback.
fn links() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let names = table.lines().skip(2).filter_map(|l| l.split(':').next()).map(str::trim);
    names.filter(|n| *n != "lo" && !n.is_empty()).map(|n| format!("link {n}")).collect()
}
