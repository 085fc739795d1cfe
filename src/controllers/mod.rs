//! One pure file per controller; `driver` does all their IO.
//!
//! Pure parts may import: meta, kinds, watch (Snapshot). The driver also: client, env.

mod deployment;
mod driver;
mod endpoint_slice;
mod endpoints;
#[cfg(test)]
mod endpoints_tests;
mod garbage_collector;
pub mod kubernetes_service;
mod namespace;
mod node_ipam;
mod node_lifecycle;
#[cfg(test)]
mod node_tests;
mod owners;
mod plan;
mod pod_gc;
mod pods;
mod queue;
mod replica_set;
mod root_ca;
mod service_account;
mod service_pods;
mod system_namespaces;
mod taint_eviction;
#[cfg(test)]
mod testing;

pub use driver::run;
pub use plan::{Controller, Plan};

use k8s_openapi::jiff::Timestamp;
use std::net::{IpAddr, Ipv4Addr};

/// What the controllers must be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// PEM of the cluster's CA certificate, for the ConfigMap `kube-root-ca.crt`.
    pub root_ca_pem: String,
    /// The cluster IP of the Service `default/kubernetes`: the first of the service network.
    pub kubernetes_service_ip: IpAddr,
    /// The address under which pods reach this master (none if that is loopback), and the API's port there.
    pub masters: Vec<IpAddr>,
    pub api_port: u16,
    /// Addresses of all pods (address and prefix), and the prefix of one node's share.
    pub pod_network: (Ipv4Addr, u8),
    pub node_prefix: u8,
}

/// Every controller of the cluster, which begin at `started`.
fn all(options: &Options, started: Timestamp) -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(system_namespaces::SystemNamespaces),
        Box::new(kubernetes_service::KubernetesService::new(options.kubernetes_service_ip, &options.masters, options.api_port)),
        Box::new(service_account::DefaultServiceAccount),
        Box::new(root_ca::RootCa::new(&options.root_ca_pem)),
        Box::new(replica_set::ReplicaSets),
        Box::new(deployment::Deployments),
        Box::new(endpoint_slice::EndpointSlices),
        Box::new(endpoints::EndpointsController),
        Box::new(garbage_collector::GarbageCollector),
        Box::new(namespace::Namespaces),
        Box::new(node_ipam::NodeIpam { cluster: options.pod_network, node_prefix: options.node_prefix }),
        Box::new(node_lifecycle::NodeLifecycle { started }),
        Box::new(taint_eviction::TaintEviction),
        Box::new(pod_gc::PodGc),
    ]
}
