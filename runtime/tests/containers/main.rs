//! Containers for real. The program is three things: the test, the shim (started again by the runtime), and what runs
//! in the containers (the image holds nothing but this static binary).

mod verbs;
mod world;

use orchd_runtime::spec::*;
use orchd_runtime::{RuntimeEvent, SHIM_VERB, StartError, shim_main};
use std::time::Instant;
use world::World;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|a| a == SHIM_VERB) {
        std::process::exit(shim_main(&args[2..]));
    }
    if args[0] == "t" || args[0].ends_with("/t") {
        std::process::exit(verbs::run(&args[1..]));
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: containers need root");
        return;
    }
    let filter = args.iter().skip(1).find(|a| !a.starts_with('-')).cloned().unwrap_or_default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut count = 0;
    macro_rules! tests {
        ($($name:ident)*) => { $(
            if stringify!($name).contains(&filter) {
                let began = Instant::now();
                runtime.block_on(async { $name(World::new(stringify!($name)).await).await });
                println!("test {} ... ok ({:?})", stringify!($name), began.elapsed());
                count += 1;
            }
        )* };
    }
    tests! {
        a_container_runs_and_its_end_is_told
        signals_and_codes
    }
    println!("\ntest result: ok. {count} passed");
}

async fn a_container_runs_and_its_end_is_told(mut w: World) {
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

async fn signals_and_codes(mut w: World) {
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
