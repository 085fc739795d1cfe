//! emptyDir and hostPath volumes, and the mounts under a pod's directory. Everything here blocks.

use super::atomic::Ownership;
use crate::meta::quantity;
use k8s_openapi::api::core::v1 as api;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Makes an emptyDir at `path`, on the disk or as a tmpfs of at most its size limit (else of half the memory, as tmpfs has it).
///
/// # Errors
/// IO.
pub fn empty_dir(source: &api::EmptyDirVolumeSource, path: &Path, ownership: Ownership) -> io::Result<()> {
    fs::create_dir_all(path)?;
    if source.medium.as_deref() == Some("Memory") && !mounts_below(path)?.contains(&path.to_owned()) {
        let limit = quantity::amount(source.size_limit.as_ref()).value();
        let data = if limit > 0 { format!("mode=0777,size={limit}") } else { "mode=0777".to_owned() };
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(data.as_str()))?;
    }
    // Past the umask: every user of the pod may write.
    fs::set_permissions(path, Permissions::from_mode(0o777))?;
    own_tree(path, ownership, true)
}

/// Gives a volume's files to the fsGroup: group, setgid on directories, group read-write. With `always` unset, a root that
/// is right already is taken to say that the rest is too (fsGroupChangePolicy OnRootMismatch).
///
/// # Errors
/// IO.
pub fn own_tree(path: &Path, ownership: Ownership, always: bool) -> io::Result<()> {
    let Some(group) = ownership.fs_group else { return Ok(()) };
    use std::os::unix::fs::MetadataExt;
    let root = fs::metadata(path)?;
    if !always && root.gid() == group && root.mode() & 0o2770 == 0o2770 {
        return Ok(());
    }
    let mut todo = vec![path.to_owned()];
    while let Some(at) = todo.pop() {
        let meta = fs::symlink_metadata(&at)?;
        std::os::unix::fs::lchown(&at, None, Some(group))?;
        if meta.is_symlink() {
            continue;
        }
        let bits = if meta.is_dir() { 0o2770 } else { 0o660 };
        fs::set_permissions(&at, Permissions::from_mode((meta.mode() & 0o7777) | bits))?;
        if meta.is_dir() {
            for entry in fs::read_dir(&at)? {
                todo.push(entry?.path());
            }
        }
    }
    Ok(())
}

/// Checks a hostPath against its type and makes it where the type says so.
///
/// # Errors
/// The kubelet's text.
pub fn host_path(source: &api::HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let io = |e: io::Error| format!("hostPath {}: {e}", path.display());
    let found = fs::metadata(&path).map(|m| m.file_type());
    let no = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    match (kind, found) {
        ("" | "DirectoryOrCreate", Err(_)) => DirBuilder::new().recursive(true).mode(0o755).create(&path).map_err(io)?,
        ("FileOrCreate", Err(_)) => {
            File::create(&path).and_then(|f| f.set_permissions(Permissions::from_mode(0o644))).map_err(io)?;
        }
        ("", Ok(_)) => {}
        ("Directory" | "DirectoryOrCreate", Ok(t)) if t.is_dir() => {}
        ("File" | "FileOrCreate", Ok(t)) if t.is_file() => {}
        ("Socket", Ok(t)) if t.is_socket() => {}
        ("CharDevice", Ok(t)) if t.is_char_device() => {}
        ("BlockDevice", Ok(t)) if t.is_block_device() => {}
        ("Directory" | "DirectoryOrCreate", _) => return no("a directory"),
        ("File" | "FileOrCreate", _) => return no("a file"),
        ("Socket", _) => return no("a socket file"),
        ("CharDevice", _) => return no("a character device"),
        ("BlockDevice", _) => return no("a block device"),
        (other, _) => return Err(format!("{other} is an invalid volume type")),
    }
    Ok(path)
}

/// Mount points at or below `path`, deepest first.
///
/// # Errors
/// /proc is not there.
pub fn mounts_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_to_string("/proc/self/mountinfo")?
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|escaped| PathBuf::from(unescaped(escaped)))
        .filter(|at| at.starts_with(path))
        .collect();
    found.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    Ok(found)
}

/// mountinfo writes space, tab, newline and backslash in octal.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")].iter().fold(text.to_owned(), |t, (from, to)| t.replace(from, to))
}

/// Unmounts what is mounted below `dir`, then removes it. One that is gone is no error.
///
/// # Errors
/// IO.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    for at in mounts_below(dir)? {
        umount2(&at, MntFlags::MNT_DETACH)?;
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes `dir` a mount of its own that passes mounts on: to shims, whose mount namespaces were made before a volume was.
///
/// # Errors
/// Not root, or the kernel refuses.
pub fn share(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let none = None::<&str>;
    if !mounts_below(dir)?.contains(&dir.to_owned()) {
        mount(Some(dir), dir, none, MsFlags::MS_BIND, none)?;
    }
    Ok(mount(none, dir, none, MsFlags::MS_SHARED, none)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn host_paths_are_checked_by_type() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let check = |path: &str, kind: &str| host_path(&serde_json::from_value(json!({"path": path, "type": kind})).unwrap());
        assert!(check(&at("new"), "DirectoryOrCreate").unwrap().is_dir());
        assert!(check(&at("file"), "FileOrCreate").unwrap().is_file());
        assert!(check(&at("plain"), "").unwrap().is_dir());
        assert!(check("/dev/null", "CharDevice").is_ok());
        let why = check(&at("file"), "Directory").unwrap_err();
        assert_eq!(why, format!("hostPath type check failed: {} is not a directory", at("file")));
        for (path, kind) in [("none", "Directory"), ("none", "File"), ("new", "File"), ("file", "Socket"), ("file", "BlockDevice")] {
            assert!(check(&at(path), kind).is_err(), "{path} {kind}");
        }
    }

    #[test]
    fn empty_dirs_are_open_to_all_and_memory_is_a_tmpfs() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, source: serde_json::Value, group| {
            let path = dir.path().join(name);
            empty_dir(&serde_json::from_value(source).unwrap(), &path, Ownership { fs_group: group }).map(|()| path)
        };
        let path = make("disk", json!({}), None).unwrap();
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o777);
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: tmpfs and fsGroup need root");
            return;
        }
        let path = make("group", json!({}), Some(123)).unwrap();
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (123, 0o2777));
        let path = make("mem ory", json!({"medium": "Memory", "sizeLimit": "1Mi"}), None).unwrap();
        assert_eq!(mounts_below(&path).unwrap(), std::slice::from_ref(&path));
        assert_eq!(nix::sys::statvfs::statvfs(&path).unwrap().blocks() * 4096, 1 << 20);
        remove_tree(dir.path()).unwrap();
        assert!(!dir.path().exists());
    }
}
