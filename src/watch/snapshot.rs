//! `Snapshot`: an immutable view of every object at one revision. Cloning one costs a reference count.

use crate::kinds::{Object, ObjectKey, Ref, Registered, Resource};
use rpds::RedBlackTreeMapSync;
use std::{collections::HashMap, ops::Bound, sync::Arc};

/// The objects of one resource, in list order (namespace, then name).
pub type Table = RedBlackTreeMapSync<ObjectKey, Arc<Object>>;

/// Group and plural of a stored resource: what tells tables apart.
pub type TableId = (&'static str, &'static str);

/// Every object at a revision. Controllers, the scheduler and lists read only this.
#[derive(Clone, Default)]
pub struct Snapshot {
    revision: i64,
    tables: Arc<HashMap<TableId, Table>>,
    owned: rpds::HashTrieMapSync<String, rpds::HashTrieSetSync<(TableId, ObjectKey)>>,
}

/// The table that a stored resource's objects are in.
pub fn table_id(resource: &dyn Resource) -> TableId {
    let n = resource.names();
    (n.group, n.plural)
}

impl Snapshot {
    /// The store revision that this view shows.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn table(&self, resource: &dyn Resource) -> Option<&Table> {
        self.tables.get(&table_id(resource))
    }

    pub fn object(&self, resource: &dyn Resource, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.table(resource)?.get(key)
    }

    pub fn get<K: Registered>(&self, namespace: &str, name: &str) -> Option<Ref<K>> {
        Ref::new(self.object(K::resource(), &ObjectKey::new(namespace, name))?.clone())
    }

    /// Objects of one namespace in name order, or of all if `namespace` is None.
    pub fn objects<'a>(&'a self, resource: &dyn Resource, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Object>> + 'a {
        let start = namespace.map_or(Bound::Unbounded, |ns| Bound::Included(ObjectKey::new(ns, "")));
        self.table(resource)
            .into_iter()
            .flat_map(move |t| t.range((start.clone(), Bound::Unbounded)))
            .take_while(move |(key, _)| namespace.is_none_or(|ns| key.namespace == ns))
            .map(|(_, object)| object)
    }

    pub fn list<'a, K: Registered>(&'a self, namespace: Option<&'a str>) -> impl Iterator<Item = Ref<K>> + 'a {
        self.objects(K::resource(), namespace).filter_map(|o| Ref::new(o.clone()))
    }

    /// Objects of any kind whose ownerReferences name the uid.
    pub fn owned_by<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Arc<Object>> + 'a {
        self.owned.get(uid).into_iter().flat_map(|set| set.iter()).filter_map(|(table, key)| self.tables.get(table)?.get(key))
    }

    /// Every object of every kind.
    pub fn everything(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.tables.values().flat_map(|t| t.values())
    }

    /// Puts `object` in, at its own revision.
    pub fn insert(&mut self, object: Arc<Object>) {
        let (table, key) = (table_id(object.resource()), object.key());
        self.revision = self.revision.max(object.revision());
        self.unlink(table, &key);
        for owner in object.meta().owner_references.iter().flatten() {
            let set = self.owned.get(&owner.uid).cloned().unwrap_or_else(rpds::HashTrieSetSync::new_sync);
            self.owned.insert_mut(owner.uid.clone(), set.insert((table, key.clone())));
        }
        self.table_mut(table).insert_mut(key, object);
    }

    /// Takes an object out, as of `revision`; returns what was there.
    pub fn remove(&mut self, resource: &dyn Resource, key: &ObjectKey, revision: i64) -> Option<Arc<Object>> {
        let table = table_id(resource);
        self.revision = self.revision.max(revision);
        self.unlink(table, key);
        let old = self.tables.get(&table)?.get(key).cloned()?;
        self.table_mut(table).remove_mut(key);
        Some(old)
    }

    /// Moves the revision forward without a change to any object (progress).
    pub fn advance(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
    }

    fn table_mut(&mut self, table: TableId) -> &mut Table {
        Arc::make_mut(&mut self.tables).entry(table).or_insert_with(Table::new_sync)
    }

    fn unlink(&mut self, table: TableId, key: &ObjectKey) {
        let Some(old) = self.tables.get(&table).and_then(|t| t.get(key)).cloned() else { return };
        for owner in old.meta().owner_references.iter().flatten() {
            let Some(set) = self.owned.get(&owner.uid) else { continue };
            let rest = set.remove(&(table, key.clone()));
            if rest.is_empty() {
                self.owned.remove_mut(&owner.uid);
            } else {
                self.owned.insert_mut(owner.uid.clone(), rest);
            }
        }
    }
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

/// One change of one object, in revision order. `object` is the new state, or of a deletion the last one, stamped with
/// the revision of the deletion. `previous` is what stood there before.
#[derive(Clone, Debug)]
pub struct Event {
    pub change: Change,
    pub object: Arc<Object>,
    pub previous: Option<Arc<Object>>,
}
