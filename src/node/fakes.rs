//! An API, a runtime, an image store and a network in memory, for tests of the agent.

use super::Containers;
use super::context::Links;
use super::images::{Credentials, ImageService};
use crate::client::{Client, DeleteOptions, List, ListOptions, PatchType, Target, WatchEvent, WatchEvents};
use crate::kinds::{Object, ObjectKey, Resource, load};
use crate::meta::Status;
use crate::network::NetworkError;
use async_trait::async_trait;
use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use orchd_runtime::image::Image;
use orchd_runtime::spec::{ContainerSpec, ContainerState, ContainerStatus, Exit, ProcessSpec, Resources, SandboxSpec, SandboxStatus};
use orchd_runtime::{ExecSession, RuntimeEvent, StartError, Usage};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};

type Key = (&'static str, ObjectKey);

#[derive(Default)]
struct Stored {
    objects: BTreeMap<Key, Value>,
    history: Vec<(i64, &'static str, Key, Value)>,
    next_uid: u64,
}

/// An API server that stores, watches and merges, and nothing more.
#[derive(Clone, Default)]
pub struct FakeApi {
    stored: Arc<Mutex<Stored>>,
    revision: Arc<watch::Sender<i64>>,
}

fn key(target: &Target) -> Key {
    let name = target.name.clone().unwrap_or_default();
    (target.resource.names().plural, ObjectKey::new(target.namespace.clone().unwrap_or_default(), name))
}

fn object(resource: &'static dyn Resource, value: &Value, revision: i64) -> Arc<Object> {
    load(resource, value.to_string().as_bytes(), revision).unwrap()
}

/// As far as the agent needs it: maps are merged, lists replaced, null removes.
fn merge(into: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (name, value) in fields {
                if value.is_null() {
                    into.as_object_mut().unwrap().remove(name);
                } else {
                    merge(&mut into[name.as_str()], value);
                }
            }
        }
        Value::Array(items) => {
            let plain = items.iter().filter(|i| i.get("$patch").is_none());
            *into = plain
                .map(|i| {
                    let mut new = Value::Null;
                    merge(&mut new, i);
                    new
                })
                .collect();
        }
        other => *into = other.clone(),
    }
}

fn selected(options: &ListOptions, value: &Value) -> bool {
    let Some((field, wanted)) = options.field_selector.as_deref().and_then(|s| s.split_once('=')) else { return true };
    let pointer = format!("/{}", field.replace('.', "/"));
    value.pointer(&pointer).and_then(Value::as_str).unwrap_or_default() == wanted
}

impl FakeApi {
    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap()
    }

    fn change(&self, stored: &mut Stored, kind: &'static str, key: Key, value: Value) -> i64 {
        let revision = *self.revision.borrow() + 1;
        match kind {
            "DELETED" => drop(stored.objects.remove(&key)),
            _ => drop(stored.objects.insert(key.clone(), value.clone())),
        }
        stored.history.push((revision, kind, key, value));
        self.revision.send_replace(revision);
        revision
    }

    /// Creates or replaces an object as a client would.
    pub fn put(&self, plural: &'static str, mut value: Value) {
        let mut stored = self.stored();
        let text = |v: &Value, f: &str| v["metadata"][f].as_str().unwrap_or_default().to_owned();
        let key = (plural, ObjectKey::new(text(&value, "namespace"), text(&value, "name")));
        if value["metadata"]["uid"].is_null() {
            stored.next_uid += 1;
            value["metadata"]["uid"] = json!(format!("uid-{}", stored.next_uid));
        }
        let kind = if stored.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        self.change(&mut stored, kind, key, value);
    }

    /// The present JSON of an object.
    pub fn get_json(&self, plural: &'static str, namespace: &str, name: &str) -> Option<Value> {
        self.stored().objects.get(&(plural, ObjectKey::new(namespace, name))).cloned()
    }

    /// Messages of all events about an object, oldest first.
    pub fn events(&self, name: &str) -> Vec<String> {
        let stored = self.stored();
        let of = |(_, kind, key, v): &(i64, &str, Key, Value)| {
            let about = *kind == "ADDED" && key.0 == "events" && v["involvedObject"]["name"] == name;
            about.then(|| format!("{}: {}", v["reason"].as_str().unwrap(), v["message"].as_str().unwrap()))
        };
        stored.history.iter().filter_map(of).collect()
    }

    /// How often an object was written.
    pub fn changes(&self, plural: &'static str, name: &str) -> usize {
        self.stored().history.iter().filter(|h| h.2.0 == plural && h.2.1.name == name).count()
    }

    /// Waits until the object satisfies `when` (None: it is not there).
    pub async fn until(&self, plural: &'static str, name: &str, when: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
        let mut revision = self.revision.subscribe();
        let found = async {
            loop {
                revision.borrow_and_update();
                let now = self.get_json(plural, "n", name);
                if when(now.as_ref()) {
                    return now;
                }
                revision.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(std::time::Duration::from_secs(10), found).await {
            Ok(found) => found,
            Err(_) => panic!("it does not come about: {:#?}", self.get_json(plural, "n", name)),
        }
    }
}

#[async_trait]
impl Client for FakeApi {
    async fn get(&self, target: &Target) -> Result<Arc<Object>, Status> {
        let stored = self.stored();
        let found = stored.objects.get(&key(target));
        let revision = *self.revision.borrow();
        found.map(|v| object(target.resource, v, revision)).ok_or_else(|| Status::not_found("", key(target).0, &key(target).1.name))
    }

    async fn list(&self, target: &Target, options: &ListOptions) -> Result<List, Status> {
        let stored = self.stored();
        let revision = *self.revision.borrow();
        let inside = |k: &Key| k.0 == key(target).0 && target.namespace.as_ref().is_none_or(|ns| *ns == k.1.namespace);
        let items = stored.objects.iter().filter(|(k, v)| inside(k) && selected(options, v));
        Ok(List { items: items.map(|(_, v)| object(target.resource, v, revision)).collect(), revision })
    }

    async fn create(&self, target: &Target, body: Value) -> Result<Arc<Object>, Status> {
        let name = body["metadata"]["name"].as_str().unwrap().to_owned();
        let (plural, mut at) = key(target);
        at.name = name.clone();
        if self.stored().objects.contains_key(&(plural, at)) {
            return Err(Status::already_exists("", plural, &name));
        }
        self.put(plural, body.clone());
        Ok(object(target.resource, &body, *self.revision.borrow()))
    }

    async fn update(&self, _: &Target, _: Value) -> Result<Arc<Object>, Status> {
        unreachable!("the agent patches")
    }

    async fn patch(&self, target: &Target, _: PatchType, body: Bytes) -> Result<Arc<Object>, Status> {
        let patch: Value = serde_json::from_slice(&body).unwrap();
        let mut stored = self.stored();
        let found = stored.objects.get(&key(target)).cloned();
        let mut value = found.ok_or_else(|| Status::not_found("", key(target).0, &key(target).1.name))?;
        let uid = &patch["metadata"]["uid"];
        if !uid.is_null() && *uid != value["metadata"]["uid"] {
            return Err(Status::conflict("", key(target).0, &key(target).1.name, "uid"));
        }
        merge(&mut value, &patch);
        let revision = self.change(&mut stored, "MODIFIED", key(target), value.clone());
        Ok(object(target.resource, &value, revision))
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<(), Status> {
        let mut stored = self.stored();
        let found = stored.objects.get(&key(target)).cloned();
        let mut value = found.ok_or_else(|| Status::not_found("", key(target).0, &key(target).1.name))?;
        if options.grace_period_seconds == Some(0) {
            self.change(&mut stored, "DELETED", key(target), value);
            return Ok(());
        }
        value["metadata"]["deletionTimestamp"] = json!(Timestamp::now().to_string());
        value["metadata"]["deletionGracePeriodSeconds"] = json!(options.grace_period_seconds.unwrap_or(30));
        self.change(&mut stored, "MODIFIED", key(target), value);
        Ok(())
    }

    async fn post(&self, target: &Target, body: Value) -> Result<Value, Status> {
        assert_eq!(target.subresource, Some("token"));
        let expires = Timestamp::now() + std::time::Duration::from_secs(3600);
        let token = format!("token-of-{}", body["spec"]["boundObjectRef"]["name"].as_str().unwrap());
        Ok(json!({"status": {"token": token, "expirationTimestamp": expires.to_string()}}))
    }

    async fn watch(&self, target: &Target, options: &ListOptions) -> Result<WatchEvents, Status> {
        let (sender, receiver) = mpsc::channel(16);
        let (stored, mut revision) = (Arc::clone(&self.stored), self.revision.subscribe());
        let (target, options) = (target.clone(), options.clone());
        let mut seen: i64 = options.resource_version.as_deref().unwrap().parse().unwrap();
        tokio::spawn(async move {
            loop {
                revision.borrow_and_update();
                let new: Vec<_> = stored.lock().unwrap().history.iter().filter(|h| h.0 > seen).cloned().collect();
                for (at, kind, k, value) in new {
                    seen = at;
                    let inside = k.0 == key(&target).0 && target.namespace.as_ref().is_none_or(|ns| *ns == k.1.namespace);
                    if !inside || !selected(&options, &value) {
                        continue;
                    }
                    let object = object(target.resource, &value, at);
                    let event = match kind {
                        "ADDED" => WatchEvent::Added(object),
                        "MODIFIED" => WatchEvent::Modified(object),
                        _ => WatchEvent::Deleted(object),
                    };
                    if sender.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                if revision.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}

/// A runtime whose programs are words: `run` runs until it is told to stop, `stubborn` until it is killed, `exit N` ends at
/// once, and anything else does not exist.
#[derive(Clone)]
pub struct FakeContainers {
    sandboxes: Arc<Mutex<BTreeMap<String, SandboxStatus>>>,
    events: mpsc::Sender<RuntimeEvent>,
}

impl FakeContainers {
    pub fn new() -> (Self, mpsc::Receiver<RuntimeEvent>) {
        let (events, receiver) = mpsc::channel(64);
        (Self { sandboxes: Arc::default(), events }, receiver)
    }

    pub fn sandboxes(&self) -> MutexGuard<'_, BTreeMap<String, SandboxStatus>> {
        self.sandboxes.lock().unwrap()
    }

    /// Another agent's view of the same runtime.
    pub fn reopened(&self) -> (Self, mpsc::Receiver<RuntimeEvent>) {
        let (events, receiver) = mpsc::channel(64);
        (Self { sandboxes: Arc::clone(&self.sandboxes), events }, receiver)
    }

    /// The newest container of that name.
    pub fn container(&self, name: &str) -> Option<ContainerStatus> {
        let sandboxes = self.sandboxes();
        let mut all = sandboxes.values().flat_map(|s| &s.containers);
        all.rfind(|c| c.spec.labels.get(super::container::NAME).is_some_and(|n| n == name)).cloned()
    }

    pub async fn end(&self, sandbox: &str, container: &str, code: i32, signal: Option<i32>) {
        let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap();
        let exit = Exit { code, signal, oom_killed: false, started_at_ns: now, finished_at_ns: now };
        if let Some(found) = self.sandboxes().get_mut(sandbox).and_then(|s| s.containers.iter_mut().find(|c| c.spec.id == container)) {
            found.state = ContainerState::Exited(exit.clone());
        }
        let event = RuntimeEvent::ContainerExited { sandbox: sandbox.into(), container: container.into(), exit };
        let _ = self.events.send(event).await;
    }
}

#[async_trait]
impl Containers for FakeContainers {
    async fn list(&self) -> Result<Vec<SandboxStatus>, StartError> {
        Ok(self.sandboxes().values().cloned().collect())
    }

    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<i32, StartError> {
        let status = SandboxStatus { spec: spec.clone(), pid: 4242, containers: Vec::new() };
        assert!(self.sandboxes().insert(spec.id, status).is_none(), "one sandbox for a pod");
        Ok(4242)
    }

    async fn start_container(&self, sandbox: &str, spec: ContainerSpec) -> Result<(i32, i64), StartError> {
        let id = spec.id.clone();
        let words: Vec<String> = spec.process.args.clone();
        let started_at_ns = i64::try_from(Timestamp::now().as_nanosecond()).unwrap();
        if !matches!(words[0].as_str(), "run" | "stubborn" | "exit") {
            return Err(StartError::Create(format!("exec: \"{}\": executable file not found in $PATH", words[0])));
        }
        let status = ContainerStatus { spec, state: ContainerState::Running { pid: 1, started_at_ns } };
        let found = self.sandboxes().get_mut(sandbox).map(|s| s.containers.push(status));
        found.ok_or_else(|| StartError::NoSandbox(sandbox.into()))?;
        if words[0] == "exit" {
            self.end(sandbox, &id, words[1].parse().unwrap(), None).await;
        }
        Ok((1, started_at_ns))
    }

    async fn kill(&self, sandbox: &str, container: &str, signal: i32) -> Result<(), StartError> {
        let program = {
            let sandboxes = self.sandboxes();
            let found = sandboxes.get(sandbox).and_then(|s| s.containers.iter().find(|c| c.spec.id == container));
            found.ok_or_else(|| StartError::NoContainer(container.into()))?.spec.process.args[0].clone()
        };
        if signal == libc::SIGKILL || program != "stubborn" {
            self.end(sandbox, container, 128 + signal, Some(signal)).await;
        }
        Ok(())
    }

    async fn remove_container(&self, sandbox: &str, container: &str) -> Result<(), StartError> {
        if let Some(found) = self.sandboxes().get_mut(sandbox) {
            found.containers.retain(|c| c.spec.id != container);
        }
        Ok(())
    }

    async fn remove_sandbox(&self, sandbox: &str) -> Result<(), StartError> {
        self.sandboxes().remove(sandbox);
        Ok(())
    }

    async fn update_resources(&self, _: &str, _: Option<&str>, _: &Resources) -> Result<(), StartError> {
        Ok(())
    }

    async fn exec(&self, _: &str, container: &str, _: ProcessSpec, _: bool) -> Result<ExecSession, StartError> {
        Err(StartError::NoContainer(container.into()))
    }

    async fn usage(&self, _: &str, _: Option<&str>) -> Result<Usage, StartError> {
        Ok(Usage::default())
    }
}

/// Has every image but those whose name holds `missing`.
pub struct FakeImages;

#[async_trait]
impl ImageService for FakeImages {
    fn get(&self, reference: &str) -> Option<Image> {
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["run"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": []}});
        (!reference.contains("missing")).then(|| Image {
            digest: "sha256:1".into(),
            references: vec![reference.into()],
            config: Arc::new(serde_json::from_value(config).unwrap()),
            layers: Vec::new(),
            size: 1,
        })
    }

    fn list(&self) -> Vec<Image> {
        Vec::new()
    }

    async fn pull(&self, _: &str, _: &[Credentials]) -> Result<Image, String> {
        Err("manifest unknown".into())
    }
}

pub struct FakeLinks;

#[async_trait]
impl Links for FakeLinks {
    async fn attach(&self, _: &str, netns: &Path) -> Result<IpAddr, NetworkError> {
        assert_eq!(netns, Path::new("/proc/4242/ns/net"));
        Ok(Ipv4Addr::new(10, 1, 0, 7).into())
    }
    async fn detach(&self, _: &str) -> Result<(), NetworkError> {
        Ok(())
    }
}
