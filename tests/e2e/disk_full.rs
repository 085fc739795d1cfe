//! A full disk under the store: writes are refused and say so, reads go on, and all is well once there is space.

use crate::support::{Cluster, Dir, Place, eventually, kubectls, root, stderr};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

const DISK_BYTES: usize = 160 << 20;
const WAIT: Duration = Duration::from_secs(30);

/// A disk of its own, in memory.
struct Disk(Dir);

impl Disk {
    fn new() -> Self {
        let dir = Dir::new("disk");
        let size = format!("size={DISK_BYTES}");
        mount(Some("tmpfs"), &dir.0, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
        Self(dir)
    }

    /// Takes all the space there is.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        let block = vec![0; 1 << 20];
        for _ in 0..=DISK_BYTES / block.len() {
            if file.write_all(&block).is_err() {
                return;
            }
        }
        panic!("{DISK_BYTES} bytes did not fill the disk");
    }

    fn filler(&self) -> std::path::PathBuf {
        self.0.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0.0, MntFlags::MNT_DETACH) {
            eprintln!("{}: {error}", self.0.0.display());
        }
    }
}

/// What kubectl said, if it failed.
fn ask(cluster: &Cluster, program: &Path, args: &[&str]) -> Result<(), String> {
    let output = cluster.kubectl(program, args);
    if output.status.success() { Ok(()) } else { Err(stderr(&output)) }
}

fn create(cluster: &Cluster, program: &Path, name: &str) -> Result<(), String> {
    ask(cluster, program, &["create", "configmap", name, "--from-literal=k=v"])
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    if !root("a full disk") {
        return;
    }
    let Some(program) = kubectls("a full disk").pop() else { return };
    let disk = Disk::new();
    let data = Dir::new("full");
    std::os::unix::fs::symlink(&disk.0.0, data.0.join("store")).unwrap();
    let mut cluster = Cluster::start_in(data, "full");
    create(&cluster, &program, "before").unwrap();

    disk.fill();
    let mut acknowledged = vec!["before".to_owned()];
    let why = eventually("a write is refused", WAIT, || {
        let name = format!("full-{}", acknowledged.len());
        match create(&cluster, &program, &name) {
            Err(why) => Ok(why),
            Ok(()) => {
                acknowledged.push(name);
                Err("it was taken".into())
            }
        }
    });
    assert!(why.contains("no space left in the data directory: the disk is nearly full"), "{why}");
    ask(&cluster, &program, &["get", "configmap", "before"]).unwrap();
    ask(&cluster, &program, &["get", "pods", "-A"]).unwrap();

    std::fs::remove_file(disk.filler()).unwrap();
    eventually("writes are taken again", WAIT, || create(&cluster, &program, "after"));
    acknowledged.push("after".into());
    cluster.kill();
    cluster.up();
    for name in &acknowledged {
        ask(&cluster, &program, &["get", "configmap", name]).unwrap();
    }
}
