//! NodeRestriction: what a node, though authorized, may not write. Texts are Kubernetes'.

use crate::kinds::{AnyObject, Node, Object, ObjectKey, Pod, Registered, Resource};
use crate::security::User;
use crate::watch::Snapshot;
use k8s_openapi::api::authentication::v1::BoundObjectReference;
use k8s_openapi::api::core::v1 as core;

const RESTRICTED: &str = "node-restriction.kubernetes.io/";

/// # Errors
/// Why the node may not create this.
pub fn create(user: &User, resource: &dyn Resource, object: &dyn AnyObject) -> Result<(), String> {
    let Some(node) = user.node_name() else { return Ok(()) };
    let name = object.meta().name.as_deref().unwrap_or_default();
    if resource.names() == Pod::resource().names() {
        return Err("pod does not have \"kubernetes.io/config.mirror\" annotation, node can only create mirror pods".into());
    }
    if resource.names() == Node::resource().names() {
        if name != node {
            return Err(format!("node \"{node}\" is not allowed to modify node \"{name}\""));
        }
        let labels = object.meta().labels.iter().flatten().map(|(k, _)| k.as_str());
        return forbid_labels(node, &labels.filter(|k| is_restricted(k)).collect::<Vec<_>>());
    }
    lease(node, resource, object.meta().namespace.as_deref(), name)
}

/// # Errors
/// Why the node may not change this so.
pub fn update(user: &User, resource: &dyn Resource, new: &dyn AnyObject, old: &Object) -> Result<(), String> {
    let Some(node) = user.node_name() else { return Ok(()) };
    let name = old.meta().name.as_deref().unwrap_or_default();
    if let Some(pod) = old.get::<Pod>() {
        let on = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        return if on == node {
            Ok(())
        } else {
            Err(format!("node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"))
        };
    }
    if let (Some(old_node), Some(new_node)) = (old.get::<Node>(), new.as_any().downcast_ref::<core::Node>()) {
        return own_node(node, name, old_node, new_node);
    }
    lease(node, resource, old.meta().namespace.as_deref(), name)
}

fn own_node(node: &str, name: &str, old: &core::Node, new: &core::Node) -> Result<(), String> {
    if name != node {
        return Err(format!("node \"{node}\" is not allowed to modify node \"{name}\""));
    }
    let taints = |n: &core::Node| n.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    if taints(old) != taints(new) {
        return Err(format!("node \"{node}\" is not allowed to modify taints"));
    }
    let (was, is) = (old.metadata.labels.clone().unwrap_or_default(), new.metadata.labels.clone().unwrap_or_default());
    let keys = was.keys().chain(is.keys());
    let mut changed: Vec<&str> = keys.filter(|k| was.get(*k) != is.get(*k)).map(String::as_str).filter(|k| is_restricted(k)).collect();
    changed.sort_unstable();
    changed.dedup();
    forbid_labels(node, &changed)
}

fn is_restricted(key: &str) -> bool {
    key.split_once('/')
        .is_some_and(|(prefix, _)| prefix == RESTRICTED.trim_end_matches('/') || prefix.ends_with(".node-restriction.kubernetes.io"))
}

fn forbid_labels(node: &str, keys: &[&str]) -> Result<(), String> {
    if keys.is_empty() { Ok(()) } else { Err(format!("is not allowed to modify labels: {} (node \"{node}\")", keys.join(", "))) }
}

/// A node's lease lives in kube-node-lease and carries its name; other kinds are the authorizer's business.
fn lease(node: &str, resource: &dyn Resource, namespace: Option<&str>, name: &str) -> Result<(), String> {
    if resource.names().group != "coordination.k8s.io" {
        return Ok(());
    }
    if namespace != Some("kube-node-lease") {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    if name != node {
        return Err(format!("can only access node lease with the same name as the requesting node (\"{node}\")"));
    }
    Ok(())
}

/// A node asks for tokens bound to its own pods alone.
///
/// # Errors
/// Why it gets none.
pub fn token(user: &User, snapshot: &Snapshot, account: &ObjectKey, bound: Option<&BoundObjectReference>) -> Result<(), String> {
    let Some(node) = user.node_name() else { return Ok(()) };
    let Some(bound) = bound.filter(|b| b.kind.as_deref() == Some("Pod")) else {
        return Err(format!("node \"{node}\" can only request tokens bound to a pod"));
    };
    if bound.uid.as_deref().unwrap_or_default().is_empty() {
        return Err(format!("node \"{node}\" cannot specify empty UID for pod bound token"));
    }
    let name = bound.name.as_deref().unwrap_or_default();
    let on = snapshot.get::<Pod>(&account.namespace, name).and_then(|p| p.spec.as_ref()?.node_name.clone());
    if on.as_deref() == Some(node) {
        Ok(())
    } else {
        Err(format!("node requested token bound to a pod scheduled on a different node (pod \"{name}\", node \"{node}\")"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node_user(name: &str) -> User {
        User { name: format!("system:node:{name}"), groups: vec!["system:nodes".into()], ..User::default() }
    }

    fn node(name: &str, label: Option<&str>) -> core::Node {
        let mut node = core::Node::default();
        node.metadata.name = Some(name.into());
        node.metadata.labels = label.map(|l| [(l.to_owned(), "x".to_owned())].into());
        node
    }

    #[test]
    fn a_node_writes_itself_alone() {
        let n1 = node_user("n1");
        let nodes = Node::resource();
        assert!(create(&n1, nodes, &node("n1", Some("kubernetes.io/hostname"))).is_ok());
        assert!(create(&n1, nodes, &node("n2", None)).is_err());
        assert!(create(&n1, nodes, &node("n1", Some("node-restriction.kubernetes.io/x"))).is_err());
        assert!(create(&n1, Pod::resource(), &core::Pod::default()).is_err());
        assert!(create(&User::system("x"), nodes, &node("n2", None)).is_ok());
        let old = Object::new(nodes, Box::new(node("n1", None)), 1);
        assert!(update(&n1, nodes, &node("n1", None), &old).is_ok());
        let mut tainted = node("n1", None);
        tainted.spec.get_or_insert_default().taints = Some(vec![core::Taint::default()]);
        assert!(update(&n1, nodes, &tainted, &old).is_err());
        assert!(update(&node_user("n2"), nodes, &node("n1", None), &old).is_err());
    }
}
