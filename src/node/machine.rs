//! Facts about this machine: what a node has to give, and what its nodeInfo says.

use super::resources::Allocatable;
use std::fs;
use std::path::Path;

/// What does not change while the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub capacity: Allocatable,
    pub kernel_version: String,
    pub os_image: String,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    /// As Go names it: amd64, arm64.
    pub architecture: &'static str,
}

/// The machine's architecture as Go names it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn line(path: &str) -> String {
    // Where there is no such file (in many containers), there is nothing to say.
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

impl Machine {
    /// `data` tells which file system is the pods' ephemeral storage.
    pub fn of(data: &Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
        let disk = nix::sys::statvfs::statvfs(data).map_or(0, |s| s.blocks().saturating_mul(s.fragment_size()));
        let machine_id = line("/etc/machine-id");
        let uuid = line("/sys/class/dmi/id/product_uuid");
        Self {
            capacity: Allocatable {
                cpu_milli: cpus * 1000,
                memory_bytes: memory_bytes(&line("/proc/meminfo")),
                ephemeral_bytes: i64::try_from(disk).unwrap_or(i64::MAX),
            },
            kernel_version: line("/proc/sys/kernel/osrelease"),
            os_image: os_image(&line("/etc/os-release")),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            architecture: architecture(),
        }
    }
}

fn memory_bytes(meminfo: &str) -> i64 {
    let kib = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}

fn os_image(release: &str) -> String {
    let name = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |n| n.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_and_system_are_read() {
        assert_eq!(memory_bytes("MemTotal:       16384 kB\nMemFree: 1 kB"), 16 << 20);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        let here = Machine::of(Path::new("/"));
        assert!(here.capacity.memory_bytes > 0 && here.capacity.cpu_milli >= 1000 && !here.kernel_version.is_empty());
    }
}
