//! Walks over documents by their schema: which fields one holds, what two of them make together, how they differ.
//!
//! Recursion ends because documents are bounded: JSON is read to a depth of 128.

use super::ApplyError;
use super::set::{Element, FieldSet};
use crate::api::schema::{Shape, Type};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// How a value is owned.
enum Form {
    /// As one: scalars, atomic lists and maps.
    Leaf,
    /// Key by key. `fixed`: a struct, whose fields are known; else a map, whose keys come and go.
    Keys { fixed: bool },
    /// Item by item, told apart by their value.
    Set,
    /// Item by item, told apart by these fields.
    Items(Vec<&'static str>),
}

fn form(shape: Shape, value: &Value) -> Form {
    match (shape.ty(), value) {
        _ if shape.is_atomic_map() => Form::Leaf,
        (Some(Type::Object(_)), Value::Object(_) | Value::Null) => Form::Keys { fixed: true },
        // Where the schema ends, maps are walked and lists are not.
        (Some(Type::Map(_)) | None, Value::Object(_)) => Form::Keys { fixed: false },
        (Some(Type::List(_)), Value::Array(_)) => match shape.merge().list_type {
            "set" => Form::Set,
            "map" => Form::Items(shape.merge().keys().collect()),
            _ => Form::Leaf,
        },
        _ => Form::Leaf,
    }
}

/// What tells an item from its neighbours.
fn element(form: &Form, item: &Value) -> Option<Element> {
    match form {
        Form::Set => Some(Element::Value(item.to_string())),
        Form::Items(keys) => {
            let item = item.as_object()?;
            let mut named = Map::new();
            for key in keys {
                match item.get(*key) {
                    Some(value) => drop(named.insert((*key).to_owned(), value.clone())),
                    // The one key with a default: a port without a protocol is TCP.
                    None if *key == "protocol" => drop(named.insert((*key).to_owned(), "TCP".into())),
                    None => {}
                }
            }
            Some(Element::Keys(Value::Object(named).to_string()))
        }
        Form::Leaf | Form::Keys { .. } => None,
    }
}

fn array(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The fields that a document holds.
///
/// # Errors
/// An item of a keyed list is no object, or two have the same keys.
pub fn set_of(value: &Value, shape: Shape) -> Result<FieldSet, ApplyError> {
    let form = form(shape, value);
    let mut out = FieldSet::default();
    match &form {
        Form::Leaf => out.member = true,
        Form::Keys { fixed } => {
            for (key, inner) in value.as_object().into_iter().flatten() {
                let mut child = set_of(inner, shape.child(key))?;
                let bare = inner.is_null() || inner.as_object().is_some_and(Map::is_empty) || inner.as_array().is_some_and(Vec::is_empty);
                child.member |= bare || !(*fixed && shape.child(key).ty().is_some());
                out.put(Element::Field(key.clone()), child);
            }
        }
        Form::Set | Form::Items(_) => {
            for item in array(Some(value)) {
                let element = element(&form, item).ok_or_else(|| ApplyError::Malformed(format!("an item of a keyed list is no object: {item}")))?;
                if out.children.contains_key(&element) {
                    let shown = FieldSet { member: false, children: BTreeMap::from([(element, FieldSet::leaf())]) }.paths().concat();
                    return Err(ApplyError::Malformed(format!("duplicate entries for key {shown}")));
                }
                let mut child = set_of(item, shape.item())?;
                child.member = true;
                out.put(element, child);
            }
        }
    }
    Ok(out)
}

/// `live` with what `config` says.
///
/// # Errors
/// As `set_of`.
pub fn merge(live: Option<&Value>, config: &Value, shape: Shape) -> Result<Value, ApplyError> {
    let form = form(shape, config);
    match (&form, live) {
        (Form::Keys { .. }, Some(Value::Object(live))) => {
            let mut out = live.clone();
            for (key, value) in config.as_object().into_iter().flatten() {
                out.insert(key.clone(), merge(live.get(key), value, shape.child(key))?);
            }
            Ok(Value::Object(out))
        }
        (Form::Set | Form::Items(_), Some(Value::Array(live))) => merge_lists(&form, live, array(Some(config)), shape),
        _ => Ok(config.clone()),
    }
}

/// The configuration's order holds among its own items; those that are there already and not in it keep their place
/// before the next one that is.
fn merge_lists(form: &Form, live: &[Value], config: &[Value], shape: Shape) -> Result<Value, ApplyError> {
    let named = |list: &[Value]| -> Vec<Option<Element>> { list.iter().map(|item| element(form, item)).collect() };
    let (old, new) = (named(live), named(config));
    let mut out = Vec::with_capacity(live.len() + config.len());
    let mut at = 0;
    for (item, element) in config.iter().zip(&new) {
        while at < live.len() && !new.contains(&old[at]) {
            out.push(live[at].clone());
            at += 1;
        }
        let before = old.iter().position(|o| o == element).map(|i| &live[i]);
        out.push(merge(before, item, shape.item())?);
        // The item's own place, or that of another one of the configuration, which was or will be written in its turn.
        if at < live.len() && new.contains(&old[at]) {
            at += 1;
        }
    }
    out.extend(live[at..].iter().zip(&old[at..]).filter(|(_, e)| !new.contains(e)).map(|(item, _)| item.clone()));
    Ok(Value::Array(out))
}

/// What became of fields between two documents.
#[derive(Debug, Default)]
pub struct Changes {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

impl Changes {
    /// What was added or modified.
    pub fn taken(&self) -> FieldSet {
        let mut out = self.added.clone();
        out.union(&self.modified);
        out
    }

    fn put(&mut self, element: &Element, child: Changes) {
        self.added.put(element.clone(), child.added);
        self.modified.put(element.clone(), child.modified);
        self.removed.put(element.clone(), child.removed);
    }
}

pub fn compare(old: Option<&Value>, new: Option<&Value>, shape: Shape) -> Changes {
    let mut out = Changes::default();
    if old == new {
        return out;
    }
    let Some(any) = new.or(old) else { return out };
    let form = form(shape, any);
    let bare = |v: Option<&Value>| v.is_none_or(|v| v.as_object().is_none_or(Map::is_empty) && v.as_array().is_none_or(Vec::is_empty));
    match &form {
        Form::Keys { .. } if !(bare(old) && bare(new)) => {
            let (before, after) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            let keys = before.into_iter().flat_map(Map::keys).chain(after.into_iter().flat_map(Map::keys));
            let keys: std::collections::BTreeSet<&String> = keys.collect();
            for key in keys {
                let child = compare(before.and_then(|m| m.get(key)), after.and_then(|m| m.get(key)), shape.child(key));
                out.put(&Element::Field(key.clone()), child);
            }
        }
        Form::Set | Form::Items(_) if !(bare(old) && bare(new)) => {
            let mut items: BTreeMap<Element, (Option<&Value>, Option<&Value>)> = BTreeMap::new();
            for item in array(old) {
                if let Some(element) = element(&form, item) {
                    items.entry(element).or_default().0 = Some(item);
                }
            }
            for item in array(new) {
                if let Some(element) = element(&form, item) {
                    items.entry(element).or_default().1 = Some(item);
                }
            }
            for (element, (before, after)) in items {
                out.put(&element, compare(before, after, shape.item()));
            }
        }
        _ if old.is_some() && new.is_some() => out.modified.member = true,
        _ => {}
    }
    out.added.member |= old.is_none();
    out.removed.member |= new.is_none();
    out
}

/// Takes out of `value` what is in `last` (what the manager applied before) and nowhere in `keep` (what it applies now,
/// and what others own). A place of which nobody owns anything any more goes whole, defaults in it included.
pub fn remove(value: &mut Value, last: &FieldSet, keep: &FieldSet, shape: Shape) {
    let form = form(shape, value);
    match (value, &form) {
        (Value::Object(map), Form::Keys { .. }) => {
            for (element, theirs) in &last.children {
                let Element::Field(key) = element else { continue };
                match (keep.children.get(element), map.get_mut(key)) {
                    (None, _) => drop(map.remove(key)),
                    (Some(keep), Some(inner)) => remove(inner, theirs, keep, shape.child(key)),
                    (Some(_), None) => {}
                }
            }
        }
        (Value::Array(list), Form::Set | Form::Items(_)) => list.retain_mut(|item| {
            let Some(element) = element(&form, item) else { return true };
            match (last.children.get(&element), keep.children.get(&element)) {
                (Some(_), None) => false,
                (Some(theirs), Some(keep)) => {
                    remove(item, theirs, keep, shape.item());
                    true
                }
                (None, _) => true,
            }
        }),
        _ => {}
    }
}
