//! One file per verb of the command line. May import everything.

mod demo;
mod hello;
mod image;
mod key;
mod lab;
mod leftovers;
mod master;
mod member;
mod node;
mod snapshot;
mod up;
mod watching;
mod worker;

use clap::{Parser, Subcommand};
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

pub const DEFAULT_DATA_DIR: &str = "/var/lib/orchd";
/// The hidden verb of the program that the carried image runs.
pub const HELLO_VERB: &str = "internal-hello";

/// What went wrong, in one line for a person: what failed, and why.
#[derive(Debug)]
pub struct CliError {
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl CliError {
    pub fn new(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: Some(source.into()) }
    }
    pub fn text(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl Error for CliError {}

/// A whole Kubernetes in one binary. Without a verb it runs one master.
#[derive(Parser)]
#[command(name = "orchd", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    master: MasterArgs,
}

/// Flags of a process that serves the API.
#[derive(clap::Args, Clone, Debug)]
pub struct MasterArgs {
    /// Where everything is kept.
    #[arg(long, default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// Where the API is served; a lone master by default on 127.0.0.1:6443.
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// The address that clients and pods are told.
    #[arg(long)]
    pub advertise_address: Option<std::net::Ipv4Addr>,
    /// This master's name among several.
    #[arg(long)]
    pub name: Option<String>,
    /// Where this master listens for the others.
    #[arg(long)]
    pub peer_listen: Option<SocketAddr>,
    /// The masters that found the cluster, as name=host:port; counts only while the data dir is empty.
    #[arg(long, value_delimiter = ',')]
    pub peers: Vec<String>,
    /// The key that all masters share; made by `orchd key new`.
    #[arg(long)]
    pub cluster_key_file: Option<PathBuf>,
    /// Where etcd's clients reach the store itself: plain on loopback, elsewhere over TLS for administrators' certificates.
    #[arg(long)]
    pub store_listen: Option<SocketAddr>,
    /// Goes on with this master alone, after the others have been lost for good.
    #[arg(long)]
    pub force_new_cluster: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// A master and a worker node in one process.
    Up(up::UpArgs),
    /// A worker that joins the cluster of one or several masters.
    Node(node::NodeArgs),
    /// The whole road in a network namespace of its own: a Deployment on real containers, rolled out and rolled back.
    Demo(demo::DemoArgs),
    /// A real cluster on this machine: every host a network namespace.
    Lab(lab::LabArgs),
    /// Cluster keys: what several masters share.
    #[command(subcommand)]
    Key(key::KeyVerb),
    /// The members of the store's group.
    Member(member::MemberArgs),
    /// Copies of everything that the store holds.
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotVerb),
    /// Removes what a stopped node left running: pods, their network and cgroups. The data dir's objects stay.
    Reset(up::ResetArgs),
    /// Images of the node whose data dir is named.
    Image(image::ImageArgs),
    #[command(name = HELLO_VERB, hide = true, subcommand)]
    Hello(hello::Role),
}

/// Runs the command line; the exit code is 0 only if all went well.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.verb {
        None => start(true, move || master::run(cli.master)),
        Some(Verb::Up(args)) => start(true, move || up::run(args)),
        Some(Verb::Node(args)) => start(true, move || node::run(args)),
        Some(Verb::Reset(args)) => start(false, move || up::reset(args)),
        Some(Verb::Demo(args)) => demo::run(args),
        Some(Verb::Lab(args)) => lab::run(args),
        Some(Verb::Key(verb)) => key::run(verb),
        Some(Verb::Member(args)) => start(false, move || member::run(args)),
        Some(Verb::Snapshot(verb)) => start(false, move || snapshot::run(verb)),
        Some(Verb::Image(args)) => start(false, move || image::run(args)),
        Some(Verb::Hello(role)) => start(false, move || hello::run(role)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orchd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `work` on tokio: on every core for a server, on one thread for a client.
fn start<F: Future<Output = Result<(), CliError>>>(server: bool, work: impl FnOnce() -> F) -> Result<(), CliError> {
    let filter =
        EnvFilter::try_from_env("ORCHD_LOG").unwrap_or_else(|_| EnvFilter::new(if server { "info,openraft=error" } else { "warn" }));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    if server && let Err(errno) = crate::env::open_files::raise_limit() {
        tracing::warn!(%errno, "the limit of open files cannot be raised");
    }
    let mut builder = if server { tokio::runtime::Builder::new_multi_thread() } else { tokio::runtime::Builder::new_current_thread() };
    let runtime = builder.enable_all().build().map_err(|e| CliError::new("cannot start", e))?;
    runtime.block_on(work())
}
