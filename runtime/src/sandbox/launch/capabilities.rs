//! Capability sets of a process, by the kernel's numbers.

use nix::errno::Errno;
use std::io;

/// In the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const VERSION_3: u32 = 0x2008_0522;

/// The bits of a list of names, with or without `CAP_`; `ALL` is all.
///
/// # Errors
/// The first name that is no capability.
pub fn bits(names: &[String]) -> Result<u64, String> {
    names.iter().try_fold(0, |set, name| {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if short == "ALL" {
            return Ok(all());
        }
        let number = NAMES.iter().position(|n| *n == short).ok_or_else(|| format!("unknown capability \"{name}\""))?;
        Ok(set | 1 << number)
    })
}

pub fn all() -> u64 {
    (1 << NAMES.len()) - 1
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives the calling process `bounding`, and `permitted` as its permitted and effective sets; nothing inheritable or
/// ambient. What it does not hold it cannot get: a set is then smaller than asked for, as with runc.
///
/// # Errors
/// The kernel refuses.
pub fn set(bounding: u64, permitted: u64) -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: header and data are laid out as the kernel's version 3 wants them: two elements.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let held = u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32;
    for number in 0..64 {
        if bounding & 1 << number == 0 {
            // SAFETY: no pointers are passed. EINVAL: the kernel has no such capability.
            match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }) {
                Ok(_) => {}
                Err(Errno::EINVAL) => break,
                Err(e) => return Err(e.into()),
            }
        }
    }
    // SAFETY: no pointers are passed. EINVAL: a kernel before 4.3, which has none.
    let cleared = Errno::result(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) });
    match cleared {
        Ok(_) | Err(Errno::EINVAL) => {}
        Err(e) => return Err(e.into()),
    }
    let new = permitted & held;
    for (half, data) in data.iter_mut().enumerate() {
        let part = u32::try_from(new >> (32 * half) & u64::from(u32::MAX)).unwrap_or_default();
        *data = Data { effective: part, permitted: part, inheritable: 0 };
    }
    // SAFETY: as above.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_the_kernels_bits() {
        let of = |names: &[&str]| bits(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["CAP_CHOWN", "net_bind_service", "CAP_SYS_ADMIN"]).unwrap(), 1 | 1 << 10 | 1 << 21);
        assert_eq!(of(&["CAP_CHECKPOINT_RESTORE"]).unwrap(), 1 << 40);
        assert_eq!(of(&["ALL"]).unwrap(), 0x1ff_ffff_ffff);
        assert_eq!(of(&["CAP_WISH"]).unwrap_err(), "unknown capability \"CAP_WISH\"");
    }
}
