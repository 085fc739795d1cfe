//! Unpacking a layer's tar into a directory that overlayfs can take as a lower one.
//!
//! The tar is untrusted: every path is resolved by the kernel inside the layer's own root (openat2, RESOLVE_IN_ROOT),
//! whatever links it holds. Whiteouts become overlayfs' own (a 0/0 character device, an opaque attribute).

use super::store::ImageError;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, linkat, symlinkat, unlinkat};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Entry, EntryType};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Unpacks `tar` below `root`, which exists and is empty.
pub(super) fn unpack_layer(tar: impl Read, root: &Path) -> Result<(), ImageError> {
    let root = File::open(root)?;
    let mut archive = Archive::new(tar);
    // Directory times are set last: making their entries changes them.
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = clean(&entry.path_bytes())?;
        if let Some(mtime) = unpack_entry(&mut entry, &root, &path).map_err(|source| ImageError::Entry { path: path.clone(), source })? {
            directories.push((path, mtime));
        }
    }
    for (path, mtime) in directories.into_iter().rev() {
        let dir = open_in(&root, &path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        set_mtime(&dir, mtime)?;
    }
    // The caller verifies the digest of the whole stream: read what follows the tar's end, too.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(())
}

/// A relative path without `.` and `..`; an absolute one loses its root.
fn clean(bytes: &[u8]) -> Result<PathBuf, ImageError> {
    let mut out = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(bytes)).components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(ImageError::Malformed(format!("the layer names a path outside itself: {}", String::from_utf8_lossy(bytes))));
            }
        }
    }
    Ok(out)
}

fn open_in(root: &File, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(root, path, how)?)
}

/// Opens the directory that is to hold an entry, making what is missing of it.
fn open_parent(root: &File, parent: &Path) -> io::Result<OwnedFd> {
    let directory = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    match open_in(root, parent, directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !parent.as_os_str().is_empty() => {
            let above = open_parent(root, parent.parent().unwrap_or(Path::new("")))?;
            mkdirat(&above, parent.file_name().unwrap_or_default(), Mode::from_bits_truncate(0o755))?;
            open_in(root, parent, directory)
        }
        other => other,
    }
}

/// Returns the modification time of a directory, to be set at the end.
fn unpack_entry<R: Read>(entry: &mut Entry<'_, R>, root: &File, path: &Path) -> io::Result<Option<u64>> {
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(None);
    }
    let Some(name) = path.file_name() else {
        apply_metadata(entry, &open_in(root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)?;
        return Ok(None);
    };
    let parent = open_parent(root, path.parent().unwrap_or(Path::new("")))?;
    if name.as_bytes() == OPAQUE {
        set_xattr(&parent, "trusted.overlay.opaque", b"y")?;
        return Ok(None);
    }
    if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
        mknodat(&parent, OsStr::from_bytes(hidden), SFlag::S_IFCHR, Mode::empty(), 0)?;
        return Ok(None);
    }
    if kind != EntryType::Directory {
        remove_old(&parent, name)?;
    }
    match kind {
        EntryType::Directory => {
            match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(e) => return Err(e.into()),
            }
            let dir = open_in(root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            apply_metadata(entry, &dir)?;
            return Ok(Some(entry.header().mtime()?));
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let how = OpenHow::new()
                .flags(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
                .mode(Mode::from_bits_truncate(0o600))
                .resolve(ResolveFlag::RESOLVE_IN_ROOT);
            let mut file = File::from(openat2(&parent, name, how)?);
            io::copy(entry, &mut file)?;
            let fd = OwnedFd::from(file);
            apply_metadata(entry, &fd)?;
            set_mtime(&fd, entry.header().mtime()?)?;
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().ok_or_else(|| io::Error::other("a symlink without target"))?.into_owned();
            symlinkat(OsStr::from_bytes(&target), &parent, name)?;
            let (uid, gid) = owner(entry)?;
            nix::unistd::fchownat(&parent, name, Some(uid), Some(gid), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        EntryType::Link => {
            let target = entry.link_name_bytes().ok_or_else(|| io::Error::other("a hard link without target"))?.into_owned();
            let target = clean(&target).map_err(io::Error::other)?;
            let from = open_in(root, target.parent().unwrap_or(Path::new("")), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            linkat(&from, target.file_name().unwrap_or_default(), &parent, name, LinkatFlags::empty())?;
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => make_node(entry, &parent, name, kind)?,
        other => return Err(io::Error::other(format!("an entry of a kind that layers do not have: {other:?}"))),
    }
    Ok(None)
}

fn make_node<R: Read>(entry: &Entry<'_, R>, parent: &OwnedFd, name: &OsStr, kind: EntryType) -> io::Result<()> {
    let header = entry.header();
    let (flag, device) = match kind {
        EntryType::Fifo => (SFlag::S_IFIFO, 0),
        _ => {
            let device = makedev(header.device_major()?.unwrap_or(0).into(), header.device_minor()?.unwrap_or(0).into());
            (if kind == EntryType::Char { SFlag::S_IFCHR } else { SFlag::S_IFBLK }, device)
        }
    };
    mknodat(parent, name, flag, Mode::from_bits_truncate(header.mode()?), device)?;
    let (uid, gid) = owner(entry)?;
    Ok(nix::unistd::fchownat(parent, name, Some(uid), Some(gid), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

/// A later entry of the same path replaces the earlier one.
fn remove_old(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(nix::errno::Errno::EISDIR) => Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?),
        Err(e) => Err(e.into()),
    }
}

fn owner<R: Read>(entry: &Entry<'_, R>) -> io::Result<(Uid, Gid)> {
    let id = |n: u64| u32::try_from(n).map_err(|_| io::Error::other("an owner that is no 32-bit id"));
    Ok((Uid::from_raw(id(entry.header().uid()?)?), Gid::from_raw(id(entry.header().gid()?)?)))
}

/// Owner first: chown clears the setuid bits that the mode may hold.
fn apply_metadata<R: Read>(entry: &mut Entry<'_, R>, fd: &OwnedFd) -> io::Result<()> {
    let (uid, gid) = owner(entry)?;
    nix::unistd::fchown(fd, Some(uid), Some(gid))?;
    nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(entry.header().mode()? & 0o7777))?;
    let mut attributes = Vec::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") {
            attributes.push((String::from_utf8_lossy(name).into_owned(), extension.value_bytes().to_vec()));
        }
    }
    for (name, value) in attributes.iter().filter(|(name, _)| !name.starts_with("trusted.overlay.")) {
        set_xattr(fd, name, value)?;
    }
    Ok(())
}

fn set_xattr(fd: &OwnedFd, name: &str, value: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: the descriptor is open, the name ends in a zero byte, value and length belong together.
    let done = unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_mtime(fd: &OwnedFd, seconds: u64) -> io::Result<()> {
    let seconds = i64::try_from(seconds).map_err(io::Error::other)?;
    let time = nix::sys::time::TimeSpec::new(seconds, 0);
    Ok(nix::sys::stat::futimens(fd.as_fd(), &time, &time)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    fn header(kind: EntryType, size: u64) -> tar::Header {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(kind);
        h.set_size(size);
        h.set_mode(0o4755);
        h.set_uid(7);
        h.set_gid(8);
        h.set_mtime(1_000_000);
        h
    }

    fn root() -> bool {
        let root = nix::unistd::geteuid().is_root();
        if !root {
            eprintln!("SKIPPED: unpacking layers needs root");
        }
        root
    }

    #[test]
    fn owners_modes_links_and_whiteouts_arrive() {
        if !root() {
            return;
        }
        let mut b = tar::Builder::new(Vec::new());
        b.append_data(&mut header(EntryType::Regular, 2), "a/b/file", &b"hi"[..]).unwrap();
        b.append_link(&mut header(EntryType::Symlink, 0), "a/link", "b/file").unwrap();
        b.append_link(&mut header(EntryType::Link, 0), "a/hard", "a/b/file").unwrap();
        b.append_data(&mut header(EntryType::Regular, 0), "a/.wh.gone", &b""[..]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        unpack_layer(&b.into_inner().unwrap()[..], dir.path()).unwrap();
        let meta = std::fs::metadata(dir.path().join("a/hard")).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.mtime()), (7, 8, 0o4755, 1_000_000));
        assert_eq!(std::fs::read(dir.path().join("a/link")).unwrap(), b"hi");
        let gone = std::fs::symlink_metadata(dir.path().join("a/gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    }

    #[test]
    fn a_link_cannot_lead_out_of_the_layer() {
        if !root() {
            return;
        }
        let outside = tempfile::tempdir().unwrap();
        let mut b = tar::Builder::new(Vec::new());
        b.append_link(&mut header(EntryType::Symlink, 0), "door", outside.path()).unwrap();
        b.append_data(&mut header(EntryType::Regular, 2), "door/file", &b"hi"[..]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        // Resolved inside the layer, the link leads nowhere.
        assert!(unpack_layer(&b.into_inner().unwrap()[..], dir.path()).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
