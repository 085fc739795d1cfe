//! A container from its creation to its program's execve: orchd's runtime and runc in turn, the same static program.
//!
//! `cargo bench --bench runtime`, as root; prints `figure <name> <value> <unit>` lines.

#![allow(clippy::disallowed_methods, reason = "it runs runc")]

mod support;

use orchd_runtime::spec::{ContainerSpec, ProcessSpec, SandboxSpec, Seccomp};
use orchd_runtime::{Options, Runtime};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use support::cluster::{Dir, ORCHD, root};
use support::{Rounds, percentile};

const ROUNDS: usize = 3;
const CONTAINERS: usize = 20;
const IMAGE: &str = "orchd.dev/hello:builtin";
/// The carried program's role that does nothing until it is told to end.
const PROGRAM: [&str; 3] = ["/orchd", "internal-hello", "wait"];

#[tokio::main]
async fn main() {
    if !root("the runtime benchmark") {
        return;
    }
    let dir = Dir::new("bench-runtime");
    let run = Dir::new("bench-runtime-run");
    let options = Options { dir: dir.0.join("runtime"), run_dir: run.0.join("runtime"), exe: ORCHD.into() };
    let (runtime, mut events) = Runtime::open(options).await.unwrap();
    // Nobody here wants to know; the runtime must not wait for us.
    let listens = tokio::spawn(async move { while events.recv().await.is_some() {} });
    runtime.images().ensure_builtin(IMAGE, Path::new(ORCHD), &["/orchd".into()]).unwrap();
    let image = runtime.images().get(IMAGE).expect("it was just made").digest;
    let bundle = bundle(&dir.0);
    let mut rounds = Rounds::default();
    for _ in 0..ROUNDS {
        let (sandbox, mut start) = ours(&runtime, &image, &dir.0).await;
        rounds.add("orchd_sandbox_create_p50", sandbox, "ms");
        rounds.add("orchd_container_create_to_exec_p50", percentile(&mut start, 0.5), "ms");
        match &bundle {
            Some(bundle) => rounds.add("runc_container_create_to_exec_p50", percentile(&mut runc(bundle), 0.5), "ms"),
            None => println!("no runc is here: its figures are left out"),
        }
    }
    listens.abort();
    rounds.print("runc");
}

/// The median of sandboxes' creation, and the time of each container's start; milliseconds.
async fn ours(runtime: &Runtime, image: &str, dir: &Path) -> (f64, Vec<f64>) {
    let (mut sandboxes, mut starts) = (Vec::new(), Vec::new());
    for n in 0..CONTAINERS {
        let id = format!("bench-{n}");
        let cgroup_path = format!("orchd-bench-{}/{id}", std::process::id());
        let began = Instant::now();
        runtime
            .create_sandbox(SandboxSpec { id: id.clone(), hostname: "here".into(), cgroup_path, ..SandboxSpec::default() })
            .await
            .unwrap();
        sandboxes.push(began.elapsed().as_secs_f64() * 1e3);
        let process = ProcessSpec { args: PROGRAM.map(str::to_owned).to_vec(), cwd: "/".into(), ..ProcessSpec::default() };
        let spec = ContainerSpec {
            id: format!("{n:064x}"),
            image: image.to_owned(),
            process,
            seccomp: Seccomp::RuntimeDefault,
            log_path: dir.join(format!("{n}.log")),
            ..ContainerSpec::default()
        };
        let began = Instant::now();
        runtime.start_container(&id, spec).await.unwrap();
        starts.push(began.elapsed().as_secs_f64() * 1e3);
        runtime.remove_sandbox(&id).await.unwrap();
    }
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let parent = hierarchy.path().join(format!("orchd-bench-{}", std::process::id()));
        if parent.exists() {
            std::fs::remove_dir(parent).unwrap();
        }
    }
    (percentile(&mut sandboxes, 0.5), starts)
}

/// An OCI bundle with the same program, as `runc spec` describes it.
fn bundle(dir: &Path) -> Option<PathBuf> {
    let bundle = dir.join("bundle");
    std::fs::create_dir_all(bundle.join("rootfs")).unwrap();
    std::fs::copy(ORCHD, bundle.join("rootfs/orchd")).unwrap();
    if !Command::new("runc").arg("spec").current_dir(&bundle).status().is_ok_and(|s| s.success()) {
        return None;
    }
    let file = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["process"]["args"] = json!(PROGRAM);
    config["process"]["terminal"] = json!(false);
    // Limits may only be raised with CAP_SYS_RESOURCE.
    config["process"]["rlimits"] = json!([]);
    std::fs::write(&file, config.to_string()).unwrap();
    Some(bundle)
}

/// `runc run --detach` returns when the program runs.
fn runc(bundle: &Path) -> Vec<f64> {
    let mut times = Vec::new();
    for n in 0..CONTAINERS {
        let id = format!("orchd-bench-{}-{n}", std::process::id());
        let mut command = Command::new("runc");
        command.args(["run", "--detach", "--bundle"]).arg(bundle).arg(&id).stdin(Stdio::null()).stdout(Stdio::null());
        let began = Instant::now();
        assert!(command.status().unwrap().success(), "runc run");
        times.push(began.elapsed().as_secs_f64() * 1e3);
        assert!(Command::new("runc").args(["delete", "--force", &id]).status().unwrap().success(), "runc delete");
    }
    times
}
