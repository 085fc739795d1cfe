//! Reading the whole store into a snapshot, page by page, at one revision.

use super::cache::departure;
use super::keys;
use super::record::{Record, change_of};
use super::{Event, Snapshot};
use crate::kinds::{self, Object, Resource};
use bytes::Bytes;
use orchd_store::{KeyRange, KeyValue, RangeRequest, Store, StoreError};
use std::sync::Arc;

/// Keys read at once.
const PAGE: usize = 1000;

/// A snapshot, and what has changed since the one before.
pub struct Loaded {
    pub snapshot: Snapshot,
    pub records: Vec<Arc<Record>>,
}

/// Reads every object at the store's present revision. Objects that `before` shows at the same revision are shared.
///
/// # Errors
/// The store cannot be read (`Compacted`: it was compacted meanwhile).
pub fn load(store: &Store, before: &Snapshot) -> Result<Loaded, StoreError> {
    let (mut snapshot, mut records) = (Snapshot::default(), Vec::new());
    let mut request = RangeRequest::new(KeyRange::prefix(keys::ROOT));
    request.limit = PAGE;
    loop {
        let page = store.range_local(&request)?;
        if request.revision == 0 {
            request.revision = page.revision;
        }
        for kv in &page.kvs {
            take(kv, before, &mut snapshot, &mut records);
        }
        let Some(last) = page.kvs.last().filter(|_| page.more) else { break };
        request.range.start = after(&last.key);
    }
    snapshot.advance(request.revision);
    departures(before, &snapshot, &mut records);
    records.sort_by_key(|r| r.revision());
    Ok(Loaded { snapshot, records })
}

/// The key right behind `key`.
pub fn after(key: &[u8]) -> Bytes {
    let mut next = key.to_vec();
    next.push(0);
    next.into()
}

fn take(kv: &KeyValue, before: &Snapshot, snapshot: &mut Snapshot, records: &mut Vec<Arc<Record>>) {
    let Some((resource, key)) = keys::parse(&kv.key) else { return };
    let previous = before.object(resource, &key);
    if let Some(same) = previous.filter(|o| o.revision() == kv.mod_revision) {
        snapshot.insert(same.clone());
        return;
    }
    let Some(object) = decode(resource, kv) else { return };
    snapshot.insert(object.clone());
    let event = Event { change: change_of(previous), object, previous: previous.cloned() };
    records.push(Arc::new(Record::new(event, kv.mod_revision, kv.value.len())));
}

fn departures(before: &Snapshot, now: &Snapshot, records: &mut Vec<Arc<Record>>) {
    for object in before.everything() {
        if now.object(object.resource(), &object.key()).is_none() {
            records.push(Arc::new(departure(object.clone(), now.revision())));
        }
    }
}

/// The object of a stored value; None (and a loud line) if it cannot be read.
pub fn decode(resource: &'static dyn Resource, kv: &KeyValue) -> Option<Arc<Object>> {
    match kinds::load(resource, &kv.value, kv.mod_revision) {
        Ok(object) => Some(object),
        Err(error) => {
            tracing::error!(key = %String::from_utf8_lossy(&kv.key), %error, "a stored object cannot be decoded; it is not shown");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{ConfigMap, ObjectKey, Registered};
    use crate::watch::Change;
    use orchd_store::{Op, Options, Txn};

    fn key(name: &str) -> Bytes {
        keys::key(ConfigMap::resource(), &ObjectKey::new("ns", name))
    }

    async fn write(store: &Store, ops: Vec<Op>) {
        store.txn(Txn { success: ops, ..Txn::default() }).await.unwrap();
    }

    fn put(name: &str, data: &str) -> Op {
        let json =
            format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"ns"}},"data":{{"k":"{data}"}}}}"#);
        Op::put(key(name), json)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_second_load_tells_what_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options { dir: dir.path().to_owned(), quota_bytes: 0, group: None }).await.unwrap();
        write(&store, vec![put("same", "1"), put("changed", "1"), put("gone", "1"), Op::put("/registry/core/nothings/x", "{")]).await;
        let first = load(&store, &Snapshot::default()).unwrap();
        assert_eq!((first.records.len(), first.snapshot.revision()), (3, store.revision()));
        write(&store, vec![put("changed", "2"), Op::delete(key("gone"))]).await;
        write(&store, vec![put("new", "1")]).await;
        write(&store, vec![Op::put("/other", "x")]).await;
        let second = load(&store, &first.snapshot).unwrap();
        assert_eq!(second.snapshot.revision(), store.revision());
        let told: Vec<(Change, String)> = second.records.iter().map(|r| (r.event().change, r.event().object.key().name)).collect();
        let want = [(Change::Modified, "changed"), (Change::Added, "new"), (Change::Deleted, "gone")];
        assert_eq!(told, want.map(|(change, name)| (change, name.to_owned())));
        let object = |snapshot: &Snapshot| snapshot.object(ConfigMap::resource(), &ObjectKey::new("ns", "same")).cloned().unwrap();
        assert!(Arc::ptr_eq(&object(&first.snapshot), &object(&second.snapshot)));
        store.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn more_than_a_page_is_read_at_one_revision() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options { dir: dir.path().to_owned(), quota_bytes: 0, group: None }).await.unwrap();
        for chunk in 0..21 {
            write(&store, (0..100).map(|i| put(&format!("m{:05}", chunk * 100 + i), "1")).collect()).await;
        }
        let loaded = load(&store, &Snapshot::default()).unwrap();
        assert_eq!(loaded.snapshot.objects(ConfigMap::resource(), Some("ns")).count(), 2100);
        store.close().await;
    }
}
