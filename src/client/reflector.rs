//! Reflectors: a list and a watch kept going for ever, over any `Client`.
//!
//! May import: meta, kinds, env, and client's own. A reflector lists once, then follows the watch from that revision; it
//! lists anew only when the server has forgotten the revision. It ends when its reader goes.

use super::{Client, ListOptions, Target, WatchEvent};
use crate::kinds::{Object, ObjectKey};
use crate::meta::{Reason, Status};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// A watch that held this long had nothing wrong with it: what ended it is new.
const HELD: Duration = Duration::from_secs(10);
/// Changes that wait for their reader; beyond that the watch is not read.
const QUEUE: usize = 256;

/// What a reflector brings, in the store's order.
#[derive(Clone, Debug)]
pub enum Change {
    /// Everything there is; what is not among it is gone.
    Reset(Vec<Arc<Object>>),
    Put(Arc<Object>),
    Gone(Arc<Object>),
}

/// Follows a collection; ends when the receiver is dropped. Errors are retried with back-off and logged.
pub fn reflect(client: Arc<dyn Client>, target: Target, options: ListOptions) -> mpsc::Receiver<Change> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        tokio::select! {
            () = follow(&*client, &target, &options, &sender) => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

async fn follow(client: &dyn Client, target: &Target, options: &ListOptions, sender: &mpsc::Sender<Change>) {
    let mut retry = FIRST_RETRY;
    let mut revision = None;
    loop {
        let began = Instant::now();
        let failed = match step(client, target, options, sender, &mut revision).await {
            // A watch that ended in order: go on from where it was, at once.
            Ok(true) => {
                retry = FIRST_RETRY;
                continue;
            }
            Ok(false) => return,
            Err(status) => status,
        };
        if forgotten(&failed) {
            revision = None;
        }
        if began.elapsed() > HELD {
            retry = FIRST_RETRY;
        }
        tracing::debug!(resource = target.resource.names().plural, error = %failed, "watch failed, again in {retry:?}");
        tokio::time::sleep(jitter(retry)).await;
        retry = (retry * 2).min(LAST_RETRY);
    }
}

fn forgotten(status: &Status) -> bool {
    status.code == 410 || status.is(Reason::Expired) || status.is(Reason::Gone)
}

/// Up to a tenth more, so that many readers do not come back as one.
fn jitter(wait: Duration) -> Duration {
    wait + wait.mul_f64(rand::random::<f64>() / 10.0)
}

/// Lists if need be, then reads one watch to its end. False: the reader is gone.
async fn step(
    client: &dyn Client,
    target: &Target,
    options: &ListOptions,
    sender: &mpsc::Sender<Change>,
    revision: &mut Option<i64>,
) -> Result<bool, Status> {
    let from = match *revision {
        Some(revision) => revision,
        None => {
            let list = client.list(target, options).await?;
            if sender.send(Change::Reset(list.items)).await.is_err() {
                return Ok(false);
            }
            *revision.insert(list.revision)
        }
    };
    let from = ListOptions { resource_version: Some(from.to_string()), ..options.clone() };
    let mut events = client.watch(target, &from).await?;
    while let Some(event) = events.recv().await {
        let (at, change) = match event? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object.revision(), Change::Put(object)),
            WatchEvent::Deleted(object) => (object.revision(), Change::Gone(object)),
            WatchEvent::Bookmark(at) => {
                *revision = Some(at);
                continue;
            }
        };
        if sender.send(change).await.is_err() {
            return Ok(false);
        }
        *revision = Some(at);
    }
    Ok(true)
}

type Objects = BTreeMap<ObjectKey, Arc<Object>>;

/// A collection kept in memory by a reflector. Cheap to clone; the reflector ends with the last clone.
#[derive(Clone)]
pub struct Cache {
    objects: Arc<RwLock<Objects>>,
    /// Counts changes; 0 until the first list is there.
    version: watch::Receiver<u64>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl Cache {
    pub fn new(client: Arc<dyn Client>, target: Target, options: ListOptions) -> Self {
        let mut changes = reflect(client, target, options);
        let objects = Arc::new(RwLock::new(Objects::new()));
        let (sender, version) = watch::channel(0);
        let kept = Arc::clone(&objects);
        let task = tokio::spawn(async move {
            while let Some(change) = changes.recv().await {
                apply(&mut kept.write().unwrap_or_else(PoisonError::into_inner), change);
                sender.send_modify(|n| *n += 1);
            }
        });
        Self { objects, version, _task: Arc::new(AbortOnDropHandle::new(task)) }
    }

    /// Waits until the first list is there.
    pub async fn synced(&self) {
        // An error means that the task has ended, which only happens when this cache is dropped.
        let _ = self.version.clone().wait_for(|n| *n > 0).await;
    }

    /// Becomes ready whenever something has changed since the receiver last looked.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Object>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Objects of a namespace, in order of name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<Object>> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        let from = ObjectKey::new(namespace, "");
        objects.range(from..).take_while(|(k, _)| k.namespace == namespace).map(|(_, o)| Arc::clone(o)).collect()
    }

    pub fn all(&self) -> Vec<Arc<Object>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

fn apply(objects: &mut Objects, change: Change) {
    match change {
        Change::Reset(items) => *objects = items.into_iter().map(|o| (o.key(), o)).collect(),
        Change::Put(object) => drop(objects.insert(object.key(), object)),
        Change::Gone(object) => drop(objects.remove(&object.key())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{DeleteOptions, List, PatchType, WatchEvents};
    use crate::kinds::{ConfigMap, Registered};
    use async_trait::async_trait;
    use bytes::Bytes;
    use serde_json::{Value, json};
    use std::sync::Mutex;

    fn config_map(name: &str, revision: i64) -> Arc<Object> {
        let json = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "n", "name": name}});
        crate::kinds::load(ConfigMap::resource(), json.to_string().as_bytes(), revision).unwrap()
    }

    /// Answers lists and watches from scripts, and remembers from where it was asked to watch.
    struct Scripted {
        lists: Mutex<Vec<List>>,
        watches: Mutex<Vec<Vec<Result<WatchEvent, Status>>>>,
        from: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl Client for Scripted {
        async fn list(&self, _: &Target, _: &ListOptions) -> Result<List, Status> {
            self.lists.lock().unwrap().pop().ok_or_else(|| Status::internal("no more lists"))
        }
        async fn watch(&self, _: &Target, options: &ListOptions) -> Result<WatchEvents, Status> {
            self.from.lock().unwrap().push(options.resource_version.clone().unwrap());
            let Some(script) = self.watches.lock().unwrap().pop() else { std::future::pending().await };
            let (sender, receiver) = mpsc::channel(16);
            for event in script {
                sender.send(event).await.unwrap();
            }
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

    #[tokio::test]
    async fn an_ended_watch_goes_on_and_a_forgotten_revision_lists_anew() {
        let client = Arc::new(Scripted {
            lists: Mutex::new(vec![
                List { items: vec![config_map("z", 40)], revision: 50 },
                List { items: vec![config_map("a", 3)], revision: 10 },
            ]),
            watches: Mutex::new(vec![
                vec![Err(Status::expired("too old resource version"))],
                vec![Ok(WatchEvent::Added(config_map("b", 11))), Ok(WatchEvent::Bookmark(20))],
            ]),
            from: Mutex::default(),
        });
        let cache = Cache::new(Arc::clone(&client) as Arc<dyn Client>, Target::collection::<ConfigMap>(None), ListOptions::default());
        cache.synced().await;
        cache.changes().wait_for(|n| *n == 3).await.unwrap();
        // The last watch is asked for only after the list has been handed on.
        while client.from.lock().unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*client.from.lock().unwrap(), ["10", "20", "50"]);
        let names: Vec<_> = cache.in_namespace("n").iter().map(|o| o.key().name).collect();
        assert_eq!(names, ["z"]);
        assert!(cache.in_namespace("m").is_empty() && cache.get(&ObjectKey::new("n", "a")).is_none());
    }
}
