//! Schemas of types: k8s-openapi's (shapes and texts) with the `x-kubernetes-` extensions that patches and apply need.

use crate::api::schema::{Field, Merge, full_name, schema};
use crate::kinds::{Resource, Subresource};
use k8s_openapi::api::{authentication::v1 as authentication, autoscaling::v1 as autoscaling, core::v1 as core, policy::v1 as policy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

pub const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const PREFIX: &str = "#/components/schemas/";

pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("{PREFIX}{name}")})
}

/// The OpenAPI name of a kind's type.
pub fn type_name(group: &str, version: &str, kind: &str) -> String {
    let known = schema().by_kind_name(group, version, kind);
    known.map_or_else(|| format!("io.k8s.api.{}.{version}.{kind}", group.split('.').next().unwrap_or_default()), full_name)
}

/// The schemas of the resources' types, of their lists, and of what requests and answers are made of, by name.
pub fn schemas(resources: &[&dyn Resource]) -> Map<String, Value> {
    let mut generator = SchemaSettings::openapi3().into_generator();
    for resource in resources {
        resource.describe(&mut generator);
        describe_bodies(*resource, &mut generator);
    }
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::Status>();
    generator.subschema_for::<meta::ListMeta>();
    let mut out: Map<String, Value> =
        generator.take_definitions(true).into_iter().map(|(name, value)| (name.clone(), definition(&name, value))).collect();
    for resource in resources.iter().filter(|r| r.storage() != crate::kinds::Storage::Virtual) {
        let names = resource.names();
        let item = type_name(names.group, names.version, names.kind);
        out.insert(format!("{item}List"), list(*resource, &item));
    }
    let every: Vec<Value> = std::iter::once(json!({"group": "", "version": "v1", "kind": "DeleteOptions"}))
        .chain(resources.iter().map(|r| r.names()).map(|n| json!({"group": n.group, "version": n.version, "kind": "DeleteOptions"})))
        .collect();
    if let Some(options) = out.get_mut(&format!("{META}.DeleteOptions")) {
        options["x-kubernetes-group-version-kind"] = unique(every).into();
    }
    let patch = "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.";
    out.insert(format!("{META}.Patch"), json!({"description": patch, "type": "object"}));
    out
}

fn unique(mut values: Vec<Value>) -> Vec<Value> {
    let mut seen = Vec::new();
    values.retain(|v| {
        let new = !seen.contains(v);
        if new {
            seen.push(v.clone());
        }
        new
    });
    values
}

/// Bodies of subresources that are kinds of their own.
fn describe_bodies(resource: &dyn Resource, generator: &mut SchemaGenerator) {
    for subresource in resource.subresources() {
        match subresource {
            Subresource::Status => {}
            Subresource::Scale => drop(generator.subschema_for::<autoscaling::Scale>()),
            Subresource::Other { kind, .. } => match *kind {
                "Binding" => drop(generator.subschema_for::<core::Binding>()),
                "Eviction" => drop(generator.subschema_for::<policy::Eviction>()),
                "TokenRequest" => drop(generator.subschema_for::<authentication::TokenRequest>()),
                _ => {}
            },
        }
    }
}

fn list(resource: &dyn Resource, item: &str) -> Value {
    let names = resource.names();
    let text = |what: &str| json!({"type": "string", "description": what});
    json!({
        "description": format!("{0}List is a list of {0}s.", names.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text("APIVersion defines the versioned schema of this representation of an object."),
            "kind": text("Kind is a string value representing the REST resource this object represents."),
            "items": {"description": "Items of the list.", "type": "array", "items": {"allOf": [reference(item)], "default": {}}},
            "metadata": {"description": "Standard list metadata.", "allOf": [reference(&format!("{META}.ListMeta"))], "default": {}},
        },
        "x-kubernetes-group-version-kind": [{"group": names.group, "version": names.version, "kind": format!("{}List", names.kind)}],
    })
}

/// One of k8s-openapi's schemas, as kube-apiserver shows it.
fn definition(name: &str, mut value: Value) -> Value {
    if name.ends_with(".IntOrString") {
        return json!({"description": value["description"], "format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]});
    }
    if name.ends_with(".Quantity") {
        return json!({"description": value["description"], "oneOf": [{"type": "string"}, {"type": "number"}]});
    }
    tidy(&mut value);
    let Some(def) = schema().by_name(name) else { return value };
    if let Some(kind) = def.kind {
        let parts: Vec<&str> = kind.split('/').collect();
        if let [group, version, kind] = parts[..] {
            value["x-kubernetes-group-version-kind"] = json!([{"group": group, "version": version, "kind": kind}]);
        }
    }
    if def.atomic {
        value["x-kubernetes-map-type"] = json!("atomic");
    }
    if let Some(properties) = value["properties"].as_object_mut() {
        for (key, property) in properties {
            if let Some(field) = schema().field(def, key) {
                extend(property, field);
            }
        }
    }
    value
}

/// Drops what schemars adds and OpenAPI does not know, and gives references the default that kube-apiserver gives them.
fn tidy(value: &mut Value) {
    let Value::Object(map) = value else { return };
    map.remove("$schema");
    map.remove("title");
    if map.remove("x-kubernetes-int-or-string").is_some() {
        map.insert("format".into(), json!("int-or-string"));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            tidy(inner);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(tidy);
    }
}

fn extend(property: &mut Value, field: &Field) {
    let Merge { strategy, merge_key, list_type, atomic_map, .. } = field.merge;
    let mut set = |key: &str, text: &str| {
        if !text.is_empty() {
            property[key] = json!(text);
        }
    };
    set("x-kubernetes-patch-strategy", strategy);
    set("x-kubernetes-patch-merge-key", merge_key);
    set("x-kubernetes-list-type", list_type);
    set("x-kubernetes-map-type", if atomic_map { "atomic" } else { "" });
    let keys: Vec<&str> = field.merge.keys().collect();
    if !keys.is_empty() {
        property["x-kubernetes-list-map-keys"] = json!(keys);
    }
}
