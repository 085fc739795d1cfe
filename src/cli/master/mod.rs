//! A master: store, cache, verbs, HTTPS server, controllers and scheduler, put together.

mod duties;
mod group;
mod store;

pub use group::GroupOptions;
pub use store::SOCKET;

use super::worker::{CLUSTER_CIDR, NODE_PREFIX};
use super::{CliError, MasterArgs};
use crate::api::local::LocalClient;
use crate::api::server::{Check, Contact, Listeners, ServerOptions};
use crate::api::streams::tunnel::Nodes;
use crate::api::verbs::{Config, Verbs};
use crate::client::Client;
use crate::controllers;
use crate::env::{Clock, SystemClock};
use crate::security::{Authenticator, ClusterKey, Pki, Tokens, User, files::write_private};
use crate::watch::Cache;
use duties::{Duties, Presence};
use orchd_store::{Options, Store};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::StoreListeners;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub const API_PORT: u16 = 6443;
/// The most bytes that the store may take.
const STORE_QUOTA_BYTES: u64 = 8 << 30;
/// How often a master asks the others whether it is still one of them, and how long it waits for the answer.
const CONTACT_EVERY: Duration = Duration::from_secs(1);
const CONTACT_TIMEOUT: Duration = Duration::from_secs(4);
/// Version of the data dir's layout.
const FORMAT: &str = "2\n";

/// What a master is started with.
pub struct MasterOptions {
    pub data_dir: PathBuf,
    pub listen: Vec<SocketAddr>,
    /// The address that pods and kubeconfig are told.
    pub advertise: Ipv4Addr,
    /// None: a lone master.
    pub group: Option<GroupOptions>,
    /// Where etcd's clients reach the store.
    pub store_listen: Option<SocketAddr>,
}

/// A running master.
pub struct Master {
    pub verbs: Arc<Verbs>,
    pub pki: Arc<Pki>,
    pub clock: Arc<dyn Clock>,
    /// `host:port` where this process itself reaches the API.
    pub local: SocketAddr,
    pub stop: CancellationToken,
    store: Store,
    tasks: TaskTracker,
}

/// `orchd` without a verb: one master, until SIGTERM or Ctrl-C.
///
/// # Errors
/// It cannot start; the text says why.
pub async fn run(args: MasterArgs) -> Result<(), CliError> {
    let group = GroupOptions::of(&args)?;
    let listen = args.listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT)));
    let advertise = match (args.advertise_address, listen.ip()) {
        (Some(address), _) => address,
        (None, IpAddr::V4(ip)) => ip,
        (None, IpAddr::V6(_)) => return Err(CliError::text("--listen with an IPv6 address needs --advertise-address")),
    };
    let options = MasterOptions { data_dir: args.data_dir, listen: vec![listen], advertise, group, store_listen: args.store_listen };
    // A master of several may wait long for the others.
    let master = tokio::select! {
        started = Master::start(options) => started?,
        stopped = stop_signal() => return stopped,
    };
    let ended = master.until_end().await;
    master.finish().await;
    ended
}

/// Waits for SIGTERM or Ctrl-C.
///
/// # Errors
/// The process cannot wait for signals.
pub async fn stop_signal() -> Result<(), CliError> {
    let wait = |kind| signal(kind).map_err(|e| CliError::new("cannot wait for signals", e));
    let (mut interrupt, mut terminate) = (wait(SignalKind::interrupt())?, wait(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

impl Master {
    /// Starts everything; returns once the API serves and `kubeconfig` is written.
    ///
    /// # Errors
    /// The data dir cannot be used, an address is taken. Nothing runs then.
    pub async fn start(options: MasterOptions) -> Result<Self, CliError> {
        let dir = &options.data_dir;
        prepare_dir(dir)?;
        // Addresses first: a port in use is found out before anything else is touched.
        let listeners = Listeners::bind(&options.listen).await.map_err(|e| CliError::new("cannot serve the API", e))?;
        let store_listeners = StoreListeners::bind(dir, options.store_listen).await?;
        let bound = listeners.addresses();
        let local = bound.first().copied().ok_or_else(|| CliError::text("no address to serve the API on"))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let config = Config::default();
        let kubernetes_ip = Ipv4Addr::from(u32::from(config.service_cidr.0) + 1);
        let addresses: Vec<IpAddr> = [options.advertise, kubernetes_ip, Ipv4Addr::LOCALHOST].map(IpAddr::V4).into();
        let pki = match &options.group {
            None => Pki::open_or_create(&dir.join("pki"), &addresses),
            Some(group) => ClusterKey::load(&group.cluster_key_file).and_then(|key| Pki::new(key, &addresses)),
        };
        let pki = Arc::new(pki.map_err(|e| CliError::new("cannot open the cluster's keys", e))?);
        let tokens =
            Tokens::new(&pki.cluster_key().service_account_key_pem).map_err(|e| CliError::new("cannot open the cluster's keys", e))?;
        let tokens = Arc::new(tokens);
        let url = format!("https://{}:{}", options.advertise, local.port());
        let group = match &options.group {
            None => None,
            Some(group) => Some(group.open(&pki, vec![url.clone()]).await?),
        };
        let store = Store::open(Options { dir: dir.join("store"), quota_bytes: STORE_QUOTA_BYTES, group }).await;
        let store = store.map_err(|e| CliError::new("cannot open the store", e))?;
        let cache = Cache::start(store.clone()).await.map_err(|e| CliError::new("cannot read the store", e))?;
        let verbs = Arc::new(Verbs::new(store.clone(), cache.clone(), clock.clone(), tokens.clone(), config));
        let master = Self { verbs, pki, clock, local, stop: CancellationToken::new(), store, tasks: TaskTracker::new() };
        master.serve(listeners, &cache, tokens, SocketAddr::from((options.advertise, local.port())))?;
        master.serve_store(store_listeners)?;
        master.work(&cache, kubernetes_ip, &options);
        master.write_access(dir, &url)?;
        tracing::info!(address = %local, "the API is ready");
        Ok(master)
    }

    fn serve(&self, listeners: Listeners, cache: &Arc<Cache>, tokens: Arc<Tokens>, advertise: SocketAddr) -> Result<(), CliError> {
        let store = self.store.clone();
        let contact = Arc::new(Contact::new(&self.stop));
        self.tasks.spawn(keep_contact(self.store.clone(), contact.clone(), self.stop.clone()));
        let known = contact.clone();
        let store_check = move || store.serves().err().map(|e| e.to_string()).or_else(|| known.lost());
        let options = ServerOptions {
            contact,
            verbs: self.verbs.clone(),
            feed: cache.clone(),
            authenticator: Authenticator::new(tokens.clone()).with_bootstrap(&self.pki.cluster_key().bootstrap_secret),
            tokens,
            pki: self.pki.clone(),
            tls: self.pki.server_config().map_err(|e| CliError::new("cannot set up TLS", e))?,
            nodes: Nodes::default(),
            clock: self.clock.clone(),
            advertise: advertise.to_string(),
            ready: Arc::new(move || vec![Check { name: "store", failure: store_check() }]),
        };
        self.tasks.spawn(listeners.serve(options, self.stop.clone()));
        Ok(())
    }

    /// Starts what acts on the cluster.
    fn work(&self, cache: &Arc<Cache>, kubernetes_ip: Ipv4Addr, options: &MasterOptions) {
        let controllers = controllers::Options {
            root_ca_pem: self.pki.ca_pem().to_owned(),
            kubernetes_service_ip: kubernetes_ip.into(),
            masters: if options.advertise.is_loopback() { Vec::new() } else { vec![options.advertise.into()] },
            api_port: self.local.port(),
            pod_network: (CLUSTER_CIDR.address, CLUSTER_CIDR.prefix),
            node_prefix: NODE_PREFIX,
        };
        let (store, cache, verbs, clock) = (self.store.clone(), cache.clone(), self.verbs.clone(), self.clock.clone());
        self.tasks.spawn(Duties { store, cache, verbs, clock, options: controllers }.run(self.stop.clone()));
        // Pods cannot reach a master on a loopback address.
        if let Some(group) = options.group.as_ref().filter(|_| !options.advertise.is_loopback()) {
            let (client, clock) = (self.client("system:apiserver"), self.clock.clone());
            let presence = Presence { name: group.name.clone(), address: options.advertise, client, clock };
            self.tasks.spawn(presence.run(self.stop.clone()));
        }
    }

    /// A client inside this process that acts as `name`, with every right.
    pub fn client(&self, name: &str) -> Arc<dyn Client> {
        self.client_of(User::system(name))
    }

    /// A client inside this process that acts as `user`.
    pub fn client_of(&self, user: User) -> Arc<dyn Client> {
        Arc::new(LocalClient::new(self.verbs.clone(), user))
    }

    fn write_access(&self, dir: &Path, server: &str) -> Result<(), CliError> {
        let failed = |e: &dyn std::fmt::Display| CliError::text(format!("cannot write the kubeconfig: {e}"));
        let admin = self.pki.issue_client("kubernetes-admin", Some("system:masters")).map_err(|e| failed(&e))?;
        let text = self.pki.kubeconfig(server, "kubernetes-admin", &admin);
        let token = self.pki.node_token().map_err(|e| failed(&e))?;
        write_private(&dir.join("node-token"), token.to_string().as_bytes())
            .map_err(|e| CliError::text(format!("cannot write the node token: {e}")))?;
        write_private(&dir.join("kubeconfig"), text.as_bytes()).map_err(|e| failed(&e))
    }

    /// Waits for SIGTERM or Ctrl-C, or the store's end.
    ///
    /// # Errors
    /// The store has stopped by itself. Whoever keeps this process running starts it again, and it finds out what the disk has.
    pub async fn until_end(&self) -> Result<(), CliError> {
        tokio::select! {
            signal = stop_signal() => signal,
            error = self.store.stopped() => Err(CliError::new("the store has stopped", error)),
        }
    }

    /// Stops: watches end, requests at work finish, the store writes what it has.
    pub async fn finish(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.store.close().await;
    }
}

/// Finds out again and again whether a majority of the masters can be asked, until `stop`.
async fn keep_contact(store: Store, contact: Arc<Contact>, stop: CancellationToken) {
    let asking = async {
        loop {
            let answer = tokio::time::timeout(CONTACT_TIMEOUT, store.read_barrier()).await;
            contact.set(answer.is_ok_and(|reached| reached.is_ok()));
            tokio::time::sleep(CONTACT_EVERY).await;
        }
    };
    tokio::select! {
        () = asking => {}
        () = stop.cancelled() => {}
    }
}

/// Makes the data dir of a master or a node, or checks that this orchd can use it.
///
/// # Errors
/// It cannot be used, or a newer orchd has written it.
pub fn prepare_dir(dir: &Path) -> Result<(), CliError> {
    let failed = |e: std::io::Error| CliError::new(format!("cannot use the data dir {}", dir.display()), e);
    std::fs::create_dir_all(dir).map_err(failed)?;
    // A kubeconfig of an earlier run says that the API serves, which it does not yet.
    match std::fs::remove_file(dir.join("kubeconfig")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let format = dir.join("FORMAT");
    match std::fs::read_to_string(&format) {
        Ok(text) if text == FORMAT => Ok(()),
        Ok(text) => Err(CliError::text(format!(
            "the data dir {} has format {:?}, which this orchd does not know (it knows {:?}): it was written by {} orchd",
            dir.display(),
            text.trim(),
            FORMAT.trim(),
            if text.trim().parse::<u32>().is_ok_and(|found| found < 2) { "an older" } else { "a newer" }
        ))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => write_private(&format, FORMAT.as_bytes()).map_err(failed),
        Err(e) => Err(failed(e)),
    }
}
