use super::*;
use crate::api::protobuf::wire::{Field, Reader};

fn document(group: &str, version: &str) -> Value {
    serde_json::from_slice(&v3_json(&GroupVersion::new(group, version)).unwrap()).unwrap()
}

/// Every `$ref` of a document, below `prefix`.
fn references(value: &Value, prefix: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                out.push(name.strip_prefix(prefix).unwrap_or_else(|| panic!("{name}")).to_owned());
            }
            map.values().for_each(|v| references(v, prefix, out));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, prefix, out)),
        _ => {}
    }
}

#[test]
fn every_document_of_the_index_is_whole() {
    for gv in discovery::group_versions(kinds::all()) {
        let document = document(&gv.group, &gv.version);
        let mut names = Vec::new();
        references(&document, "#/components/schemas/", &mut names);
        for name in names {
            assert!(document["components"]["schemas"].get(&name).is_some(), "{gv}: {name}");
        }
    }
    assert!(v3_json(&GroupVersion::new("none", "v1")).is_none());
}

#[test]
fn what_kubectl_apply_looks_for_is_there() {
    let apps = document("apps", "v1");
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "apps", "version": "v1", "kind": "Deployment"}));
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation" && p["in"] == "query"));
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_some());
    let schemas = &apps["components"]["schemas"];
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
    let spec = &schemas["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"];
    assert_eq!(spec["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec");
    assert!(spec["description"].is_string());
    assert_eq!(schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["replicas"]["format"], "int32");
}

#[test]
fn v2_says_the_same_in_both_forms() {
    let json: Value = serde_json::from_slice(&v2_json()).unwrap();
    let mut names = Vec::new();
    references(&json, "#/definitions/", &mut names);
    for name in names {
        assert!(json["definitions"].get(&name).is_some(), "{name}");
    }
    assert_eq!(json["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["type"], "string");
    let pods = &json["paths"]["/api/v1/namespaces/{namespace}/pods"]["post"];
    assert_eq!(pods["parameters"][0]["schema"]["$ref"], "#/definitions/io.k8s.api.core.v1.Pod");
    let mut definitions = 0;
    let protobuf = v2_protobuf();
    let mut fields = Reader::new(&protobuf);
    while let Some((number, field)) = fields.next().unwrap() {
        if let (9, Field::Bytes(inner)) = (number, field) {
            let mut inner = Reader::new(inner);
            while inner.next().unwrap().is_some() {
                definitions += 1;
            }
        }
    }
    assert_eq!(definitions, json["definitions"].as_object().unwrap().len());
}

#[test]
fn hashes_tell_documents_apart() {
    let (core, apps) = (hash(Some(&GroupVersion::new("", "v1"))), hash(Some(&GroupVersion::new("apps", "v1"))));
    assert_ne!(core, apps);
    assert_eq!(index()["paths"]["api/v1"]["serverRelativeURL"], format!("/openapi/v3/api/v1?hash={core}"));
}
