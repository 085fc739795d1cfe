//! Containers for real. The program is three things: the test, the shim (started again by the runtime), and what runs
//! in the containers (the image holds nothing but this static binary).

mod isolation;
mod processes;
mod survival;
mod verbs;
mod world;

use isolation::*;
use orchd_runtime::{SHIM_VERB, shim_main};
use processes::*;
use std::time::Instant;
use survival::*;
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
    let (mut count, mut failed) = (0, 0);
    macro_rules! tests {
        ($($name:ident)*) => { $(
            if stringify!($name).contains(&filter) {
                let began = Instant::now();
                let ok = runtime.block_on(async {
                    let world = World::new(stringify!($name)).await;
                    let handle = world.runtime.clone();
                    let _dirs = (world.dir.clone(), world.run.clone());
                    let ok = tokio::spawn($name(world)).await.is_ok();
                    for sandbox in handle.list().await.unwrap() {
                        handle.remove_sandbox(&sandbox.spec.id).await.unwrap();
                    }
                    ok
                });
                println!("test {} ... {} ({:?})", stringify!($name), if ok { "ok" } else { "FAILED" }, began.elapsed());
                count += 1;
                failed += u32::from(!ok);
            }
        )* };
    }
    tests! {
        a_container_runs_and_its_end_is_told
        signals_and_codes
        environment_directory_and_user
        logs_survive_and_are_marked
        capabilities_are_as_given
        seccomp_holds_in_container_and_exec
        read_only_root_and_masked_paths
        volumes_and_sub_paths
        devices_are_out_of_reach
        memory_limits_kill
        programs_that_cannot_run
        exec_with_pipes
        exec_with_a_terminal
        an_exec_that_nobody_wants_is_killed
        containers_with_a_terminal
        shared_namespaces
        privileged_containers
        mounts_propagate_as_asked
        limits_change_and_usage_is_seen
        a_new_agent_finds_what_runs
        a_dead_shim_is_told
        a_sandbox_that_cannot_be_made_leaves_nothing
        many_at_once
        speed
    }
    println!("\ntest result: {}. {} passed; {failed} failed", if failed == 0 { "ok" } else { "FAILED" }, count - failed);
    std::process::exit(i32::from(failed > 0));
}
