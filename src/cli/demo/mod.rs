//! `orchd demo`: the whole road once, in a network namespace of its own that has no route to the machine's interface.
//!
//! This process makes the namespace and stays in it, starts `orchd up` there as a child, and is its client. Whatever
//! happens (success, failure, Ctrl-C), what was made is removed, and that is checked.

mod cluster;
mod steps;
mod traffic;
mod view;

use super::CliError;
use clap::Args;
use cluster::Cluster;
use nix::sched::{CloneFlags, unshare};
use tokio::signal::unix::{SignalKind, signal};
use view::View;

#[derive(Args)]
pub struct DemoArgs {
    /// Leave the cluster running at the end, and print how to point kubectl at it.
    #[arg(long)]
    keep: bool,
}

/// Runs while the process has one thread: a namespace that a thread enters is that thread's alone.
///
/// # Errors
/// A step did not hold, or something was left behind.
pub fn run(args: DemoArgs) -> Result<(), CliError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(CliError::text("the demo makes namespaces, mounts and cgroups: run it as root"));
    }
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| CliError::new("cannot make a network namespace", e))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| CliError::new("cannot start", e))?;
    runtime.block_on(demo(args))
}

async fn demo(args: DemoArgs) -> Result<(), CliError> {
    let mut view = View::new();
    let stop = |kind| signal(kind).map_err(|e| CliError::new("cannot wait for signals", e));
    let (mut interrupt, mut terminate) = (stop(SignalKind::interrupt())?, stop(SignalKind::terminate())?);
    let mut cluster = Cluster::new()?;
    let outcome = tokio::select! {
        outcome = steps::all(&mut cluster, &mut view) => outcome,
        _ = interrupt.recv() => Err(CliError::text("interrupted")),
        _ = terminate.recv() => Err(CliError::text("terminated")),
    };
    if args.keep && outcome.is_ok() {
        view.finish();
        return keep(&mut cluster, &mut interrupt, &mut terminate).await;
    }
    if let Err(error) = &outcome {
        view.line(&format!("   failed: {error}"));
        cluster.print_log(&view);
    }
    let cleaned = steps::clean_up(&mut cluster, &mut view, outcome.is_ok()).await;
    view.finish();
    outcome?;
    cleaned?;
    println!("All eight steps held, in {}.", view.total());
    Ok(())
}

/// Leaves the cluster running until a signal comes.
async fn keep(
    cluster: &mut Cluster,
    interrupt: &mut tokio::signal::unix::Signal,
    terminate: &mut tokio::signal::unix::Signal,
) -> Result<(), CliError> {
    let kubectl = format!("nsenter --net=/proc/{}/ns/net kubectl --kubeconfig {}", std::process::id(), cluster.kubeconfig().display());
    println!("The cluster goes on running until Ctrl-C. In another shell:\n\n    {kubectl} get pods -A\n");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    cluster.stop().await?;
    cluster.check_leftovers()
}
