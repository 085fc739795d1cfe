//! What the HTTP stages hand to the verbs: requests without HTTP, answers without JSON envelopes.

use crate::client::DeleteOptions;
use crate::kinds::Object;
use crate::security::User;
use bytes::Bytes;
use std::sync::Arc;

/// `fieldValidation`: what becomes of unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Who writes, and how.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub user: User,
    pub dry_run: bool,
    pub field_validation: FieldValidation,
    /// `fieldManager`, or what stands for it: the user agent up to its first slash.
    pub field_manager: String,
    /// Of server-side apply.
    pub force: bool,
    /// The write is the outcome of an apply, whose managedFields are right as they stand.
    pub applies: bool,
}

/// The outcome of a write.
#[derive(Clone, Debug)]
pub struct Written {
    pub object: Arc<Object>,
    /// 201 rather than 200.
    pub created: bool,
    /// `Warning: 299` texts.
    pub warnings: Vec<String>,
}

/// What a create on a virtual resource or a subresource answers with.
#[derive(Clone, Debug)]
pub enum Answer {
    Written(Written),
    /// JSON of an object that is not kept (reviews, token, a Status).
    Json {
        status: u16,
        body: Bytes,
        warnings: Vec<String>,
    },
}

/// The outcome of a delete.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// Gone: a `Status` Success with details (name, group, kind, uid) is what Kubernetes answers.
    Gone(Arc<Object>),
    /// Finalizers or a grace period keep it: the object as it stands is the answer.
    Pending(Arc<Object>),
}

/// Options of a list, as the query has them.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    pub label_selector: String,
    pub field_selector: String,
    /// Empty: the newest. `0`: any.
    pub resource_version: String,
    /// `Exact`, `NotOlderThan` or empty.
    pub resource_version_match: String,
    /// 0: all.
    pub limit: usize,
    pub continue_token: String,
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    pub items: Vec<Arc<Object>>,
    pub revision: i64,
    /// Empty on the last page.
    pub continue_token: String,
    /// Unknown where selectors are given.
    pub remaining: Option<usize>,
}

/// Options of a watch.
#[derive(Clone, Debug, Default)]
pub struct WatchQuery {
    pub label_selector: String,
    pub field_selector: String,
    /// Empty or `0`: start with ADDED for everything that is there.
    pub resource_version: String,
    pub resource_version_match: String,
    pub allow_bookmarks: bool,
    /// WatchList: the present objects first, then a bookmark annotated `k8s.io/initial-events-end`.
    pub send_initial_events: bool,
}

/// What a watch delivers; see `client::WatchEvent` for its meaning. `Added`, `Modified` and `Deleted` are relative to the
/// selectors.
#[derive(Clone, Debug)]
pub enum Watched {
    Added(Arc<Object>),
    Modified(Arc<Object>),
    Deleted(Arc<Object>),
    Bookmark { revision: i64, initial_events_end: bool },
}

/// Of a delete: the options and who asks.
#[derive(Clone, Debug, Default)]
pub struct DeleteRequest {
    pub user: User,
    pub dry_run: bool,
    pub options: DeleteOptions,
}
