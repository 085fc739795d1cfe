//! Events about pods and the node, written in the background; the same event again raises its count.

use crate::client::{Client, PatchType, Target};
use crate::env::Clock;
use crate::kinds::Event;
use crate::meta::{Reason, time};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Events that wait to be written. An event is dropped (and logged) rather than that anything waits for it.
const QUEUE: usize = 1024;
/// Events whose count can still be raised.
const REMEMBERED: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    field: String,
    reason: &'static str,
    message: String,
}

struct Entry {
    key: Key,
    warning: bool,
    object: api::ObjectReference,
}

/// Takes events. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Entry>,
}

impl Recorder {
    pub fn new(client: Arc<dyn Client>, clock: Arc<dyn Clock>, node: &str) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = Writer { client, clock, node: node.to_owned(), known: HashMap::new(), order: VecDeque::new() };
        tokio::spawn(writer.run(receiver));
        Self { sender }
    }

    fn send(&self, entry: Entry) {
        if let Err(error) = self.sender.try_send(entry) {
            tracing::debug!(%error, "an event was dropped");
        }
    }

    /// About a pod, or one of its containers (`spec.containers{name}`).
    pub fn pod(&self, pod: &api::Pod, container: Option<&str>, warning: bool, reason: &'static str, message: impl Into<String>) {
        let spec = pod.spec.as_ref();
        let is_init = |name: &str| spec.is_some_and(|s| s.init_containers.iter().flatten().any(|c| c.name == name));
        let list = |name| if is_init(name) { "initContainers" } else { "containers" };
        let field = container.map(|name| format!("spec.{}{{{name}}}", list(name)));
        let meta = &pod.metadata;
        let object = api::ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: field.clone(),
        };
        let key = Key { uid: meta.uid.clone().unwrap_or_default(), field: field.unwrap_or_default(), reason, message: message.into() };
        self.send(Entry { key, warning, object });
    }

    /// About the node itself.
    pub fn node(&self, name: &str, warning: bool, reason: &'static str, message: impl Into<String>) {
        let object = api::ObjectReference {
            kind: Some("Node".into()),
            name: Some(name.into()),
            uid: Some(name.into()),
            ..api::ObjectReference::default()
        };
        let key = Key { uid: name.into(), field: String::new(), reason, message: message.into() };
        self.send(Entry { key, warning, object });
    }
}

struct Writer {
    client: Arc<dyn Client>,
    clock: Arc<dyn Clock>,
    node: String,
    /// Namespace, name and count of what was written.
    known: HashMap<Key, (String, String, i32)>,
    order: VecDeque<Key>,
}

impl Writer {
    async fn run(mut self, mut entries: mpsc::Receiver<Entry>) {
        while let Some(entry) = entries.recv().await {
            if let Err(why) = self.write(&entry).await {
                tracing::debug!(reason = entry.key.reason, error = why, "an event was not written");
            }
        }
    }

    async fn write(&mut self, entry: &Entry) -> Result<(), String> {
        let now = self.clock.now();
        if let Some((namespace, name, count)) = self.known.get_mut(&entry.key) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": time::seconds(now)}).to_string();
            let target = Target::object::<Event>(namespace, name);
            match self.client.patch(&target, PatchType::Merge, patch.into()).await {
                // It has expired, or was deleted: begin anew.
                Err(status) if status.is(Reason::NotFound) => drop(self.known.remove(&entry.key)),
                other => return other.map(drop).map_err(|s| s.message),
            }
        }
        let namespace = entry.object.namespace.clone().unwrap_or_else(|| "default".into());
        let object = entry.object.name.clone().unwrap_or_default();
        let name = format!("{object}.{:x}", now.as_nanosecond() & 0xffff_ffff_ffff_ffff);
        let event = api::Event {
            metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace.clone()), ..ObjectMeta::default() },
            involved_object: entry.object.clone(),
            reason: Some(entry.key.reason.into()),
            message: Some(entry.key.message.clone()),
            type_: Some(if entry.warning { "Warning" } else { "Normal" }.into()),
            count: Some(1),
            first_timestamp: Some(time::seconds(now)),
            last_timestamp: Some(time::seconds(now)),
            source: Some(api::EventSource { component: Some("kubelet".into()), host: Some(self.node.clone()) }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.clone()),
            ..api::Event::default()
        };
        self.client.put_new::<Event>(&event).await.map_err(|s| s.message)?;
        self.remember(entry.key.clone(), (namespace, name, 1));
        Ok(())
    }

    fn remember(&mut self, key: Key, written: (String, String, i32)) {
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(key.clone());
        self.known.insert(key, written);
    }
}
