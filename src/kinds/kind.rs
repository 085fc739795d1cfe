//! What a kind must say of itself (`Kind`, typed) and what the generic verbs see of it (`Resource`, object-safe).

use super::object::{AnyObject, Object};
use crate::meta::{FieldErrors, GroupVersion, GroupVersionKind, ObjectMeta};
use k8s_openapi::{Metadata, jiff::Timestamp};
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{fmt::Debug, marker::PhantomData, sync::Arc};

/// The names of a resource, as discovery shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    /// `all` among them makes `kubectl get all` show it.
    pub categories: &'static [&'static str],
    pub namespaced: bool,
}

impl Names {
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion::new(self.group, self.version)
    }
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind { group: self.group.into(), version: self.version.into(), kind: self.kind.into() }
    }
}

/// Whether and how objects of the kind are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Kept under this group and plural (usually its own; events.k8s.io Events are kept as core ones).
    Stored,
    /// Another way to see the objects of the named core-group-or-other resource (group, plural).
    ViewOf { group: &'static str, plural: &'static str },
    /// Create only, answered at once, never kept (reviews).
    Virtual,
}

/// A subresource that the generic verbs serve by the kind's own say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    Status,
    /// `autoscaling/v1` Scale over spec.replicas and status.replicas.
    Scale,
    /// Served by code of its own in `api`: name, kind of its body (group, version, kind), verbs.
    Other {
        name: &'static str,
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        verbs: &'static [&'static str],
    },
}

/// One column of `kubectl get`, as `metav1.TableColumnDefinition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// OpenAPI type: string, integer, date…
    pub kind: &'static str,
    /// OpenAPI format; `name` marks the identifying column.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
}

/// One kind of object: names, defaults, validation, columns, selectable fields, strategy. One file per kind.
///
/// The order in which the verbs call it: create is `prepare_create`, `default`, `validate`, `validate_create`; update is `default`,
/// `prepare_update`, `validate`, `validate_update`; a status update is `default`, `prepare_status_update`, `validate_update`.
/// Metadata (name, uid, times, finalizers, generation) is the generic verbs' own; a kind bumps nothing but says by
/// `spec_changed` what counts as a new generation.
pub trait Kind: Send + Sync + 'static {
    type Object: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + PartialEq
        + Debug
        + JsonSchema
        + Send
        + Sync
        + 'static;

    const NAMES: Names;
    const STORAGE: Storage = Storage::Stored;
    const SUBRESOURCES: &'static [Subresource] = &[];
    /// True for kinds whose metadata.generation counts changes of the spec.
    const HAS_GENERATION: bool = false;

    /// Fills what the client left out (Kubernetes' defaulting).
    fn default(_object: &mut Self::Object) {}
    /// Drops what a client may not set at create (status).
    fn prepare_create(_object: &mut Self::Object) {}
    /// Keeps from `old` what an update of the main resource may not change (status).
    fn prepare_update(_new: &mut Self::Object, _old: &Self::Object) {}
    /// Keeps from `old` all but the status.
    fn prepare_status_update(_new: &mut Self::Object, _old: &Self::Object) {}
    fn validate(_object: &Self::Object, _errors: &mut FieldErrors) {}
    /// What holds only for a new object, beside what `validate` says.
    fn validate_create(_object: &Self::Object, _errors: &mut FieldErrors) {}
    fn validate_update(_new: &Self::Object, _old: &Self::Object, _errors: &mut FieldErrors) {}
    /// True if the change is one of the desired state, so that generation grows. Only asked if `HAS_GENERATION`.
    fn spec_changed(_new: &Self::Object, _old: &Self::Object) -> bool {
        false
    }
    /// Warnings sent back with a write (`Warning: 299`).
    fn warnings(_object: &Self::Object) -> Vec<String> {
        Vec::new()
    }
    /// How a name is checked; DNS subdomain unless the kind says otherwise.
    fn validate_name(name: &str) -> Result<(), String> {
        super::names::dns_subdomain(name)
    }
    /// The grace period of a delete, in seconds, given what the client asked for; None: delete at once (all kinds but Pod).
    fn grace_period_seconds(_object: &Self::Object, _asked: Option<i64>) -> Option<i64> {
        None
    }
    /// Columns of the table view. The first should be Name, the last usually Age.
    fn columns() -> &'static [Column] {
        super::table::NAME_AND_AGE
    }
    /// One cell per column, for `now`.
    fn cells(object: &Self::Object, now: Timestamp) -> Vec<Value> {
        super::table::name_and_age(object.metadata(), now)
    }
    /// Names of the fields, beyond metadata.name and metadata.namespace, that field selectors may use.
    const SELECTABLE: &'static [&'static str] = &[];
    /// Values of `SELECTABLE`, in its order; an absent field is the empty string.
    fn selectable(_object: &Self::Object) -> Vec<String> {
        Vec::new()
    }
    /// Of a view: this kind's JSON from the stored kind's JSON, and back. The identity for stored kinds.
    fn from_stored(stored: Value) -> Value {
        stored
    }
    fn to_stored(view: Value) -> Value {
        view
    }
    /// `Subresource::Scale`: (spec.replicas, status.replicas, status.selector as a string).
    fn scale(_object: &Self::Object) -> Option<(i32, i32, String)> {
        None
    }
    fn set_scale(_object: &mut Self::Object, _replicas: i32) {}
}

/// What the generic verbs know of a resource. Implemented once for every `Kind` (by `Typed`); custom resources will
/// implement it over plain JSON.
pub trait Resource: Send + Sync + 'static {
    fn names(&self) -> &Names;
    fn storage(&self) -> Storage;
    fn subresources(&self) -> &'static [Subresource];
    fn has_generation(&self) -> bool;
    /// Decodes JSON strictly by type; unknown fields are dropped. The error names the field.
    fn decode(&self, json: &[u8]) -> Result<Box<dyn AnyObject>, serde_json::Error>;
    /// As `decode`, and the paths of unknown fields (`spec.foo`).
    fn decode_reporting(&self, json: &[u8]) -> Result<(Box<dyn AnyObject>, Vec<String>), serde_json::Error>;
    fn decode_value(&self, json: Value) -> Result<Box<dyn AnyObject>, serde_json::Error>;
    fn default(&self, object: &mut dyn AnyObject);
    fn prepare_create(&self, object: &mut dyn AnyObject);
    fn prepare_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject);
    fn prepare_status_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject);
    fn validate(&self, object: &dyn AnyObject) -> FieldErrors;
    fn validate_create(&self, object: &dyn AnyObject) -> FieldErrors;
    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> FieldErrors;
    fn spec_changed(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> bool;
    fn warnings(&self, object: &dyn AnyObject) -> Vec<String>;
    fn validate_name(&self, name: &str) -> Result<(), String>;
    fn grace_period_seconds(&self, object: &dyn AnyObject, asked: Option<i64>) -> Option<i64>;
    fn columns(&self) -> &'static [Column];
    fn cells(&self, object: &dyn AnyObject, now: Timestamp) -> Vec<Value>;
    fn selectable_names(&self) -> &'static [&'static str];
    fn selectable(&self, object: &dyn AnyObject) -> Vec<String>;
    #[allow(clippy::wrong_self_convention, reason = "the resource is the converter")]
    fn from_stored(&self, stored: Value) -> Value;
    fn to_stored(&self, view: Value) -> Value;
    fn scale(&self, object: &dyn AnyObject) -> Option<(i32, i32, String)>;
    fn set_scale(&self, object: &mut dyn AnyObject, replicas: i32);
    /// Adds the kind's JSON schema, and those of the types in it, to the generator's definitions.
    fn describe(&self, schemas: &mut SchemaGenerator);
}

/// The `Resource` of a typed kind.
pub struct Typed<K>(PhantomData<fn() -> K>);

impl<K> Typed<K> {
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<K> Default for Typed<K> {
    fn default() -> Self {
        Self::new()
    }
}

fn down<K: Kind>(object: &dyn AnyObject) -> &K::Object {
    object.as_any().downcast_ref().expect("a resource is only ever given objects that it decoded itself")
}

fn down_mut<K: Kind>(object: &mut dyn AnyObject) -> &mut K::Object {
    object.as_any_mut().downcast_mut().expect("a resource is only ever given objects that it decoded itself")
}

impl<K: Kind> Resource for Typed<K> {
    fn names(&self) -> &Names {
        const { &K::NAMES }
    }
    fn storage(&self) -> Storage {
        K::STORAGE
    }
    fn subresources(&self) -> &'static [Subresource] {
        K::SUBRESOURCES
    }
    fn has_generation(&self) -> bool {
        K::HAS_GENERATION
    }
    fn decode(&self, json: &[u8]) -> Result<Box<dyn AnyObject>, serde_json::Error> {
        Ok(Box::new(serde_json::from_slice::<K::Object>(json)?))
    }
    fn decode_reporting(&self, json: &[u8]) -> Result<(Box<dyn AnyObject>, Vec<String>), serde_json::Error> {
        let mut unknown = Vec::new();
        let mut de = serde_json::Deserializer::from_slice(json);
        let object: K::Object = serde_ignored::deserialize(&mut de, |path| unknown.push(super::table::ignored_path(&path)))?;
        de.end()?;
        Ok((Box::new(object), unknown))
    }
    fn decode_value(&self, json: Value) -> Result<Box<dyn AnyObject>, serde_json::Error> {
        Ok(Box::new(serde_json::from_value::<K::Object>(json)?))
    }
    fn default(&self, object: &mut dyn AnyObject) {
        K::default(down_mut::<K>(object));
    }
    fn prepare_create(&self, object: &mut dyn AnyObject) {
        K::prepare_create(down_mut::<K>(object));
    }
    fn prepare_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject) {
        K::prepare_update(down_mut::<K>(new), down::<K>(old));
    }
    fn prepare_status_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject) {
        K::prepare_status_update(down_mut::<K>(new), down::<K>(old));
    }
    fn validate(&self, object: &dyn AnyObject) -> FieldErrors {
        let mut errors = FieldErrors::default();
        K::validate(down::<K>(object), &mut errors);
        errors
    }
    fn validate_create(&self, object: &dyn AnyObject) -> FieldErrors {
        let mut errors = FieldErrors::default();
        K::validate_create(down::<K>(object), &mut errors);
        errors
    }
    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> FieldErrors {
        let mut errors = FieldErrors::default();
        K::validate_update(down::<K>(new), down::<K>(old), &mut errors);
        errors
    }
    fn spec_changed(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> bool {
        K::spec_changed(down::<K>(new), down::<K>(old))
    }
    fn warnings(&self, object: &dyn AnyObject) -> Vec<String> {
        K::warnings(down::<K>(object))
    }
    fn validate_name(&self, name: &str) -> Result<(), String> {
        K::validate_name(name)
    }
    fn grace_period_seconds(&self, object: &dyn AnyObject, asked: Option<i64>) -> Option<i64> {
        K::grace_period_seconds(down::<K>(object), asked)
    }
    fn columns(&self) -> &'static [Column] {
        K::columns()
    }
    fn cells(&self, object: &dyn AnyObject, now: Timestamp) -> Vec<Value> {
        K::cells(down::<K>(object), now)
    }
    fn selectable_names(&self) -> &'static [&'static str] {
        K::SELECTABLE
    }
    fn selectable(&self, object: &dyn AnyObject) -> Vec<String> {
        K::selectable(down::<K>(object))
    }
    fn from_stored(&self, stored: Value) -> Value {
        K::from_stored(stored)
    }
    fn to_stored(&self, view: Value) -> Value {
        K::to_stored(view)
    }
    fn scale(&self, object: &dyn AnyObject) -> Option<(i32, i32, String)> {
        K::scale(down::<K>(object))
    }
    fn set_scale(&self, object: &mut dyn AnyObject, replicas: i32) {
        K::set_scale(down_mut::<K>(object), replicas);
    }
    fn describe(&self, schemas: &mut SchemaGenerator) {
        schemas.subschema_for::<K::Object>();
    }
}

/// Decodes stored JSON (which carries no resourceVersion) into the shared object of a revision.
///
/// # Errors
/// The JSON is not an object of this kind.
pub fn load(resource: &'static dyn Resource, json: &[u8], revision: i64) -> Result<Arc<Object>, serde_json::Error> {
    Ok(Arc::new(Object::new(resource, resource.decode(json)?, revision)))
}
