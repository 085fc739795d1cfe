//! Authorization until roles (RBAC) come: system:masters may do all; a node its own objects and those of its pods; any
//! other authenticated user discovery and reviews of itself; anonymous health and version. Everything else is denied.

use super::authn::{BOOTSTRAPPERS, MASTERS, User};
use super::node_token::CERTIFICATE_PATH;

/// What is asked for. `group` to `name` are empty for non-resource requests, `path` is empty for resource requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
    /// The field selector of a list or watch, as it was sent.
    pub field_selector: &'a str,
}

/// What binds objects to nodes, read from the present snapshot.
pub trait NodeOwns: Send + Sync {
    /// True if the pod is bound to the node.
    fn pod_on_node(&self, node: &str, namespace: &str, pod: &str) -> bool;
    /// True if a pod of the node refers to the ConfigMap, Secret or ServiceAccount.
    fn used_by_node(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool;
}

/// # Errors
/// The text of the refusal, as it follows "… is forbidden: " in the answer.
pub fn authorize(user: &User, asked: &Attributes<'_>, owns: &dyn NodeOwns) -> Result<(), String> {
    let allowed = user.in_group(MASTERS)
        || public(asked)
        || (user.in_group("system:authenticated") && of_everyone(asked))
        || (user.in_group(BOOTSTRAPPERS) && asked.verb == "post" && asked.path == CERTIFICATE_PATH)
        || user.node_name().is_some_and(|node| of_node(node, asked, owns));
    if allowed { Ok(()) } else { Err(refusal(user, asked)) }
}

fn reads(verb: &str) -> bool {
    matches!(verb, "get" | "list" | "watch")
}

/// Health and version: for anyone.
fn public(a: &Attributes<'_>) -> bool {
    let first = a.path.split('/').nth(1).unwrap_or_default();
    a.verb == "get" && matches!(first, "healthz" | "livez" | "readyz" | "version")
}

/// Discovery, and reviews of oneself: for anyone who is known.
fn of_everyone(a: &Attributes<'_>) -> bool {
    let first = a.path.split('/').nth(1).unwrap_or_default();
    let discovery = a.verb == "get" && matches!(first, "api" | "apis" | "openapi" | "openid" | ".well-known");
    let review = a.verb == "create"
        && matches!(
            (a.group, a.resource),
            ("authentication.k8s.io", "selfsubjectreviews")
                | ("authorization.k8s.io", "selfsubjectaccessreviews" | "selfsubjectrulesreviews")
        );
    discovery || review
}

fn of_node(node: &str, a: &Attributes<'_>, owns: &dyn NodeOwns) -> bool {
    let own_pods = || {
        a.field_selector
            .split(',')
            .any(|term| term.split_once('=').is_some_and(|(k, v)| k == "spec.nodeName" && v.trim_start_matches('=') == node))
    };
    match (a.group, a.resource, a.subresource) {
        ("", "", _) => a.path == "/orchd/v1/tunnel" || (a.verb == "post" && a.path == CERTIFICATE_PATH),
        ("", "nodes", "" | "status") => reads(a.verb) || a.name == node || (a.verb == "create" && a.name.is_empty()),
        ("", "pods", "") => match a.verb {
            "list" | "watch" => own_pods(),
            "get" | "delete" => owns.pod_on_node(node, a.namespace, a.name),
            _ => false,
        },
        ("", "pods", "status") => matches!(a.verb, "update" | "patch") && owns.pod_on_node(node, a.namespace, a.name),
        ("", "services" | "endpoints" | "namespaces", "") | ("discovery.k8s.io", "endpointslices", "") => reads(a.verb),
        ("", "configmaps" | "secrets" | "serviceaccounts", "") => reads(a.verb) && used(node, a, owns),
        ("", "serviceaccounts", "token") => a.verb == "create" && owns.used_by_node(node, a.resource, a.namespace, a.name),
        ("coordination.k8s.io", "leases", "") => a.namespace == "kube-node-lease" && (a.name == node || a.verb == "create"),
        ("" | "events.k8s.io", "events", "") => matches!(a.verb, "create" | "patch" | "update"),
        _ => false,
    }
}

/// A node reads single objects: by name, or by a watch of that name.
fn used(node: &str, a: &Attributes<'_>, owns: &dyn NodeOwns) -> bool {
    let name = if a.name.is_empty() { a.field_selector.strip_prefix("metadata.name=").unwrap_or_default() } else { a.name };
    !name.is_empty() && owns.used_by_node(node, a.resource, a.namespace, name)
}

fn refusal(user: &User, a: &Attributes<'_>) -> String {
    if !a.path.is_empty() {
        return format!("User \"{}\" cannot {} path \"{}\"", user.name, a.verb, a.path);
    }
    let resource = if a.subresource.is_empty() { a.resource.to_owned() } else { format!("{}/{}", a.resource, a.subresource) };
    let scope = if a.namespace.is_empty() { " at the cluster scope".to_owned() } else { format!(" in the namespace \"{}\"", a.namespace) };
    format!("User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\"{scope}", user.name, a.verb, a.group)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One;
    impl NodeOwns for One {
        fn pod_on_node(&self, node: &str, namespace: &str, pod: &str) -> bool {
            (node, namespace, pod) == ("n1", "ns", "mine")
        }
        fn used_by_node(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
            (node, resource, namespace, name) == ("n1", "secrets", "ns", "used")
        }
    }

    fn node(name: &str) -> User {
        User { name: format!("system:node:{name}"), groups: vec!["system:nodes".into(), "system:authenticated".into()], ..User::default() }
    }

    fn pods(verb: &'static str, name: &'static str, field_selector: &'static str) -> Attributes<'static> {
        Attributes { verb, resource: "pods", namespace: "ns", name, field_selector, ..Attributes::default() }
    }

    #[test]
    fn a_node_reaches_only_its_own() {
        let n1 = node("n1");
        for (asked, allowed) in [
            (pods("get", "mine", ""), true),
            (pods("get", "other", ""), false),
            (pods("list", "", "spec.nodeName=n1"), true),
            (pods("list", "", "spec.nodeName=n12"), false),
            (pods("list", "", ""), false),
            (pods("create", "", ""), false),
            (Attributes { verb: "get", resource: "secrets", namespace: "ns", name: "used", ..Attributes::default() }, true),
            (Attributes { verb: "get", resource: "secrets", namespace: "ns", name: "x", ..Attributes::default() }, false),
            (Attributes { verb: "list", resource: "secrets", namespace: "ns", ..Attributes::default() }, false),
            (Attributes { verb: "patch", resource: "nodes", name: "n2", ..Attributes::default() }, false),
            (Attributes { verb: "patch", resource: "nodes", subresource: "status", name: "n1", ..Attributes::default() }, true),
        ] {
            assert_eq!(authorize(&n1, &asked, &One).is_ok(), allowed, "{asked:?}");
        }
    }

    #[test]
    fn anonymous_gets_health_and_version_alone() {
        let path = |path| Attributes { verb: "get", path, ..Attributes::default() };
        assert!(authorize(&User::anonymous(), &path("/livez"), &One).is_ok());
        assert!(authorize(&User::anonymous(), &path("/version"), &One).is_ok());
        assert!(authorize(&User::anonymous(), &path("/api"), &One).is_err());
        let text = authorize(&User::anonymous(), &pods("list", "", ""), &One).unwrap_err();
        assert_eq!(text, "User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"ns\"");
    }
}
