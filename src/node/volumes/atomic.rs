//! The atomic writer of configMap, secret, downwardAPI and projected volumes: all files change at once, and a reader sees
//! either the old ones or the new.
//!
//! Files lie in a directory named by the time it was made; `..data` is a symlink to it, renamed into place; each visible
//! name is a symlink to `..data/name`. Names and order are the kubelet's, for programs watch for them.

use k8s_openapi::jiff::Timestamp;
use nix::unistd::{Gid, Uid};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Component, Path};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4096;

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner other than root.
    pub owner: Option<u32>,
}

/// Files by path relative to the volume.
pub type Payload = BTreeMap<String, Projection>;

/// Who may use the files besides their owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    pub fs_group: Option<u32>,
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// Refuses what would lie outside the volume or clash with the writer's own names.
fn validate(path: &str) -> io::Result<()> {
    let p = Path::new(path);
    if path.is_empty() || path.len() > MAX_PATH {
        return Err(invalid(format!("invalid path: {path:?}")));
    }
    for component in p.components() {
        match component {
            Component::Normal(name) if name.len() <= MAX_NAME => {}
            _ => return Err(invalid(format!("invalid path: must not be absolute or contain '..': {path}"))),
        }
    }
    if path.starts_with("..") {
        return Err(invalid(format!("invalid path: must not start with '..': {path}")));
    }
    Ok(())
}

/// Makes the volume at `target` hold exactly `payload`. Blocks. Returns true if anything changed.
///
/// # Errors
/// A path that leaves the volume, or IO; the old files are then still all there.
pub fn write(target: &Path, payload: &Payload, ownership: Ownership, now: Timestamp) -> io::Result<bool> {
    payload.keys().try_for_each(|p| validate(p))?;
    fs::create_dir_all(target)?;
    fs::set_permissions(target, Permissions::from_mode(0o777))?;
    own_directory(target, ownership)?;
    let data = target.join(DATA);
    let old = match fs::read_link(&data) {
        Ok(link) => Some(link),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let old_dir = old.as_ref().map(|l| target.join(l)).filter(|d| d.is_dir());
    if let Some(dir) = &old_dir
        && same(dir, payload)?
    {
        link_visible(target, payload)?;
        return Ok(false);
    }
    let name = new_name(now);
    let dir = target.join(&name);
    DirBuilder::new().mode(0o755).create(&dir)?;
    let made = fill(&dir, payload, ownership).and_then(|()| swap(target, &name));
    if let Err(e) = made {
        fs::remove_dir_all(&dir)?;
        return Err(e);
    }
    link_visible(target, payload)?;
    remove_stale(target, payload)?;
    match old_dir {
        Some(dir) => fs::remove_dir_all(dir).map(|()| true),
        None => Ok(true),
    }
}

/// `..2006_01_02_15_04_05.1234567890`.
fn new_name(now: Timestamp) -> String {
    let time: String = now.to_string().chars().take(19).map(|c| if c.is_ascii_digit() { c } else { '_' }).collect();
    format!("..{time}.{:010}", rand::random::<u32>())
}

fn swap(target: &Path, name: &str) -> io::Result<()> {
    let new = target.join(NEW_DATA);
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    symlink(name, &new)?;
    fs::rename(new, target.join(DATA))
}

fn fill(dir: &Path, payload: &Payload, ownership: Ownership) -> io::Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    own_directory(dir, ownership)?;
    for (path, file) in payload {
        let at = dir.join(path);
        make_parents(dir, Path::new(path), ownership)?;
        let mut out = File::create(&at)?;
        out.write_all(&file.data)?;
        if file.owner.is_some() || ownership.fs_group.is_some() {
            std::os::unix::fs::chown(&at, file.owner, ownership.fs_group)?;
        }
        // After the chown, which clears special bits. The group of an fsGroup may read.
        let group_read = if ownership.fs_group.is_some() { 0o440 } else { 0 };
        out.set_permissions(Permissions::from_mode((file.mode & 0o7777) | group_read))?;
    }
    Ok(())
}

fn make_parents(dir: &Path, path: &Path, ownership: Ownership) -> io::Result<()> {
    let mut at = dir.to_owned();
    for part in path.parent().into_iter().flat_map(Path::components) {
        at.push(part);
        match DirBuilder::new().mode(0o755).create(&at) {
            Ok(()) => {
                fs::set_permissions(&at, Permissions::from_mode(0o755))?;
                own_directory(&at, ownership)?;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Group and setgid, as the kubelet sets the ownership of a volume's directories.
fn own_directory(dir: &Path, ownership: Ownership) -> io::Result<()> {
    let Some(group) = ownership.fs_group else { return Ok(()) };
    nix::unistd::chown(dir, None::<Uid>, Some(Gid::from_raw(group)))?;
    let mode = fs::metadata(dir)?.permissions().mode();
    fs::set_permissions(dir, Permissions::from_mode((mode & 0o7777) | 0o2550))
}

/// First components: what is seen at the volume's root.
fn visible(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|p| p.split('/').next()).collect()
}

fn link_visible(target: &Path, payload: &Payload) -> io::Result<()> {
    for name in visible(payload) {
        let at = target.join(name);
        if fs::symlink_metadata(&at).is_err() {
            symlink(Path::new(DATA).join(name), at)?;
        }
    }
    Ok(())
}

fn remove_stale(target: &Path, payload: &Payload) -> io::Result<()> {
    let keep = visible(payload);
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if !text.starts_with("..") && !keep.contains(&*text) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// True if `dir` holds exactly the payload's files with their contents. Modes do not change during a pod's life.
fn same(dir: &Path, payload: &Payload) -> io::Result<bool> {
    let mut count = 0;
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
            match payload.get(&name) {
                Some(file) if fs::read(&path)? == file.data => count += 1,
                _ => return Ok(false),
            }
        }
    }
    Ok(count == payload.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files.iter().map(|(p, d)| ((*p).into(), Projection { data: d.as_bytes().into(), mode: 0o644, owner: None })).collect()
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    #[test]
    fn files_change_all_at_once_and_stale_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let read = |name: &str| fs::read_to_string(at.join(name)).unwrap();
        let write = |files: &[(&str, &str)]| super::write(at, &payload(files), Ownership::default(), now()).unwrap();

        assert!(write(&[("a", "1"), ("sub/b", "2"), ("sub/deep/c", "3")]));
        assert_eq!((read("a"), read("sub/b"), read("sub/deep/c")), ("1".into(), "2".into(), "3".into()));
        assert_eq!(fs::read_link(at.join("a")).unwrap(), Path::new("..data/a"));
        let first = fs::read_link(at.join("..data")).unwrap();
        assert!(first.to_str().unwrap().starts_with("..2023_11_14_22_13_20."));

        assert!(!write(&[("a", "1"), ("sub/b", "2"), ("sub/deep/c", "3")]), "nothing changed");
        assert_eq!(fs::read_link(at.join("..data")).unwrap(), first);

        assert!(write(&[("a", "new"), ("z", "9")]));
        assert_eq!((read("a"), read("z")), ("new".into(), "9".into()));
        assert!(!at.join("sub").exists() && fs::symlink_metadata(at.join("sub")).is_err() && !at.join(first).exists());
        assert!(write(&[]), "all files may go");
        assert_eq!(fs::read_dir(at).unwrap().count(), 2, "..data and what it means");
    }

    #[test]
    fn modes_are_exact_and_groups_may_read() {
        let dir = tempfile::tempdir().unwrap();
        let files: Payload = [("x".to_owned(), Projection { data: vec![], mode: 0o400, owner: None })].into();
        super::write(dir.path(), &files, Ownership::default(), now()).unwrap();
        let mode = |p: &str| fs::metadata(dir.path().join(p)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("x"), mode(".")), (0o400, 0o777));
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: fsGroup needs root");
            return;
        }
        let other = tempfile::tempdir().unwrap();
        super::write(other.path(), &files, Ownership { fs_group: Some(1234) }, now()).unwrap();
        let meta = |p: &str| fs::metadata(other.path().join(p)).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((meta("x").gid(), meta("x").mode() & 0o7777), (1234, 0o440));
        assert_eq!((meta(".").gid(), meta(".").mode() & 0o7777), (1234, 0o2777));
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["../x", "/x", "a/../b", "..x", "", &"x".repeat(300)] {
            assert!(super::write(dir.path(), &payload(&[(bad, "")]), Ownership::default(), now()).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
        #[test]
        fn any_sequence_of_payloads_leaves_exactly_the_last(
            steps in proptest::collection::vec(proptest::collection::btree_map("[ab](/[cd])?", "[xy]{0,2}", 0..4), 1..4)
        ) {
            let dir = tempfile::tempdir().unwrap();
            for step in &steps {
                // A name cannot be file and directory at once; the API refuses that too.
                let files: Payload = step.iter().filter(|(p, _)| p.contains('/') || !step.contains_key(&format!("{p}/c")) && !step.contains_key(&format!("{p}/d")))
                    .map(|(p, d)| (p.clone(), Projection { data: d.clone().into_bytes(), mode: 0o600, owner: None })).collect();
                super::write(dir.path(), &files, Ownership::default(), now()).unwrap();
                for (path, file) in &files {
                    proptest::prop_assert_eq!(&fs::read(dir.path().join(path)).unwrap(), &file.data);
                }
                let names: BTreeSet<String> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).filter(|n| !n.starts_with("..")).collect();
                proptest::prop_assert_eq!(names, visible(&files).into_iter().map(str::to_owned).collect::<BTreeSet<_>>());
            }
        }
    }
}
