//! A pod as the cycle sees it: what it asks of a node, worked out once.

use super::resources::{Resources, requests};
use crate::kinds::pod::{containers::is_sidecar, state::{is_terminal, node_name}};
use crate::kinds::{Pod, Ref, controller_of};
use k8s_openapi::api::core::v1 as core;

pub const SCHEDULER_NAME: &str = "default-scheduler";

/// A port of the node that a pod takes for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// `0.0.0.0` is every address.
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0";
        self.port == other.port && self.protocol == other.protocol && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// What a pod asks for.
#[derive(Clone)]
pub struct Wanted {
    pub pod: Ref<Pod>,
    pub requests: Resources,
    /// cpu (millicores) and memory (bytes) as the scores count them.
    pub counted: (i64, i64),
    pub ports: Vec<HostPort>,
    /// Who controls it: pods of one owner spread.
    pub owner: Option<String>,
}

impl Wanted {
    pub fn new(pod: Ref<Pod>) -> Self {
        let empty = core::PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let (requests, counted) = requests(spec);
        let ports = host_ports(spec);
        let owner = controller_of(&pod.metadata).map(|r| r.uid.clone());
        Self { requests, counted, ports, owner, pod }
    }

    pub fn spec(&self) -> Option<&core::PodSpec> {
        self.pod.spec.as_ref()
    }

    pub fn uid(&self) -> &str {
        self.pod.object().uid()
    }

    pub fn tolerations(&self) -> &[core::Toleration] {
        self.spec().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
    }
}

fn host_ports(spec: &core::PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let taken = ports.filter_map(|p| {
        let port = p.host_port.filter(|&p| p > 0)?;
        let ip = p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
        Some(HostPort { ip, protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()), port })
    });
    taken.collect()
}

/// True if this scheduler should find a node for the pod now.
pub fn is_waiting(pod: &core::Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ours = spec.scheduler_name.as_deref().is_none_or(|n| n == SCHEDULER_NAME);
    let open = spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty);
    ours && open && node_name(pod).is_empty() && !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}
