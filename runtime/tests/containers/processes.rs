//! Processes: how they start, what they get, how they end.

use crate::world::{World, finish};
use orchd_runtime::StartError;
use orchd_runtime::spec::*;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub async fn a_container_runs_and_its_end_is_told(mut w: World) {
    let began = Instant::now();
    let pod = w.pod().await;
    println!("create_sandbox {:?}", began.elapsed());
    for _ in 0..5 {
        let spec = w.container(&["echo", "hello", "you"]);
        let id = spec.id.clone();
        let began = Instant::now();
        let (pid, started) = w.runtime.start_container(&pod, spec).await.unwrap();
        println!("start_container {:?}", began.elapsed());
        assert!(pid > 1 && started > 0);
        let exit = w.exit_of(&id).await;
        assert_eq!((exit.code, exit.signal, exit.oom_killed), (0, None, false));
        assert!(exit.started_at_ns == started && exit.finished_at_ns >= started);
        assert_eq!(w.output(&id), "hello you\n");
    }
    let list = w.runtime.list().await.unwrap();
    assert_eq!(list[0].containers.len(), 5);
    w.end(&pod).await;
}

pub async fn signals_and_codes(mut w: World) {
    let pod = w.pod().await;
    let spec = w.container(&["exit", "42"]);
    assert_eq!(w.run(&pod, spec).await.0.code, 42);
    let spec = w.container(&["term"]);
    let id = spec.id.clone();
    w.runtime.start_container(&pod, spec).await.unwrap();
    while w.output(&id) != "ready\n" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    w.runtime.kill(&pod, &id, libc::SIGTERM).await.unwrap();
    assert_eq!(w.exit_of(&id).await.code, 7);
    w.runtime.kill(&pod, &id, libc::SIGTERM).await.unwrap();
    let spec = w.container(&["sleep", "600"]);
    let id = spec.id.clone();
    w.runtime.start_container(&pod, spec).await.unwrap();
    assert!(matches!(w.runtime.remove_container(&pod, &id).await, Err(StartError::Invalid(_))));
    w.runtime.kill(&pod, &id, libc::SIGKILL).await.unwrap();
    let exit = w.exit_of(&id).await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    w.runtime.remove_container(&pod, &id).await.unwrap();
    assert!(matches!(w.runtime.kill(&pod, &id, 9).await, Err(StartError::NoContainer(_))));
    w.end(&pod).await;
}

pub async fn environment_directory_and_user(mut w: World) {
    let pod = w.pod().await;
    let mut spec = w.container(&["env"]);
    spec.process.env = ["A=1", "B=two words", "A=3"].map(str::to_owned).to_vec();
    let text = w.run_ok(&pod, spec).await;
    assert!(text.contains("A=3\nB=two words\nPATH=/usr/local/sbin:") && text.contains("HOME=/root\n"), "{text}");
    let mut spec = w.container(&["cwd"]);
    spec.process.cwd = "/not/yet/there".into();
    assert_eq!(w.run_ok(&pod, spec).await, "/not/yet/there\n");
    let mut spec = w.container(&["read", "/proc/self/status"]);
    spec.process = ProcessSpec { uid: 33, gid: 44, additional_gids: vec![55, 66], ..spec.process };
    let text = w.run_ok(&pod, spec).await;
    for line in ["Uid:\t33\t33\t33\t33", "Gid:\t44\t44\t44\t44", "Groups:\t55 66", "NoNewPrivs:\t0"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let spec = w.container(&["read", "/proc/self/status"]);
    let text = w.run_ok(&pod, spec).await;
    // SIGPIPE is ignored by the program itself, as by every Rust program.
    for line in ["Groups:\t \n", "SigBlk:\t0000000000000000", "SigIgn:\t0000000000001000"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let spec = w.container(&["read", "/proc/sys/kernel/hostname"]);
    assert_eq!(w.run_ok(&pod, spec).await, "here\n");
    let spec = w.container(&["list", "/proc/self/fd"]);
    assert_eq!(w.run_ok(&pod, spec).await, "0 1 2 3\n");
    w.end(&pod).await;
}

pub async fn logs_survive_and_are_marked(mut w: World) {
    let pod = w.pod().await;
    let spec = w.container(&["error", "on stderr"]);
    let id = spec.id.clone();
    w.run_ok(&pod, spec).await;
    let text = std::fs::read_to_string(w.log(&id)).unwrap();
    assert!(text.ends_with("Z stderr F on stderr\n"), "{text}");
    let spec = w.container(&["spam", "50000"]);
    let text = w.run_ok(&pod, spec).await;
    assert_eq!(text.lines().count(), 50000);
    assert!(text.ends_with("line 49999\n"));
    w.end(&pod).await;
}

pub async fn programs_that_cannot_run(mut w: World) {
    let pod = w.pod().await;
    let prefix =
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: unable to start container process: ";
    for (program, expected) in [
        ("foo", "exec: \"foo\": executable file not found in $PATH: unknown"),
        ("/foo", "exec: \"/foo\": stat /foo: no such file or directory: unknown"),
        ("/etc/plain", "exec: \"/etc/plain\": permission denied: unknown"),
        ("/etc", "exec: \"/etc\": is a directory: unknown"),
    ] {
        let mut spec = w.container(&[]);
        spec.process.args = vec![program.to_owned()];
        let id = spec.id.clone();
        let error = w.runtime.start_container(&pod, spec).await.unwrap_err();
        assert!(matches!(error, StartError::Create(_)), "{error}");
        assert_eq!(error.to_string(), format!("{prefix}{expected}"));
        assert!(!w.runtime.list().await.unwrap()[0].containers.iter().any(|c| c.spec.id == id));
    }
    let mut spec = w.container(&["exit", "0"]);
    spec.mounts.push(Mount {
        source: "/no/such".into(),
        destination: "/mnt".into(),
        read_only: false,
        propagation: Propagation::Private,
        sub_path: None,
    });
    let error = w.runtime.start_container(&pod, spec).await.unwrap_err().to_string();
    assert!(error.contains("/no/such") && error.contains("No such file"), "{error}");
    let spec = w.container(&["sleep", "600"]);
    let id = spec.id.clone();
    w.runtime.start_container(&pod, spec).await.unwrap();
    let process = ProcessSpec { args: vec!["x".into()], ..World::process(&[]) };
    let error = w.runtime.exec(&pod, &id, process, false).await.err().unwrap().to_string();
    let expected =
        "OCI runtime exec failed: exec failed: unable to start container process: exec: \"x\": executable file not found in $PATH: unknown";
    assert!(error.ends_with(expected), "{error}");
    assert!(matches!(w.runtime.exec(&pod, "none", World::process(&["exit"]), false).await, Err(StartError::NoContainer(_))));
    let spec = w.container(&["exit"]);
    assert!(matches!(w.runtime.start_container("none", spec).await, Err(StartError::NoSandbox(_))));
    w.end(&pod).await;
}

pub async fn exec_with_pipes(mut w: World) {
    let pod = w.pod().await;
    let mut spec = w.container(&["sleep", "600"]);
    spec.process.uid = 33;
    let id = spec.id.clone();
    w.runtime.start_container(&pod, spec).await.unwrap();
    assert_eq!(w.exec(&pod, &id, &["echo", "a", "b"]).await, (0, "a b\n".into(), String::new()));
    assert_eq!(w.exec(&pod, &id, &["error", "e"]).await, (0, String::new(), "e\n".into()));
    assert_eq!(w.exec(&pod, &id, &["exit", "9"]).await.0, 9);
    assert_eq!(w.exec(&pod, &id, &["read", "/proc/sys/kernel/hostname"]).await.1, "here\n");
    // It sees the container's processes and is counted with them.
    let pids = w.exec(&pod, &id, &["read", "/proc/1/cmdline"]).await.1;
    assert_eq!(pids, "t\0sleep\x00600\0");
    let cgroup = w.exec(&pod, &id, &["read", "/proc/self/cgroup"]).await.1;
    assert!(cgroup.lines().any(|l| l.contains("memory") && l.ends_with(&format!("pod/{id}"))) || cgroup.contains("0::/"), "{cgroup}");
    let process = ProcessSpec { uid: 12, gid: 34, cwd: "/tmp".into(), env: vec!["X=y".into()], ..World::process(&["cwd"]) };
    let (code, out, _) = finish(w.runtime.exec(&pod, &id, process.clone(), false).await.unwrap()).await;
    assert_eq!((code, out.as_str()), (0, "/tmp\n"));
    let process = ProcessSpec { args: vec!["t".into(), "env".into()], ..process };
    let (_, out, _) = finish(w.runtime.exec(&pod, &id, process, false).await.unwrap()).await;
    assert!(out.starts_with("X=y\n"), "{out}");
    let mut session = w.runtime.exec(&pod, &id, World::process(&["cat"]), true).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(&vec![b'z'; 200_000]).await.unwrap();
    stdin.flush().await.unwrap();
    drop(stdin);
    let (code, out, _) = finish(session).await;
    assert_eq!((code, out.len()), (0, 200_000));
    w.end(&pod).await;
}

pub async fn exec_with_a_terminal(mut w: World) {
    let pod = w.pod().await;
    let spec = w.container(&["sleep", "600"]);
    let id = spec.id.clone();
    w.runtime.start_container(&pod, spec).await.unwrap();
    let process = ProcessSpec { tty: true, ..World::process(&["tty"]) };
    let mut session = w.runtime.exec(&pod, &id, process, true).await.unwrap();
    assert!(session.stderr.is_none());
    let mut chunk = [0; 1024];
    let length = session.stdout.read(&mut chunk).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&chunk[..length]), "true true /dev/pts/0\r\n");
    session.resize.send((132, 43)).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let mut seen = String::new();
    stdin.write_all(b"hi\n").await.unwrap();
    stdin.flush().await.unwrap();
    while !seen.contains("got hi 132x43") {
        let length = session.stdout.read(&mut chunk).await.unwrap();
        assert!(length > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
    stdin.write_all(b"end\n").await.unwrap();
    stdin.flush().await.unwrap();
    assert_eq!(finish(session).await.0, 3);
    w.end(&pod).await;
}

pub async fn an_exec_that_nobody_wants_is_killed(mut w: World) {
    let pod = w.pod().await;
    let spec = w.container(&["sleep", "600"]);
    let id = spec.id.clone();
    w.runtime.start_container(&pod, spec).await.unwrap();
    let mut session = w.runtime.exec(&pod, &id, World::process(&["term"]), false).await.unwrap();
    let mut chunk = [0; 16];
    let length = session.stdout.read(&mut chunk).await.unwrap();
    assert_eq!(&chunk[..length], b"ready\n");
    drop(session.exit);
    // The pipe ends with the process.
    let end = tokio::time::timeout(Duration::from_secs(10), session.stdout.read(&mut chunk)).await.unwrap();
    assert_eq!(end.unwrap(), 0);
    w.end(&pod).await;
}

pub async fn containers_with_a_terminal(mut w: World) {
    let pod = w.pod().await;
    let mut spec = w.container(&["tty"]);
    spec.process.tty = true;
    let id = spec.id.clone();
    w.runtime.start_container(&pod, spec).await.unwrap();
    while !w.output(&id).contains("/dev/") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let text = std::fs::read_to_string(w.log(&id)).unwrap();
    assert!(text.ends_with(" stdout F true true /dev/pts/0\r\n"), "{text:?}");
    let (_, out, _) = w.exec(&pod, &id, &["list", "/dev"]).await;
    assert!(out.contains("console"), "{out}");
    w.runtime.kill(&pod, &id, 9).await.unwrap();
    w.exit_of(&id).await;
    w.end(&pod).await;
}

pub async fn many_at_once(mut w: World) {
    let pod = w.pod().await;
    let mut specs = Vec::new();
    for n in 0..20 {
        specs.push(w.container(&["echo", &n.to_string()]));
    }
    let ids: Vec<String> = specs.iter().map(|s| s.id.clone()).collect();
    let began = Instant::now();
    let starts = specs.into_iter().map(|s| {
        let (runtime, pod) = (w.runtime.clone(), pod.clone());
        tokio::spawn(async move { runtime.start_container(&pod, s).await })
    });
    for start in starts.collect::<Vec<_>>() {
        start.await.unwrap().unwrap();
    }
    println!("20 containers at once {:?}", began.elapsed());
    let mut ended = 0;
    while ended < 20 {
        w.event().await;
        ended += 1;
    }
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(w.output(id), format!("{n}\n"));
    }
    w.end(&pod).await;
}

pub async fn speed(mut w: World) {
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        (times[times.len() / 2], times[times.len() - 1])
    };
    let (mut sandbox, mut start, mut exec, mut remove) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..10 {
        let began = Instant::now();
        let pod = w.pod().await;
        sandbox.push(began.elapsed());
        let spec = w.container(&["sleep", "600"]);
        let id = spec.id.clone();
        let began = Instant::now();
        w.runtime.start_container(&pod, spec).await.unwrap();
        start.push(began.elapsed());
        let began = Instant::now();
        let session = w.runtime.exec(&pod, &id, World::process(&["exit", "0"]), false).await.unwrap();
        exec.push(began.elapsed());
        finish(session).await;
        let began = Instant::now();
        w.runtime.remove_sandbox(&pod).await.unwrap();
        remove.push(began.elapsed());
    }
    for (name, times) in
        [("create_sandbox", &mut sandbox), ("start_container", &mut start), ("exec", &mut exec), ("remove_sandbox", &mut remove)]
    {
        let (p50, max) = median(times);
        println!("{name}: p50 {p50:?}, max {max:?}");
    }
    w.nothing_left();
}
