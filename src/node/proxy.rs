//! Keeps the node's service rules at what the API says: Services, EndpointSlices, the pods of this node (their host
//! ports) and the node itself (its zone), each followed by a reflector.
//!
//! Changes are carried out at once; those that come while the kernel is at one are taken together with the next.

use crate::client::reflector::Cache;
use crate::client::{Client, ListOptions, Target};
use crate::kinds::{EndpointSlice, Node, ObjectKey, Pod, Registered, Service};
use crate::network::proxy::{HostPort, NodeView, ProxyState};
use crate::network::{NetworkError, NetworkOptions, Proxy};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// Waits between attempts that the kernel refused.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What the rules follow from.
struct Inputs {
    node_name: String,
    services: Cache,
    slices: Cache,
    pods: Cache,
    node: Cache,
}

impl Inputs {
    fn new(client: &Arc<dyn Client>, services: Cache, node_name: &str) -> Self {
        fn follow<K: Registered>(client: &Arc<dyn Client>, field: Option<(&str, &str)>) -> Cache {
            let field_selector = field.map(|(field, value)| format!("{field}={value}"));
            Cache::new(Arc::clone(client), Target::collection::<K>(None), ListOptions { field_selector, ..ListOptions::default() })
        }
        Self {
            node_name: node_name.to_owned(),
            services,
            slices: follow::<EndpointSlice>(client, None),
            pods: follow::<Pod>(client, Some(("spec.nodeName", node_name))),
            node: follow::<Node>(client, Some(("metadata.name", node_name))),
        }
    }

    fn caches(&self) -> [&Cache; 4] {
        [&self.services, &self.slices, &self.pods, &self.node]
    }

    fn state(&self) -> ProxyState {
        let (services, slices, pods) = (self.services.all(), self.slices.all(), self.pods.all());
        let node = self.node.get(&ObjectKey::new("", &self.node_name));
        let zone = node.as_ref().and_then(|node| node.meta().labels.as_ref()?.get(LABEL_ZONE).cloned()).unwrap_or_default();
        ProxyState::of(
            services.iter().filter_map(|object| object.get::<Service>()),
            slices.iter().filter_map(|object| object.get::<EndpointSlice>()),
            pods.iter().filter_map(|object| object.get::<Pod>()).flat_map(host_ports),
            &NodeView { name: self.node_name.clone(), zone },
        )
    }
}

/// The host ports of a pod that has an address and may still use it.
fn host_ports(pod: &k8s_openapi::api::core::v1::Pod) -> Vec<HostPort> {
    let Some(status) = &pod.status else { return Vec::new() };
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    match status.pod_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok()) {
        Some(ip) if !ended => HostPort::of_pod(pod, ip),
        _ => Vec::new(),
    }
}

/// The service proxy of a running node. Dropping it stops following the API; the rules stay, so that a node that starts
/// again serves all the while.
pub struct ServiceProxy {
    options: NetworkOptions,
    stop: CancellationToken,
    synced: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl ServiceProxy {
    /// Begins to follow the API, and changes no rule before it has answered. `services` is the node's cache of all Services.
    ///
    /// # Errors
    /// The kernel has no nf_tables, or this process may not use it.
    pub fn start(client: &Arc<dyn Client>, services: Cache, options: NetworkOptions, node_name: &str) -> Result<Self, NetworkError> {
        let (done, synced) = watch::channel(false);
        let stop = CancellationToken::new();
        let follower = Follower {
            options: options.clone(),
            proxy: Some(Proxy::open(options.clone())?),
            inputs: Inputs::new(client, services, node_name),
        };
        let task = tokio::spawn(follower.run(stop.clone(), done));
        Ok(Self { options, stop, synced, task })
    }

    /// Waits until the rules are those of a first complete look at the API.
    pub async fn synced(&self) {
        // An error means that the task has ended, which is what dropping or `teardown` asks for.
        let _ = self.synced.clone().wait_for(|synced| *synced).await;
    }

    /// Stops, and removes all rules.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn teardown(mut self) -> Result<(), NetworkError> {
        self.stop.cancel();
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the service proxy had failed");
        }
        Proxy::open(self.options.clone())?.teardown()
    }
}

impl Drop for ServiceProxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Follower {
    options: NetworkOptions,
    /// Away while the kernel is at a sync.
    proxy: Option<Proxy>,
    inputs: Inputs,
}

impl Follower {
    async fn run(mut self, stop: CancellationToken, done: watch::Sender<bool>) {
        let mut changes = self.inputs.caches().map(Cache::changes);
        let first = async {
            for cache in self.inputs.caches() {
                cache.synced().await;
            }
        };
        tokio::select! {
            () = first => {}
            () = stop.cancelled() => return,
        }
        let mut present: Option<ProxyState> = None;
        let mut retry = FIRST_RETRY;
        loop {
            changes.iter_mut().for_each(watch::Receiver::mark_unchanged);
            let wanted = self.inputs.state();
            if present.as_ref() != Some(&wanted) {
                match self.sync(wanted.clone()).await {
                    Ok(()) => {
                        present = Some(wanted);
                        retry = FIRST_RETRY;
                        done.send_replace(true);
                    }
                    Err(error) => {
                        tracing::error!(%error, "service rules were not brought up to date, again in {retry:?}");
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
                () = any(&mut changes) => {}
                () = again => retry = (retry * 2).min(LAST_RETRY),
                () = stop.cancelled() => return,
            }
        }
    }

    /// One sync, on a thread that may block.
    async fn sync(&mut self, wanted: ProxyState) -> Result<(), NetworkError> {
        let mut proxy = match self.proxy.take() {
            Some(proxy) => proxy,
            None => Proxy::open(self.options.clone())?,
        };
        let work = tokio::task::spawn_blocking(move || {
            let result = proxy.sync(wanted);
            (proxy, result)
        });
        let (proxy, result) = work.await.map_err(|error| NetworkError::Invalid(format!("a sync of the service rules: {error}")))?;
        // After a refusal the kernel may not hold what we think (somebody flushed it): the next sync lays all anew.
        self.proxy = result.is_ok().then_some(proxy);
        result
    }
}

/// Waits until any of the caches has changed. They do not end before this does.
async fn any(changes: &mut [watch::Receiver<u64>; 4]) {
    let waits = changes.iter_mut().map(|receiver| Box::pin(receiver.changed()));
    let _ = futures::future::select_all(waits).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{DeleteOptions, List, PatchType, WatchEvent, WatchEvents};
    use crate::kinds::{Object, Resource};
    use crate::meta::Status;
    use crate::network::tests::lab::{call, on_a_node, serve_tcp};
    use async_trait::async_trait;
    use bytes::Bytes;
    use serde_json::{Value, json};
    use std::collections::HashMap;
    use std::sync::Mutex;
    use tokio::sync::mpsc;

    /// Lists what it was given, and hands out the ends of its watches.
    #[derive(Default)]
    struct Fixed {
        objects: Vec<Arc<Object>>,
        watches: Mutex<HashMap<&'static str, mpsc::Sender<Result<WatchEvent, Status>>>>,
    }

    #[async_trait]
    impl Client for Fixed {
        async fn list(&self, target: &Target, _: &ListOptions) -> Result<List, Status> {
            let plural = target.resource.names().plural;
            let items = self.objects.iter().filter(|o| o.resource().names().plural == plural).cloned().collect();
            Ok(List { items, revision: 10 })
        }
        async fn watch(&self, target: &Target, _: &ListOptions) -> Result<WatchEvents, Status> {
            let (sender, receiver) = mpsc::channel(16);
            self.watches.lock().unwrap().insert(target.resource.names().plural, sender);
            Ok(receiver)
        }
        async fn get(&self, _: &Target) -> Result<Arc<Object>, Status> {
            unreachable!()
        }
        async fn create(&self, _: &Target, _: Value) -> Result<Arc<Object>, Status> {
            unreachable!()
        }
        async fn update(&self, _: &Target, _: Value) -> Result<Arc<Object>, Status> {
            unreachable!()
        }
        async fn patch(&self, _: &Target, _: PatchType, _: Bytes) -> Result<Arc<Object>, Status> {
            unreachable!()
        }
        async fn delete(&self, _: &Target, _: &DeleteOptions) -> Result<(), Status> {
            unreachable!()
        }
        async fn post(&self, _: &Target, _: Value) -> Result<Value, Status> {
            unreachable!()
        }
    }

    fn object(resource: &'static dyn Resource, json: &Value, revision: i64) -> Arc<Object> {
        crate::kinds::load(resource, json.to_string().as_bytes(), revision).unwrap()
    }

    fn slice(ip: Ipv4Addr, revision: i64) -> Arc<Object> {
        let json = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "n", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
        });
        object(EndpointSlice::resource(), &json, revision)
    }

    #[test]
    fn rules_follow_the_api() {
        on_a_node("rules_follow_the_api", |lab| {
            let (a, b) = (lab.pod("a"), lab.pod("b"));
            let _servers = (serve_tcp(&a.netns, "a", 8080), serve_tcp(&b.netns, "b", 8080));
            let service = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "n", "name": "web"},
                "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"],
                    "ports": [{"port": 80, "protocol": "TCP"}]},
            });
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "n", "name": "a"},
                "spec": {"nodeName": "here", "containers": [
                    {"name": "c", "image": "i", "ports": [{"containerPort": 8080, "hostPort": 4000}]}]},
                "status": {"phase": "Running", "podIP": a.ip.to_string()},
            });
            let objects = vec![object(Service::resource(), &service, 3), object(Pod::resource(), &pod, 4), slice(a.ip, 5)];
            let fixed = Arc::new(Fixed { objects, ..Fixed::default() });
            let client: Arc<dyn Client> = fixed.clone();
            let (node, node_ip) = (lab.node.clone(), lab.options.node_ip);
            lab.runtime.block_on(async {
                let ask = async |ip: Ipv4Addr, port: u16| {
                    let node = node.clone();
                    tokio::task::spawn_blocking(move || call(&node, (ip, port)).map(|answer| answer.from)).await.unwrap()
                };
                let vip = Ipv4Addr::new(10, 96, 0, 20);
                let services = Cache::new(Arc::clone(&client), Target::collection::<Service>(None), ListOptions::default());
                let proxy = ServiceProxy::start(&client, services, lab.options.clone(), "here").unwrap();
                proxy.synced().await;
                assert_eq!(ask(vip, 80).await.unwrap(), "a");
                assert_eq!(ask(node_ip, 4000).await.unwrap(), "a");
                let watch = fixed.watches.lock().unwrap()["endpointslices"].clone();
                watch.send(Ok(WatchEvent::Modified(slice(b.ip, 11)))).await.unwrap();
                let moved = async { while ask(vip, 80).await.unwrap() != "b" {} };
                tokio::time::timeout(Duration::from_secs(5), moved).await.expect("the rules follow");
                proxy.teardown().await.unwrap();
                assert!(ask(vip, 80).await.is_err());
            });
        });
    }
}
