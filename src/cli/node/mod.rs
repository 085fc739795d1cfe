//! `orchd node`: a worker that joins the cluster of the masters it is told of.

mod identity;

use super::master::{prepare_dir, stop_signal};
use super::up::{node_name, root_only};
use super::worker::{Places, Worker, WorkerOptions};
use super::{CliError, DEFAULT_DATA_DIR};
use crate::client::HttpsClient;
use crate::env::SystemClock;
use crate::network;
use crate::security::node_token::Rotating;
use crate::security::{NodeToken, PkiError};
use clap::Args;
use identity::Joining;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

const USER_AGENT: &str = concat!("orchd-node/", env!("CARGO_PKG_VERSION"));

#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// The masters, https://ADDRESS:6443 each; the node uses one and goes over to another when it is lost.
    #[arg(long, required = true, value_delimiter = ',')]
    server: Vec<String>,
    /// What a master wrote as node-token into its data dir. Not needed any more once the node has joined.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Where everything is kept.
    #[arg(long, default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// The node's name; the host's by default.
    #[arg(long)]
    name: Option<String>,
}

/// Runs until SIGTERM or Ctrl-C; pods go on running after that.
///
/// # Errors
/// It cannot start or is not let in; the text says why.
pub async fn run(args: NodeArgs) -> Result<(), CliError> {
    root_only("orchd node runs containers")?;
    let name = node_name(args.name)?;
    prepare_dir(&args.data_dir)?;
    let token = args.token_file.as_deref().map(read_token).transpose()?;
    let node_ip = match network::node_address().await.map_err(|e| CliError::new("cannot find the node's address", e))? {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) => return Err(CliError::text(format!("the node's address {ip} is IPv6, which orchd does not serve yet"))),
    };
    let joining = Joining { dir: &args.data_dir.join("identity"), servers: &args.server, name: &name, token: token.as_ref() };
    let identity = joining.identity().await?;
    let tls = |e: PkiError| CliError::new("cannot use the node's certificate", e);
    let rotating = Rotating::new(&identity.client).map_err(tls)?;
    let config = rotating.client_config(&identity.ca_pem, &["h2"]).map_err(tls)?;
    let client = Arc::new(HttpsClient::new(&args.server, Arc::new(config), USER_AGENT).map_err(CliError::text)?);
    let tunnel_tls = rotating.client_config(&identity.ca_pem, &["http/1.1"]).map_err(tls)?;
    let (own, asked) = (name.clone(), client.clone());
    let _renewal = AbortOnDropHandle::new(tokio::spawn(async move { identity.keep_fresh(&own, &asked, &rotating).await }));
    let worker = Worker::start(WorkerOptions {
        places: Places::new(&args.data_dir, &name),
        name,
        node_ip,
        client,
        clock: Arc::new(SystemClock),
        servers: args.server.iter().map(|s| s.trim_start_matches("https://").trim_end_matches('/').to_owned()).collect(),
        tunnel_tls,
    })
    .await?;
    stop_signal().await?;
    worker.finish().await;
    Ok(())
}

fn read_token(path: &Path) -> Result<NodeToken, CliError> {
    let text = std::fs::read_to_string(path).map_err(|e| CliError::new(format!("cannot read the node token {}", path.display()), e))?;
    text.parse().map_err(|e| CliError::new(format!("{} is no node token", path.display()), e))
}
