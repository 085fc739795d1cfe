//! Does all IO of the controllers: takes events, queues keys, carries plans out, records Events.
//!
//! May import: everything of the controllers, watch, client, env. Invariants: one key never runs twice at a time, nor
//! before the snapshot shows what its last run wrote; a key that failed runs again with back-off; after missed events
//! every key runs.

pub mod execute;

use super::plan::{Controller, Key};
use super::queue::WorkQueue;
use crate::client::{Client, Record, Recorder};
use crate::env::Clock;
use crate::meta::{Reason, Status};
use crate::watch::{Event, Feed, Snapshot};
use execute::{Await, Outcome, execute};
use k8s_openapi::jiff::Timestamp;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// The most keys that run at once.
const CONCURRENT_KEYS: usize = 64;
/// How long to wait for a timer when none is due.
const IDLE: Duration = Duration::from_secs(3600);

/// A key of the controller with this number.
type Job = (usize, Key);

/// What a run of a key came to.
struct Ran {
    outcome: Outcome,
    requeue_at: Option<Timestamp>,
}

/// Runs the controllers until `shutdown`, or until the feed ends.
pub async fn run(
    feed: Arc<dyn Feed>,
    client: Arc<dyn Client>,
    clock: Arc<dyn Clock>,
    options: super::Options,
    shutdown: CancellationToken,
) {
    let recorder = Recorder::start(client.clone(), clock.clone());
    let controllers = super::all(&options, clock.now()).into();
    let driver = Driver {
        feed,
        client,
        clock,
        recorder,
        controllers,
        queue: WorkQueue::default(),
        awaits: HashMap::new(),
        held: Vec::new(),
        running: JoinSet::new(),
        jobs: HashMap::new(),
    };
    driver.run(shutdown).await;
}

struct Driver {
    feed: Arc<dyn Feed>,
    client: Arc<dyn Client>,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
    controllers: Arc<[Box<dyn Controller>]>,
    queue: WorkQueue<Job>,
    /// What a key's last run wrote, until a snapshot shows it.
    awaits: HashMap<Job, Await>,
    /// Keys that want to run but whose writes the snapshot does not show yet.
    held: Vec<Job>,
    running: JoinSet<Ran>,
    jobs: HashMap<Id, Job>,
}

impl Driver {
    async fn run(mut self, shutdown: CancellationToken) {
        let (snapshot, mut events) = self.feed.subscribe();
        self.resync(&snapshot);
        loop {
            let now = self.clock.now();
            self.queue.wake(now);
            self.start_ready(now);
            let sleep = self.queue.next_due().map_or(IDLE, |at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                batch = events.next() => match batch {
                    Ok(Some(batch)) => self.take(&batch),
                    Ok(None) => break,
                    Err(lagged) => {
                        tracing::info!("controllers: {lagged}; looking at everything anew");
                        let (snapshot, anew) = self.feed.subscribe();
                        events = anew;
                        self.resync(&snapshot);
                    }
                },
                Some(done) = self.running.join_next_with_id() => self.finish(done),
                () = tokio::time::sleep(sleep) => {}
            }
        }
        // What is under way ends by the deadline of its call; a write cut off half way is carried on at the next start.
        self.running.shutdown().await;
    }

    fn resync(&mut self, snapshot: &Snapshot) {
        let now = self.clock.now();
        for i in 0..self.controllers.len() {
            for key in self.controllers[i].all_keys(snapshot) {
                self.want(i, key, now);
            }
        }
        self.release(snapshot);
    }

    fn want(&mut self, controller: usize, key: Key, now: Timestamp) {
        let settle = self.controllers[controller].settle();
        if settle.is_zero() {
            self.queue.add((controller, key));
        } else {
            self.queue.add_at((controller, key), now + settle);
        }
    }

    fn take(&mut self, batch: &[Event]) {
        let (snapshot, now) = (self.feed.snapshot(), self.clock.now());
        for event in batch {
            for i in 0..self.controllers.len() {
                for key in self.controllers[i].keys_for(event, &snapshot) {
                    self.want(i, key, now);
                }
            }
        }
        self.release(&snapshot);
    }

    /// Lets held keys try again, and forgets what no longer holds any: the snapshot has moved.
    fn release(&mut self, snapshot: &Snapshot) {
        self.awaits.retain(|_, a| !a.is_met(snapshot));
        for job in std::mem::take(&mut self.held) {
            self.queue.add(job);
        }
    }

    fn start_ready(&mut self, now: Timestamp) {
        if self.running.len() >= CONCURRENT_KEYS {
            return;
        }
        let snapshot = self.feed.snapshot();
        while self.running.len() < CONCURRENT_KEYS
            && let Some(job) = self.queue.pop()
        {
            if self.awaits.get(&job).is_some_and(|a| !a.is_met(&snapshot)) {
                self.queue.done(&job);
                self.held.push(job);
                continue;
            }
            self.awaits.remove(&job);
            self.start(job, snapshot.clone(), now);
        }
    }

    fn start(&mut self, job: Job, snapshot: Snapshot, now: Timestamp) {
        let (controllers, client) = (self.controllers.clone(), self.client.clone());
        let (number, key) = job.clone();
        let handle = self.running.spawn(async move {
            let plan = controllers[number].reconcile(&snapshot, &key, now);
            drop(snapshot);
            let requeue_at = plan.requeue_at;
            Ran { outcome: execute(&*client, plan).await, requeue_at }
        });
        self.jobs.insert(handle.id(), job);
    }

    fn finish(&mut self, done: Result<(Id, Ran), JoinError>) {
        let now = self.clock.now();
        let (id, ran) = match done {
            Ok((id, ran)) => (id, Some(ran)),
            Err(error) => {
                tracing::error!("a controller failed: {error}");
                (error.id(), None)
            }
        };
        let Some(job) = self.jobs.remove(&id) else { return };
        self.queue.done(&job);
        let Some(Ran { outcome, requeue_at }) = ran else {
            self.queue.add_failed(job, now);
            return;
        };
        let component = self.controllers[job.0].name();
        for h in outcome.happened {
            let (reason, host) = (h.reason.to_owned(), String::new());
            self.recorder.record(Record { component, host, about: h.about, warning: h.warning, reason, message: h.message });
        }
        self.awaits.insert(job.clone(), outcome.awaits);
        match outcome.error {
            None => {
                self.queue.succeeded(&job);
                if let Some(at) = requeue_at {
                    self.queue.add_at(job, at);
                }
            }
            Some(error) => {
                report(component, &job.1, &error);
                self.queue.add_failed(job, now);
            }
        }
    }
}

/// Conflicts are every day's work; the rest deserves a look.
fn report(component: &str, key: &Key, error: &Status) {
    if error.is(Reason::Conflict) {
        tracing::debug!(component, key = %key.object, "{error}");
    } else {
        tracing::warn!(component, key = %key.object, "{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::testing::World;
    use crate::kinds::{ConfigMap, Deployment, Namespace, Pod, ReplicaSet, Service, ServiceAccount};
    use serde_json::json;

    fn options() -> crate::controllers::Options {
        crate::controllers::Options {
            root_ca_pem: "PEM".into(),
            kubernetes_service_ip: "10.96.0.1".parse().unwrap(),
            masters: vec!["192.0.2.1".parse().unwrap()],
            api_port: 6443,
            pod_network: ("10.244.0.0".parse().unwrap(), 16),
            node_prefix: 23,
        }
    }

    async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        for _ in 0..500 {
            if is_so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 5 s: {what}");
    }

    #[tokio::test]
    async fn a_cluster_comes_up_and_a_deployment_gets_its_pods_and_no_more() {
        let world = World::new();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(world.clone(), world.clone(), world.clone(), options(), shutdown.clone()));
        until("the system namespaces", || world.all::<Namespace>().len() == 4).await;
        until("default service accounts and CAs", || world.all::<ServiceAccount>().len() == 4 && world.all::<ConfigMap>().len() == 4).await;
        until("default/kubernetes", || world.get::<Service>("default", "kubernetes").is_some()).await;
        world.put::<Deployment>(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {
            "replicas": 40, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}}}}));
        until("40 pods", || world.all::<Pod>().len() >= 40).await;
        until("the set's status", || world.all::<ReplicaSet>()[0].status.as_ref().is_some_and(|s| s.replicas == 40)).await;
        until("Events", || !world.all::<crate::kinds::Event>().is_empty()).await;
        assert_eq!((world.all::<Pod>().len(), world.all::<ReplicaSet>().len()), (40, 1));
        shutdown.cancel();
        task.await.unwrap();
    }
}
