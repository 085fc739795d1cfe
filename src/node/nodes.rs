//! The other nodes, as far as a node needs to know them: its own share of the cluster's pod addresses, and the routes to
//! the pods of all others.

use super::registration::own_labels;
use crate::client::reflector::Cache;
use crate::client::{Client, ListOptions, Target};
use crate::kinds::{Node, ObjectKey};
use crate::meta::{Reason, Status};
use crate::network::{Cidr, NodeRoute, PodNetwork};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const RETRY: Duration = Duration::from_secs(1);
/// Waits between attempts that the kernel refused.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How often a node that waits for its range says so.
const PATIENCE: Duration = Duration::from_secs(10);
/// Keeps the range over restarts, so that a node starts without a master.
const SAVED: &str = "pod-cidr";

/// Every node of the cluster, followed.
pub fn follow(client: &Arc<dyn Client>) -> Cache {
    Cache::new(Arc::clone(client), Target::collection::<Node>(None), ListOptions::default())
}

/// The range of addresses that this node's pods have: the one it had before, or the one that the masters give it once it
/// is registered. Waits for as long as that takes.
///
/// # Errors
/// The directory cannot be used.
pub async fn pod_cidr(client: &Arc<dyn Client>, nodes: &Cache, name: &str, dir: &Path) -> std::io::Result<Cidr> {
    let saved = dir.join(SAVED);
    if let Some(range) = read(&saved)? {
        return Ok(range);
    }
    while let Err(error) = register(client, name).await {
        tracing::warn!(node = name, %error, "the node was not registered, again in {RETRY:?}");
        tokio::time::sleep(RETRY).await;
    }
    let range = given(nodes, name).await;
    std::fs::create_dir_all(dir)?;
    std::fs::write(&saved, format!("{range}\n"))?;
    Ok(range)
}

fn read(saved: &Path) -> std::io::Result<Option<Cidr>> {
    match std::fs::read_to_string(saved) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Creates a Node that says nothing yet of what it can carry: no pod fits on it before its agent has spoken.
async fn register(client: &Arc<dyn Client>, name: &str) -> Result<(), Status> {
    let metadata = ObjectMeta { name: Some(name.to_owned()), labels: Some(own_labels(name)), ..ObjectMeta::default() };
    match client.put_new::<Node>(&api::Node { metadata, ..api::Node::default() }).await {
        Err(status) if !status.is(Reason::AlreadyExists) => Err(status),
        _ => Ok(()),
    }
}

async fn given(nodes: &Cache, name: &str) -> Cidr {
    let mut changes = nodes.changes();
    loop {
        changes.mark_unchanged();
        let node = nodes.get(&ObjectKey::new("", name));
        if let Some(range) = node.and_then(|node| node.get::<Node>().and_then(pods_of)) {
            return range;
        }
        match timeout(PATIENCE, changes.changed()).await {
            // The cache does not end before its reader does.
            Ok(_) => {}
            Err(_) => tracing::warn!(node = name, "waiting for a pod range (spec.podCIDR) of the node"),
        }
    }
}

fn pods_of(node: &api::Node) -> Option<Cidr> {
    node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()
}

/// Where the pods of `node` are, if it has said so.
pub fn route_of(node: &api::Node) -> Option<NodeRoute> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().filter(|a| a.type_ == "InternalIP").find_map(|a| a.address.parse::<Ipv4Addr>().ok());
    Some(NodeRoute { pods: pods_of(node)?, node: internal? })
}

/// Keeps the routes to other nodes' pods at what the API says, until it is dropped.
pub async fn keep_routes(nodes: Cache, own: String, network: PodNetwork) {
    let mut changes = nodes.changes();
    nodes.synced().await;
    let (mut present, mut retry) = (None, FIRST_RETRY);
    loop {
        changes.mark_unchanged();
        let all = nodes.all();
        let others = all.iter().filter(|node| node.key().name != own).filter_map(|node| node.get::<Node>());
        let mut wanted: Vec<NodeRoute> = others.filter_map(route_of).collect();
        wanted.sort_unstable();
        if present.as_ref() != Some(&wanted) {
            match network.route_to_nodes(wanted.clone()).await {
                Ok(off_link) => {
                    for to in off_link {
                        tracing::warn!(node = %to.node, pods = %to.pods, "pods of this node cannot be reached: it is not on this node's link");
                    }
                    present = Some(wanted);
                    retry = FIRST_RETRY;
                }
                Err(error) => {
                    tracing::error!(%error, "routes to other nodes were not brought up to date, again in {retry:?}");
                    present = None;
                }
            }
        }
        let again = async {
            match present {
                Some(_) => std::future::pending().await,
                None => tokio::time::sleep(retry).await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = again => retry = (retry * 2).min(LAST_RETRY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_routed_to_once_it_has_a_range_and_an_address() {
        let node = |spec, status| serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": spec, "status": status})).unwrap();
        let address = json!({"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "192.168.0.5"}]});
        let route = route_of(&node(json!({"podCIDR": "10.244.2.0/23"}), address.clone())).unwrap();
        assert_eq!((route.pods.to_string().as_str(), route.node.to_string().as_str()), ("10.244.2.0/23", "192.168.0.5"));
        assert_eq!(route_of(&node(json!({}), address)), None);
        assert_eq!(route_of(&node(json!({"podCIDR": "10.244.2.0/23"}), json!({}))), None);
    }
}
