//! cgroups, both versions: limits, membership, usage, OOM kills, removal.
//!
//! Paths are relative to each hierarchy's root (`orchd/node/kubepods/pod1`). Only the controllers that limit or count
//! something for a pod are used; on a version 1 machine the others keep all processes in their root.
//! libcontainer's own cgroup code is not used: it visits a dozen hierarchies per container and sleeps on removal.

mod devices;
mod limits;
mod usage;

pub use usage::Usage;

use crate::spec::Resources;
use nix::errno::Errno;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Version 1 controllers that are used where they are mounted.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "devices"];
/// Version 2 controllers that are handed down to a pod.
const HANDED_DOWN: &str = "+cpu +memory +pids";
/// How deep a tree of cgroups is searched; what a container makes below its own may be deeper only to hide.
const MAX_DEPTH: usize = 16;

/// One mounted hierarchy.
#[derive(Clone, Debug)]
struct Hierarchy {
    /// Names of its controllers; empty for version 2.
    controllers: Vec<String>,
    root: PathBuf,
}

/// The hierarchies of this machine.
#[derive(Clone, Debug)]
pub struct Cgroups {
    unified: bool,
    hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    /// Finds where cgroups are mounted: version 1 if any of our controllers is there, else version 2.
    ///
    /// # Errors
    /// /proc cannot be read, or no cgroup file system is mounted.
    pub fn detect() -> io::Result<Self> {
        Self::parse(&fs::read_to_string("/proc/self/mountinfo")?)
            .ok_or_else(|| io::Error::other("no cgroup file system is mounted below /sys/fs/cgroup"))
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        let (mut v1, mut v2) = (Vec::<Hierarchy>::new(), None);
        for line in mountinfo.lines() {
            let (front, back) = line.split_once(" - ")?;
            let root = PathBuf::from(front.split(' ').nth(4)?);
            let mut back = back.split(' ');
            match back.next()? {
                "cgroup2" => v2 = v2.or(Some(Hierarchy { controllers: Vec::new(), root })),
                "cgroup" => {
                    let options = back.nth(1)?;
                    let controllers: Vec<String> = options.split(',').filter(|o| CONTROLLERS.contains(o)).map(str::to_owned).collect();
                    if !controllers.is_empty() && !v1.iter().any(|h| h.controllers == controllers) {
                        v1.push(Hierarchy { controllers, root });
                    }
                }
                _ => {}
            }
        }
        let unified = v1.is_empty();
        let hierarchies = if unified { vec![v2?] } else { v1 };
        Some(Self { unified, hierarchies })
    }

    pub fn is_unified(&self) -> bool {
        self.unified
    }

    /// For a process with its own mount namespace: binds each hierarchy below `dir`, by a name that libcontainer does not
    /// know, and covers /sys/fs/cgroup with an empty tmpfs, so that libcontainer finds no hierarchy to work on.
    ///
    /// # Errors
    /// A mount fails.
    pub fn hide(&mut self, dir: &Path) -> io::Result<()> {
        use nix::mount::{MntFlags, MsFlags, mount, umount2};
        let none: Option<&str> = None;
        for (index, hierarchy) in self.hierarchies.iter_mut().enumerate() {
            let place = dir.join(format!("h{index}"));
            fs::create_dir_all(&place)?;
            mount(Some(&hierarchy.root), &place, none, MsFlags::MS_BIND, none)?;
            hierarchy.root = place;
        }
        umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH)?;
        Ok(mount(Some("tmpfs"), "/sys/fs/cgroup", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("size=0k"))?)
    }

    fn dirs(&self, path: &str) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(move |h| h.root.join(path))
    }

    /// The directory of a controller.
    fn dir(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let owner = self.hierarchies.iter().find(|h| self.unified || h.controllers.iter().any(|c| c == controller))?;
        Some(owner.root.join(path))
    }

    /// What a version 1 container sees below /sys/fs/cgroup: names and the directories to bind there.
    pub fn views(&self, path: &str) -> Vec<(String, PathBuf)> {
        let v1 = self.hierarchies.iter().filter(|h| !h.controllers.is_empty());
        v1.map(|h| (h.controllers.join(","), h.root.join(path))).collect()
    }

    /// Makes a cgroup and what is missing above it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn create(&self, path: &str) -> io::Result<()> {
        if !self.unified {
            return self.dirs(path).try_for_each(|dir| match fs::create_dir_all(&dir) {
                // Whoever removes its own cgroups took an empty parent along between two of its steps.
                Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir_all(&dir),
                made => made,
            });
        }
        // A version 2 controller must be handed down level by level.
        let mut dir = self.hierarchies[0].root.clone();
        for part in Path::new(path).components() {
            hand_down(&dir)?;
            dir.push(part);
            match fs::create_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Sets limits; those that are None stay.
    ///
    /// # Errors
    /// The kernel refuses a value.
    pub fn limit(&self, path: &str, resources: &Resources) -> io::Result<()> {
        if self.unified {
            limits::unified(&self.hierarchies[0].root.join(path), resources)
        } else {
            limits::version1(self, path, resources)
        }
    }

    /// Lets a container's processes use the devices that every container has, and no other (version 1; on version 2
    /// that takes a BPF program, and the mounts' nodev flags stand in for it).
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn restrict_devices(&self, path: &str) -> io::Result<()> {
        match self.dir("devices", path) {
            Some(dir) if !self.unified => devices::version1(&dir),
            _ => Ok(()),
        }
    }

    /// Moves a process.
    ///
    /// # Errors
    /// The cgroup or the process is gone.
    pub fn attach(&self, path: &str, pid: i32) -> io::Result<()> {
        self.dirs(path).try_for_each(|dir| write(&dir.join("cgroup.procs"), &pid.to_string()))
    }

    /// The files through which a process joins a cgroup, for one that will no longer see their paths.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn open_members(&self, path: &str) -> io::Result<Vec<fs::File>> {
        self.dirs(path).map(|dir| fs::OpenOptions::new().write(true).open(dir.join("cgroup.procs"))).collect()
    }

    /// Moves the calling process through such files.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn join(members: &[impl AsRawFd]) -> io::Result<()> {
        for file in members {
            // SAFETY: the text is as long as said; the descriptor is the caller's.
            nix::errno::Errno::result(unsafe { libc::write(file.as_raw_fd(), c"0".as_ptr().cast(), 1) })?;
        }
        Ok(())
    }

    /// The processes of a cgroup and all below it.
    ///
    /// # Errors
    /// It cannot be read; one that is gone has none.
    pub fn processes(&self, path: &str) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        for dir in self.dirs(path) {
            walk(&dir, 0, &mut |dir| {
                let text = fs::read_to_string(dir.join("cgroup.procs"))?;
                pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
                Ok(())
            })?;
        }
        pids.sort_unstable();
        pids.dedup();
        // 0 is a process of a PID namespace that is not ours.
        Ok(pids.into_iter().filter(|p| *p > 0).collect())
    }

    /// Kills every process of a cgroup and below, once; returns pidfds of those that were there.
    ///
    /// # Errors
    /// The members cannot be read.
    pub fn kill(&self, path: &str) -> io::Result<Vec<crate::sandbox::pidfd::PidFd>> {
        use crate::sandbox::pidfd::PidFd;
        let fds: Vec<(i32, PidFd)> = self.processes(path)?.into_iter().filter_map(|pid| Some((pid, PidFd::open(pid).ok()?))).collect();
        if fds.is_empty() {
            return Ok(Vec::new());
        }
        // Only now, with descriptors in hand, does membership prove that a pid is not someone else's by now.
        let still = self.processes(path)?;
        let members: Vec<PidFd> = fds.into_iter().filter(|(pid, _)| still.contains(pid)).map(|f| f.1).collect();
        for fd in &members {
            match fd.signal(libc::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(members)
    }

    /// Removes a cgroup without processes, and all below it. One that is gone is no error.
    ///
    /// # Errors
    /// `ResourceBusy` while a process is in it.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        for dir in self.dirs(path) {
            walk(&dir, 0, &mut |dir| match fs::remove_dir(dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            })?;
        }
        Ok(())
    }

    /// # Errors
    /// The cgroup is gone.
    pub fn usage(&self, path: &str) -> io::Result<Usage> {
        if self.unified { usage::unified(&self.hierarchies[0].root.join(path)) } else { usage::version1(self, path) }
    }

    /// How many processes the kernel has killed here for want of memory.
    pub fn oom_kills(&self, path: &str) -> u64 {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        let text = self.dir("memory", path).and_then(|dir| fs::read_to_string(dir.join(file)).ok());
        text.and_then(|t| usage::field(&t, "oom_kill")).unwrap_or(0)
    }
}

/// Children first.
fn walk(dir: &Path, depth: usize, visit: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if depth < MAX_DEPTH {
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                walk(&entry.path(), depth + 1, visit)?;
            }
        }
    }
    match visit(dir) {
        // It went away under our hands.
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

fn hand_down(dir: &Path) -> io::Result<()> {
    match write(&dir.join("cgroup.subtree_control"), HANDED_DOWN) {
        // A machine whose controllers are not all there (or are used by version 1) has fewer limits, and still runs.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP)) => {
            tracing::debug!("{}: controllers not handed down: {e}", dir.display());
            Ok(())
        }
        other => other,
    }
}

/// Writes a control file; an error names it.
fn write(path: &Path, value: &str) -> io::Result<()> {
    let done = fs::OpenOptions::new().write(true).open(path).and_then(|mut f| f.write_all(value.as_bytes()));
    done.map_err(|e| match e.raw_os_error() {
        // Callers look at these.
        Some(libc::ENOENT | libc::ESRCH | libc::EBUSY | libc::EINVAL | libc::EOPNOTSUPP) => e,
        _ => io::Error::new(e.kind(), format!("{} to {}: {e}", value, path.display())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
        34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn hierarchies_are_found_on_both_versions() {
        let v1 = Cgroups::parse(V1).unwrap();
        assert!(!v1.is_unified());
        assert_eq!(v1.dir("cpuacct", "a/b").unwrap(), Path::new("/sys/fs/cgroup/cpu,cpuacct/a/b"));
        assert_eq!(v1.dir("pids", "a"), None);
        assert_eq!(v1.views("x")[0], ("cpu,cpuacct".into(), "/sys/fs/cgroup/cpu,cpuacct/x".into()));
        let v2 = Cgroups::parse("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n").unwrap();
        assert!(v2.is_unified() && v2.views("x").is_empty());
        assert_eq!(v2.dir("memory", "a").unwrap(), Path::new("/sys/fs/cgroup/a"));
        assert!(Cgroups::parse("30 23 0:26 / / rw - ext4 /dev/vda rw\n").is_none());
    }
}
