//! Reading what a cgroup uses.

use super::Cgroups;
use std::fs;
use std::io;
use std::path::Path;

/// Resource usage of a cgroup, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    pub memory_working_set_bytes: u64,
    pub pids: u64,
}

/// The number after `name` in a file of `name number` lines.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn number(path: &Path) -> io::Result<u64> {
    fs::read_to_string(path)?.trim().parse().map_err(io::Error::other)
}

/// The kubelet's definition: what is in use less the file cache that could go at once.
fn working_set(used: u64, stat: &str, inactive: &str) -> u64 {
    used.saturating_sub(field(stat, inactive).unwrap_or(0))
}

pub(super) fn unified(dir: &Path) -> io::Result<Usage> {
    let cpu = fs::read_to_string(dir.join("cpu.stat"))?;
    // A controller that was not handed down has no files.
    let memory_bytes = number(&dir.join("memory.current")).unwrap_or(0);
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    Ok(Usage {
        cpu_ns: field(&cpu, "usage_usec").unwrap_or(0) * 1000,
        memory_bytes,
        memory_working_set_bytes: working_set(memory_bytes, &stat, "inactive_file"),
        pids: number(&dir.join("pids.current")).unwrap_or(0),
    })
}

pub(super) fn version1(cgroups: &Cgroups, path: &str) -> io::Result<Usage> {
    let mut usage = Usage::default();
    if let Some(dir) = cgroups.dir("cpuacct", path) {
        usage.cpu_ns = number(&dir.join("cpuacct.usage"))?;
    }
    if let Some(dir) = cgroups.dir("memory", path) {
        usage.memory_bytes = number(&dir.join("memory.usage_in_bytes"))?;
        let stat = fs::read_to_string(dir.join("memory.stat"))?;
        usage.memory_working_set_bytes = working_set(usage.memory_bytes, &stat, "total_inactive_file");
    }
    if let Some(dir) = cgroups.dir("pids", path) {
        usage.pids = number(&dir.join("pids.current"))?;
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_whole_words() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field(text, "oom"), None);
        assert_eq!(working_set(100, "inactive_file 200\n", "inactive_file"), 0);
    }
}
