//! Does all IO of the scheduler: takes events, decides, binds, and says why a pod found no node.
//!
//! May import: everything of the scheduler, watch, client, env. Invariants: a pod is bound by one call at a time, and
//! counts as placed from the decision on; decisions follow one another, bindings overlap.

use super::cluster::Cluster;
use super::cycle::schedule;
use super::queue::Queue;
use super::wanted::{SCHEDULER_NAME, Wanted, is_waiting};
use crate::client::{Client, PatchType, Record, Recorder, Target};
use crate::env::Clock;
use crate::kinds::{Pod, Ref};
use crate::meta::{Reason, Status, time};
use crate::watch::{Change, Event, Feed, Snapshot};
use bytes::Bytes;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The most calls under way at once.
const CONCURRENT_CALLS: usize = 256;
/// An Event's note may be this long.
const NOTE_MAX: usize = 1024;
/// How long to wait for a timer when none is due.
const IDLE: Duration = Duration::from_secs(3600);

/// What came of a call.
enum Done {
    Bound { wanted: Wanted, node: String, result: Result<(), Status> },
    Explained(Result<(), Status>),
}

/// Finds nodes for pods until `shutdown`, or until the feed ends.
pub async fn run(feed: Arc<dyn Feed>, client: Arc<dyn Client>, clock: Arc<dyn Clock>, shutdown: CancellationToken) {
    let recorder = Recorder::start(client.clone(), clock.clone());
    let (cluster, queue, calls) = (Cluster::default(), Queue::default(), JoinSet::new());
    Driver { feed, client, clock, recorder, cluster, queue, calls }.run(shutdown).await;
}

struct Driver {
    feed: Arc<dyn Feed>,
    client: Arc<dyn Client>,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
    cluster: Cluster,
    queue: Queue,
    calls: JoinSet<Done>,
}

impl Driver {
    async fn run(mut self, shutdown: CancellationToken) {
        let (snapshot, mut events) = self.feed.subscribe();
        self.resync(&snapshot);
        loop {
            let now = self.clock.now();
            self.queue.wake(now);
            self.decide();
            let sleep = self.queue.next_due().map_or(IDLE, |at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                batch = events.next() => match batch {
                    Ok(Some(batch)) => batch.iter().for_each(|e| self.take(e)),
                    Ok(None) => break,
                    Err(lagged) => {
                        tracing::info!("scheduler: {lagged}; looking at everything anew");
                        let (snapshot, anew) = self.feed.subscribe();
                        events = anew;
                        self.resync(&snapshot);
                    }
                },
                Some(done) = self.calls.join_next() => match done {
                    Ok(done) => self.finish(done),
                    Err(error) => tracing::error!("a call of the scheduler failed: {error}"),
                },
                () = tokio::time::sleep(sleep) => {}
            }
        }
        self.calls.shutdown().await;
    }

    /// Starts over from a snapshot; what was decided and is not yet seen still counts.
    fn resync(&mut self, snapshot: &Snapshot) {
        let assumed = self.cluster.assumed();
        self.cluster = Cluster::of(snapshot);
        for (wanted, node) in assumed {
            let key = wanted.pod.object().key();
            let there = snapshot.get::<Pod>(&key.namespace, &key.name).is_some_and(|p| p.object().uid() == wanted.uid());
            if there && !self.cluster.is_placed(wanted.uid()) {
                self.cluster.assume(wanted, &node);
            }
        }
        self.queue.retain(|w| {
            let key = w.pod.object().key();
            snapshot.get::<Pod>(&key.namespace, &key.name).is_some_and(|p| p.object().uid() == w.uid() && is_waiting(&p))
        });
        let waiting = snapshot.list::<Pod>(None).filter(|p| is_waiting(p) && !self.cluster.is_placed(p.object().uid()));
        for pod in waiting.collect::<Vec<_>>() {
            self.queue.add(Wanted::new(pod));
        }
        self.queue.help_all();
    }

    fn take(&mut self, event: &Event) {
        if self.cluster.take(event) {
            self.queue.help_all();
        }
        let Some(pod) = Ref::<Pod>::new(event.object.clone()) else { return };
        if let Some(before) = event.previous.as_ref().filter(|p| p.uid() != event.object.uid()) {
            self.queue.remove(before.uid());
        }
        let uid = event.object.uid();
        if event.change == Change::Deleted || !is_waiting(&pod) {
            self.queue.remove(uid);
        } else if !self.cluster.is_placed(uid) {
            // A change of the status alone, our own above all, gives no reason to try again.
            let before = event.previous.as_ref().and_then(|o| o.get::<Pod>());
            let changed = before.is_none_or(|b| b.spec != pod.spec || b.metadata.labels != pod.metadata.labels);
            if changed || !self.queue.contains(uid) {
                self.queue.add(Wanted::new(pod));
            } else {
                self.queue.refresh(Wanted::new(pod));
            }
        }
    }

    fn decide(&mut self) {
        while self.calls.len() < CONCURRENT_CALLS
            && let Some(wanted) = self.queue.pop()
        {
            match schedule(&self.cluster, &wanted) {
                Ok(node) => self.bind(wanted, node),
                Err(why) => self.explain(&wanted, &why),
            }
        }
    }

    fn bind(&mut self, wanted: Wanted, node: String) {
        self.cluster.assume(wanted.clone(), &node);
        let client = self.client.clone();
        self.calls.spawn(async move {
            let result = bind(&*client, &wanted, &node).await;
            Done::Bound { wanted, node, result }
        });
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Bound { wanted, node, result: Ok(()) } => {
                self.queue.remove(wanted.uid());
                let key = wanted.pod.object().key();
                let text = format!("Successfully assigned {}/{} to {node}", key.namespace, key.name);
                self.record(&wanted, false, "Scheduled", text);
            }
            Done::Bound { wanted, node, result: Err(error) } => {
                self.cluster.forget(wanted.uid());
                self.queue.help_all();
                if error.is(Reason::NotFound) {
                    self.queue.remove(wanted.uid());
                    return;
                }
                tracing::info!(pod = %wanted.pod.object().key(), node, "binding failed: {error}");
                self.queue.retry(wanted.uid(), self.clock.now());
                self.record(&wanted, true, "FailedScheduling", format!("binding rejected: {error}"));
            }
            Done::Explained(Ok(())) => {}
            Done::Explained(Err(error)) => tracing::info!("a pod's condition could not be written: {error}"),
        }
    }

    /// Parks a pod that found no node, and says why on its condition and in an Event.
    fn explain(&mut self, wanted: &Wanted, why: &str) {
        let now = self.clock.now();
        self.queue.park(wanted.uid(), now);
        let note = if why.len() <= NOTE_MAX { why.to_owned() } else { format!("{} ...", cut(why, NOTE_MAX - 4)) };
        self.record(wanted, true, "FailedScheduling", note);
        let present = wanted.pod.status.as_ref().and_then(|s| s.conditions.as_ref()?.iter().find(|c| c.type_ == "PodScheduled"));
        let Some(condition) = unschedulable(present, &wanted.pod, why, now) else { return };
        let (client, pod) = (self.client.clone(), wanted.pod.clone());
        self.calls.spawn(async move {
            let body = json!({"metadata": {"uid": pod.object().uid()}, "status": {"conditions": [condition]}});
            let target = target(&pod).sub("status");
            let result = client.patch(&target, PatchType::Strategic, Bytes::from(body.to_string())).await;
            let gone = |e: &Status| e.is(Reason::NotFound) || e.is(Reason::Conflict);
            Done::Explained(result.map(|_| ()).or_else(|e| if gone(&e) { Ok(()) } else { Err(e) }))
        });
    }

    fn record(&self, wanted: &Wanted, warning: bool, reason: &str, message: String) {
        let meta = &wanted.pod.metadata;
        let about = core::ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: None,
        };
        let (component, reason) = (SCHEDULER_NAME, reason.to_owned());
        self.recorder.record(Record { component, host: String::new(), about, warning, reason, message });
    }
}

/// The longest prefix of at most `most` bytes.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    &text[..end]
}

fn target(pod: &Ref<Pod>) -> Target {
    let key = pod.object().key();
    Target::object::<Pod>(&key.namespace, &key.name)
}

async fn bind(client: &dyn Client, wanted: &Wanted, node: &str) -> Result<(), Status> {
    let meta = &wanted.pod.metadata;
    let body = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        "target": {"kind": "Node", "name": node},
    });
    client.post(&target(&wanted.pod).sub("binding"), body).await.map(|_| ())
}

/// The condition that tells why; None if the pod says so already.
fn unschedulable(present: Option<&core::PodCondition>, pod: &core::Pod, why: &str, now: k8s_openapi::jiff::Timestamp) -> Option<Value> {
    let same =
        |c: &&core::PodCondition| c.status == "False" && c.reason.as_deref() == Some("Unschedulable") && c.message.as_deref() == Some(why);
    if present.filter(same).is_some() {
        return None;
    }
    let kept = present.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let condition = core::PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(why.into()),
        last_transition_time: Some(kept.unwrap_or_else(|| time::seconds(now))),
        observed_generation: pod.metadata.generation,
        last_probe_time: None,
    };
    Some(serde_json::to_value(condition).expect("a condition is plain JSON"))
}
