//! What every part of the agent shares.

use super::containers::Containers;
use super::dirs::Dirs;
use super::events::Recorder;
use super::files::ClusterDns;
use super::images::Puller;
use super::resources::Allocatable;
use super::sources::Sources;
use crate::client::Client;
use crate::client::reflector::Cache;
use crate::env::Clock;
use crate::network::{NetworkError, PodNetwork};
use async_trait::async_trait;
use k8s_openapi::jiff::Timestamp;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Connects pods; all that the agent knows of a pod network, as CNI is for the kubelet.
#[async_trait]
pub trait Links: Send + Sync {
    /// See `PodNetwork::attach`.
    async fn attach(&self, pod: &str, netns: &Path) -> Result<IpAddr, NetworkError>;
    /// See `PodNetwork::detach`.
    async fn detach(&self, pod: &str) -> Result<(), NetworkError>;
}

#[async_trait]
impl Links for PodNetwork {
    async fn attach(&self, pod: &str, netns: &Path) -> Result<IpAddr, NetworkError> {
        Self::attach(self, pod, netns).await.map(IpAddr::V4)
    }
    async fn detach(&self, pod: &str) -> Result<(), NetworkError> {
        Self::detach(self, pod).await
    }
}

pub struct Context {
    pub node_name: String,
    pub node_ip: IpAddr,
    pub allocatable: Allocatable,
    pub memory_bytes: i64,
    pub client: Arc<dyn Client>,
    pub containers: Arc<dyn Containers>,
    pub links: Arc<dyn Links>,
    pub puller: Puller,
    pub clock: Arc<dyn Clock>,
    pub dirs: Dirs,
    /// Below every cgroup hierarchy, without leading slash: where the node's pods have theirs.
    pub cgroup: String,
    pub dns: ClusterDns,
    pub sources: Sources,
    pub services: Cache,
    pub events: Recorder,
}

impl Context {
    /// Sleeps until the clock shows `at`; for ever if there is no such time.
    pub async fn sleep_until(&self, at: Option<Timestamp>) {
        match at {
            None => std::future::pending().await,
            Some(at) => {
                let left = at.duration_since(self.clock.now());
                // A millisecond more, so that the clock has passed the time on waking.
                tokio::time::sleep(Duration::try_from(left).unwrap_or_default() + Duration::from_millis(1)).await;
            }
        }
    }
}
