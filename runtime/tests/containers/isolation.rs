//! What a container can and cannot reach.

use crate::world::{World, finish};
use orchd_runtime::StartError;
use orchd_runtime::spec::*;
use std::os::unix::fs::symlink;
use std::path::Path;

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(":\t")).unwrap_or_default()
}

/// CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP.
const DEFAULT_MASK: &str = "00000000a80425fb";
const NONE: &str = "0000000000000000";

pub async fn capabilities_are_as_given(mut w: World) {
    let pod = w.pod().await;
    let spec = w.container(&["read", "/proc/self/status"]);
    let text = w.run_ok(&pod, spec).await;
    for (set, mask) in [("CapBnd", DEFAULT_MASK), ("CapPrm", DEFAULT_MASK), ("CapEff", DEFAULT_MASK), ("CapInh", NONE), ("CapAmb", NONE)] {
        assert_eq!(field(&text, set), mask, "{set}");
    }
    let mut spec = w.container(&["read", "/proc/self/status"]);
    spec.process.capabilities = vec!["CAP_NET_ADMIN".into()];
    spec.process.uid = 1000;
    let text = w.run_ok(&pod, spec).await;
    assert_eq!((field(&text, "CapBnd"), field(&text, "CapPrm"), field(&text, "CapEff")), ("0000000000001000", NONE, NONE));
    let mut spec = w.container(&["exit", "0"]);
    spec.process.capabilities = vec!["CAP_WISH".into()];
    assert!(matches!(w.runtime.start_container(&pod, spec).await, Err(StartError::Invalid(_))));
    w.end(&pod).await;
}

pub async fn seccomp_holds_in_container_and_exec(mut w: World) {
    let pod = w.pod().await;
    for no_new_privileges in [false, true] {
        for uid in [0, 33] {
            let mut spec = w.container(&["sleep", "600"]);
            spec.process.no_new_privileges = no_new_privileges;
            spec.process.uid = uid;
            let id = spec.id.clone();
            w.runtime.start_container(&pod, spec).await.unwrap();
            let own = w.exec(&pod, &id, &["read", "/proc/1/status"]).await.1;
            let process = ProcessSpec { uid, no_new_privileges, ..World::process(&["read", "/proc/self/status"]) };
            let (_, exec, _) = finish(w.runtime.exec(&pod, &id, process, false).await.unwrap()).await;
            for status in [&own, &exec] {
                assert_eq!(field(status, "Seccomp"), "2", "{status}");
                assert_eq!(field(status, "NoNewPrivs"), if no_new_privileges { "1" } else { "0" });
                assert_eq!(field(status, "CapBnd"), DEFAULT_MASK);
                assert_eq!(field(status, "CapEff"), if uid == 0 { DEFAULT_MASK } else { NONE });
            }
        }
    }
    let mut spec = w.container(&["unshare"]);
    spec.process.capabilities = vec!["CAP_SYS_ADMIN".into()];
    assert_eq!(w.run(&pod, spec.clone()).await.0.code, 0, "whoever has the capability may");
    let spec = w.container(&["unshare"]);
    let (exit, text) = w.run(&pod, spec).await;
    assert_eq!((exit.code, text.as_str()), (1, "Operation not permitted (os error 1)\n"));
    // A profile of one's own.
    let profile = w.dir.path().join("profile.json");
    std::fs::write(&profile, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat","mknod","mknodat"],"action":"SCMP_ACT_ERRNO","errnoRet":99}]}"#).unwrap();
    let mut spec = w.container(&["mknod-open", "/tmp/x"]);
    spec.seccomp = Seccomp::Localhost(profile);
    assert!(w.run(&pod, spec).await.1.contains("os error 99"));
    let mut spec = w.container(&["read", "/proc/self/status"]);
    spec.seccomp = Seccomp::Unconfined;
    assert_eq!(field(&w.run_ok(&pod, spec).await, "Seccomp"), "0");
    w.end(&pod).await;
}

pub async fn read_only_root_and_masked_paths(mut w: World) {
    let pod = w.pod().await;
    let mut spec = w.container(&["write", "/new", "x"]);
    spec.read_only_root = true;
    let (exit, text) = w.run(&pod, spec).await;
    assert!(exit.code == 1 && text.contains("Read-only file system"), "{text}");
    let spec = w.container(&["write", "/new", "x"]);
    w.run_ok(&pod, spec).await;
    // Another container of the same image starts anew.
    let spec = w.container(&["read", "/new"]);
    assert!(w.run(&pod, spec).await.1.contains("No such file"));
    let spec = w.container(&["write", "/proc/sys/kernel/hostname", "x"]);
    assert!(w.run(&pod, spec).await.1.contains("Read-only file system"));
    let spec = w.container(&["write", "/sys/fs/cgroup/x", "x"]);
    assert!(w.run(&pod, spec).await.1.contains("Read-only file system"));
    let spec = w.container(&["read", "/proc/keys"]);
    assert_eq!(w.run_ok(&pod, spec).await, "");
    let spec = w.container(&["list", "/dev"]);
    // The kernel may have no /proc/kcore for `core` to name.
    assert_eq!(
        w.run_ok(&pod, spec).await.replace("core ", ""),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero\n"
    );
    w.end(&pod).await;
}

fn mount(source: &Path, destination: &str) -> Mount {
    Mount { source: source.into(), destination: destination.into(), read_only: false, propagation: Propagation::Private, sub_path: None }
}

pub async fn volumes_and_sub_paths(mut w: World) {
    let pod = w.pod().await;
    let volume = w.dir.path().join("volume");
    std::fs::create_dir_all(volume.join("sub")).unwrap();
    std::fs::create_dir(w.dir.path().join("secret")).unwrap();
    std::fs::write(w.dir.path().join("secret/key"), "secret").unwrap();
    std::fs::write(volume.join("sub/file"), "inside").unwrap();
    symlink("../secret", volume.join("up")).unwrap();
    symlink("/etc", volume.join("etc")).unwrap();
    let with = |spec: ContainerSpec, m: Mount| ContainerSpec { mounts: vec![m], ..spec };

    let spec = with(w.container(&["read", "/v/sub/file"]), mount(&volume, "/v"));
    assert_eq!(w.run_ok(&pod, spec).await, "inside\n");
    let spec = with(w.container(&["write", "/v/new", "from within"]), mount(&volume, "/v"));
    w.run_ok(&pod, spec).await;
    assert_eq!(std::fs::read_to_string(volume.join("new")).unwrap(), "from within");
    let spec = with(w.container(&["write", "/v/new", "x"]), Mount { read_only: true, ..mount(&volume, "/v") });
    assert!(w.run(&pod, spec).await.1.contains("Read-only"));
    let spec = with(w.container(&["read", "/etc/hosts"]), mount(&volume.join("sub/file"), "/etc/hosts"));
    assert_eq!(w.run_ok(&pod, spec).await, "inside\n");
    // One at a default's place, and one below another, whatever their order.
    let spec = with(w.container(&["list", "/dev/shm"]), mount(&volume, "/dev/shm"));
    assert_eq!(w.run_ok(&pod, spec).await, "etc new sub up\n");
    let mut spec = w.container(&["read", "/v/deep/file"]);
    spec.mounts = vec![mount(&volume.join("sub"), "/v/deep"), mount(&volume, "/v")];
    assert_eq!(w.run_ok(&pod, spec).await, "inside\n");

    let sub = |path: &str| Mount { sub_path: Some(path.into()), ..mount(&volume, "/v") };
    let spec = with(w.container(&["read", "/v/file"]), sub("sub"));
    assert_eq!(w.run_ok(&pod, spec).await, "inside\n");
    let spec = with(w.container(&["read", "/v"]), sub("sub/file"));
    assert_eq!(w.run_ok(&pod, spec).await, "inside\n");
    let spec = with(w.container(&["write", "/v/x", "y"]), sub("made/for/it"));
    w.run_ok(&pod, spec).await;
    assert_eq!(std::fs::read_to_string(volume.join("made/for/it/x")).unwrap(), "y");
    for path in ["up", "up/key", "../secret", "etc"] {
        let spec = with(w.container(&["list", "/v"]), sub(path));
        let error = w.runtime.start_container(&pod, spec).await.unwrap_err();
        assert!(error.to_string().contains("is not within the volume"), "{path}: {error}");
    }
    w.end(&pod).await;
}

pub async fn devices_are_out_of_reach(mut w: World) {
    let pod = w.pod().await;
    let volume = w.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    for path in ["/tmp/mem", "/dev/mem", "/v/mem"] {
        let mut spec = w.container(&["mknod-open", path]);
        spec.mounts.push(mount(&volume, "/v"));
        let (exit, text) = w.run(&pod, spec).await;
        assert!(exit.code == 1 && (text.contains("Permission denied") || text.contains("not permitted")), "{path}: {text}");
    }
    w.end(&pod).await;
}

pub async fn memory_limits_kill(mut w: World) {
    let pod = w.pod().await;
    let mut spec = w.container(&["alloc", "200"]);
    spec.resources.memory_limit_bytes = Some(64 << 20);
    let (exit, _) = w.run(&pod, spec).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), true));
    let mut spec = w.container(&["alloc", "20"]);
    spec.resources = Resources {
        memory_limit_bytes: Some(64 << 20),
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        pids_limit: Some(50),
        oom_score_adj: Some(900),
    };
    let (exit, _) = w.run(&pod, spec).await;
    assert_eq!((exit.code, exit.oom_killed), (0, false));
    let mut spec = w.container(&["read", "/proc/self/oom_score_adj"]);
    spec.resources.oom_score_adj = Some(900);
    assert_eq!(w.run_ok(&pod, spec).await, "900\n");
    w.end(&pod).await;
}

pub async fn shared_namespaces(mut w: World) {
    let spec = SandboxSpec {
        share_process_namespace: true,
        sysctls: [("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())].into(),
        ..w.sandbox()
    };
    let pod = spec.id.clone();
    w.runtime.create_sandbox(spec).await.unwrap();
    let spec = w.container(&["sleep", "600"]);
    let first = spec.id.clone();
    w.runtime.start_container(&pod, spec).await.unwrap();
    let spec = w.container(&["list", "/proc"]);
    let text = w.run_ok(&pod, spec).await;
    let pids: Vec<&str> = text.split(' ').filter(|n| n.parse::<u32>().is_ok()).collect();
    assert!(pids.len() == 3 && pids.contains(&"1"), "pause, sleep and list: {text}");
    let spec = w.container(&["read", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]);
    assert_eq!(w.run_ok(&pod, spec).await, "0\n");
    // What a container leaves goes with it, though the namespace stays.
    let spec = w.container(&["child"]);
    assert_eq!(w.run_ok(&pod, spec).await, "left one\n");
    let spec = w.container(&["list", "/proc"]);
    let text = w.run_ok(&pod, spec).await;
    assert_eq!(text.split(' ').filter(|n| n.parse::<u32>().is_ok()).count(), 3, "{text}");
    // /dev/shm is the pod's.
    let spec = w.container(&["write", "/dev/shm/x", "shared"]);
    w.run_ok(&pod, spec).await;
    assert_eq!(w.exec(&pod, &first, &["read", "/dev/shm/x"]).await.1, "shared");
    w.end(&pod).await;

    let spec = SandboxSpec { host_network: true, host_pid: true, host_ipc: true, ..w.sandbox() };
    let pod = spec.id.clone();
    w.runtime.create_sandbox(spec).await.unwrap();
    let spec = w.container(&["read", "/proc/sys/kernel/hostname"]);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(w.run_ok(&pod, spec).await, host);
    let spec = w.container(&["read", &format!("/proc/{}/comm", std::process::id())]);
    assert!(!w.run_ok(&pod, spec).await.is_empty());
    let spec = w.container(&["child"]);
    w.run_ok(&pod, spec).await;
    w.end(&pod).await;
}

pub async fn privileged_containers(mut w: World) {
    let pod = w.pod().await;
    let mut spec = w.container(&["read", "/proc/self/status"]);
    spec.privileged = true;
    spec.masked_paths.clear();
    spec.readonly_paths.clear();
    let text = w.run_ok(&pod, spec.clone()).await;
    assert_eq!(field(&text, "Seccomp"), "0");
    let mine = std::fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(field(&text, "CapEff"), field(&mine, "CapEff"));
    let with = |spec: &ContainerSpec, other: ContainerSpec| ContainerSpec {
        id: other.id,
        log_path: other.log_path,
        process: other.process,
        ..spec.clone()
    };
    let other = w.container(&["list", "/dev"]);
    let text = w.run_ok(&pod, with(&spec, other)).await;
    assert!(text.contains("kmsg") || text.contains("vda") || text.contains("mem"), "{text}");
    let other = w.container(&["write", "/proc/sys/kernel/hostname", "there"]);
    w.run_ok(&pod, with(&spec, other)).await;
    w.end(&pod).await;
}

/// A mount on the host, gone with this value.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

pub async fn mounts_propagate_as_asked(mut w: World) {
    use nix::mount::{MsFlags, mount as do_mount};
    let none: Option<&str> = None;
    let volume = w.dir.path().join("volume");
    std::fs::create_dir_all(volume.join("late")).unwrap();
    std::fs::create_dir_all(volume.join("up")).unwrap();
    do_mount(Some(&volume), &volume, none, MsFlags::MS_BIND, none).unwrap();
    let bound = Mounted(volume.clone());
    do_mount(none, &volume, none, MsFlags::MS_SHARED, none).unwrap();
    let pod = w.pod().await;
    let mut started = Vec::new();
    for propagation in [Propagation::Private, Propagation::HostToContainer, Propagation::Bidirectional] {
        let mut one = w.container(&["sleep", "600"]);
        one.privileged = true;
        one.masked_paths.clear();
        one.readonly_paths.clear();
        one.mounts.push(Mount { propagation, ..mount(&volume, "/v") });
        started.push((one.id.clone(), propagation));
        w.runtime.start_container(&pod, one).await.unwrap();
    }
    do_mount(Some("tmpfs"), &volume.join("late"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let late = Mounted(volume.join("late"));
    std::fs::write(volume.join("late/x"), "late").unwrap();
    for (id, propagation) in started {
        let sees = w.exec(&pod, &id, &["list", "/v/late"]).await.1 == "x\n";
        assert_eq!(sees, propagation != Propagation::Private, "{propagation:?}");
        let process = ProcessSpec { capabilities: vec!["ALL".into()], ..World::process(&["mount", "/v/up"]) };
        let (code, text, _) = finish(w.runtime.exec(&pod, &id, process, false).await.unwrap()).await;
        assert_eq!(code, 0, "{text}");
        let came = volume.join("up/made").exists();
        assert_eq!(came, propagation == Propagation::Bidirectional, "{propagation:?}");
        if came {
            drop(Mounted(volume.join("up")));
        }
    }
    drop((late, bound));
    w.end(&pod).await;
}
