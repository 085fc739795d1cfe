//! `orchd lab`: a real cluster on this machine. Every host (m1… masters, n1… nodes, client) is a network namespace with an
//! address and a data dir of its own, on one link that has no way out. Processes, and partitions, are the user's to play
//! with; `down` takes everything away.
//!
//! `plan` says what there is (pure), `process` starts and finds the hosts' processes, `up` and `down` are the two ends.

mod down;
mod kubeconfig;
mod plan;
mod process;
mod up;

use super::up::root_only;
use super::{CliError, image};
use crate::network::lan;
use clap::{Args, Subcommand};
use plan::{Host, Lab, Role};
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Args)]
pub struct LabArgs {
    #[command(subcommand)]
    verb: Option<LabVerb>,
    #[arg(long, default_value_t = 3)]
    masters: u8,
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// Where the lab keeps everything.
    #[arg(long, global = true, default_value = "/var/lib/orchd-lab")]
    dir: PathBuf,
}

#[derive(Subcommand)]
enum LabVerb {
    /// Ends a host's process with SIGKILL; the pods of a node run on.
    Kill { host: String },
    /// Starts a host's process again.
    Start { host: String },
    /// Stops a host's process where it is (SIGSTOP).
    Pause { host: String },
    /// Lets a paused process go on.
    Resume { host: String },
    /// Cuts a host off from all others, or from one.
    Partition {
        host: String,
        /// From this host alone.
        #[arg(long)]
        from: Option<String>,
        /// Only what the host sends is lost; what is sent to it arrives.
        #[arg(long)]
        one_way: bool,
    },
    /// Ends every partition.
    Heal,
    /// Takes image files in, on every node.
    Import {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Prints the path of a kubeconfig: one context for each master, the current one that of a master which answers.
    Kubeconfig,
    /// Runs a command in a host's network namespace: same files, same environment, its exit code.
    Exec {
        host: String,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// What runs, and where.
    Status,
    /// Ends the lab and removes all of it.
    Down,
}

/// Runs while the process has one thread: a namespace that a thread enters is that thread's alone.
///
/// # Errors
/// What was asked for could not be done; the text says why.
pub fn run(args: LabArgs) -> Result<(), CliError> {
    root_only("orchd lab makes network namespaces and runs containers")?;
    let Some(verb) = args.verb else {
        return up::run(Lab::new(&args.dir, args.masters, args.nodes)?);
    };
    let lab = Lab::load(&args.dir)?;
    match verb {
        LabVerb::Kill { host } => running(&lab, &host)?.kill(),
        LabVerb::Pause { host } => running(&lab, &host)?.signal(libc::SIGSTOP),
        LabVerb::Resume { host } => running(&lab, &host)?.signal(libc::SIGCONT),
        LabVerb::Start { host } => up::start_again(&lab, &lab.host(&host)?),
        LabVerb::Partition { host, from, one_way } => partition(&lab, &host, from.as_deref(), one_way),
        LabVerb::Heal => lan::heal(&lab.lan()).map_err(|e| CliError::new("cannot heal", e)),
        LabVerb::Import { files } => import(&lab, files),
        LabVerb::Kubeconfig => kubeconfig::print(&lab),
        LabVerb::Exec { host, command } => process::exec(&lab, &lab.host(&host)?, &command),
        LabVerb::Status => status(&lab),
        LabVerb::Down => down::run(&lab),
    }
}

/// A runtime for a client's work, on the calling thread.
fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| CliError::new("cannot start", e))?.block_on(work)
}

fn running(lab: &Lab, host: &str) -> Result<process::Running, CliError> {
    let host = lab.host(host)?;
    process::find(lab, &host.name)?.ok_or_else(|| CliError::text(format!("{} does not run", host.name)))
}

fn partition(lab: &Lab, host: &str, from: Option<&str>, one_way: bool) -> Result<(), CliError> {
    let host = lab.host(host)?;
    let others: Vec<Host> = match from {
        Some(other) => vec![lab.host(other)?],
        None => lab.hosts(),
    };
    for other in others.iter().filter(|other| other.name != host.name) {
        let (here, there) = (lab.on_lan(&host), lab.on_lan(other));
        let cut = lan::cut(&here, &there).and_then(|()| if one_way { Ok(()) } else { lan::cut(&there, &here) });
        cut.map_err(|e| CliError::new("cannot partition", e))?;
    }
    Ok(())
}

fn import(lab: &Lab, files: Vec<PathBuf>) -> Result<(), CliError> {
    block_on(async {
        let nodes = lab.of_role(Role::Node);
        let work = nodes.iter().map(|node| {
            let (dir, files) = (lab.data(&node.name), files.clone());
            async move { (node.name.clone(), image::import(&dir, &files).await) }
        });
        for (node, names) in futures::future::join_all(work).await {
            for name in names.map_err(|e| CliError::new(node.clone(), e))? {
                println!("{node}: {name}");
            }
        }
        Ok(())
    })
}

fn status(lab: &Lab) -> Result<(), CliError> {
    println!("{:<8} {:<14} {:<16} DATA", "HOST", "ADDRESS", "PROCESS");
    for host in lab.hosts() {
        let process = match (host.role, process::find(lab, &host.name)?) {
            (Role::Client, _) => "-".to_owned(),
            (_, None) => "ended".to_owned(),
            (_, Some(found)) if process::state(found.pid) == 'T' => format!("{} paused", found.pid),
            (_, Some(found)) => found.pid.to_string(),
        };
        let data = if host.role == Role::Client { "-".to_owned() } else { lab.data(&host.name).display().to_string() };
        println!("{:<8} {:<14} {process:<16} {data}", host.name, host.address.to_string());
    }
    Ok(())
}
