//! Where objects live in the store: `/registry/<group or "core">/<plural>/<namespace>/<name>`, without the namespace for
//! cluster-scoped kinds.

use crate::kinds::{self, ObjectKey, Resource, Storage};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::OnceLock;

pub const ROOT: &str = "/registry/";

/// The resource under which objects of `resource` are kept: of a view the one that it shows, else itself.
pub fn stored(resource: &'static dyn Resource) -> &'static dyn Resource {
    match resource.storage() {
        Storage::ViewOf { group, plural } => kinds::all().iter().copied().find(|r| is_stored_as(*r, group, plural)).unwrap_or(resource),
        Storage::Stored | Storage::Virtual => resource,
    }
}

fn is_stored_as(resource: &dyn Resource, group: &str, plural: &str) -> bool {
    resource.storage() == Storage::Stored && resource.names().group == group && resource.names().plural == plural
}

/// `/registry/core/pods/`: what every object of the resource begins with.
pub fn prefix(resource: &dyn Resource) -> String {
    let n = resource.names();
    let group = if n.group.is_empty() { "core" } else { n.group };
    format!("{ROOT}{group}/{}/", n.plural)
}

/// The key of an object; `namespace` is empty for cluster-scoped kinds.
pub fn key(resource: &dyn Resource, key: &ObjectKey) -> Bytes {
    let mut text = prefix(resource);
    if !key.namespace.is_empty() {
        text.push_str(&key.namespace);
        text.push('/');
    }
    text.push_str(&key.name);
    text.into()
}

/// What a key names; None for keys that are no object's.
pub fn parse(key: &[u8]) -> Option<(&'static dyn Resource, ObjectKey)> {
    static BY_PATH: OnceLock<HashMap<(&'static str, &'static str), &'static dyn Resource>> = OnceLock::new();
    let by_path = BY_PATH.get_or_init(|| {
        let stored = kinds::all().iter().copied().filter(|r| r.storage() == Storage::Stored);
        stored.map(|r| ((r.names().group, r.names().plural), r)).collect()
    });
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(ROOT)?;
    let (group, rest) = rest.split_once('/')?;
    let (plural, rest) = rest.split_once('/')?;
    let resource = *by_path.get(&(if group == "core" { "" } else { group }, plural))?;
    let object = match rest.split_once('/') {
        Some((namespace, name)) if resource.names().namespaced => ObjectKey::new(namespace, name),
        None if !resource.names().namespaced => ObjectKey::new("", rest),
        _ => return None,
    };
    Some((resource, object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{Deployment, EventsEvent, Node, Registered};

    #[test]
    fn keys_come_back() {
        let (deployments, nodes) = (Deployment::resource(), Node::resource());
        let of = ObjectKey::new("ns", "web");
        assert_eq!(&key(deployments, &of)[..], b"/registry/apps/deployments/ns/web");
        assert_eq!(&key(nodes, &ObjectKey::new("", "n1"))[..], b"/registry/core/nodes/n1");
        assert_eq!(parse(b"/registry/apps/deployments/ns/web").map(|(r, k)| (r.names().kind, k)), Some(("Deployment", of)));
        assert!(parse(b"/registry/core/nodes/a/b").is_none() && parse(b"/registry/core/pods/x").is_none());
        assert!(parse(b"/other").is_none() && parse(b"/registry/core/nothings/a/b").is_none());
        assert_eq!(stored(EventsEvent::resource()).names().group, "");
    }
}
