//! A worker: runtime, images, network, agent, service proxy and tunnels, put together.

use super::{CliError, HELLO_VERB};
use crate::client::Client;
use crate::env::Clock;
use crate::network::{self, Cidr, NetworkError, NetworkOptions, PodNetwork, Proxy};
use crate::node::proxy::ServiceProxy;
use crate::node::serve::{self, TunnelOptions};
use crate::node::{self, Agent, AgentOptions, ClusterDns, Containers, Dirs, Identity};
use crate::security::pki::hex;
use orchd_runtime::{Options, Runtime};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// The Kubernetes version that the agent is as good as.
const KUBELET_VERSION: &str = "v1.35.4";
/// The image that orchd carries.
pub const BUILTIN_IMAGE: &str = "orchd.dev/hello:builtin";
const MAX_PODS: u32 = 250;
/// Addresses of all pods.
pub const CLUSTER_CIDR: Cidr = Cidr { address: Ipv4Addr::new(10, 244, 0, 0), prefix: 16 };
/// A node's share of them: its pods, and as many addresses again for those that are on their way out.
pub const NODE_PREFIX: u8 = 23;
const SERVICE_CIDR: Cidr = Cidr { address: Ipv4Addr::new(10, 96, 0, 0), prefix: 16 };

/// Where a node keeps things. Several nodes of one name live on a machine, each in its own data dir, without meeting.
#[derive(Clone, Debug)]
pub struct Places {
    pub data: PathBuf,
    /// On tmpfs; gone at boot, as what it tells of is.
    pub run: PathBuf,
    /// Below every cgroup hierarchy.
    pub cgroup: String,
}

impl Places {
    pub fn new(data_dir: &Path, node: &str) -> Self {
        let whole = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let digest = hex(&Sha256::digest(whole.as_os_str().as_encoded_bytes()));
        let instance = format!("{node}-{}", &digest[..8]);
        Self { data: data_dir.to_owned(), run: Path::new("/run/orchd").join(&instance), cgroup: format!("orchd/{instance}") }
    }

    fn runtime(&self) -> Result<Options, CliError> {
        let exe = std::env::current_exe().map_err(|e| CliError::new("cannot find this program", e))?;
        Ok(Options { dir: self.data.join("runtime"), run_dir: self.run.join("runtime"), exe })
    }

    fn dirs(&self) -> Dirs {
        Dirs { data: self.data.join("node"), run: self.run.join("node"), seccomp: self.data.join("seccomp") }
    }
}

/// What a worker is started with.
pub struct WorkerOptions {
    pub places: Places,
    pub name: String,
    pub node_ip: Ipv4Addr,
    pub client: Arc<dyn Client>,
    pub clock: Arc<dyn Clock>,
    /// `host:port` of each master.
    pub servers: Vec<String>,
    /// TLS of the tunnels, with the node's certificate; offers `http/1.1` alone.
    pub tunnel_tls: rustls::ClientConfig,
}

/// A running worker.
pub struct Worker {
    agent: Arc<Agent>,
    _services: ServiceProxy,
    _routes: AbortOnDropHandle<()>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Worker {
    /// Starts everything; pods that run already are found again.
    ///
    /// # Errors
    /// A directory, the runtime or the network cannot be used.
    pub async fn start(options: WorkerOptions) -> Result<Self, CliError> {
        let runtime_options = options.places.runtime()?;
        let exe = runtime_options.exe.clone();
        let (runtime, events) = Runtime::open(runtime_options).await.map_err(|e| CliError::new("cannot start the runtime", e))?;
        let images = runtime.images().clone();
        let carried = images.clone();
        let carried =
            tokio::task::spawn_blocking(move || carried.ensure_builtin(BUILTIN_IMAGE, &exe, &["/orchd".to_owned(), HELLO_VERB.to_owned()]));
        let dirs = options.places.dirs();
        let containers: Arc<dyn Containers> = Arc::new(runtime);
        let live = node::live_pods(&*containers, &dirs).await.map_err(|e| CliError::new("cannot find the pods that run", e))?;
        let nodes = node::nodes::follow(&options.client);
        let pod_cidr = node::nodes::pod_cidr(&options.client, &nodes, &options.name, &dirs.data).await;
        let pod_cidr = pod_cidr.map_err(|e| CliError::new("cannot keep the node's pod range", e))?;
        let network = network_options(options.node_ip, pod_cidr);
        let links = PodNetwork::open(network.clone(), &live).await.map_err(|e| CliError::new("cannot set up the pod network", e))?;
        carried
            .await
            .map_err(|e| CliError::new("the carried image", e))?
            .map_err(|e| CliError::new("cannot unpack the carried image", e))?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        node::admin::serve(&options.places.data, images.clone(), stop.clone()).await.map_err(|e| CliError::new("the agent's socket", e))?;
        let agent = Agent::start(AgentOptions {
            node_name: options.name.clone(),
            node_ip: IpAddr::V4(options.node_ip),
            client: options.client.clone(),
            containers,
            events,
            images: Arc::new(images),
            links: Arc::new(links.clone()),
            dirs,
            cgroup: options.places.cgroup,
            dns: ClusterDns { server: None, domain: "cluster.local".into() },
            clock: options.clock,
            identity: Identity {
                kubelet_version: KUBELET_VERSION.into(),
                version: env!("CARGO_PKG_VERSION").into(),
                max_pods: MAX_PODS,
                labels: BTreeMap::new(),
                kubelet_port: 0,
                pod_cidr: Some(pod_cidr.to_string()),
            },
        });
        let agent = Arc::new(agent.await.map_err(|e| CliError::new("cannot start the node's agent", e))?);
        let services = ServiceProxy::start(&options.client, agent.services(), network, &options.name);
        let services = services.map_err(|e| CliError::new("cannot set up the service proxy", e))?;
        let tunnels = TunnelOptions { servers: options.servers, tls: Arc::new(options.tunnel_tls) };
        tasks.spawn(serve::run(tunnels, agent.clone(), stop.clone()));
        let routes = AbortOnDropHandle::new(tokio::spawn(node::nodes::keep_routes(nodes, options.name, links)));
        Ok(Self { agent, _services: services, _routes: routes, stop, tasks })
    }

    /// Stops; pods run on.
    pub async fn finish(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // The tunnels have ended, so nobody else holds the agent.
        if let Some(agent) = Arc::into_inner(self.agent) {
            agent.stop().await;
        }
    }
}

/// Ends and removes every pod of a node that does not run, and the directories that are for running pods alone.
///
/// # Errors
/// Something could not be removed.
pub async fn remove_pods(places: &Places) -> Result<(), CliError> {
    let failed = |e: &dyn std::fmt::Display| CliError::text(format!("cannot remove the node's pods: {e}"));
    if !places.run.exists() {
        return Ok(());
    }
    let (runtime, _events) = Runtime::open(places.runtime()?).await.map_err(|e| failed(&e))?;
    for sandbox in runtime.list().await.map_err(|e| failed(&e))? {
        runtime.remove_sandbox(&sandbox.spec.id).await.map_err(|e| failed(&e))?;
    }
    remove_network().await.map_err(|e| failed(&e))?;
    node::clear(&places.dirs()).map_err(|e| failed(&e))?;
    remove_cgroups(&places.cgroup).map_err(|e| failed(&e))?;
    std::fs::remove_dir_all(&places.run).map_err(|e| failed(&e))
}

fn network_options(node_ip: Ipv4Addr, pod_cidr: Cidr) -> NetworkOptions {
    NetworkOptions { node_ip, pod_cidr, cluster_cidr: CLUSTER_CIDR, service_cidr: SERVICE_CIDR }
}

/// Links, routes and rules of a node in this network namespace.
async fn remove_network() -> Result<(), NetworkError> {
    let IpAddr::V4(node_ip) = network::node_address().await? else { return Ok(()) };
    // What is removed does not depend on the node's share.
    let options = network_options(node_ip, Cidr { prefix: NODE_PREFIX, ..CLUSTER_CIDR });
    Proxy::open(options.clone())?.teardown()?;
    PodNetwork::open(options, &[]).await?.teardown().await
}

/// The node's cgroups, emptied of pods, in every hierarchy.
fn remove_cgroups(root: &str) -> std::io::Result<()> {
    let top = Path::new("/sys/fs/cgroup");
    for hierarchy in std::fs::read_dir(top)?.flatten().map(|e| e.path()).chain([top.to_owned()]) {
        let dir = hierarchy.join(root);
        if dir.is_dir() {
            remove_cgroup(&dir)?;
            // The parent of every node's; another node of this machine may still have its own there.
            match dir.parent().map_or(Ok(()), std::fs::remove_dir) {
                Err(e) if !matches!(e.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy | ErrorKind::NotFound) => {
                    return Err(e);
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// A cgroup is removed after the ones below it; its files go with it.
fn remove_cgroup(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    std::fs::remove_dir(dir)
}
