//! Volumes: what a container's mounts mean on the host.
//!
//! A subPath is resolved by the kernel below its volume's root and bound by the descriptor that came of it, so that a
//! link swapped in meanwhile changes nothing.

use crate::sandbox::fsmount;
use crate::spec::{Mount, Propagation};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, mkdirat};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// A mount whose source is settled.
#[derive(Debug)]
pub struct Bound {
    pub source: PathBuf,
    pub destination: PathBuf,
    pub read_only: bool,
    pub is_dir: bool,
    pub propagation: Propagation,
}

/// Settles the mounts of a container. `stage` is a directory of ours; `host` is the mount namespace whose later mounts
/// two-way volumes share.
///
/// # Errors
/// What is wrong with which volume.
pub fn bind(mounts: &[Mount], stage: &Path, host: &File) -> Result<Vec<Bound>, String> {
    mounts.iter().enumerate().map(|(index, m)| bind_one(m, &stage.join(index.to_string()), host)).collect()
}

fn bind_one(m: &Mount, stage: &Path, host: &File) -> Result<Bound, String> {
    let failed = |e: io::Error| format!("failed to mount {:?} at {:?}: {e}", m.source.display(), m.destination.display());
    let destination = plain(&m.destination).ok_or_else(|| format!("invalid mount path {:?}", m.destination.display()))?;
    let bound = |source: PathBuf, is_dir| Bound { source, destination, read_only: m.read_only, is_dir, propagation: m.propagation };
    if m.propagation == Propagation::Bidirectional {
        let tree = from_host(host, || open_source(m)).map_err(failed)?;
        let is_dir = stage_mount(&tree, stage).map_err(failed)?;
        return Ok(bound(stage.to_owned(), is_dir));
    }
    if m.sub_path.is_none() {
        let meta = fs::metadata(&m.source).map_err(failed)?;
        return Ok(bound(m.source.clone(), meta.is_dir()));
    }
    let tree = fsmount::clone_tree(open_source(m).map_err(failed)?).map_err(|e| failed(e.into()))?;
    let is_dir = stage_mount(&tree, stage).map_err(failed)?;
    Ok(bound(stage.to_owned(), is_dir))
}

/// An absolute path without `.`, `..` and doubled slashes.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (out.components().count() > 1).then_some(out)
}

fn open_source(m: &Mount) -> io::Result<OwnedFd> {
    let root = File::open(&m.source).or_else(|_| open_path(&m.source))?;
    match &m.sub_path {
        None => Ok(root.into()),
        Some(sub) => open_below(&root, sub),
    }
}

/// A socket or a file that may not be read can be bound all the same.
fn open_path(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)
}

/// Opens what `sub` names below `root`, making directories that are missing (with the root's mode, as the kubelet does).
pub(super) fn open_below(root: &File, sub: &Path) -> io::Result<OwnedFd> {
    let open = |path: &Path| {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(root, path, how)
    };
    let outside = |e: Errno| match e {
        Errno::EXDEV | Errno::ELOOP => io::Error::other(format!("subPath {:?} is not within the volume", sub.display())),
        other => other.into(),
    };
    match open(sub) {
        Err(Errno::ENOENT) => {}
        other => return other.map_err(outside),
    }
    let mode = Mode::from_bits_truncate(root.metadata()?.mode() & 0o777);
    let mut path = PathBuf::new();
    let mut last = open(Path::new(".")).map_err(outside)?;
    for part in sub.components().filter(|c| *c != Component::CurDir) {
        path.push(part);
        last = match open(&path) {
            Err(Errno::ENOENT) => {
                let mask = nix::sys::stat::umask(Mode::empty());
                let made = mkdirat(&last, Path::new(part.as_os_str()), mode);
                nix::sys::stat::umask(mask);
                match made {
                    Ok(()) | Err(Errno::EEXIST) => open(&path).map_err(outside)?,
                    Err(e) => return Err(e.into()),
                }
            }
            other => other.map_err(outside)?,
        };
    }
    Ok(last)
}

/// Copies mounts in the host's namespace, whose peers they stay.
fn from_host(host: &File, open: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    let own = File::open("/proc/self/ns/mnt")?;
    setns(host, CloneFlags::CLONE_NEWNS)?;
    let tree = open().and_then(|fd| Ok(fsmount::clone_tree(fd)?));
    setns(&own, CloneFlags::CLONE_NEWNS)?;
    tree
}

fn stage_mount(tree: &OwnedFd, stage: &Path) -> io::Result<bool> {
    let is_dir = File::from(tree.as_fd().try_clone_to_owned()?).metadata()?.is_dir();
    if is_dir {
        fs::create_dir_all(stage)?;
    } else {
        fs::create_dir_all(stage.parent().unwrap_or(Path::new("/")))?;
        File::create(stage)?;
    }
    fsmount::attach(tree, stage)?;
    Ok(is_dir)
}

/// Makes the working directory if it is missing, in the volume or the root that it lies in.
///
/// # Errors
/// It leads outside, or cannot be made.
pub fn make_cwd(cwd: &Path, volumes: &[Bound], rootfs: &Path) -> io::Result<()> {
    let Some(cwd) = plain(cwd) else { return Ok(()) };
    let holder = volumes.iter().filter(|v| cwd.starts_with(&v.destination)).max_by_key(|v| v.destination.components().count());
    let (root, rest) = match holder {
        // What cannot be written, or is no directory, shows when the process enters it.
        Some(v) if v.read_only || !v.is_dir => return Ok(()),
        Some(v) => (v.source.as_path(), cwd.strip_prefix(&v.destination)),
        None => (rootfs, cwd.strip_prefix("/")),
    };
    let rest = rest.map_err(io::Error::other)?;
    let root = File::open(root)?;
    let how =
        |flags| OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut dir = openat2(&root, ".", how(OFlag::O_PATH))?;
    let mut path = PathBuf::new();
    for part in rest.components() {
        path.push(part);
        dir = match openat2(&root, &path, how(OFlag::O_PATH)) {
            Err(Errno::ENOENT) => match mkdirat(&dir, Path::new(part.as_os_str()), Mode::from_bits_truncate(0o755)) {
                Ok(()) => openat2(&root, &path, how(OFlag::O_PATH))?,
                // A dangling link: entering it will fail with the text that users know.
                Err(Errno::EEXIST) => return Ok(()),
                Err(e) => return Err(e.into()),
            },
            other => other?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_sub_path_is_made_but_never_leads_outside() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir_all(volume.join("real")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        symlink("../outside", volume.join("up")).unwrap();
        symlink("/etc", volume.join("absolute")).unwrap();
        symlink("real", volume.join("inside")).unwrap();
        let root = File::open(&volume).unwrap();
        for bad in ["up", "up/new", "absolute", "../outside", "real/../../outside"] {
            assert!(open_below(&root, Path::new(bad)).is_err(), "{bad}");
        }
        for good in ["real", "inside", "a/b/c", "inside/new", "."] {
            assert!(open_below(&root, Path::new(good)).is_ok(), "{good}");
        }
        assert!(volume.join("real/new").is_dir() && volume.join("a/b/c").is_dir());
        assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
    }

    #[test]
    fn a_working_directory_is_made_inside_its_root() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("rootfs");
        let volume = dir.path().join("volume");
        fs::create_dir_all(rootfs.join("etc")).unwrap();
        fs::create_dir(&volume).unwrap();
        symlink("/etc", rootfs.join("link")).unwrap();
        let bound = |read_only| Bound {
            source: volume.clone(),
            destination: "/data".into(),
            read_only,
            is_dir: true,
            propagation: Propagation::Private,
        };
        make_cwd(Path::new("/a/b"), &[], &rootfs).unwrap();
        make_cwd(Path::new("/link/in"), &[], &rootfs).unwrap();
        make_cwd(Path::new("/data/x"), &[bound(false)], &rootfs).unwrap();
        make_cwd(Path::new("/data/y"), &[bound(true)], &rootfs).unwrap();
        assert!(rootfs.join("a/b").is_dir() && rootfs.join("etc/in").is_dir() && volume.join("x").is_dir());
        assert!(!rootfs.join("data").exists() && !volume.join("y").exists());
    }
}
