//! What a cluster could leave behind, looked for after it has been stopped: processes, mounts, cgroups, links, files.

use super::CliError;
use super::worker::Places;
use std::fs;
use std::path::{Path, PathBuf};

/// Looks for what is left of nodes, and for any of `dirs` that is still there.
///
/// # Errors
/// Names everything that is found.
pub fn check(dirs: &[&Path], nodes: &[Places]) -> Result<(), CliError> {
    let all: Vec<&Path> = dirs.iter().copied().chain(nodes.iter().map(|places| places.run.as_path())).collect();
    let mut found: Vec<String> = all.iter().filter(|p| p.exists()).map(|p| format!("directory {}", p.display())).collect();
    found.extend(processes(&all));
    found.extend(mounts(&all));
    found.extend(nodes.iter().flat_map(|places| cgroups(&places.cgroup)).map(|p| format!("cgroup {}", p.display())));
    if found.is_empty() { Ok(()) } else { Err(CliError::text(format!("left behind: {}", found.join(", ")))) }
}

/// As `check`, and for links of this process' network namespace other than loopback, and for other processes in it.
///
/// # Errors
/// See `check`.
pub fn check_namespace(dirs: &[&Path], nodes: &[Places]) -> Result<(), CliError> {
    check(dirs, nodes)?;
    let own = fs::read_link("/proc/self/ns/net").ok();
    let others = pids().filter(|pid| *pid != std::process::id().to_string());
    let inside =
        others.filter(|pid| own.is_some() && fs::read_link(format!("/proc/{pid}/ns/net")).ok() == own).filter_map(|pid| shown(&pid));
    let found: Vec<String> = inside.chain(links()).collect();
    if found.is_empty() { Ok(()) } else { Err(CliError::text(format!("left behind: {}", found.join(", ")))) }
}

/// Shims and containers that name a run dir; not the shell that was told of a data dir.
fn processes(dirs: &[&Path]) -> Vec<String> {
    let names: Vec<String> = dirs.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    let own = fs::read_link("/proc/self/exe").ok();
    let ours = |pid: &String| {
        *pid != std::process::id().to_string()
            && fs::read_link(format!("/proc/{pid}/exe")).ok() == own
            && names.iter().any(|name| command(pid).contains(name.as_str()))
    };
    pids().filter(ours).filter_map(|pid| shown(&pid)).collect()
}

fn command(pid: &str) -> String {
    // A process that has just ended has no command line, and neither has a zombie, which waits only for its parent.
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).replace('\0', " ")
}

fn shown(pid: &str) -> Option<String> {
    let command = command(pid);
    (!command.is_empty()).then(|| format!("process {pid} ({})", command.trim()))
}

/// Every process of the machine.
pub fn pids() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
}

fn mounts(dirs: &[&Path]) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = |place: &str| dirs.iter().any(|dir| Path::new(place).starts_with(dir));
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
