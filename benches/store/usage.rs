//! What processes cost: CPU, syncs, memory. From the kernel's own counts, the same for every side.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};

/// CPU seconds, user and system, that processes have used.
pub fn cpu_seconds(pids: &[u32]) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let ticks = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the server runs");
        let fields: Vec<&str> = text.rsplit(')').next().expect("a state").split_whitespace().collect();
        // From the state on: the 12th is user time, the 13th system time.
        fields[11].parse::<f64>().expect("a number") + fields[12].parse::<f64>().expect("a number")
    };
    pids.iter().map(ticks).sum::<f64>() / TICKS_PER_SECOND
}

fn status_mib(pids: &[u32], field: &str) -> f64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the server runs");
        let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("a field of every process");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number")
    };
    pids.iter().map(of).sum::<f64>() / 1024.0
}

/// The most resident memory that processes have had, MiB.
pub fn peak_mib(pids: &[u32]) -> f64 {
    status_mib(pids, "VmHWM:")
}

/// Resident memory that is no file's, MiB: what the kernel cannot take back.
pub fn anonymous_mib(pids: &[u32]) -> f64 {
    status_mib(pids, "RssAnon:")
}

const EVENTS: &str = "/sys/kernel/tracing/events/syscalls";
const SYNCS: [&str; 2] = ["sys_enter_fdatasync", "sys_enter_fsync"];

/// Counts the fsync and fdatasync calls of processes: kernel counters (perf events) on each thread, which threads made later
/// inherit.
pub struct Syncs(Vec<File>);

impl Syncs {
    /// None, with a line that says so, where the kernel's tracepoints are not there or not allowed.
    pub fn attach(pids: &[u32]) -> Option<Self> {
        match Self::try_attach(pids) {
            Ok(counters) => Some(Self(counters)),
            Err(error) => {
                println!("syncs are not counted: {EVENTS}: {error} (as root: mount -t tracefs none /sys/kernel/tracing)");
                None
            }
        }
    }

    fn try_attach(pids: &[u32]) -> std::io::Result<Vec<File>> {
        let mut counters = Vec::new();
        for event in SYNCS {
            let id = fs::read_to_string(format!("{EVENTS}/{event}/id"))?.trim().parse::<u64>().map_err(std::io::Error::other)?;
            for pid in pids {
                for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                    let thread = thread?.file_name().to_string_lossy().parse::<i32>().map_err(std::io::Error::other)?;
                    counters.push(counter(id, thread)?);
                }
            }
        }
        Ok(counters)
    }

    /// Calls since `attach`.
    pub fn count(&mut self) -> u64 {
        let mut value = [0; 8];
        let mut of = |counter: &mut File| {
            counter.read_exact(&mut value).expect("a counter can be read");
            u64::from_ne_bytes(value)
        };
        self.0.iter_mut().map(&mut of).sum()
    }
}

/// A counter of a tracepoint on a thread and those that it makes.
fn counter(tracepoint: u64, thread: i32) -> std::io::Result<File> {
    const KIND_TRACEPOINT: u32 = 2;
    const INHERIT: u64 = 2;
    // `struct perf_event_attr` in its first version: 64 bytes; what is not set is zero.
    let mut attributes = [0_u8; 64];
    attributes[0..4].copy_from_slice(&KIND_TRACEPOINT.to_ne_bytes());
    attributes[4..8].copy_from_slice(&64_u32.to_ne_bytes());
    attributes[8..16].copy_from_slice(&tracepoint.to_ne_bytes());
    attributes[40..48].copy_from_slice(&INHERIT.to_ne_bytes());
    let any_cpu = -1_i32;
    let no_group = -1_i32;
    // SAFETY: the attributes are as large as they say, and live for the call; a descriptor that is returned is ours alone.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), thread, any_cpu, no_group, 0_u64);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd as i32)
    };
    Ok(File::from(fd))
}
