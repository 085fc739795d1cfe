//! The node's own objects: its Node, kept right, and its Lease, renewed.

use super::context::Context;
use super::machine::Machine;
use super::resources::Allocatable;
use crate::client::{PatchType, Target};
use crate::kinds::{Lease, Node};
use crate::meta::{Quantity, Reason, Status, quantity::Amount, time};
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
const RENEW_EVERY: Duration = Duration::from_secs(10);
const STATUS_EVERY: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(1);
/// The kubelet lists no more images than this.
const MAX_IMAGES: usize = 50;

/// What a node says of itself besides what the machine says.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `v1.35.4`: the Kubernetes version that this agent is as good as.
    pub kubelet_version: String,
    /// orchd's own.
    pub version: String,
    pub max_pods: u32,
    pub labels: BTreeMap<String, String>,
    /// The addresses that its pods have.
    pub pod_cidr: Option<String>,
    /// Port at which the API server would find the kubelet; 0 as orchd's masters never call a node.
    pub kubelet_port: i32,
}

/// The labels that every node gives itself.
pub fn own_labels(name: &str) -> BTreeMap<String, String> {
    let architecture = super::machine::architecture();
    let own = [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture),
    ];
    own.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

pub struct Registration {
    pub context: Arc<Context>,
    pub machine: Machine,
    pub identity: Identity,
}

impl Registration {
    /// Registers the node, trying until it works, and keeps its status and lease right until it is dropped.
    pub async fn run(self) {
        while let Err(error) = self.register().await {
            tracing::warn!(node = self.context.node_name, %error, "the node was not registered, again in {RETRY:?}");
            tokio::time::sleep(RETRY).await;
        }
        tracing::info!(node = self.context.node_name, ip = %self.context.node_ip, "the node is registered");
        self.context.events.node(&self.context.node_name, false, "Starting", "Starting kubelet.");
        let (mut lease, mut status) = (interval(RENEW_EVERY), interval(STATUS_EVERY));
        lease.set_missed_tick_behavior(MissedTickBehavior::Delay);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut images = self.image_count();
        loop {
            tokio::select! {
                _ = lease.tick() => {
                    if let Err(error) = self.renew_lease().await {
                        tracing::warn!(node = self.context.node_name, %error, "the node's lease was not renewed");
                        lease.reset_after(RETRY);
                    }
                    // A cheap look for images that came or went.
                    if std::mem::replace(&mut images, self.image_count()) != images {
                        status.reset_immediately();
                    }
                }
                _ = status.tick() => if let Err(error) = self.write_status().await {
                    tracing::warn!(node = self.context.node_name, %error, "the node's status was not written");
                    status.reset_after(RETRY);
                }
            }
        }
    }

    fn image_count(&self) -> usize {
        self.context.puller.images().list().len()
    }

    fn labels(&self) -> BTreeMap<String, String> {
        self.identity.labels.clone().into_iter().chain(own_labels(&self.context.node_name)).collect()
    }

    /// Creates the Node, or puts the labels of one that is there right.
    async fn register(&self) -> Result<(), Status> {
        let name = &self.context.node_name;
        let node = api::Node {
            metadata: ObjectMeta { name: Some(name.clone()), labels: Some(self.labels()), ..ObjectMeta::default() },
            // A node that was deleted and lives still has its pods.
            spec: Some(api::NodeSpec { pod_cidr: self.identity.pod_cidr.clone(), ..api::NodeSpec::default() }),
            status: Some(self.status(&api::NodeStatus::default())),
        };
        match self.context.client.put_new::<Node>(&node).await {
            Ok(_) => {}
            Err(status) if status.is(Reason::AlreadyExists) => {
                let patch = json!({"metadata": {"labels": self.labels()}}).to_string();
                self.context.client.patch(&Target::object::<Node>("", name), PatchType::Strategic, patch.into()).await?;
            }
            Err(status) => return Err(status),
        }
        self.write_status().await
    }

    async fn write_status(&self) -> Result<(), Status> {
        let name = &self.context.node_name;
        let node = match self.context.client.fetch::<Node>("", name).await {
            Err(status) if status.is(Reason::NotFound) => {
                // Someone deleted it; a node that lives comes back.
                let registered = Box::pin(self.register()).await;
                return registered;
            }
            other => other?,
        };
        let old = node.status.unwrap_or_default();
        let patch = json!({"status": self.status(&old)}).to_string();
        let target = Target::object::<Node>("", name).sub("status");
        self.context.client.patch(&target, PatchType::Strategic, patch.into()).await.map(drop)
    }

    fn status(&self, old: &api::NodeStatus) -> api::NodeStatus {
        let m = &self.machine;
        let address = |kind: &str, address: String| api::NodeAddress { type_: kind.into(), address };
        let info = api::NodeSystemInfo {
            architecture: m.architecture.into(),
            boot_id: m.boot_id.clone(),
            container_runtime_version: format!("orchd://{}", self.identity.version),
            kernel_version: m.kernel_version.clone(),
            kubelet_version: self.identity.kubelet_version.clone(),
            machine_id: m.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: m.os_image.clone(),
            system_uuid: m.system_uuid.clone(),
            ..api::NodeSystemInfo::default()
        };
        api::NodeStatus {
            addresses: Some(vec![
                address("InternalIP", self.context.node_ip.to_string()),
                address("Hostname", self.context.node_name.clone()),
            ]),
            capacity: Some(resource_list(&m.capacity, self.identity.max_pods)),
            allocatable: Some(resource_list(&self.context.allocatable, self.identity.max_pods)),
            conditions: Some(conditions(old, self.context.clock.now())),
            daemon_endpoints: Some(api::NodeDaemonEndpoints {
                kubelet_endpoint: Some(api::DaemonEndpoint { port: self.identity.kubelet_port }),
            }),
            images: Some(self.images()),
            node_info: Some(info),
            ..api::NodeStatus::default()
        }
    }

    /// The largest first.
    fn images(&self) -> Vec<api::ContainerImage> {
        let mut images = self.context.puller.images().list();
        images.sort_by_key(|i| std::cmp::Reverse(i.size));
        let of = |i: orchd_runtime::image::Image| api::ContainerImage {
            names: Some(i.references.into_iter().take(5).collect()),
            size_bytes: i64::try_from(i.size).ok(),
        };
        images.into_iter().take(MAX_IMAGES).map(of).collect()
    }

    async fn renew_lease(&self) -> Result<(), Status> {
        let (client, name) = (&self.context.client, &self.context.node_name);
        let now = time::micros(self.context.clock.now());
        let target = Target::object::<Lease>(LEASE_NAMESPACE, name);
        let patch = json!({"spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}}).to_string();
        match client.patch(&target, PatchType::Merge, patch.into()).await {
            Err(status) if status.is(Reason::NotFound) => {}
            other => return other.map(drop),
        }
        let node = client.fetch::<Node>("", name).await?;
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            ..OwnerReference::default()
        };
        let lease = coordination::Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(LEASE_NAMESPACE.into()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(coordination::LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(now),
                ..coordination::LeaseSpec::default()
            }),
        };
        client.put_new::<Lease>(&lease).await.map(drop)
    }
}

fn resource_list(of: &Allocatable, pods: u32) -> BTreeMap<String, Quantity> {
    let kib = |bytes: i64| Quantity(format!("{}Ki", bytes / 1024));
    [
        ("cpu", Quantity(Amount::from_milli(of.cpu_milli).to_string())),
        ("memory", kib(of.memory_bytes)),
        ("ephemeral-storage", kib(of.ephemeral_bytes)),
        ("pods", Quantity(pods.to_string())),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}

fn conditions(old: &api::NodeStatus, now: Timestamp) -> Vec<api::NodeCondition> {
    let all = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ];
    let condition = |(kind, status, reason, message): (&str, &str, &str, &str)| {
        let before = old.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
        api::NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(time::seconds(now)),
            last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(time::seconds(now))),
        }
    };
    all.into_iter().map(condition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_times_stay_until_something_changes() {
        let (first, later) = (Timestamp::from_second(1).unwrap(), Timestamp::from_second(2).unwrap());
        let mut old = api::NodeStatus { conditions: Some(conditions(&api::NodeStatus::default(), first)), ..Default::default() };
        old.conditions.as_mut().unwrap()[3].status = "Unknown".into();
        let new = conditions(&old, later);
        let times: Vec<i64> = new.iter().map(|c| c.last_transition_time.as_ref().unwrap().0.as_second()).collect();
        assert_eq!(times, [1, 1, 1, 2]);
    }

    #[test]
    fn resources_read_as_the_kubelet_writes_them() {
        let list = resource_list(&Allocatable { cpu_milli: 2000, memory_bytes: 4096, ephemeral_bytes: 8192 }, 110);
        assert_eq!((list["cpu"].0.as_str(), list["memory"].0.as_str(), list["pods"].0.as_str()), ("2", "4Ki", "110"));
    }
}
