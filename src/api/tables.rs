//! Documents made of many objects, or of parts of one: lists, Tables, PartialObjectMetadata. They are written as bytes
//! around the objects' own JSON, which is never parsed again.
//!
//! May import: meta, kinds, api::negotiate. Pure.

use super::negotiate::View;
use crate::kinds::{Object, Resource};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// `includeObject` of a Table request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    /// None: no such policy (400).
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// `metav1.ListMeta`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMeta {
    pub resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub r#continue: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<usize>,
}

/// How objects are shown: the view, and for Tables what each row carries and what time ages are counted from.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    pub view: View,
    pub include: Include,
    pub now: Timestamp,
}

fn write_json(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value).expect("plain data has a JSON form, and a Vec takes it");
}

fn separated<T>(out: &mut Vec<u8>, items: &[T], mut write: impl FnMut(&mut Vec<u8>, &T)) {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(out, item);
    }
}

fn head(out: &mut Vec<u8>, kind: &str, api_version: &str) {
    out.extend_from_slice(b"{\"kind\":");
    write_json(out, &kind);
    out.extend_from_slice(b",\"apiVersion\":");
    write_json(out, &api_version);
    out.extend_from_slice(b",\"metadata\":");
}

/// The answer to a list.
pub fn list(resource: &dyn Resource, items: &[Arc<Object>], meta: &ListMeta, shown: Shown) -> Vec<u8> {
    match shown.view {
        View::Object => {
            let mut out = Vec::with_capacity(256 + items.iter().map(|o| o.json().len() + 1).sum::<usize>());
            let names = resource.names();
            head(&mut out, &format!("{}List", names.kind), &names.group_version().to_string());
            write_json(&mut out, meta);
            out.extend_from_slice(b",\"items\":[");
            separated(&mut out, items, |out, object| out.extend_from_slice(object.json()));
            out.extend_from_slice(b"]}");
            out
        }
        View::Table(version) => table(resource, items, meta, version, shown, true),
        View::PartialMetadata(version) | View::PartialMetadataList(version) => {
            let mut out = Vec::with_capacity(256 + items.len() * 512);
            head(&mut out, "PartialObjectMetadataList", &meta_version(version));
            write_json(&mut out, meta);
            out.extend_from_slice(b",\"items\":[");
            separated(&mut out, items, |out, object| partial(out, object, version));
            out.extend_from_slice(b"]}");
            out
        }
    }
}

/// One object as it is asked for; None: as it is (its own JSON). `columns` says whether a Table names its columns.
pub fn single(object: &Arc<Object>, shown: Shown, columns: bool) -> Option<Vec<u8>> {
    match shown.view {
        View::Object => None,
        View::Table(version) => {
            let meta = ListMeta { resource_version: object.revision().to_string(), ..ListMeta::default() };
            Some(table(object.resource(), std::slice::from_ref(object), &meta, version, shown, columns))
        }
        View::PartialMetadata(version) | View::PartialMetadataList(version) => {
            let mut out = Vec::with_capacity(512);
            partial(&mut out, object, version);
            Some(out)
        }
    }
}

fn meta_version(version: &str) -> String {
    format!("meta.k8s.io/{version}")
}

fn partial(out: &mut Vec<u8>, object: &Object, version: &str) {
    head(out, "PartialObjectMetadata", &meta_version(version));
    write_json(out, object.meta());
    out.push(b'}');
}

fn table(resource: &dyn Resource, items: &[Arc<Object>], meta: &ListMeta, version: &str, shown: Shown, columns: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(2048 + items.len() * 1024);
    head(&mut out, "Table", &meta_version(version));
    write_json(&mut out, meta);
    out.extend_from_slice(b",\"columnDefinitions\":");
    write_json(&mut out, &if columns { column_definitions(resource) } else { Value::Null });
    out.extend_from_slice(b",\"rows\":[");
    separated(&mut out, items, |out, object| row(out, object, version, shown));
    out.extend_from_slice(b"]}");
    out
}

fn column_definitions(resource: &dyn Resource) -> Value {
    let column = |c: &crate::kinds::Column| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority});
    resource.columns().iter().map(column).collect()
}

fn row(out: &mut Vec<u8>, object: &Object, version: &str, shown: Shown) {
    out.extend_from_slice(b"{\"cells\":");
    write_json(out, &object.resource().cells(object.any(), shown.now));
    out.extend_from_slice(b",\"object\":");
    match shown.include {
        Include::None => out.extend_from_slice(b"null"),
        Include::Metadata => partial(out, object, version),
        Include::Object => out.extend_from_slice(object.json()),
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{ConfigMap, Registered, load};

    fn shown(view: View, include: Include) -> Shown {
        Shown { view, include, now: Timestamp::from_second(1000).unwrap() }
    }

    fn objects() -> Vec<Arc<Object>> {
        let json = br#"{"metadata":{"name":"a","namespace":"ns","creationTimestamp":"1970-01-01T00:16:00Z"},"data":{"k":"v"}}"#;
        vec![load(ConfigMap::resource(), json, 7).unwrap(), load(ConfigMap::resource(), json, 8).unwrap()]
    }

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_list_is_its_items_and_its_metadata() {
        let meta = ListMeta { resource_version: "9".into(), r#continue: "t".into(), remaining_item_count: Some(3) };
        let got = parsed(&list(ConfigMap::resource(), &objects(), &meta, shown(View::Object, Include::Metadata)));
        assert_eq!(got["kind"], "ConfigMapList");
        assert_eq!(got["apiVersion"], "v1");
        assert_eq!(got["metadata"], json!({"resourceVersion": "9", "continue": "t", "remainingItemCount": 3}));
        assert_eq!(got["items"][1]["metadata"]["resourceVersion"], "8");
        let empty = parsed(&list(ConfigMap::resource(), &[], &ListMeta::default(), shown(View::Object, Include::None)));
        assert_eq!(empty["items"], json!([]));
    }

    #[test]
    fn a_table_has_a_cell_for_every_column() {
        let meta = ListMeta { resource_version: "9".into(), ..ListMeta::default() };
        let got = parsed(&list(ConfigMap::resource(), &objects(), &meta, shown(View::Table("v1"), Include::Metadata)));
        assert_eq!((&got["kind"], &got["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
        assert_eq!(got["columnDefinitions"].as_array().unwrap().len(), 3);
        assert_eq!(got["rows"][0]["cells"], json!(["a", "1", "40s"]));
        assert_eq!(got["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        let one = parsed(&single(&objects()[0], shown(View::Table("v1beta1"), Include::Object), false).unwrap());
        assert_eq!(one["columnDefinitions"], Value::Null);
        assert_eq!(one["rows"][0]["object"]["data"], json!({"k": "v"}));
        let none = parsed(&single(&objects()[0], shown(View::Table("v1"), Include::None), true).unwrap());
        assert_eq!(none["rows"][0]["object"], Value::Null);
    }

    #[test]
    fn metadata_alone() {
        let got = parsed(&single(&objects()[0], shown(View::PartialMetadata("v1"), Include::None), true).unwrap());
        assert_eq!(got["metadata"]["name"], "a");
        assert!(got.get("data").is_none());
        let many = parsed(&list(ConfigMap::resource(), &objects(), &ListMeta::default(), shown(View::PartialMetadataList("v1"), Include::None)));
        assert_eq!(many["kind"], "PartialObjectMetadataList");
        assert_eq!(many["items"].as_array().unwrap().len(), 2);
    }
}
