//! `orchd up`: a master and a worker in one process.

use super::master::{API_PORT, Master, MasterOptions};
use super::worker::{Places, Worker, WorkerOptions};
use super::{CliError, DEFAULT_DATA_DIR};
use crate::network;
use crate::security::User;
use crate::security::authn::NODES;
use crate::security::node_token::node_user;
use crate::security::pki::client_config;
use clap::Args;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

#[derive(Args, Clone, Debug)]
pub struct UpArgs {
    /// Where everything is kept.
    #[arg(long, default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// The node's name; the host's by default.
    #[arg(long)]
    node_name: Option<String>,
    /// The API's port, on the node's address and on 127.0.0.1.
    #[arg(long, default_value_t = API_PORT)]
    port: u16,
}

#[derive(Args, Clone, Debug)]
pub struct ResetArgs {
    #[arg(long, default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    #[arg(long)]
    node_name: Option<String>,
}

/// Runs until SIGTERM or Ctrl-C; pods go on running after that.
///
/// # Errors
/// It cannot start; the text says why.
pub async fn run(args: UpArgs) -> Result<(), CliError> {
    root_only("orchd up runs containers")?;
    let name = node_name(args.node_name)?;
    let node_ip = match network::node_address().await.map_err(|e| CliError::new("cannot find the node's address", e))? {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) => return Err(CliError::text(format!("the node's address {ip} is IPv6, which orchd does not serve yet"))),
    };
    let listen = [Ipv4Addr::LOCALHOST, node_ip].map(|ip| SocketAddr::from((ip, args.port)));
    let options =
        MasterOptions { data_dir: args.data_dir.clone(), listen: listen.into(), advertise: node_ip, group: None, store_listen: None };
    let master = Master::start(options).await?;
    let failed = |e| CliError::new("cannot make the node's certificate", e);
    let identity = master.pki.issue_client(&node_user(&name), Some(NODES)).map_err(failed)?;
    let worker = Worker::start(WorkerOptions {
        places: Places::new(&args.data_dir, &name),
        name: name.clone(),
        node_ip,
        client: master.client_of(User {
            name: node_user(&name),
            groups: vec![NODES.into(), "system:authenticated".into()],
            ..User::default()
        }),
        clock: master.clock.clone(),
        servers: vec![master.local.to_string()],
        tunnel_tls: client_config(master.pki.ca_pem(), Some(&identity), &["http/1.1"]).map_err(failed)?,
    })
    .await?;
    let ended = master.until_end().await;
    worker.finish().await;
    master.finish().await;
    ended
}

/// `orchd reset`: ends and removes every pod of a node that does not run.
///
/// # Errors
/// Something could not be removed.
pub async fn reset(args: ResetArgs) -> Result<(), CliError> {
    root_only("orchd reset ends containers")?;
    remove_pods(&args.data_dir, &node_name(args.node_name)?).await
}

/// Ends and removes every pod of the node, and what of its run dir and cgroup is left.
///
/// # Errors
/// Something could not be removed.
pub async fn remove_pods(data_dir: &Path, node: &str) -> Result<(), CliError> {
    super::worker::remove_pods(&Places::new(data_dir, node)).await
}

pub fn root_only(what: &str) -> Result<(), CliError> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(CliError::text(format!("{what}: run it as root"))) }
}

pub fn node_name(given: Option<String>) -> Result<String, CliError> {
    let name = match given {
        Some(name) => name,
        None => nix::unistd::gethostname().map_err(|e| CliError::new("cannot find the host's name", e))?.to_string_lossy().to_lowercase(),
    };
    crate::kinds::names::dns_subdomain(&name).map_err(|why| CliError::text(format!("{name:?} cannot be a node's name: {why}")))?;
    Ok(name)
}
