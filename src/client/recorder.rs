//! Records Events (core/v1) the way client-go does: the same Event again raises a count, many similar ones become one
//! "(combined from similar events)", and one object's flood from one component is cut off.
//!
//! May import: meta, kinds, env. Recording never blocks and never fails its caller; the writer works behind a bounded
//! queue.

use super::{Client, PatchType, Target};
use crate::env::Clock;
use crate::kinds::{AnyObject, Event};
use crate::meta::{ObjectMeta, Reason, Status, time};
use bytes::Bytes;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Events that wait to be written; beyond it new ones are dropped.
const QUEUE: usize = 1024;
/// Subjects that are remembered.
const REMEMBERED: usize = 4096;
/// Different messages of one reason about one object before they are combined, within the interval.
const SIMILAR: usize = 10;
const SIMILAR_INTERVAL_S: f64 = 600.0;
/// What one component may say about one object: at once, and a second.
const BURST: f64 = 25.0;
const REFILL_PER_S: f64 = 1.0 / 300.0;

/// An Event to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// `kubelet`, `default-scheduler`…
    pub component: &'static str,
    /// The node that speaks; empty for components of a master.
    pub host: String,
    pub about: api::ObjectReference,
    pub warning: bool,
    pub reason: String,
    pub message: String,
}

impl Record {
    fn subject(&self) -> String {
        let o = &self.about;
        let parts = [&o.kind, &o.namespace, &o.name, &o.uid, &o.api_version, &o.field_path];
        let about: Vec<&str> = parts.iter().map(|p| p.as_deref().unwrap_or_default()).collect();
        format!("{}\0{}\0{}\0{}", self.component, self.host, about.join("\0"), self.warning)
    }
}

/// Takes Events and has them written in the background. Cheap to clone; the writer ends with the last clone.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Record>,
}

impl Recorder {
    /// Starts the writer on the present runtime.
    pub fn start(client: Arc<dyn Client>, clock: Arc<dyn Clock>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(write_all(client, clock, receiver));
        Self { sender }
    }

    pub fn record(&self, record: Record) {
        if let Err(error) = self.sender.try_send(record) {
            tracing::warn!("an Event is lost: {error}");
        }
    }
}

async fn write_all(client: Arc<dyn Client>, clock: Arc<dyn Clock>, mut receiver: mpsc::Receiver<Record>) {
    let mut correlator = Correlator::default();
    while let Some(record) = receiver.recv().await {
        let now = clock.now();
        let Some((key, event)) = correlator.correlate(&record, now) else { continue };
        if let Err(error) = write(&*client, &event).await {
            // As client-go: an Event that cannot be written is given up, whatever the reason.
            tracing::debug!(reason = record.reason, "an Event could not be written: {error}");
            correlator.forget(&key);
        }
    }
}

async fn write(client: &dyn Client, event: &api::Event) -> Result<(), Status> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
    if event.count.unwrap_or(1) > 1 {
        let name = event.metadata.name.as_deref().unwrap_or_default();
        let patch = serde_json::json!({"count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message});
        match client.patch(&Target::object::<Event>(namespace, name), PatchType::Merge, Bytes::from(patch.to_string())).await {
            Err(error) if error.is(Reason::NotFound) => {}
            other => return other.map(|_| ()),
        }
    }
    client.create(&Target::collection::<Event>(Some(namespace)), event.to_value()).await.map(|_| ())
}

/// Entries in the order of their first use; the oldest go when there are too many.
struct Remembered<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K: Clone + Eq + Hash, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Clone + Eq + Hash, V> Remembered<K, V> {
    fn entry(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(&key) {
            if self.order.len() >= REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.map.entry(key).or_insert_with(new)
    }
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Similar {
    messages: HashSet<String>,
    at: Timestamp,
}

/// How often an Event was seen, and under what name and since when.
#[derive(Default)]
struct Seen {
    count: i32,
    name: String,
    first: Option<Timestamp>,
}

/// What client-go calls the EventCorrelator.
#[derive(Default)]
struct Correlator {
    buckets: Remembered<String, Bucket>,
    similar: Remembered<String, Similar>,
    seen: Remembered<String, Seen>,
}

impl Correlator {
    /// The Event to write and the key under which it is counted; None if the subject has used up its allowance.
    fn correlate(&mut self, record: &Record, now: Timestamp) -> Option<(String, api::Event)> {
        let subject = record.subject();
        let reason = format!("{subject}\0{}", record.reason);
        let similar = self.similar.entry(reason.clone(), || Similar { messages: HashSet::new(), at: now });
        if seconds_between(similar.at, now) > SIMILAR_INTERVAL_S {
            similar.messages.clear();
        }
        similar.at = now;
        similar.messages.insert(record.message.clone());
        let (key, message) = if similar.messages.len() < SIMILAR {
            (format!("{reason}\0{}", record.message), record.message.clone())
        } else {
            similar.messages.remove(&record.message);
            (reason, format!("(combined from similar events): {}", record.message))
        };
        let bucket = self.buckets.entry(subject, || Bucket { tokens: BURST, at: now });
        bucket.tokens = (bucket.tokens + seconds_between(bucket.at, now).max(0.0) * REFILL_PER_S).min(BURST);
        bucket.at = now;
        let seen = self.seen.entry(key.clone(), Seen::default);
        if seen.count == 0 {
            let name = record.about.name.as_deref().unwrap_or_default();
            *seen = Seen { count: 0, name: format!("{name}.{:x}", now.as_nanosecond()), first: Some(now) };
        }
        seen.count = seen.count.saturating_add(1);
        if bucket.tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;
        let event = event_of(record, message, seen, now);
        Some((key, event))
    }

    fn forget(&mut self, key: &str) {
        if let Some(seen) = self.seen.map.get_mut(key) {
            seen.count = 0;
        }
    }
}

fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

fn event_of(record: &Record, message: String, seen: &Seen, now: Timestamp) -> api::Event {
    let namespace = record.about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
    let host = Some(record.host.clone()).filter(|h| !h.is_empty());
    api::Event {
        metadata: ObjectMeta { name: Some(seen.name.clone()), namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: record.about.clone(),
        type_: Some(if record.warning { "Warning" } else { "Normal" }.into()),
        reason: Some(record.reason.clone()),
        message: Some(message),
        count: Some(seen.count),
        first_timestamp: seen.first.map(time::seconds),
        last_timestamp: Some(time::seconds(now)),
        source: Some(api::EventSource { component: Some(record.component.into()), host: host.clone() }),
        reporting_component: Some(record.component.into()),
        reporting_instance: Some(host.unwrap_or_default()),
        ..api::Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str) -> Record {
        let about = api::ObjectReference { kind: Some("ReplicaSet".into()), name: Some("web".into()), ..Default::default() };
        let (reason, message) = ("SuccessfulCreate".into(), message.into());
        Record { component: "replicaset-controller", host: String::new(), about, warning: false, reason, message }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn the_same_event_counts_up_under_one_name() {
        let mut c = Correlator::default();
        let (_, first) = c.correlate(&record("a"), at(1)).unwrap();
        let (_, second) = c.correlate(&record("a"), at(5)).unwrap();
        assert_eq!((first.count, second.count), (Some(1), Some(2)));
        assert_eq!(first.metadata.name, second.metadata.name);
        assert_eq!(second.first_timestamp, Some(time::seconds(at(1))));
        assert_eq!(second.last_timestamp, Some(time::seconds(at(5))));
        assert_eq!(first.metadata.namespace.as_deref(), Some("default"));
    }

    #[test]
    fn ten_similar_events_are_combined_and_a_flood_is_cut_off() {
        let mut c = Correlator::default();
        let written: Vec<_> = (0..40).filter_map(|i| c.correlate(&record(&format!("Created pod: {i}")), at(1))).collect();
        assert_eq!(written.len(), 25);
        assert_eq!(written[8].1.message.as_deref(), Some("Created pod: 8"));
        assert_eq!(written[9].1.message.as_deref(), Some("(combined from similar events): Created pod: 9"));
        assert_eq!(written[24].1.count, Some(16));
        assert!(c.correlate(&record("later"), at(290)).is_none());
        assert!(c.correlate(&record("later"), at(310)).is_some());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut r: Remembered<usize, usize> = Remembered::default();
        for i in 0..REMEMBERED * 2 {
            r.entry(i, || i);
        }
        assert_eq!((r.map.len(), r.order.len()), (REMEMBERED, REMEMBERED));
    }
}
