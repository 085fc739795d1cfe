//! The OCI specification of a container: containerd's default one, and what was asked for.

use super::volumes::Bound;
use crate::cgroup::Cgroups;
use crate::sandbox::place::Place;
use crate::spec::{ContainerSpec, Propagation, SandboxSpec};
use libcontainer::oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    Mount, MountBuilder, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

type Result<T> = std::result::Result<T, String>;

fn why(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// All that a specification is made from.
pub struct Inputs<'a> {
    pub sandbox: &'a SandboxSpec,
    pub container: &'a ContainerSpec,
    pub place: &'a Place,
    pub cgroups: &'a Cgroups,
    pub cgroup: &'a str,
    pub volumes: &'a [Bound],
    /// Who keeps the shared PID namespace.
    pub pause: Option<i32>,
}

/// # Errors
/// A value that OCI does not allow.
pub fn build(inputs: &Inputs<'_>) -> Result<Spec> {
    let root = RootBuilder::default().path(inputs.place.rootfs(&inputs.container.id)).readonly(inputs.container.read_only_root);
    let mut spec = SpecBuilder::default()
        .version("1.1.0")
        .root(root.build().map_err(why)?)
        .mounts(mounts(inputs)?)
        .process(process(&inputs.container.process)?)
        .linux(linux(inputs)?)
        .build()
        .map_err(why)?;
    spec.set_hostname(None);
    Ok(spec)
}

/// What libcontainer is to set of a process; the rest (directory, capabilities, filter, environment) is `program`'s.
pub fn process(of: &crate::spec::ProcessSpec) -> Result<Process> {
    let user = UserBuilder::default().uid(of.uid).gid(of.gid).additional_gids(of.additional_gids.clone());
    let mut process = ProcessBuilder::default().user(user.build().map_err(why)?).args(of.args.clone()).cwd("/").build().map_err(why)?;
    // libcontainer insists on a PATH here.
    process.set_env(Some(vec!["PATH=/".into()]));
    process.set_capabilities(None).set_rlimits(None).set_terminal(None);
    // Some(false) would be taken for true.
    process.set_no_new_privileges(of.no_new_privileges.then_some(true));
    Ok(process)
}

fn linux(inputs: &Inputs<'_>) -> Result<Linux> {
    let container = inputs.container;
    let mut readonly = container.readonly_paths.clone();
    if !container.privileged {
        readonly.push("/sys/fs/cgroup".into());
    }
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(inputs)?)
        .masked_paths(container.masked_paths.clone())
        .readonly_paths(readonly)
        .build()
        .map_err(why)?;
    linux.set_resources(None).set_sysctl(None);
    if container.privileged {
        linux.set_devices(Some(host_devices()?));
    }
    if container.mounts.iter().any(|m| m.propagation == Propagation::Bidirectional) {
        linux.set_rootfs_propagation(Some("shared".into()));
    }
    Ok(linux)
}

/// Network, IPC and UTS are the shim's: a container is born in them.
fn namespaces(inputs: &Inputs<'_>) -> Result<Vec<LinuxNamespace>> {
    let new = |typ| LinuxNamespaceBuilder::default().typ(typ).build().map_err(why);
    let mut list = vec![new(LinuxNamespaceType::Mount)?];
    if let Some(pause) = inputs.pause {
        let shared = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Pid).path(format!("/proc/{pause}/ns/pid"));
        list.push(shared.build().map_err(why)?);
    } else if !inputs.sandbox.host_pid {
        list.push(new(LinuxNamespaceType::Pid)?);
    }
    if inputs.cgroups.is_unified() && !inputs.container.privileged {
        list.push(new(LinuxNamespaceType::Cgroup)?);
    }
    Ok(list)
}

fn mount(typ: &str, source: impl AsRef<Path>, destination: impl AsRef<Path>, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .typ(typ)
        .source(source.as_ref())
        .destination(destination.as_ref())
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(why)
}

fn mounts(inputs: &Inputs<'_>) -> Result<Vec<Mount>> {
    let write = if inputs.container.privileged { "rw" } else { "ro" };
    let shm = if inputs.sandbox.host_ipc { "/dev/shm".into() } else { inputs.place.shm() };
    let mut list = vec![
        mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"])?,
        mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount("devpts", "devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"])?,
        mount("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"])?,
        mount("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", write])?,
        mount("bind", shm, "/dev/shm", &["rbind", "nosuid", "noexec", "nodev"])?,
    ];
    if inputs.cgroups.is_unified() {
        list.push(mount("cgroup2", "cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", write])?);
    } else {
        list.push(mount("tmpfs", "tmpfs", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "mode=755", "size=64k"])?);
        for (name, dir) in inputs.cgroups.views(inputs.cgroup) {
            let at = Path::new("/sys/fs/cgroup").join(name);
            list.push(mount("bind", dir, at, &["rbind", "nosuid", "noexec", "nodev", write])?);
        }
    }
    // A volume at a default's place stands in for it.
    list.retain(|m| !inputs.volumes.iter().any(|v| v.destination == *m.destination()));
    let mut volumes: Vec<&Bound> = inputs.volumes.iter().collect();
    // What is nearer to the root first, else the deeper one would be hidden.
    volumes.sort_by_key(|v| v.destination.components().count());
    for v in volumes {
        let mut options = vec!["rbind", if v.read_only { "ro" } else { "rw" }];
        if !inputs.container.privileged && v.is_dir {
            // A device node made in a volume opens nothing.
            options.push("nodev");
        }
        list.push(mount("bind", &v.source, &v.destination, &options)?);
    }
    Ok(list)
}

/// Every device node of the host, for privileged containers; terminals and shared memory are the container's own.
fn host_devices() -> Result<Vec<LinuxDevice>> {
    let mut devices = Vec::new();
    let mut dirs = vec![std::path::PathBuf::from("/dev")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let Ok(meta) = entry.metadata() else { continue };
            let kind = meta.file_type();
            if kind.is_dir() && !["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"].iter().any(|skip| name == *skip) {
                dirs.push(path);
            } else if (kind.is_char_device() || kind.is_block_device()) && name != "console" && name != "ptmx" {
                devices.push(device(&path, &meta)?);
            }
        }
    }
    Ok(devices)
}

fn device(path: &Path, meta: &std::fs::Metadata) -> Result<LinuxDevice> {
    let rdev = meta.rdev();
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(if meta.file_type().is_block_device() { LinuxDeviceType::B } else { LinuxDeviceType::C })
        .major(i64::from(libc::major(rdev)))
        .minor(i64::from(libc::minor(rdev)))
        .file_mode(meta.mode() & 0o7777)
        .uid(meta.uid())
        .gid(meta.gid())
        .build()
        .map_err(why)
}
