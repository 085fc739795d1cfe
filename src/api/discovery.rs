//! Discovery documents: which groups, versions, resources and subresources are served, in the aggregated form
//! (apidiscovery.k8s.io v2 and v2beta1) and the plain one (APIVersions, APIGroupList, APIGroup, APIResourceList).
//!
//! May import: meta, kinds. Pure: a slice of resources in, JSON out. Resources of one group and version keep their
//! order; groups come in `GROUP_ORDER`, then by name; versions by Kubernetes' order (GA, beta, alpha; newest first).

use crate::kinds::{Resource, Storage, Subresource};
use crate::meta::{GroupVersion, GroupVersionKind};
use serde_json::{Map, Value, json};
use std::cmp::Reverse;

/// Content types that a client asks for and must see again in the answer.
pub const AGGREGATED_V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
pub const AGGREGATED_V2BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// The order in which kube-apiserver lists its groups; kubectl resolves an ambiguous resource name to the first.
const GROUP_ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

const STORED_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const PART_VERBS: &[&str] = &["get", "patch", "update"];

/// A subresource as discovery shows it.
struct Part {
    name: &'static str,
    kind: GroupVersionKind,
    verbs: &'static [&'static str],
}

/// The verbs of a resource's own endpoint.
pub fn verbs(resource: &dyn Resource) -> &'static [&'static str] {
    let names = resource.names();
    match (resource.storage(), names.group, names.kind) {
        (_, "", "ComponentStatus") => &["get", "list"],
        (_, "", "Namespace") => &["create", "delete", "get", "list", "patch", "update", "watch"],
        (_, "metrics.k8s.io", _) => &["get", "list"],
        (Storage::Virtual, ..) => &["create"],
        _ => STORED_VERBS,
    }
}

/// A subresource's name, the kind of its body and its verbs; None if the resource has none of that name.
pub fn subresource(resource: &dyn Resource, name: &str) -> Option<(&'static str, GroupVersionKind, &'static [&'static str])> {
    let parts = resource.subresources().iter().map(|s| part(resource, s));
    parts.into_iter().find(|p| p.name == name).map(|p| (p.name, p.kind, p.verbs))
}

fn parts(resource: &dyn Resource) -> Vec<Part> {
    let mut parts: Vec<Part> = resource.subresources().iter().map(|s| part(resource, s)).collect();
    parts.sort_by_key(|p| p.name);
    parts
}

fn part(resource: &dyn Resource, subresource: &Subresource) -> Part {
    match *subresource {
        Subresource::Status => Part { name: "status", kind: resource.names().gvk(), verbs: PART_VERBS },
        Subresource::Scale => {
            let kind = GroupVersionKind { group: "autoscaling".into(), version: "v1".into(), kind: "Scale".into() };
            Part { name: "scale", kind, verbs: PART_VERBS }
        }
        Subresource::Other { name, group, version, kind, verbs } => {
            Part { name, kind: GroupVersionKind { group: group.into(), version: version.into(), kind: kind.into() }, verbs }
        }
    }
}

/// Ranks a version: GA before beta before alpha, then the newest; what is no version name comes last.
fn version_rank(version: &str) -> impl Ord + use<> {
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        let split = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u32 = rest[..split].parse().ok()?;
        let (stage, minor) = match &rest[split..] {
            "" => (0, 0),
            tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                (Some(n), _) => (1, n.parse().ok()?),
                (_, Some(n)) => (2, n.parse().ok()?),
                _ => return None,
            },
        };
        Some((stage, Reverse(major), Reverse::<u32>(minor)))
    };
    (parsed().unwrap_or((3, Reverse(0), Reverse(0))), version.to_owned())
}

/// One group with its versions, the preferred one first, each with its resources.
struct Group<'a> {
    name: &'a str,
    versions: Vec<(&'a str, Vec<&'a dyn Resource>)>,
}

fn groups<'a>(resources: &[&'a dyn Resource]) -> Vec<Group<'a>> {
    let mut out: Vec<Group<'a>> = Vec::new();
    for &resource in resources {
        let names = resource.names();
        let group = match out.iter_mut().position(|g| g.name == names.group) {
            Some(at) => &mut out[at],
            None => {
                out.push(Group { name: names.group, versions: Vec::new() });
                out.last_mut().expect("just pushed")
            }
        };
        match group.versions.iter_mut().find(|(v, _)| *v == names.version) {
            Some((_, list)) => list.push(resource),
            None => group.versions.push((names.version, vec![resource])),
        }
    }
    out.sort_by_key(|g| (GROUP_ORDER.iter().position(|o| *o == g.name).unwrap_or(usize::MAX), g.name));
    for group in &mut out {
        group.versions.sort_by_key(|(v, _)| version_rank(v));
    }
    out
}

/// Every group and version, in discovery's order.
pub fn group_versions(resources: &[&dyn Resource]) -> Vec<GroupVersion> {
    groups(resources).iter().flat_map(|g| g.versions.iter().map(|(v, _)| GroupVersion::new(g.name, *v))).collect()
}

/// `APIGroupDiscoveryList` for `/api` (the core group) or `/apis` (all others). `version` is `v2` or `v2beta1`.
pub fn aggregated(resources: &[&dyn Resource], core: bool, version: &str) -> Value {
    let items: Vec<Value> = groups(resources)
        .iter()
        .filter(|g| g.name.is_empty() == core)
        .map(|g| {
            let mut metadata = json!({"creationTimestamp": null});
            if !g.name.is_empty() {
                metadata["name"] = json!(g.name);
            }
            let versions: Vec<Value> = g
                .versions
                .iter()
                .map(|(v, list)| {
                    let resources: Vec<Value> = sorted(list).into_iter().map(aggregated_resource).collect();
                    json!({"version": v, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items})
}

fn sorted<'a>(list: &[&'a dyn Resource]) -> Vec<&'a dyn Resource> {
    let mut list = list.to_vec();
    list.sort_by_key(|r| r.names().plural);
    list
}

fn aggregated_resource(resource: &dyn Resource) -> Value {
    let names = resource.names();
    let kind = |k: &GroupVersionKind| json!({"group": k.group, "version": k.version, "kind": k.kind});
    let mut out = json!({
        "resource": names.plural,
        "responseKind": kind(&names.gvk()),
        "scope": if names.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": names.singular,
        "verbs": verbs(resource),
    });
    if !names.short_names.is_empty() {
        out["shortNames"] = json!(names.short_names);
    }
    if !names.categories.is_empty() {
        out["categories"] = json!(names.categories);
    }
    let parts: Vec<Value> =
        parts(resource).iter().map(|p| json!({"subresource": p.name, "responseKind": kind(&p.kind), "verbs": p.verbs})).collect();
    if !parts.is_empty() {
        out["subresources"] = json!(parts);
    }
    out
}

/// `APIVersions`: the plain answer of `/api`.
pub fn core_versions(server_address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}]})
}

fn group_value(group: &Group<'_>) -> Value {
    let versions: Vec<Value> =
        group.versions.iter().map(|(v, _)| json!({"groupVersion": GroupVersion::new(group.name, *v).to_string(), "version": v})).collect();
    json!({"name": group.name, "preferredVersion": versions[0], "versions": versions})
}

/// `APIGroupList`: the plain answer of `/apis`.
pub fn group_list(resources: &[&dyn Resource]) -> Value {
    let list: Vec<Value> = groups(resources).iter().filter(|g| !g.name.is_empty()).map(group_value).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
}

/// `APIGroup`: the answer of `/apis/<group>`; None for a group that is not served.
pub fn group(resources: &[&dyn Resource], name: &str) -> Option<Value> {
    let all = groups(resources);
    let mut out = group_value(all.iter().find(|g| g.name == name && !name.is_empty())?);
    out["kind"] = json!("APIGroup");
    out["apiVersion"] = json!("v1");
    Some(out)
}

/// `APIResourceList`: the answer of `/api/v1` and `/apis/<group>/<version>`; None if not served.
pub fn resource_list(resources: &[&dyn Resource], group_version: &GroupVersion) -> Option<Value> {
    let mut list: Vec<Value> = Vec::new();
    for resource in resources.iter().filter(|r| r.names().group_version() == *group_version) {
        let names = resource.names();
        let mut entry = json!({"name": names.plural, "singularName": names.singular, "namespaced": names.namespaced,
            "kind": names.kind, "verbs": verbs(*resource)});
        if !names.short_names.is_empty() {
            entry["shortNames"] = json!(names.short_names);
        }
        if !names.categories.is_empty() {
            entry["categories"] = json!(names.categories);
        }
        list.push(entry);
        list.extend(parts(*resource).iter().map(|p| plain_part(*resource, p)));
    }
    if list.is_empty() {
        return None;
    }
    list.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version.to_string(), "resources": list}))
}

fn plain_part(resource: &dyn Resource, part: &Part) -> Value {
    let names = resource.names();
    let mut entry = Map::new();
    entry.insert("name".into(), json!(format!("{}/{}", names.plural, part.name)));
    entry.insert("singularName".into(), json!(""));
    entry.insert("namespaced".into(), json!(names.namespaced));
    // A body of another group or version than the endpoint's is named in full.
    if (part.kind.group.as_str(), part.kind.version.as_str()) != (names.group, names.version) {
        entry.insert("group".into(), json!(part.kind.group));
        entry.insert("version".into(), json!(part.kind.version));
    }
    entry.insert("kind".into(), json!(part.kind.kind));
    entry.insert("verbs".into(), json!(part.verbs));
    Value::Object(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn versions_are_ranked_as_kubernetes_does() {
        let mut versions = vec!["v1alpha1", "foo", "v1", "v2beta1", "v2", "v11", "v1beta2", "v2beta2"];
        versions.sort_by_key(|v| version_rank(v));
        assert_eq!(versions, ["v11", "v2", "v1", "v2beta2", "v2beta1", "v1beta2", "v1alpha1", "foo"]);
    }

    #[test]
    fn a_config_map_is_found_in_every_form() {
        let all = kinds::all();
        let list = aggregated(all, true, "v2");
        let resources = list["items"][0]["versions"][0]["resources"].as_array().unwrap();
        let map = resources.iter().find(|r| r["resource"] == "configmaps").unwrap();
        assert_eq!(map["shortNames"], json!(["cm"]));
        assert_eq!(map["responseKind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
        assert_eq!(map["scope"], "Namespaced");
        let plain = resource_list(all, &GroupVersion::new("", "v1")).unwrap();
        let entry = plain["resources"].as_array().unwrap().iter().find(|r| r["name"] == "configmaps").unwrap();
        assert_eq!(entry["verbs"], json!(STORED_VERBS));
        assert!(resource_list(all, &GroupVersion::new("none", "v1")).is_none());
        assert!(group(all, "").is_none());
    }
}
