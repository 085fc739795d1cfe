//! `LocalClient`: the `Client` of a master's own parts, over the same verbs as HTTP's, without TLS and JSON envelopes.

use super::patch::PatchKind;
use super::requests::{Answer, DeleteRequest, ListQuery, WatchQuery, Watched, WriteOptions, Written};
use super::verbs::Verbs;
use crate::client::{Client, DeleteOptions, List, ListOptions, PatchType, Target, WatchEvent, WatchEvents};
use crate::kinds::Object;
use crate::meta::Status;
use crate::security::User;
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Events between the verbs and the reader.
const BUFFER: usize = 256;

/// The verbs, as one user.
#[derive(Clone)]
pub struct LocalClient {
    verbs: Arc<Verbs>,
    user: User,
}

impl LocalClient {
    pub fn new(verbs: Arc<Verbs>, user: User) -> Self {
        Self { verbs, user }
    }

    fn options(&self) -> WriteOptions {
        let field_manager = self.user.name.rsplit(':').next().unwrap_or_default().to_owned();
        WriteOptions {
            user: self.user.clone(),
            field_manager,
            field_validation: super::requests::FieldValidation::Ignore,
            ..WriteOptions::default()
        }
    }
}

fn bytes(body: &Value) -> Bytes {
    Bytes::from(body.to_string())
}

/// The object of an answer; of one that is no stored object (a Scale), the object as it stands after it.
async fn object(client: &LocalClient, target: &Target, answer: Answer) -> Result<Arc<Object>, Status> {
    match answer {
        Answer::Written(Written { object, .. }) => Ok(object),
        Answer::Json { .. } => client.verbs.get(&Target { subresource: None, ..target.clone() }, "").await,
    }
}

#[async_trait]
impl Client for LocalClient {
    async fn get(&self, target: &Target) -> Result<Arc<Object>, Status> {
        self.verbs.get(target, "").await
    }

    async fn list(&self, target: &Target, options: &ListOptions) -> Result<List, Status> {
        let query = ListQuery {
            label_selector: options.label_selector.clone().unwrap_or_default(),
            field_selector: options.field_selector.clone().unwrap_or_default(),
            resource_version: options.resource_version.clone().unwrap_or_default(),
            ..ListQuery::default()
        };
        let page = self.verbs.list(target, &query).await?;
        Ok(List { items: page.items, revision: page.revision })
    }

    async fn create(&self, target: &Target, body: Value) -> Result<Arc<Object>, Status> {
        let answer = self.verbs.create(target, bytes(&body), &self.options()).await?;
        object(self, target, answer).await
    }

    async fn update(&self, target: &Target, body: Value) -> Result<Arc<Object>, Status> {
        let answer = self.verbs.update(target, bytes(&body), &self.options()).await?;
        object(self, target, answer).await
    }

    async fn patch(&self, target: &Target, kind: PatchType, body: Bytes) -> Result<Arc<Object>, Status> {
        let kind = match kind {
            PatchType::Json => PatchKind::Json,
            PatchType::Merge => PatchKind::Merge,
            PatchType::Strategic => PatchKind::Strategic,
            PatchType::Apply => PatchKind::Apply,
        };
        let answer = self.verbs.patch(target, kind, body, &self.options()).await?;
        object(self, target, answer).await
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<(), Status> {
        let request = DeleteRequest { user: self.user.clone(), dry_run: false, options: options.clone() };
        match target.name {
            Some(_) => self.verbs.delete(target, &request).await.map(drop),
            None => self.verbs.delete_collection(target, &ListQuery::default(), &request).await.map(drop),
        }
    }

    async fn post(&self, target: &Target, body: Value) -> Result<Value, Status> {
        match self.verbs.create(target, bytes(&body), &self.options()).await? {
            Answer::Written(written) => serde_json::from_slice(written.object.json()).map_err(Status::internal),
            Answer::Json { body, .. } => serde_json::from_slice(&body).map_err(Status::internal),
        }
    }

    async fn watch(&self, target: &Target, options: &ListOptions) -> Result<WatchEvents, Status> {
        let query = WatchQuery {
            label_selector: options.label_selector.clone().unwrap_or_default(),
            field_selector: options.field_selector.clone().unwrap_or_default(),
            resource_version: options.resource_version.clone().unwrap_or_default(),
            allow_bookmarks: true,
            ..WatchQuery::default()
        };
        let mut events = self.verbs.watch(target, query).await?;
        let (sender, receiver) = mpsc::channel(BUFFER);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                // The reader has gone: so does the watch.
                if sender.send(event.map(told)).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}

fn told(watched: Watched) -> WatchEvent {
    match watched {
        Watched::Added(object) => WatchEvent::Added(object),
        Watched::Modified(object) => WatchEvent::Modified(object),
        Watched::Deleted(object) => WatchEvent::Deleted(object),
        Watched::Bookmark { revision, .. } => WatchEvent::Bookmark(revision),
    }
}
