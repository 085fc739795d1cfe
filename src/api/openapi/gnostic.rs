//! The v2 document in gnostic's protobuf (`openapi.v2.Document`), which older kubectl asks for. Field numbers are those of
//! gnostic's OpenAPIv2.proto; what our documents never hold is left out.

use crate::api::protobuf::wire::Writer;
use serde_json::{Map, Value};

/// Encodes a v2 document.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Writer::default();
    text(&mut out, 1, &document["swagger"]);
    out.message(2, |info| {
        text(info, 1, &document["info"]["title"]);
        text(info, 2, &document["info"]["version"]);
    });
    out.message(8, |paths| {
        for (path, item) in entries(&document["paths"]) {
            named(paths, 2, path, |w| path_item(w, item));
        }
    });
    out.message(9, |definitions| {
        for (name, definition) in entries(&document["definitions"]) {
            named(definitions, 1, name, |w| schema(w, definition));
        }
    });
    for requirement in document["security"].as_array().into_iter().flatten() {
        out.message(12, |w| {
            for (name, scopes) in entries(requirement) {
                named(w, 1, name, |w| texts(w, 1, scopes));
            }
        });
    }
    out.message(13, |w| {
        for (name, scheme) in entries(&document["securityDefinitions"]) {
            named(w, 1, name, |w| {
                w.message(2, |key| {
                    for (number, field) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
                        text(key, number, &scheme[field]);
                    }
                });
            });
        }
    });
    out.bytes
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn text(out: &mut Writer, number: u32, value: &Value) {
    if let Some(text) = value.as_str() {
        out.put(number, text.as_bytes());
    }
}

fn texts(out: &mut Writer, number: u32, list: &Value) {
    for item in list.as_array().into_iter().flatten() {
        text(out, number, item);
    }
}

fn flag(out: &mut Writer, number: u32, value: &Value) {
    if value == &Value::Bool(true) {
        out.int(number, 1);
    }
}

/// A `Named…` message: a name and a value.
fn named(out: &mut Writer, number: u32, name: &str, value: impl FnOnce(&mut Writer)) {
    out.message(number, |w| {
        w.put(1, name.as_bytes());
        w.message(2, value);
    });
}

/// An `Any`: its YAML, of which JSON is a part.
fn any(out: &mut Writer, value: &Value) {
    out.put(2, value.to_string().as_bytes());
}

fn extensions(out: &mut Writer, number: u32, owner: &Value) {
    for (name, value) in entries(owner).filter(|(name, _)| name.starts_with("x-")) {
        named(out, number, name, |w| any(w, value));
    }
}

fn schema(out: &mut Writer, value: &Value) {
    for (number, field) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")] {
        text(out, number, &value[field]);
    }
    if let Some(default) = value.get("default") {
        out.message(5, |w| any(w, default));
    }
    if let Some(minimum) = value["minimum"].as_f64() {
        out.double(9, minimum);
    }
    texts(out, 19, &value["required"]);
    for item in value["enum"].as_array().into_iter().flatten() {
        out.message(20, |w| any(w, item));
    }
    match value.get("additionalProperties") {
        Some(Value::Bool(open)) => out.message(21, |w| w.int(2, i64::from(*open))),
        Some(inner) => out.message(21, |w| w.message(1, |w| schema(w, inner))),
        None => {}
    }
    if value["type"].is_string() {
        out.message(22, |w| text(w, 1, &value["type"]));
    }
    if let Some(items) = value.get("items") {
        out.message(23, |w| w.message(1, |w| schema(w, items)));
    }
    if let Some(Value::Object(properties)) = value.get("properties") {
        out.message(25, |w| {
            for (name, property) in properties {
                named(w, 1, name, |w| schema(w, property));
            }
        });
    }
    extensions(out, 31, value);
}

fn path_item(out: &mut Writer, item: &Value) {
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(found) = item.get(method) {
            out.message(number, |w| operation(w, found));
        }
    }
    for parameter in item["parameters"].as_array().into_iter().flatten() {
        out.message(9, |w| parameters_item(w, parameter));
    }
}

fn operation(out: &mut Writer, value: &Value) {
    texts(out, 1, &value["tags"]);
    text(out, 3, &value["description"]);
    text(out, 5, &value["operationId"]);
    texts(out, 6, &value["produces"]);
    texts(out, 7, &value["consumes"]);
    for parameter in value["parameters"].as_array().into_iter().flatten() {
        out.message(8, |w| parameters_item(w, parameter));
    }
    out.message(9, |responses| {
        for (code, response) in entries(&value["responses"]) {
            named(responses, 1, code, |w| {
                w.message(1, |w| {
                    text(w, 1, &response["description"]);
                    if let Some(found) = response.get("schema") {
                        w.message(2, |w| w.message(1, |w| schema(w, found)));
                    }
                });
            });
        }
    });
    texts(out, 10, &value["schemes"]);
    extensions(out, 13, value);
}

fn parameters_item(out: &mut Writer, value: &Value) {
    out.message(1, |parameter| {
        if value["in"] == "body" {
            parameter.message(1, |body| {
                text(body, 2, &value["name"]);
                text(body, 3, &value["in"]);
                flag(body, 4, &value["required"]);
                body.message(5, |w| schema(w, &value["schema"]));
            });
            return;
        }
        let query = value["in"] == "query";
        parameter.message(2, |w| {
            w.message(if query { 3 } else { 4 }, |w| {
                flag(w, 1, &value["required"]);
                text(w, 2, &value["in"]);
                text(w, 3, &value["description"]);
                text(w, 4, &value["name"]);
                text(w, if query { 6 } else { 5 }, &value["type"]);
                flag(w, if query { 20 } else { 19 }, &value["uniqueItems"]);
            });
        });
    });
}
