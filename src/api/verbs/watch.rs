//! watch: what the cache tells, relative to the selectors. No task of its own: the cache's task writes into the channel
//! that the request reads.

use super::Verbs;
use super::filter::Filter;
use super::list::{objects, parse_revision};
use crate::api::requests::{WatchQuery, Watched};
use crate::client::Target;
use crate::kinds::{Object, ObjectKey, Resource};
use crate::meta::{FieldErrors, FieldPath, Status};
use crate::watch::{Change, Record, Scope, Sink, Snapshot, cache, keys};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Events that a watcher may lag behind; one that falls further behind is ended and resumes where it was.
const BUFFER: usize = 1024;

/// What a watch delivers, in order; it ends after an `Err`, or when the reader is too slow.
pub type Receiver = mpsc::Receiver<Result<Watched, Status>>;

impl Verbs {
    /// Events through a bounded channel; after `Err` it ends. A revision that is too old is such an `Err` (410).
    ///
    /// # Errors
    /// 400 and 422 for a query that makes no sense, 504 for a revision that has not come to be.
    pub async fn watch(&self, target: &Target, query: WatchQuery) -> Result<Receiver, Status> {
        validate(&query)?;
        let filter = Filter::parse(target.resource, &query.label_selector, &query.field_selector)?;
        let asked = parse_revision(&query.resource_version)?;
        let after = asked.filter(|revision| *revision > 0 && !query.send_initial_events);
        if after.is_none() {
            // What is there is sent first: it must be as new as was asked for.
            self.view(&query.resource_version).await?;
        }
        let stored = keys::stored(target.resource);
        let scope = scope(target, &filter);
        let mut receiver = None;
        let opened = self.cache.watch(stored, scope, after, |snapshot, changes| {
            let (sink, own) = open(target, filter, &query, after, snapshot, &changes);
            receiver = Some(own);
            sink.map(|s| Box::new(s) as Box<dyn Sink>)
        });
        if let Err(too_old) = opened {
            return Ok(refused(Status::expired(too_old.to_string())));
        }
        receiver.ok_or_else(|| Status::internal("the watch was not opened"))
    }
}

fn refused(status: Status) -> Receiver {
    let (sender, receiver) = mpsc::channel(1);
    // The channel is new and has room.
    let _room = sender.try_send(Err(status));
    receiver
}

fn scope(target: &Target, filter: &Filter) -> Scope {
    let name = target.name.as_deref().or_else(|| filter.name());
    match (&target.namespace, name) {
        (Some(namespace), Some(name)) => Scope::Object(ObjectKey::new(namespace.as_str(), name)),
        (None, Some(name)) if !target.resource.names().namespaced => Scope::Object(ObjectKey::new("", name)),
        (Some(namespace), None) => Scope::Namespace(namespace.clone()),
        (None, _) => Scope::Everything,
    }
}

/// Makes the channel, with room for what is there already, and puts that in.
fn open(
    target: &Target,
    filter: Filter,
    query: &WatchQuery,
    after: Option<i64>,
    snapshot: &Snapshot,
    changes: &[Arc<Record>],
) -> (Option<ApiSink>, Receiver) {
    let stored = keys::stored(target.resource);
    let view = (stored.names() != target.resource.names()).then_some(target.resource);
    let initial: Vec<Arc<Object>> = match (after, scope(target, &filter)) {
        (Some(_), _) => Vec::new(),
        // One object need not be looked for among all.
        (None, Scope::Object(key)) => cache::object_of(snapshot, target.resource, &key).into_iter().filter(|o| filter.matches(o)).collect(),
        (None, _) => objects(snapshot, target).filter(|o| wanted(target, o) && filter.matches(o)).collect(),
    };
    let (sender, receiver) = mpsc::channel(initial.len() + changes.len() + BUFFER);
    let mut sink =
        ApiSink { sender, filter, view, namespace: target.namespace.clone(), after: after.unwrap_or(0), bookmarks: query.allow_bookmarks };
    let mut open = initial.into_iter().all(|object| sink.send(Watched::Added(object)));
    if query.send_initial_events && query.allow_bookmarks {
        open &= sink.send(Watched::Bookmark { revision: snapshot.revision(), initial_events_end: true });
    }
    open &= changes.iter().all(|record| sink.change(record));
    sink.after = sink.after.max(snapshot.revision());
    (open.then_some(sink), receiver)
}

fn wanted(target: &Target, object: &Object) -> bool {
    target.name.as_deref().is_none_or(|name| object.meta().name.as_deref() == Some(name))
}

struct ApiSink {
    sender: mpsc::Sender<Result<Watched, Status>>,
    filter: Filter,
    /// The resource to show objects as, if it is not the stored one.
    view: Option<&'static dyn Resource>,
    namespace: Option<String>,
    /// Changes up to here are not for this watcher: it has them, or asked not to have them.
    after: i64,
    bookmarks: bool,
}

impl ApiSink {
    fn send(&mut self, watched: Watched) -> bool {
        match self.sender.try_send(Ok(watched)) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                tracing::debug!("a watcher is too slow and is ended");
                false
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }

    /// What the change means to this watcher; None: nothing.
    fn translate(&self, record: &Record) -> Option<Watched> {
        let event = record.event();
        let (object, previous) = match self.view {
            None => (&event.object, event.previous.as_ref()),
            Some(view) => {
                let viewed = record.viewed(view);
                (viewed.object.as_ref()?, viewed.previous.as_ref())
            }
        };
        let was = previous.is_some_and(|p| self.filter.matches(p));
        if event.change == Change::Deleted {
            return was.then(|| Watched::Deleted(object.clone()));
        }
        match (was, self.filter.matches(object)) {
            (false, true) => Some(Watched::Added(object.clone())),
            (true, true) => Some(Watched::Modified(object.clone())),
            (true, false) => self.departed(record).map(Watched::Deleted),
            (false, false) => None,
        }
    }

    fn departed(&self, record: &Record) -> Option<Arc<Object>> {
        let Some(view) = self.view else { return record.departed().cloned() };
        let previous = record.viewed(view).previous.as_ref()?;
        Some(Arc::new(Object::new(view, previous.any().clone_box(), record.revision())))
    }
}

impl Sink for ApiSink {
    fn change(&mut self, record: &Arc<Record>) -> bool {
        let own = record.event().object.meta().namespace.as_deref();
        if record.revision() <= self.after || self.namespace.as_deref().is_some_and(|ns| own != Some(ns)) {
            return !self.sender.is_closed();
        }
        match self.translate(record) {
            Some(watched) => self.send(watched),
            None => !self.sender.is_closed(),
        }
    }

    fn progress(&mut self, revision: i64) -> bool {
        if !self.bookmarks || revision <= self.after {
            return !self.sender.is_closed();
        }
        self.send(Watched::Bookmark { revision, initial_events_end: false })
    }
}

fn validate(query: &WatchQuery) -> Result<(), Status> {
    let (path, asked) = (FieldPath::new("resourceVersionMatch"), query.resource_version_match.as_str());
    let mut errors = FieldErrors::default();
    if query.send_initial_events && asked != "NotOlderThan" {
        errors.forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if !asked.is_empty() {
        if !query.send_initial_events {
            errors.forbidden(&path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if asked != "NotOlderThan" {
            errors.not_supported(&path, asked, &["NotOlderThan"]);
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}
