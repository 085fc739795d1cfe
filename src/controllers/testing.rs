//! A cluster in memory for tests: a snapshot, a client that changes it by the API's rules as far as controllers rely on
//! them, and a feed of what happened. Times stand still unless a test moves them.

use super::driver::execute::{Outcome, execute};
use super::plan::{Controller, Key, Plan};
use super::queue::WorkQueue;
use crate::client::{Client, DeleteOptions, List, ListOptions, PatchType, Target, WatchEvents};
use crate::env::Clock;
use crate::kinds::{AnyObject, Object, ObjectKey, Pod, Registered, Resource};
use crate::meta::{Reason, Status, time};
use crate::watch::{Change, Event, Feed, Snapshot, Subscription};
use async_trait::async_trait;
use bytes::Bytes;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::sync::broadcast;

struct State {
    snapshot: Snapshot,
    revision: i64,
    now: Timestamp,
    log: Vec<Event>,
    /// How many writes still succeed.
    fuse: usize,
}

/// The cluster. Share it as an `Arc`.
pub struct World {
    state: Mutex<State>,
    feed: broadcast::Sender<Arc<[Event]>>,
}

/// 2026-01-01T00:00:00Z.
pub const START_S: i64 = 1_767_225_600;

impl World {
    pub fn new() -> Arc<Self> {
        let now = Timestamp::from_second(START_S).unwrap();
        let state = State { snapshot: Snapshot::default(), revision: 0, now, log: Vec::new(), fuse: usize::MAX };
        Arc::new(Self { state: Mutex::new(state), feed: broadcast::channel(4096).0 })
    }

    pub fn now(&self) -> Timestamp {
        self.state.lock().unwrap().now
    }

    pub fn pass(&self, seconds: i64) {
        self.state.lock().unwrap().now += SignedDuration::from_secs(seconds);
    }

    /// Lets only this many more writes through.
    pub fn burn_after(&self, writes: usize) {
        self.state.lock().unwrap().fuse = writes;
    }

    /// What happened since the last call.
    pub fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    /// Puts an object in as it is, past all rules; fills in what the API would.
    pub fn put<K: Registered>(&self, value: Value) -> Arc<Object> {
        let mut object = K::resource().decode_value(value).unwrap();
        let mut state = self.state.lock().unwrap();
        let key = ObjectKey::of(object.meta());
        let old = state.snapshot.object(K::resource(), &key).cloned();
        fill(&mut *object, old.as_deref(), &state);
        self.write(&mut state, K::resource(), object, old)
    }

    pub fn get<K: Registered>(&self, namespace: &str, name: &str) -> Option<K::Object> {
        self.snapshot().get::<K>(namespace, name).map(|o| (*o).clone())
    }

    pub fn all<K: Registered>(&self) -> Vec<K::Object> {
        self.snapshot().list::<K>(None).map(|o| (*o).clone()).collect()
    }

    /// Changes an object's JSON, past all rules.
    pub fn edit<K: Registered>(&self, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let object = self.snapshot().object(K::resource(), &ObjectKey::new(namespace, name)).cloned().expect("the object is there");
        let mut value = object.any().to_value();
        let before = value["spec"].clone();
        change(&mut value);
        if value["spec"] != before && value["metadata"]["generation"].is_i64() {
            value["metadata"]["generation"] = json!(value["metadata"]["generation"].as_i64().unwrap() + 1);
        }
        self.put::<K>(value);
    }

    /// Takes an object out, past all rules.
    pub fn take<K: Registered>(&self, namespace: &str, name: &str) {
        let mut state = self.state.lock().unwrap();
        let object = state.snapshot.object(K::resource(), &ObjectKey::new(namespace, name)).cloned().expect("the object is there");
        self.drop_object(&mut state, &object);
    }

    fn write(
        &self,
        state: &mut State,
        resource: &'static dyn Resource,
        object: Box<dyn AnyObject>,
        old: Option<Arc<Object>>,
    ) -> Arc<Object> {
        state.revision += 1;
        let object = Arc::new(Object::new(resource, object, state.revision));
        state.snapshot.insert(object.clone());
        let change = if old.is_some() { Change::Modified } else { Change::Added };
        self.tell(state, Event { change, object: object.clone(), previous: old });
        object
    }

    fn drop_object(&self, state: &mut State, object: &Arc<Object>) {
        state.revision += 1;
        let revision = state.revision;
        state.snapshot.remove(object.resource(), &object.key(), revision);
        let last = Arc::new(Object::new(object.resource(), object.any().clone_box(), revision));
        self.tell(state, Event { change: Change::Deleted, object: last, previous: Some(object.clone()) });
    }

    fn tell(&self, state: &mut State, event: Event) {
        state.log.push(event.clone());
        // Nobody may be listening.
        drop(self.feed.send(Arc::from(vec![event])));
    }

    fn find(state: &State, target: &Target) -> Result<Arc<Object>, Status> {
        let (names, name) = (target.resource.names(), target.name.clone().unwrap_or_default());
        let key = ObjectKey::new(target.namespace.clone().unwrap_or_default(), name.clone());
        let found = state.snapshot.object(target.resource, &key).cloned();
        found.ok_or_else(|| Status::not_found(names.group, names.plural, &name))
    }

    fn spend(state: &mut State) -> Result<(), Status> {
        state.fuse = state.fuse.checked_sub(1).ok_or_else(|| Status::new(Reason::ServiceUnavailable, "the process has died"))?;
        Ok(())
    }

    fn change(&self, target: &Target, body: Value, sub: Option<&str>) -> Result<Arc<Object>, Status> {
        let mut state = self.state.lock().unwrap();
        let old = Self::find(&state, target)?;
        let conflict = |why: &str| Status::conflict("", target.resource.names().plural, target.name.as_deref().unwrap_or_default(), why);
        let (uid, version) = (&body["metadata"]["uid"], &body["metadata"]["resourceVersion"]);
        if uid.as_str().is_some_and(|u| u != old.uid()) {
            return Err(conflict("uid mismatch"));
        }
        if version.as_str().is_some_and(|v| v != old.revision().to_string()) {
            return Err(conflict("the object has been modified"));
        }
        Self::spend(&mut state)?;
        let mut next = old.any().to_value();
        match sub {
            // As kube-apiserver: a status may bring annotations with it.
            Some("status") => {
                next["status"] = body["status"].clone();
                next["metadata"]["annotations"] = body["metadata"]["annotations"].clone();
            }
            Some("finalize") => next["spec"] = body["spec"].clone(),
            _ => {
                let status = next["status"].take();
                let generation = next["metadata"]["generation"].as_i64();
                let spec = next["spec"].take();
                next = body;
                next["status"] = status;
                if let Some(n) = generation.filter(|_| next["spec"] != spec) {
                    next["metadata"]["generation"] = json!(n + 1);
                }
            }
        }
        let object = target.resource.decode_value(next).map_err(Status::internal)?;
        let meta = object.meta();
        let finalizers = meta.finalizers.as_ref().is_some_and(|f| !f.is_empty());
        let kept = finalizers || target.resource.names().kind == "Pod" || spec_finalizers(&*object);
        if meta.deletion_timestamp.is_some() && !kept {
            let last = Arc::new(Object::new(target.resource, object, old.revision()));
            self.drop_object(&mut state, &last);
            return Ok(last);
        }
        if object.equals(old.any()) {
            return Ok(old);
        }
        Ok(self.write(&mut state, target.resource, object, Some(old)))
    }
}

/// A namespace's own finalizers are in its spec.
fn spec_finalizers(object: &dyn AnyObject) -> bool {
    object.to_value()["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}

fn fill(object: &mut dyn AnyObject, old: Option<&Object>, state: &State) {
    let (now, serial) = (state.now, state.revision + 1);
    let meta = object.meta_mut();
    if meta.name.is_none() {
        meta.name = Some(format!("{}{serial:05}", meta.generate_name.as_deref().unwrap_or("object-")));
    }
    let born = old.map(|o| o.meta());
    meta.uid.get_or_insert_with(|| born.and_then(|m| m.uid.clone()).unwrap_or_else(|| format!("uid-{serial}")));
    meta.creation_timestamp.get_or_insert_with(|| born.and_then(|m| m.creation_timestamp.clone()).unwrap_or_else(|| time::seconds(now)));
    meta.generation.get_or_insert(1);
}

/// Merges lists that strategic patches of controllers touch by their keys, everything else as JSON.
fn strategic(into: &mut Value, patch: &Value) {
    let (Value::Object(into), Value::Object(patch)) = (into, patch) else { return };
    for (key, value) in patch {
        let by = match key.as_str() {
            "ownerReferences" => "uid",
            "conditions" => "type",
            _ => {
                if value.is_object() {
                    strategic(into.entry(key.clone()).or_insert_with(|| json!({})), value);
                } else {
                    into.insert(key.clone(), value.clone());
                }
                continue;
            }
        };
        let list = into.entry(key.clone()).or_insert_with(|| json!([]));
        for item in value.as_array().unwrap() {
            let list = list.as_array_mut().unwrap();
            let at = list.iter().position(|i| i[by] == item[by]);
            match (at, item["$patch"] == "delete") {
                (Some(i), true) => drop(list.remove(i)),
                (None, true) => {}
                (Some(i), false) => strategic(&mut list[i], item),
                (None, false) => list.push(item.clone()),
            }
        }
    }
}

#[async_trait]
impl Client for World {
    async fn get(&self, target: &Target) -> Result<Arc<Object>, Status> {
        Self::find(&self.state.lock().unwrap(), target)
    }
    async fn list(&self, target: &Target, _: &ListOptions) -> Result<List, Status> {
        let snapshot = self.snapshot();
        let items = snapshot.objects(target.resource, target.namespace.as_deref()).cloned().collect();
        Ok(List { items, revision: snapshot.revision() })
    }
    async fn create(&self, target: &Target, body: Value) -> Result<Arc<Object>, Status> {
        let mut state = self.state.lock().unwrap();
        let mut object = target.resource.decode_value(body).map_err(Status::internal)?;
        fill(&mut *object, None, &state);
        let key = ObjectKey::of(object.meta());
        if state.snapshot.object(target.resource, &key).is_some() {
            return Err(Status::already_exists("", target.resource.names().plural, &key.name));
        }
        Self::spend(&mut state)?;
        if target.resource.names().kind == "Pod" {
            let mut value = object.to_value();
            value["status"] = json!({"phase": "Pending"});
            object = target.resource.decode_value(value).map_err(Status::internal)?;
        }
        Ok(self.write(&mut state, target.resource, object, None))
    }
    async fn update(&self, target: &Target, body: Value) -> Result<Arc<Object>, Status> {
        self.change(target, body, target.subresource)
    }
    async fn patch(&self, target: &Target, kind: PatchType, body: Bytes) -> Result<Arc<Object>, Status> {
        let patch: Value = serde_json::from_slice(&body).map_err(Status::internal)?;
        let old = Self::find(&self.state.lock().unwrap(), target)?;
        let mut next = old.any().to_value();
        match kind {
            PatchType::Merge => json_patch::merge(&mut next, &patch),
            _ => strategic(&mut next, &patch),
        }
        // Preconditions are the patch's, not those of the object that was read for it.
        next["metadata"]["uid"] = json!(patch["metadata"]["uid"].as_str().unwrap_or(old.uid()));
        if patch["metadata"]["resourceVersion"].is_null() {
            next["metadata"]["resourceVersion"] = Value::Null;
        }
        self.change(target, next, target.subresource)
    }
    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<(), Status> {
        let mut state = self.state.lock().unwrap();
        let old = Self::find(&state, target)?;
        let stale = options.resource_version.as_ref().is_some_and(|v| *v != old.revision().to_string());
        if options.uid.as_ref().is_some_and(|u| u != old.uid()) || stale {
            return Err(Status::conflict("", target.resource.names().plural, target.name.as_deref().unwrap_or_default(), "precondition"));
        }
        Self::spend(&mut state)?;
        let mut object = old.any().clone_box();
        let meta = object.meta_mut();
        match options.propagation_policy.as_deref() {
            Some("Foreground") => meta.finalizers.get_or_insert_default().push("foregroundDeletion".into()),
            Some("Orphan") => meta.finalizers.get_or_insert_default().push("orphan".into()),
            _ => {}
        }
        let finalizers = meta.finalizers.as_ref().is_some_and(|f| !f.is_empty());
        let graceful = target.resource.names().kind == "Pod" && options.grace_period_seconds != Some(0);
        if meta.deletion_timestamp.is_some() && !finalizers && graceful {
            return Ok(());
        }
        meta.deletion_timestamp.get_or_insert_with(|| time::seconds(state.now));
        if finalizers || graceful || spec_finalizers(&*object) {
            self.write(&mut state, target.resource, object, Some(old));
        } else {
            self.drop_object(&mut state, &old);
        }
        Ok(())
    }
    async fn post(&self, target: &Target, body: Value) -> Result<Value, Status> {
        assert_eq!(target.subresource, Some("binding"));
        let node = body["target"]["name"].clone();
        let (namespace, name) = (target.namespace.clone().unwrap_or_default(), target.name.clone().unwrap_or_default());
        Self::spend(&mut self.state.lock().unwrap())?;
        self.edit::<Pod>(&namespace, &name, |p| p["spec"]["nodeName"] = node);
        Ok(Value::Null)
    }
    async fn watch(&self, _: &Target, _: &ListOptions) -> Result<WatchEvents, Status> {
        Err(Status::internal("tests read the feed"))
    }
}

impl Feed for World {
    fn snapshot(&self) -> Snapshot {
        self.state.lock().unwrap().snapshot.clone()
    }
    fn subscribe(&self) -> (Snapshot, Subscription) {
        let state = self.state.lock().unwrap();
        (state.snapshot.clone(), Subscription::new(self.feed.subscribe()))
    }
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        World::now(self)
    }
}

/// Runs a future that never truly waits.
pub fn now_or_never<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// One run of one key, as the driver does it.
pub fn run_key(world: &World, controller: &dyn Controller, key: &Key) -> (Outcome, Option<Timestamp>) {
    let plan = controller.reconcile(&world.snapshot(), key, World::now(world));
    let requeue_at = plan.requeue_at;
    (now_or_never(execute(world, plan)), requeue_at)
}

/// Runs every key of the controller until none has anything to do; returns the Events.
pub fn settle(world: &World, controller: &dyn Controller) -> Vec<String> {
    let mut said = Vec::new();
    for _ in 0..100 {
        let snapshot = world.snapshot();
        let keys = controller.all_keys(&snapshot);
        let busy: Vec<&Key> = keys.iter().filter(|k| !controller.reconcile(&snapshot, k, World::now(world)).is_empty()).collect();
        if busy.is_empty() {
            return said;
        }
        for key in busy {
            let (outcome, _) = run_key(world, controller, key);
            said.extend(outcome.happened.into_iter().map(|h| format!("{} {}", h.reason, h.message)));
        }
    }
    panic!("{} does not settle", controller.name());
}

/// Runs controllers by the events that they ask for alone, each after the other, until all is quiet. `lose` says which
/// events nobody hears of.
pub fn follow(world: &World, controllers: &[&dyn Controller], mut lose: impl FnMut(&Event) -> bool) {
    let mut queue: WorkQueue<(usize, Key)> = WorkQueue::default();
    for _ in 0..10_000 {
        let (events, snapshot) = (world.events(), world.snapshot());
        for event in events.iter().filter(|e| !lose(e)) {
            for (i, controller) in controllers.iter().enumerate() {
                controller.keys_for(event, &snapshot).into_iter().for_each(|key| queue.add((i, key)));
            }
        }
        let Some(job) = queue.pop() else { return };
        let (outcome, _) = run_key(world, controllers[job.0], &job.1);
        queue.done(&job);
        if outcome.error.is_some() {
            queue.add(job);
        }
    }
    panic!("the controllers do not come to rest");
}

/// What would still be done, by every key of every controller.
pub fn undone(world: &World, controllers: &[&dyn Controller]) -> Vec<String> {
    let snapshot = world.snapshot();
    let mut undone = Vec::new();
    for controller in controllers {
        for key in controller.all_keys(&snapshot) {
            let plan: Plan = controller.reconcile(&snapshot, &key, World::now(world));
            if !plan.is_empty() {
                undone.push(format!("{} {} {:?}", controller.name(), key.object, key.plural));
            }
        }
    }
    undone
}
