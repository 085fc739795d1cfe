//! Carries a plan out through the client.
//!
//! May import: the controllers' plan, client.

use super::super::plan::{Action, Change, Deletion, Note, Place, Plan, Text};
use crate::client::{Client, DeleteOptions, PatchType, Target};
use crate::kinds::Object;
use crate::meta::Status;
use crate::watch::Snapshot;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::Value;
use std::sync::Arc;

/// The most writes of one plan that are under way at once.
const CONCURRENT_WRITES: usize = 64;

/// An Event that the outcome of an action deserves.
#[derive(Clone, Debug, PartialEq)]
pub struct Happened {
    pub about: ObjectReference,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

/// What a snapshot must show before the key may run again: its own writes.
#[derive(Clone, Default)]
pub struct Await {
    revision: i64,
    deleted: Vec<(Place, String)>,
}

impl Await {
    /// True if `snapshot` contains everything that was written.
    pub fn is_met(&self, snapshot: &Snapshot) -> bool {
        snapshot.revision() >= self.revision
            && self.deleted.iter().all(|(place, uid)| {
                let object = snapshot.object(place.resource, &place.key());
                object.is_none_or(|o| o.uid() != uid || o.meta().deletion_timestamp.is_some())
            })
    }
}

/// How a plan went.
#[derive(Default)]
pub struct Outcome {
    pub awaits: Await,
    pub happened: Vec<Happened>,
    pub error: Option<Status>,
}

/// An object that our own write has moved from one resourceVersion to another.
struct Moved {
    uid: String,
    from: String,
    to: Arc<Object>,
}

/// What one action brought.
enum Done {
    Wrote(Arc<Object>),
    Deleted,
    Forgiven,
}

/// Carries the plan out: step by step, a step's actions at once, until one fails.
pub async fn execute(client: &dyn Client, plan: Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let mut moved = Vec::new();
    for step in plan.steps {
        let results: Vec<(Action, Result<Done, Status>)> = stream::iter(step)
            .map(|action| async move {
                let result = carry_out(client, &action).await;
                (action, result)
            })
            .buffer_unordered(CONCURRENT_WRITES)
            .collect()
            .await;
        for (action, result) in results {
            note(&mut outcome, &mut moved, &action, result);
        }
        if outcome.error.is_some() {
            break;
        }
    }
    let last = match (&outcome.error, plan.on_failure) {
        (None, _) => plan.status,
        (Some(error), Some(on_failure)) => on_failure(error),
        (Some(_), None) => None,
    };
    if let Some(mut action) = last {
        rebase(&mut action, &moved);
        let result = carry_out(client, &action).await;
        note(&mut outcome, &mut moved, &action, result);
    }
    outcome
}

async fn carry_out(client: &dyn Client, action: &Action) -> Result<Done, Status> {
    let Place { resource, namespace, name, subresource } = action.place.clone();
    let target = Target { resource, namespace, name, subresource };
    let patch = |kind, body: &Value| client.patch(&target, kind, Bytes::from(body.to_string()));
    let result = match &action.change {
        Change::Create(body) => client.create(&target, body.clone()).await.map(Done::Wrote),
        Change::Update(body) => client.update(&target, body.clone()).await.map(Done::Wrote),
        Change::Merge(body) => patch(PatchType::Merge, body).await.map(Done::Wrote),
        Change::Strategic(body) => patch(PatchType::Strategic, body).await.map(Done::Wrote),
        Change::Delete(d) => {
            let options = DeleteOptions {
                grace_period_seconds: d.grace_period_seconds,
                uid: d.uid.clone(),
                resource_version: d.resource_version.clone(),
                propagation_policy: d.propagation_policy.map(str::to_owned),
            };
            client.delete(&target, &options).await.map(|()| Done::Deleted)
        }
    };
    match result {
        Err(error) if (action.forgive)(&error) => Ok(Done::Forgiven),
        other => other,
    }
}

fn note(outcome: &mut Outcome, moved: &mut Vec<Moved>, action: &Action, result: Result<Done, Status>) {
    match result {
        Ok(done) => {
            let mut name = action.place.name.clone().unwrap_or_default();
            match done {
                Done::Wrote(object) => {
                    outcome.awaits.revision = outcome.awaits.revision.max(object.revision());
                    name = object.meta().name.clone().unwrap_or(name);
                    if let Some((uid, from)) = guard(&action.change) {
                        moved.push(Moved { uid: uid.to_owned(), from: from.to_owned(), to: object.clone() });
                    }
                }
                Done::Deleted => {
                    if let Change::Delete(Deletion { uid: Some(uid), .. }) = &action.change {
                        outcome.awaits.deleted.push((action.place.clone(), uid.clone()));
                    }
                }
                Done::Forgiven => return,
            }
            outcome.happened.extend(action.done.as_ref().map(|n| happened(n, &name)));
        }
        Err(error) => {
            outcome.happened.extend(action.failed.as_ref().map(|n| happened(n, &error.message)));
            // The first error is the one to tell of; they are likely all the same.
            outcome.error.get_or_insert(error);
        }
    }
}

fn happened(note: &Note, tail: &str) -> Happened {
    let message = match &note.text {
        Text::Is(text) => text.clone(),
        Text::Then(text) => format!("{text}{tail}"),
    };
    Happened { about: note.about.clone(), warning: note.warning, reason: note.reason, message }
}

/// The uid and resourceVersion that a change demands.
fn guard(change: &Change) -> Option<(&str, &str)> {
    match change {
        Change::Update(body) | Change::Merge(body) | Change::Strategic(body) => {
            Some((body["metadata"]["uid"].as_str()?, body["metadata"]["resourceVersion"].as_str()?))
        }
        Change::Create(_) | Change::Delete(_) => None,
    }
}

/// A status planned at a revision that our own, equally guarded, write has since moved is still right at the new one; but
/// it must not take back what that write did to the metadata.
fn rebase(action: &mut Action, moved: &[Moved]) {
    let Some((uid, from)) = guard(&action.change) else { return };
    let Some(later) = moved.iter().rev().find(|m| m.uid == uid && m.from == from) else { return };
    if let Change::Update(body) | Change::Merge(body) | Change::Strategic(body) = &mut action.change {
        body["metadata"] = later.to.any().to_value()["metadata"].take();
    }
}
