//! Strategic merge patch: a merge patch in which lists of objects merge by a key that the schema names, with directives:
//! `$patch: replace|merge|delete`, `$retainKeys`, `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>`.
//!
//! Null deletes and is never kept. A list without a merge strategy is replaced whole.

use super::PatchError;
use crate::api::schema::{Merge, Shape};
use serde_json::{Map, Value};

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";
/// Deeper documents are refused: no API type nests further, and recursion must end.
const MAX_DEPTH: usize = 128;

type Object = Map<String, Value>;

/// Applies the patch in `body` to `document`, whose type is `shape`.
///
/// # Errors
/// The body is no JSON object, or a directive makes no sense.
pub fn apply(document: &Value, body: &[u8], shape: Shape) -> Result<Value, PatchError> {
    let patch: Value = serde_json::from_slice(body).map_err(|e| PatchError::Malformed(e.to_string()))?;
    apply_value(document, patch, shape)
}

/// As `apply`, with the patch already decoded.
///
/// # Errors
/// The patch is no JSON object, or a directive makes no sense.
pub fn apply_value(document: &Value, patch: Value, shape: Shape) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("Invalid JSON document".into()));
    };
    let original = document.as_object().cloned().unwrap_or_default();
    Ok(Value::Object(merge_objects(original, patch, shape, 0)?))
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

fn merge_objects(mut original: Object, mut patch: Object, shape: Shape, depth: usize) -> Result<Object, PatchError> {
    if depth > MAX_DEPTH {
        return Err(malformed("the patch nests too deeply"));
    }
    match patch.remove(PATCH) {
        None => {}
        Some(Value::String(what)) if what == "merge" => {}
        Some(Value::String(what)) if what == "replace" => return Ok(patch),
        Some(Value::String(what)) if what == "delete" => return Ok(Object::new()),
        Some(other) => return Err(malformed(format!("unknown patch type found: {other}"))),
    }
    if let Some(keys) = patch.remove(RETAIN) {
        retain_keys(&mut original, &patch, &keys)?;
    }
    let mut orders = take_prefixed(&mut patch, ORDER)?;
    let deletions = take_prefixed(&mut patch, DELETE)?;
    for (key, values) in deletions {
        if let Some(Value::Array(list)) = original.get_mut(&key) {
            list.retain(|item| !values.contains(item));
        }
    }
    for (key, value) in patch {
        let order = orders.iter().position(|(name, _)| *name == key).map(|at| orders.swap_remove(at).1);
        merge_field(&mut original, &key, value, order.as_deref(), shape.child(&key), depth)?;
    }
    // An order may come alone, for a list of which nothing else changes.
    for (key, order) in orders {
        if let Some(Value::Array(list)) = original.remove(&key) {
            let merged = merge_lists(list, Vec::new(), Some(&order), shape.child(&key), depth)?;
            original.insert(key, Value::Array(merged));
        }
    }
    Ok(original)
}

fn merge_field(
    original: &mut Object,
    key: &str,
    value: Value,
    order: Option<&[Value]>,
    shape: Shape,
    depth: usize,
) -> Result<(), PatchError> {
    if value.is_null() {
        original.remove(key);
        return Ok(());
    }
    let replaces = shape.merge().replaces();
    let merged = match (original.remove(key), value) {
        (_, value) if replaces => value,
        (old, Value::Object(patch)) => {
            // What is new is merged into nothing, which drops its nulls and directives.
            let old = match old {
                Some(Value::Object(old)) => old,
                _ => Object::new(),
            };
            Value::Object(merge_objects(old, patch, shape, depth + 1)?)
        }
        (old, Value::Array(patch)) if shape.merge().merges() => {
            let old = match old {
                Some(Value::Array(old)) => old,
                _ => Vec::new(),
            };
            Value::Array(merge_lists(old, patch, order, shape, depth + 1)?)
        }
        (_, value) => value,
    };
    original.insert(key.to_owned(), merged);
    Ok(())
}

/// Keeps of `original` only what `$retainKeys` lists; the patch may set nothing that is not listed.
fn retain_keys(original: &mut Object, patch: &Object, keys: &Value) -> Result<(), PatchError> {
    let keys: Option<Vec<&str>> = keys.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
    let keys = keys.ok_or_else(|| malformed("invalid patch format of retainKeys"))?;
    if patch.keys().any(|k| !k.starts_with('$') && !keys.contains(&k.as_str())) {
        return Err(PatchError::Unprocessable("patch contains fields not present in the retainKeys list".into()));
    }
    original.retain(|key, _| keys.contains(&key.as_str()));
    Ok(())
}

/// Takes the directives that name a list after `prefix` out of the patch.
fn take_prefixed(patch: &mut Object, prefix: &str) -> Result<Vec<(String, Vec<Value>)>, PatchError> {
    let names: Vec<String> = patch.keys().filter(|k| k.starts_with(prefix)).cloned().collect();
    let mut out = Vec::with_capacity(names.len());
    for name in names {
        match patch.remove(&name) {
            Some(Value::Array(values)) => out.push((name[prefix.len()..].to_owned(), values)),
            _ => return Err(malformed(format!("invalid patch format of {}", prefix.trim_end_matches('/')))),
        }
    }
    Ok(out)
}

/// What tells the items of a list apart: the merge key's value, or the item itself.
fn identity<'a>(item: &'a Value, key: &str) -> &'a Value {
    if key.is_empty() { item } else { item.get(key).unwrap_or(&Value::Null) }
}

fn merge_lists(
    original: Vec<Value>,
    patch: Vec<Value>,
    order: Option<&[Value]>,
    shape: Shape,
    depth: usize,
) -> Result<Vec<Value>, PatchError> {
    let facts = shape.merge();
    let objects = original.iter().chain(&patch).any(Value::is_object);
    if objects && facts.merge_key.is_empty() {
        return Err(PatchError::Internal("cannot merge lists without a merge key".into()));
    }
    if original.iter().chain(&patch).any(Value::is_array) {
        return Err(PatchError::Unprocessable("lists of lists are not supported".into()));
    }
    let key = if objects { facts.merge_key } else { "" };
    let server_order: Vec<Value> = original.iter().map(|item| identity(item, key).clone()).collect();
    let (merged, patch_order) = if objects {
        merge_by_key(original, patch, facts, shape, depth)?
    } else {
        let order = patch.clone();
        let mut merged = original;
        for item in patch {
            if !merged.contains(&item) {
                merged.push(item);
            }
        }
        (merged, order)
    };
    let wanted: Vec<Value> = match order {
        Some(order) => order.iter().map(|item| if item.is_object() { identity(item, key).clone() } else { item.clone() }).collect(),
        None => patch_order,
    };
    Ok(arrange(merged, &wanted, &server_order, key))
}

/// Merges lists of objects; also says in which order the patch names them.
fn merge_by_key(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    facts: Merge,
    shape: Shape,
    depth: usize,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let key = facts.merge_key;
    let mut replace = false;
    let mut changes: Vec<Object> = Vec::new();
    for item in patch {
        let Value::Object(mut item) = item else {
            return Err(malformed("invalid patch format of a list of objects: an item is no object"));
        };
        match item.get(PATCH).map(|v| v.as_str().unwrap_or_default().to_owned()).as_deref() {
            None => changes.push(item),
            Some("replace") => {
                replace = true;
                item.remove(PATCH);
                if !item.is_empty() {
                    changes.push(item);
                }
            }
            Some("delete") => {
                let gone = item.get(key).ok_or_else(|| missing(key, &item))?;
                original.retain(|o| o.get(key) != Some(gone));
            }
            Some(other) => return Err(malformed(format!("unknown patch type found: {other}"))),
        }
    }
    if replace {
        original.clear();
    }
    let mut named = Vec::with_capacity(changes.len());
    for change in changes {
        let id = change.get(key).ok_or_else(|| missing(key, &change))?.clone();
        match original.iter_mut().find(|o| o.get(key) == Some(&id)) {
            Some(slot) => {
                let old = match slot.take() {
                    Value::Object(old) => old,
                    _ => Object::new(),
                };
                *slot = Value::Object(merge_objects(old, change, shape.item(), depth + 1)?);
            }
            None => original.push(Value::Object(merge_objects(Object::new(), change, shape.item(), depth + 1)?)),
        }
        named.push(id);
    }
    Ok((original, named))
}

fn missing(key: &str, item: &Object) -> PatchError {
    let shown = Value::Object(item.clone());
    PatchError::Internal(format!("map: {shown} does not contain declared merge key: {key}"))
}

/// Orders a merged list: what the patch names stands in the patch's order, the rest in the server's, and the two are
/// interleaved by the server's order where it knows both, else what the patch names goes first.
fn arrange(merged: Vec<Value>, wanted: &[Value], server: &[Value], key: &str) -> Vec<Value> {
    let place = |order: &[Value], item: &Value| order.iter().position(|o| o == identity(item, key));
    let (mut named, mut rest): (Vec<Value>, Vec<Value>) = merged.into_iter().partition(|item| place(wanted, item).is_some());
    named.sort_by_key(|item| place(wanted, item));
    rest.sort_by_key(|item| place(server, item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + rest.len());
    let (mut named, mut rest) = (named.into_iter().peekable(), rest.into_iter().peekable());
    while let (Some(n), Some(r)) = (named.peek(), rest.peek()) {
        let rest_first = matches!((place(server, r), place(server, n)), (Some(r), Some(n)) if r < n);
        out.extend(if rest_first { rest.next() } else { named.next() });
    }
    out.extend(rest);
    out.extend(named);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(document: Value, patch: Value) -> Result<Value, PatchError> {
        apply_value(&document, patch, Shape::of_kind("", "v1", "Pod"))
    }

    fn containers(list: Value) -> Value {
        json!({"spec": {"containers": list}})
    }

    #[test]
    fn containers_merge_by_name() {
        let old = containers(json!([{"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}]}, {"name": "b", "image": "y"}]));
        let out = pod(old, containers(json!([{"name": "a", "image": "z", "env": [{"name": "F", "value": "2"}]}, {"name": "c"}]))).unwrap();
        assert_eq!(
            out,
            containers(json!([
                {"name": "a", "image": "z", "env": [{"name": "F", "value": "2"}, {"name": "E", "value": "1"}]},
                {"name": "c"},
                {"name": "b", "image": "y"},
            ]))
        );
    }

    #[test]
    fn directives_of_lists_are_obeyed() {
        let old = containers(json!([{"name": "a"}, {"name": "b"}]));
        assert_eq!(pod(old.clone(), containers(json!([{"name": "a", "$patch": "delete"}]))).unwrap(), containers(json!([{"name": "b"}])));
        assert_eq!(
            pod(old.clone(), containers(json!([{"$patch": "replace"}, {"name": "c"}]))).unwrap(),
            containers(json!([{"name": "c"}]))
        );
        let order = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}});
        assert_eq!(pod(old.clone(), order).unwrap(), containers(json!([{"name": "b"}, {"name": "a"}])));
        assert!(matches!(pod(old.clone(), containers(json!([{"$patch": "odd"}]))), Err(PatchError::Malformed(_))));
        assert!(matches!(pod(old, containers(json!([{"image": "x"}]))), Err(PatchError::Internal(_))));
    }

    #[test]
    fn directives_of_objects_are_obeyed() {
        let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]}});
        let out = pod(old.clone(), json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}})).unwrap();
        assert_eq!(out["metadata"]["labels"], json!({"c": "3"}));
        let out = pod(old.clone(), json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["z"]}})).unwrap();
        assert_eq!(out["metadata"]["finalizers"], json!(["z", "y"]));
        let out = pod(old, json!({"metadata": {"labels": {"a": null}}})).unwrap();
        assert_eq!(out["metadata"]["labels"], json!({"b": "2"}));
    }

    #[test]
    fn retain_keys_clears_the_other_members_of_a_union() {
        let shape = Shape::of_kind("apps", "v1", "Deployment");
        let old = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let out = apply_value(&old, json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}), shape).unwrap();
        assert_eq!(out, json!({"spec": {"strategy": {"type": "Recreate"}}}));
        let bad = json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}});
        assert!(matches!(apply_value(&old, bad, shape), Err(PatchError::Unprocessable(_))));
    }

    #[test]
    fn lists_without_a_strategy_are_replaced_and_unknown_types_merge_as_plain_json() {
        let out = pod(containers(json!([{"name": "a", "args": ["1", "2"]}])), containers(json!([{"name": "a", "args": ["3"]}])));
        assert_eq!(out.unwrap(), containers(json!([{"name": "a", "args": ["3"]}])));
        let out = apply_value(&json!({"l": [{"name": "a"}]}), json!({"l": [{"name": "b"}]}), Shape::default()).unwrap();
        assert_eq!(out, json!({"l": [{"name": "b"}]}));
    }

    proptest::proptest! {
        #[test]
        fn a_patch_of_what_is_there_changes_nothing(names in proptest::collection::btree_set("[a-e]", 0..5)) {
            let list: Vec<Value> = names.iter().map(|n| json!({"name": n, "image": "i"})).collect();
            let document = containers(json!(list));
            proptest::prop_assert_eq!(pod(document.clone(), document.clone()).unwrap(), document);
        }
    }
}
