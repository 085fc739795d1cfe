//! ConfigMaps and Secrets that pods of this node refer to: one watch on each, shared by all that use it, ended with the last.

use crate::client::reflector::Cache;
use crate::client::{Client, ListOptions, Target};
use crate::kinds::{ConfigMap, Object, ObjectKey, Registered, Secret};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// How long a pod waits for the first answer about what it refers to, before it says so and tries again.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    ConfigMap,
    Secret,
}

/// Objects that a pod refers to, as they were when fetched.
#[derive(Clone, Debug, Default)]
pub struct Fetched(BTreeMap<(SourceKind, String), Arc<Object>>);

impl Fetched {
    pub fn get(&self, kind: SourceKind, name: &str) -> Option<&Arc<Object>> {
        self.0.get(&(kind, name.to_owned()))
    }
    pub fn insert(&mut self, kind: SourceKind, name: &str, object: Arc<Object>) {
        self.0.insert((kind, name.to_owned()), object);
    }
}

type Key = (SourceKind, ObjectKey);

struct Watched {
    cache: Cache,
    key: ObjectKey,
}

/// A claim on one object's watch.
#[derive(Clone)]
pub struct Source(Arc<Watched>);

impl Source {
    pub fn get(&self) -> Option<Arc<Object>> {
        self.0.cache.get(&self.0.key)
    }
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.cache.changes()
    }
}

/// The watches of a node.
#[derive(Clone)]
pub struct Sources {
    client: Arc<dyn Client>,
    watched: Arc<Mutex<HashMap<Key, Weak<Watched>>>>,
}

impl Sources {
    pub fn new(client: Arc<dyn Client>) -> Self {
        Self { client, watched: Arc::default() }
    }

    /// The watch on an object, begun if this is the first claim.
    pub fn claim(&self, kind: SourceKind, namespace: &str, name: &str) -> Source {
        let key = ObjectKey::new(namespace, name);
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = watched.get(&(kind, key.clone())).and_then(Weak::upgrade) {
            return Source(found);
        }
        watched.retain(|_, w| w.strong_count() > 0);
        let collection = match kind {
            SourceKind::ConfigMap => Target { resource: ConfigMap::resource(), ..Target::collection::<ConfigMap>(Some(namespace)) },
            SourceKind::Secret => Target { resource: Secret::resource(), ..Target::collection::<Secret>(Some(namespace)) },
        };
        let options = ListOptions { field_selector: Some(format!("metadata.name={name}")), ..ListOptions::default() };
        let cache = Cache::new(Arc::clone(&self.client), collection, options);
        let source = Arc::new(Watched { cache, key: key.clone() });
        watched.insert((kind, key), Arc::downgrade(&source));
        Source(source)
    }
}

/// The sources that one pod claims, kept as long as it is here.
#[derive(Clone, Default)]
pub struct Claims(BTreeMap<(SourceKind, String), Source>);

impl Claims {
    pub fn new(sources: &Sources, namespace: &str, names: impl IntoIterator<Item = (SourceKind, String)>) -> Self {
        Self(names.into_iter().map(|(kind, name)| ((kind, name.clone()), sources.claim(kind, namespace, &name))).collect())
    }

    /// All that exist of them.
    ///
    /// # Errors
    /// The API has not answered in time.
    pub async fn fetch(&self) -> Result<Fetched, String> {
        for ((_, name), source) in &self.0 {
            let synced = tokio::time::timeout(FIRST_ANSWER, source.0.cache.synced()).await;
            synced.map_err(|_| format!("failed to sync {name} cache: timed out waiting for the condition"))?;
        }
        let found = self.0.iter().filter_map(|(key, source)| Some((key.clone(), source.get()?)));
        Ok(Fetched(found.collect()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until any of them changes after `seen`, which is brought up to date.
    pub async fn changed(&self, seen: &mut Vec<watch::Receiver<u64>>) {
        if seen.is_empty() {
            seen.extend(self.0.values().map(Source::changes));
            for receiver in seen.iter_mut() {
                receiver.mark_unchanged();
            }
        }
        if seen.is_empty() {
            return std::future::pending().await;
        }
        let waits = seen.iter_mut().map(|r| Box::pin(r.changed()));
        // An error means that the watch has ended, which a claim prevents.
        let _ = futures::future::select_all(waits).await;
    }
}
