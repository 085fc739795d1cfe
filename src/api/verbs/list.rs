//! get and list: from the cache's snapshot, or page by page from the store at the revision of the first page.

use super::Verbs;
use super::filter::Filter;
use super::paging::{PRESENT, Token};
use super::store::failure;
use crate::api::requests::{ListQuery, Page};
use crate::client::Target;
use crate::kinds::{Object, ObjectKey, Resource};
use crate::meta::{Cause, FieldErrors, FieldPath, Reason, Status, status::Details};
use crate::watch::{Feed, Snapshot, cache, keys, load, record};
use bytes::Bytes;
use orchd_store::{KeyRange, KeyValue, RangeRequest, StoreError};
use std::sync::Arc;

/// The fewest keys read at once when selectors thin them out.
const MIN_CHUNK: usize = 500;

/// A resourceVersion of a query: None if empty.
pub(super) fn parse_revision(text: &str) -> Result<Option<i64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<i64>() {
        Ok(revision) if revision >= 0 => Ok(Some(revision)),
        _ => {
            let mut errors = FieldErrors::default();
            errors.invalid(&FieldPath::new("resourceVersion"), text, format!("strconv.ParseUint: parsing \"{text}\": invalid syntax"));
            Err(Status::bad_request(errors.0[0].to_string()))
        }
    }
}

/// 504 for a revision that has not come to be.
pub(super) fn too_large(wanted: i64, present: i64) -> Status {
    let cause = Cause { reason: "ResourceVersionTooLarge".into(), message: "Too large resource version".into(), field: String::new() };
    let details = Details { causes: vec![cause], ..Details::default() };
    let message = format!("Timeout: Too large resource version: {wanted}, current: {present}");
    Status { details: Some(Box::new(details)), ..Status::new(Reason::Timeout, message) }.retry_after(1)
}

pub(super) fn not_found(target: &Target) -> Status {
    let n = target.resource.names();
    Status::not_found(n.group, n.plural, target.name.as_deref().unwrap_or_default())
}

/// Namespace and name of a target that names an object.
pub(super) fn key_of(target: &Target) -> Result<ObjectKey, Status> {
    let name = target.name.as_deref().ok_or_else(|| Status::bad_request("name must be provided"))?;
    Ok(ObjectKey::new(target.namespace.as_deref().unwrap_or_default(), name))
}

impl Verbs {
    /// The object, at least as new as `resource_version` (empty: the newest, `0`: any).
    ///
    /// # Errors
    /// NotFound; Timeout for a revision that has not come to be.
    pub async fn get(&self, target: &Target, resource_version: &str) -> Result<Arc<Object>, Status> {
        let key = key_of(target)?;
        let snapshot = self.view(resource_version).await?;
        cache::object_of(&snapshot, target.resource, &key).ok_or_else(|| not_found(target))
    }

    /// One page of the collection.
    ///
    /// # Errors
    /// 400 for selectors or tokens that make no sense, 410 for revisions that are compacted, 504 for those to come.
    pub async fn list(&self, target: &Target, query: &ListQuery) -> Result<Page, Status> {
        validate(query)?;
        let filter = Filter::parse(target.resource, &query.label_selector, &query.field_selector)?;
        let listing = Listing { target, filter: &filter, limit: query.limit };
        if !query.continue_token.is_empty() {
            let token = Token::decode(&query.continue_token)?;
            return self.page(&listing, &token).await;
        }
        let revision = parse_revision(&query.resource_version)?;
        match revision {
            Some(revision) if revision > 0 && is_exact(query) => self.list_at(&listing, revision).await,
            _ => {
                let snapshot = self.view(&query.resource_version).await?;
                self.list_in(&listing, &snapshot).await
            }
        }
    }

    async fn list_at(&self, listing: &Listing<'_>, revision: i64) -> Result<Page, Status> {
        let snapshot = self.not_older(revision).await?;
        if snapshot.revision() == revision {
            return self.list_in(listing, &snapshot).await;
        }
        self.read(listing, "", revision).await.map_err(|e| failure(&e))
    }

    async fn list_in(&self, listing: &Listing<'_>, snapshot: &Snapshot) -> Result<Page, Status> {
        match listing.first_page(snapshot) {
            Some(page) => Ok(page),
            // Over several namespaces the store's order is not the snapshot's, so that all pages come from the store.
            None => self.read(listing, "", snapshot.revision()).await.map_err(|e| failure(&e)),
        }
    }

    async fn page(&self, listing: &Listing<'_>, token: &Token) -> Result<Page, Status> {
        let revision = if token.revision == PRESENT { self.newest().await?.revision() } else { token.revision };
        self.read(listing, &token.start, revision).await.map_err(|error| match error {
            StoreError::Compacted { .. } => token.expired(),
            StoreError::Future { current } => too_large(revision, current),
            other => failure(&other),
        })
    }

    /// A page from the store at `revision`, from the key `start` (behind the prefix) on.
    async fn read(&self, listing: &Listing<'_>, start: &str, revision: i64) -> Result<Page, StoreError> {
        let stored = keys::stored(listing.target.resource);
        let prefix = listing.prefix();
        let mut request = RangeRequest::new(KeyRange::prefix(prefix.clone()));
        request.range.start = Bytes::from(format!("{prefix}{start}"));
        request.revision = revision;
        request.limit = listing.chunk();
        let snapshot = self.cache.snapshot();
        let mut page = Page { items: Vec::new(), revision, continue_token: String::new(), remaining: None };
        let mut seen = 0;
        loop {
            let answer = self.store.range_local(&request)?;
            for (at, kv) in answer.kvs.iter().enumerate() {
                seen += 1;
                let Some(object) = listing.take(stored, &snapshot, kv) else { continue };
                page.items.push(object);
                let left = answer.kvs.len() > at + 1 || answer.more;
                if page.items.len() == listing.limit && left {
                    let last = String::from_utf8_lossy(&kv.key[prefix.len()..]).into_owned();
                    page.continue_token = Token::behind(&last, revision).encode();
                    // The count of a later chunk is of what lay behind the earlier ones.
                    page.remaining = listing.filter.is_empty().then(|| answer.count.saturating_sub(at + 1));
                    return Ok(page);
                }
            }
            match answer.kvs.last() {
                Some(last) if answer.more => request.range.start = load::after(&last.key),
                _ => break,
            }
        }
        tracing::trace!(seen, "listed from the store");
        Ok(page)
    }
}

/// What is listed.
struct Listing<'q> {
    target: &'q Target,
    filter: &'q Filter,
    /// 0: all.
    limit: usize,
}

impl Listing<'_> {
    fn prefix(&self) -> String {
        let mut prefix = keys::prefix(keys::stored(self.target.resource));
        if let Some(namespace) = &self.target.namespace {
            prefix.push_str(namespace);
            prefix.push('/');
        }
        prefix
    }

    fn chunk(&self) -> usize {
        match self.limit {
            0 => 0,
            limit if self.filter.is_empty() => limit,
            limit => limit.max(MIN_CHUNK),
        }
    }

    /// True if keys and snapshot sort alike: within one namespace, or without namespaces.
    fn sorts_as_keys(&self) -> bool {
        self.target.namespace.is_some() || !self.target.resource.names().namespaced
    }

    /// The first page from a snapshot; None if it must come from the store.
    fn first_page(&self, snapshot: &Snapshot) -> Option<Page> {
        let mut page = Page { items: Vec::new(), revision: snapshot.revision(), continue_token: String::new(), remaining: None };
        if let Some(name) = self.filter.name().filter(|_| self.sorts_as_keys()) {
            let key = ObjectKey::new(self.target.namespace.as_deref().unwrap_or_default(), name);
            let found = cache::object_of(snapshot, self.target.resource, &key);
            page.items.extend(found.filter(|o| self.filter.matches(o)));
            return Some(page);
        }
        let mut rest = objects(snapshot, self.target);
        while let Some(object) = rest.next() {
            if !self.filter.matches(&object) {
                continue;
            }
            page.items.push(object);
            if page.items.len() == self.limit {
                return self.cut(page, rest.count());
            }
        }
        Some(page)
    }

    fn cut(&self, mut page: Page, left: usize) -> Option<Page> {
        if left == 0 {
            return Some(page);
        }
        if !self.sorts_as_keys() {
            return None;
        }
        let last = page.items.last().and_then(|o| o.meta().name.clone()).unwrap_or_default();
        page.continue_token = Token::behind(&last, page.revision).encode();
        page.remaining = self.filter.is_empty().then_some(left);
        Some(page)
    }

    fn take(&self, stored: &'static dyn Resource, snapshot: &Snapshot, kv: &KeyValue) -> Option<Arc<Object>> {
        let (_, key) = keys::parse(&kv.key)?;
        let shared = snapshot.object(stored, &key).filter(|o| o.revision() == kv.mod_revision).cloned();
        let object = shared.or_else(|| load::decode(stored, kv))?;
        let shown = shown(self.target.resource, stored, object)?;
        self.filter.matches(&shown).then_some(shown)
    }
}

/// A stored object as `resource` shows it.
pub(super) fn shown(resource: &'static dyn Resource, stored: &'static dyn Resource, object: Arc<Object>) -> Option<Arc<Object>> {
    if stored.names() == resource.names() { Some(object) } else { record::view(resource, &object) }
}

/// The target's objects, as its resource shows them.
pub(super) fn objects<'a>(snapshot: &'a Snapshot, target: &'a Target) -> impl Iterator<Item = Arc<Object>> + 'a {
    let stored = keys::stored(target.resource);
    snapshot.objects(stored, target.namespace.as_deref()).filter_map(move |o| shown(target.resource, stored, o.clone()))
}

/// Whether the query asks for the state at that very revision; a paged list with a revision does so by tradition.
fn is_exact(query: &ListQuery) -> bool {
    query.resource_version_match == "Exact" || (query.resource_version_match.is_empty() && query.limit > 0)
}

fn validate(query: &ListQuery) -> Result<(), Status> {
    let (path, asked) = (FieldPath::new("resourceVersionMatch"), query.resource_version_match.as_str());
    let mut errors = FieldErrors::default();
    if asked.is_empty() {
        return Ok(());
    }
    if query.resource_version.is_empty() {
        errors.forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
    }
    if !query.continue_token.is_empty() {
        errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
    }
    if asked != "Exact" && asked != "NotOlderThan" {
        errors.not_supported(&path, asked, &["", "Exact", "NotOlderThan"]);
    }
    if asked == "Exact" && query.resource_version == "0" {
        errors.forbidden(&path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}
