//! Agents that come back, shims that die, limits that change.

use crate::world::World;
use orchd_runtime::spec::*;
use orchd_runtime::{RuntimeEvent, StartError};
use std::time::Duration;

pub async fn limits_change_and_usage_is_seen(mut w: World) {
    let pod = w.pod().await;
    let spec = w.container(&["sleep", "600"]);
    let id = spec.id.clone();
    w.runtime.start_container(&pod, spec).await.unwrap();
    let usage = w.runtime.usage(&pod, Some(&id)).await.unwrap();
    assert!(usage.memory_bytes > 0 && usage.pids == 1, "{usage:?}");
    assert!(w.runtime.usage(&pod, None).await.unwrap().pids >= 1);
    let limits = Resources { memory_limit_bytes: Some(48 << 20), cpu_shares: Some(100), ..Resources::default() };
    w.runtime.update_resources(&pod, Some(&id), &limits).await.unwrap();
    w.runtime.update_resources(&pod, None, &Resources { pids_limit: Some(77), ..Resources::default() }).await.unwrap();
    let path = |controller: &str, rest: &str| format!("/sys/fs/cgroup/{controller}/{}/pod/{rest}", w.cgroup());
    if let Ok(limit) = std::fs::read_to_string(path("memory", &format!("{id}/memory.limit_in_bytes"))) {
        assert_eq!(limit.trim(), (48 << 20).to_string());
        assert_eq!(std::fs::read_to_string(path("pids", "pids.max")).unwrap().trim(), "77");
    }
    assert_eq!(w.runtime.list().await.unwrap()[0].containers[0].spec.resources, limits);
    assert!(matches!(w.runtime.usage(&pod, Some("none")).await, Err(StartError::NoContainer(_))));
    w.end(&pod).await;
}

pub async fn a_new_agent_finds_what_runs(mut w: World) {
    let pod = w.pod().await;
    let mut ids = Vec::new();
    for args in [&["sleep", "600"][..], &["sleep", "1"], &["exit", "5"]] {
        let mut spec = w.container(args);
        spec.labels.insert("name".into(), args.join(" "));
        ids.push(spec.id.clone());
        w.runtime.start_container(&pod, spec).await.unwrap();
    }
    let last = ids[2].clone();
    w.exit_of(&last).await;
    let before = w.runtime.list().await.unwrap();
    drop(std::mem::replace(&mut w.events, tokio::sync::mpsc::channel(1).1));
    // One ends while no agent listens.
    tokio::time::sleep(Duration::from_millis(1300)).await;
    w.reopen().await;
    let mut ended = std::collections::BTreeSet::new();
    while ended.len() < 2 {
        match w.event().await {
            RuntimeEvent::ContainerExited { container, exit, .. } => drop(ended.insert((container, exit.code))),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ended, [(ids[1].clone(), 0), (last, 5)].into());
    let after = w.runtime.list().await.unwrap();
    assert_eq!((after[0].pid, &after[0].spec), (before[0].pid, &before[0].spec));
    let running = after[0].containers.iter().find(|c| c.spec.id == ids[0]).unwrap();
    assert_eq!(Some(running), before[0].containers.iter().find(|c| c.spec.id == ids[0]));
    assert_eq!(w.exec(&pod, &ids[0], &["echo", "still"]).await.1, "still\n");
    w.runtime.kill(&pod, &ids[0], 9).await.unwrap();
    assert_eq!(w.exit_of(&ids[0]).await.code, 137);
    w.end(&pod).await;
}

pub async fn a_dead_shim_is_told(mut w: World) {
    for agent_is_there in [true, false] {
        let pod = w.pod().await;
        let spec = w.container(&["sleep", "600"]);
        let id = spec.id.clone();
        let (pid, _) = w.runtime.start_container(&pod, spec).await.unwrap();
        let shim = w.runtime.list().await.unwrap()[0].pid;
        if !agent_is_there {
            drop(std::mem::replace(&mut w.events, tokio::sync::mpsc::channel(1).1));
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
        if !agent_is_there {
            w.reopen().await;
        }
        let RuntimeEvent::ContainerExited { container, exit, .. } = w.event().await else { panic!("the container's end first") };
        assert_eq!((container, exit.code), (id.clone(), 137));
        assert_eq!(w.event().await, RuntimeEvent::SandboxLost { sandbox: pod.clone() });
        assert!(!std::fs::exists(format!("/proc/{pid}/exe")).unwrap(), "its containers are killed");
        let spec = w.container(&["exit", "0"]);
        assert!(matches!(w.runtime.start_container(&pod, spec).await, Err(StartError::Shim(_))));
        w.runtime.remove_container(&pod, &id).await.unwrap();
        w.runtime.remove_sandbox(&pod).await.unwrap();
        w.nothing_left();
    }
}

pub async fn a_sandbox_that_cannot_be_made_leaves_nothing(w: World) {
    let spec = SandboxSpec { sysctls: [("net.no.such".to_owned(), "1".to_owned())].into(), ..w.sandbox() };
    let error = w.runtime.create_sandbox(spec).await.unwrap_err().to_string();
    assert!(error.contains("sysctl net.no.such=1"), "{error}");
    w.nothing_left();
    let spec = SandboxSpec { cgroup_path: "../out".into(), ..w.sandbox() };
    assert!(matches!(w.runtime.create_sandbox(spec).await, Err(StartError::Invalid(_))));
    let pod = w.pod().await;
    assert!(matches!(w.runtime.create_sandbox(w.sandbox()).await, Err(StartError::Invalid(_))));
    w.end(&pod).await;
}
