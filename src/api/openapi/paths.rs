//! Paths and operations of resources, in OpenAPI v3.

use super::schemas::{META, reference, type_name};
use crate::api::discovery;
use crate::api::patch;
use crate::kinds::{Resource, Storage};
use crate::meta::GroupVersionKind;
use serde_json::{Map, Value, json};

const MEDIA: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Query parameters: name, type, what it is.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "If 'true', then the output is pretty printed.");
const DRY_RUN: Parameter = ("dryRun", "string", "When present, indicates that modifications should not be persisted. The only valid value is 'All'.");
const FIELD_MANAGER: Parameter = ("fieldManager", "string", "The name of the actor that makes these changes; required for server-side apply.");
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What to do with unknown or duplicate fields: Ignore drops them, Warn (the default) drops them and warns, Strict refuses the request.",
);
const FORCE: Parameter = ("force", "boolean", "Takes over fields that conflict with another manager's. Only for server-side apply.");

const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "Asks for events of type BOOKMARK."),
    ("continue", "string", "The token of the previous page: continues a list."),
    ("fieldSelector", "string", "Restricts the objects by their fields. Defaults to everything."),
    ("labelSelector", "string", "Restricts the objects by their labels. Defaults to everything."),
    ("limit", "integer", "The most items that one answer holds; the rest is got by its continue token."),
    ("resourceVersion", "string", "Which state may be served; how it is read follows from resourceVersionMatch."),
    ("resourceVersionMatch", "string", "Exact or NotOlderThan."),
    ("sendInitialEvents", "boolean", "Starts a watch with what is there, and a bookmark after it."),
    ("timeoutSeconds", "integer", "How long the call may take, be the client active or not."),
    ("watch", "boolean", "Streams changes instead of listing."),
];
const DELETE: &[Parameter] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds before the object is deleted; 0 at once."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
];
const WRITE: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const PATCH: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];

pub fn paths(resources: &[&dyn Resource]) -> Map<String, Value> {
    let mut out = Map::new();
    for resource in resources {
        of_resource(*resource, &mut out);
    }
    out
}

/// What the operations of one path have in common.
struct Place<'a> {
    resource: &'a dyn Resource,
    /// Of the body.
    kind: GroupVersionKind,
    subresource: &'a str,
    /// `Namespaced`, `ForAllNamespaces` or nothing, as operation ids carry it.
    scope: &'static str,
}

fn of_resource(resource: &dyn Resource, out: &mut Map<String, Value>) {
    let names = resource.names();
    let gv = names.group_version();
    let base = if names.group.is_empty() { format!("/api/{gv}") } else { format!("/apis/{gv}") };
    let root = if names.namespaced { format!("{base}/namespaces/{{namespace}}") } else { base.clone() };
    let collection = format!("{root}/{}", names.plural);
    let verbs = discovery::verbs(resource);
    let scope = if names.namespaced { "Namespaced" } else { "" };
    let place = Place { resource, kind: names.gvk(), subresource: "", scope };
    let has = |verb: &str| verbs.contains(&verb);

    let mut many = Map::new();
    if has("list") {
        many.insert("get".into(), place.operation("list", LIST));
    }
    if has("create") {
        many.insert("post".into(), place.operation("post", WRITE));
    }
    if has("deletecollection") {
        let parameters = [DELETE, LIST].concat();
        many.insert("delete".into(), place.operation("deletecollection", &parameters));
    }
    add(out, collection.clone(), many, names.namespaced, false);
    if names.namespaced && has("list") {
        let everywhere = Place { scope: "ForAllNamespaces", ..place };
        let get = Map::from_iter([("get".to_owned(), everywhere.operation("list", LIST))]);
        add(out, format!("{base}/{}", names.plural), get, false, false);
    }
    if resource.storage() == Storage::Virtual {
        return;
    }
    let place = Place { resource, kind: names.gvk(), subresource: "", scope };
    let item = format!("{collection}/{{name}}");
    add(out, item.clone(), place.item(verbs), names.namespaced, true);
    for subresource in resource.subresources() {
        let name = match subresource {
            crate::kinds::Subresource::Status => "status",
            crate::kinds::Subresource::Scale => "scale",
            crate::kinds::Subresource::Other { name, .. } => name,
        };
        let Some((name, kind, verbs)) = discovery::subresource(resource, name) else { continue };
        let place = Place { resource, kind, subresource: name, scope };
        add(out, format!("{item}/{name}"), place.item(verbs), names.namespaced, true);
    }
}

fn add(out: &mut Map<String, Value>, path: String, operations: Map<String, Value>, namespace: bool, name: bool) {
    if operations.is_empty() {
        return;
    }
    let mut item = operations;
    let mut parameters = vec![query_parameter(PRETTY)];
    let in_path = |name: &str, what: &str| json!({"name": name, "in": "path", "required": true, "description": what, "schema": {"type": "string", "uniqueItems": true}});
    if name {
        parameters.push(in_path("name", "name of the object"));
    }
    if namespace {
        parameters.push(in_path("namespace", "object name and auth scope, such as for teams and projects"));
    }
    item.insert("parameters".into(), parameters.into());
    out.insert(path, Value::Object(item));
}

fn query_parameter((name, kind, what): Parameter) -> Value {
    json!({"name": name, "in": "query", "description": what, "schema": {"type": kind, "uniqueItems": true}})
}

fn content(media: &[&str], schema: &Value) -> Value {
    media.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}

impl Place<'_> {
    /// The operations of one object, or of one of its subresources.
    fn item(&self, verbs: &[&str]) -> Map<String, Value> {
        let mut out = Map::new();
        for (verb, method, action, parameters) in [
            ("get", "get", "get", &[][..]),
            ("update", "put", "put", WRITE),
            ("create", "post", "post", WRITE),
            ("patch", "patch", "patch", PATCH),
            ("delete", "delete", "delete", DELETE),
        ] {
            let of_item = self.subresource.is_empty();
            if verbs.contains(&verb) && !(of_item && verb == "create") {
                out.insert(method.into(), self.operation(action, parameters));
            }
        }
        out
    }

    fn operation(&self, action: &str, parameters: &[Parameter]) -> Value {
        let names = self.resource.names();
        let object = type_name(&self.kind.group, &self.kind.version, &self.kind.kind);
        let answer = match action {
            "list" => format!("{object}List"),
            "delete" | "deletecollection" => format!("{META}.Status"),
            _ => object.clone(),
        };
        let streamed = matches!(self.subresource, "log" | "exec" | "attach" | "portforward" | "proxy");
        let ok = if streamed {
            json!({"description": "OK", "content": content(&["*/*"], &json!({"type": "string"}))})
        } else {
            json!({"description": "OK", "content": content(&MEDIA, &reference(&answer))})
        };
        let mut responses = json!({"200": ok, "401": {"description": "Unauthorized"}});
        if matches!(action, "post" | "put" | "patch") {
            responses["201"] = responses["200"].clone();
            responses["201"]["description"] = json!("Created");
        }
        let mut out = json!({
            "operationId": self.operation_id(action),
            "tags": [tag(names.group, names.version)],
            "description": format!("{action} {}", describe(&self.kind.kind, self.subresource)),
            "responses": responses,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": self.kind.group, "version": self.kind.version, "kind": self.kind.kind},
        });
        if !parameters.is_empty() {
            out["parameters"] = parameters.iter().copied().map(query_parameter).collect();
        }
        let body = match action {
            _ if streamed => None,
            "post" | "put" => Some((content(&["*/*"], &reference(&object)), true)),
            "patch" => Some((content(&patch::CONTENT_TYPES, &reference(&format!("{META}.Patch"))), true)),
            "delete" | "deletecollection" => Some((content(&["*/*"], &reference(&format!("{META}.DeleteOptions"))), false)),
            _ => None,
        };
        if let Some((content, required)) = body {
            out["requestBody"] = json!({"content": content, "required": required});
        }
        out
    }

    /// As Kubernetes names operations: `patchAppsV1NamespacedDeploymentStatus`.
    fn operation_id(&self, action: &str) -> String {
        let names = self.resource.names();
        let verb = match action {
            "get" => "read",
            "post" => "create",
            "put" => "replace",
            "deletecollection" => "deleteCollection",
            other => other,
        };
        let group = if names.group.is_empty() { "core" } else { names.group.split('.').next().unwrap_or_default() };
        let (before, after) = if self.scope == "ForAllNamespaces" { ("", self.scope) } else { (self.scope, "") };
        let subresource = camel(self.subresource);
        format!("{verb}{}{}{before}{}{subresource}{after}", camel(group), camel(names.version), names.kind)
    }
}

fn describe(kind: &str, subresource: &str) -> String {
    if subresource.is_empty() { format!("objects of kind {kind}") } else { format!("the {subresource} of an object") }
}

fn tag(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or_default() };
    format!("{group}_{version}")
}

fn camel(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}
