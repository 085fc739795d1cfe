//! OpenAPI v2 (Swagger) out of v3: the same types and paths in the older form.

use serde_json::{Map, Value, json};

/// The v2 document that says what this v3 document says.
pub fn document(v3: &Value) -> Value {
    let mut definitions = Map::new();
    for (name, schema) in v3["components"]["schemas"].as_object().into_iter().flatten() {
        definitions.insert(name.clone(), self::schema(schema));
    }
    let mut paths = Map::new();
    for (path, item) in v3["paths"].as_object().into_iter().flatten() {
        paths.insert(path.clone(), path_item(item));
    }
    json!({
        "swagger": "2.0",
        "info": v3["info"],
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": v3["components"]["securitySchemes"],
        "security": [{"BearerToken": []}],
    })
}

fn path_item(item: &Value) -> Value {
    let mut out = Map::new();
    for (key, value) in item.as_object().into_iter().flatten() {
        let value = if key == "parameters" { parameters(value) } else { operation(value) };
        out.insert(key.clone(), value);
    }
    Value::Object(out)
}

fn parameters(list: &Value) -> Value {
    list.as_array().into_iter().flatten().map(parameter).collect()
}

/// v2 keeps a parameter's type beside its name.
fn parameter(parameter: &Value) -> Value {
    let mut out = parameter.as_object().cloned().unwrap_or_default();
    if let Some(Value::Object(schema)) = out.remove("schema") {
        out.extend(schema);
    }
    Value::Object(out)
}

fn media(content: &Value) -> Vec<&str> {
    content.as_object().into_iter().flatten().map(|(media, _)| media.as_str()).collect()
}

fn schema_of(content: &Value) -> Option<Value> {
    content.as_object()?.values().next().map(|c| schema(&c["schema"]))
}

fn operation(operation: &Value) -> Value {
    let mut out = operation.as_object().cloned().unwrap_or_default();
    let mut list = match out.get("parameters") {
        Some(list) => parameters(list),
        None => json!([]),
    };
    if let Some(body) = out.remove("requestBody") {
        out.insert("consumes".into(), media(&body["content"]).into());
        if let (Some(schema), Value::Array(list)) = (schema_of(&body["content"]), &mut list) {
            list.insert(0, json!({"name": "body", "in": "body", "required": body["required"], "schema": schema}));
        }
    }
    out.insert("parameters".into(), list);
    out.insert("produces".into(), media(&operation["responses"]["200"]["content"]).into());
    out.insert("schemes".into(), json!(["https"]));
    let mut responses = Map::new();
    for (code, response) in operation["responses"].as_object().into_iter().flatten() {
        let mut answer = json!({"description": response["description"]});
        if let Some(schema) = schema_of(&response["content"]) {
            answer["schema"] = schema;
        }
        responses.insert(code.clone(), answer);
    }
    out.insert("responses".into(), Value::Object(responses));
    Value::Object(out)
}

/// A schema without `allOf` around references and without `oneOf`, neither of which v2 readers expect.
fn schema(value: &Value) -> Value {
    let Value::Object(map) = value else { return value.clone() };
    let mut out = Map::new();
    for (key, value) in map {
        match key.as_str() {
            "$ref" => {
                let name = value.as_str().unwrap_or_default().replace("#/components/schemas/", "#/definitions/");
                out.insert("$ref".into(), name.into());
            }
            "allOf" => {
                if let Some(Value::Object(inner)) = value.as_array().and_then(|l| l.first()).map(schema) {
                    out.extend(inner);
                }
            }
            // An IntOrString and a Quantity are strings to v2.
            "oneOf" => drop(out.insert("type".into(), json!("string"))),
            "default" if value.as_object().is_some_and(Map::is_empty) => {}
            "properties" => {
                let properties = value.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), schema(v)));
                out.insert(key.clone(), Value::Object(properties.collect()));
            }
            "items" | "additionalProperties" => drop(out.insert(key.clone(), schema(value))),
            "nullable" => {}
            _ => drop(out.insert(key.clone(), value.clone())),
        }
    }
    Value::Object(out)
}
