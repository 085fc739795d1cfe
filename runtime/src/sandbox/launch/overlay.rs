//! A container's root: its image's layers below, its writable layer above.

use crate::sandbox::fsmount;
use nix::errno::Errno;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Mounts the overlay at `target`, in this mount namespace. `layers` are top first.
///
/// # Errors
/// A directory is missing, or the kernel refuses.
pub fn mount(layers: &[PathBuf], writable: &Path, target: &Path) -> io::Result<()> {
    let (upper, work) = (writable.join("upper"), writable.join("work"));
    for dir in [&upper, &work, &target.to_owned()] {
        fs::create_dir_all(dir)?;
    }
    if layers.is_empty() {
        return Err(io::Error::other("the image has no layers"));
    }
    // `volatile` spares the syncs that a layer which dies with its container needs not; it leaves a mark that must go
    // before the same layer is used again.
    crate::sandbox::place::remove_tree(&work.join("work/incompat/volatile"))?;
    let overlay = match create(layers, &upper, &work, true) {
        Err(Errno::EINVAL) => create(layers, &upper, &work, false),
        other => other,
    };
    fsmount::attach(&overlay?, target)
}

fn create(layers: &[PathBuf], upper: &Path, work: &Path, volatile: bool) -> Result<OwnedFd, Errno> {
    let fs = fsmount::FileSystem::open("overlay")?;
    fs.set("source", "overlay")?;
    set_layers(&fs, layers)?;
    fs.set("upperdir", path(upper)?)?;
    fs.set("workdir", path(work)?)?;
    if volatile {
        fs.flag("volatile")?;
    }
    fs.mount(libc::MOUNT_ATTR_NODEV)
}

/// `lowerdir+` takes one layer each; kernels before 6.8 have only one string of 256 bytes for all, hence short names.
fn set_layers(fs: &fsmount::FileSystem, layers: &[PathBuf]) -> Result<(), Errno> {
    let mut refused = false;
    for (index, layer) in layers.iter().enumerate() {
        match fs.set("lowerdir+", path(layer)?) {
            Err(Errno::EINVAL) if index == 0 => {
                refused = true;
                break;
            }
            other => other?,
        }
    }
    if refused {
        // Leaked until this short-lived process ends: the kernel reads the names when the mount is created.
        let fds = layers.iter().map(|l| fs::File::open(l).map(OwnedFd::from)).collect::<io::Result<Vec<_>>>();
        let fds: &'static Vec<OwnedFd> = Box::leak(Box::new(fds.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?));
        std::env::set_current_dir("/proc/self/fd").map_err(|_| Errno::ENOENT)?;
        let names: Vec<String> = fds.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        fs.set("lowerdir", &names.join(":"))?;
    }
    Ok(())
}

fn path(path: &Path) -> Result<&str, Errno> {
    path.to_str().ok_or(Errno::EILSEQ)
}
