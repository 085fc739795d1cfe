//! Namespace life cycle: a namespace that is being deleted loses its contents, pods first, and then its finalizer.
//! Follows pkg/controller/namespace.

use super::plan::{Action, Controller, Deletion, Key, Plan, stored};
use crate::kinds::{Namespace, Object, Pod, Ref, Registered};
use crate::meta::{Status, time};
use crate::watch::{Change, Event, Snapshot};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

const FINALIZER: &str = "kubernetes";

/// The conditions, with what they say when all is well.
const CONDITIONS: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
    ("NamespaceDeletionContentFailure", "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];

pub struct Namespaces;

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn keys_for(&self, event: &Event, snapshot: &Snapshot) -> Vec<Key> {
        if let Some(namespace) = event.object.get::<Namespace>() {
            let deleting = namespace.metadata.deletion_timestamp.is_some() && event.change != Change::Deleted;
            return if deleting { vec![Key::of(&event.object)] } else { Vec::new() };
        }
        let Some(name) = event.object.meta().namespace.as_deref() else { return Vec::new() };
        let deleting = snapshot.get::<Namespace>("", name).is_some_and(|n| n.metadata.deletion_timestamp.is_some());
        if deleting { vec![Key::new::<Namespace>("", name)] } else { Vec::new() }
    }

    fn all_keys(&self, snapshot: &Snapshot) -> Vec<Key> {
        snapshot.list::<Namespace>(None).filter(|n| n.metadata.deletion_timestamp.is_some()).map(|n| Key::of(n.object())).collect()
    }

    fn reconcile(&self, snapshot: &Snapshot, key: &Key, now: Timestamp) -> Plan {
        let Some(namespace) = snapshot.get::<Namespace>("", &key.object.name) else { return Plan::default() };
        let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || finalizers.is_empty() {
            return Plan::default();
        }
        let pods: Vec<&Arc<Object>> = snapshot.objects(Pod::resource(), Some(&key.object.name)).collect();
        let (doomed, pods_first) = if pods.is_empty() { (contents(snapshot, &key.object.name), false) } else { (pods, true) };
        let mut plan = Plan::step(doomed.iter().filter_map(|o| delete(o)).collect());
        let totals = if pods_first { Totals::default() } else { Totals::of(&doomed) };
        write_status(&mut plan, &namespace, &totals, now);
        if doomed.is_empty() {
            let mut released = (*namespace).clone();
            released.spec =
                Some(core::NamespaceSpec { finalizers: Some(finalizers.iter().filter(|f| *f != FINALIZER).cloned().collect()) });
            // The last word on the status comes before the last word at all.
            let status = plan.status.take();
            plan.then(status.into_iter().collect());
            plan.status = Some(Action::update::<Namespace>(&released).sub("finalize").forgive(super::plan::gone));
        }
        plan
    }
}

/// Everything in the namespace, of every kind that is kept.
fn contents<'a>(snapshot: &'a Snapshot, namespace: &'a str) -> Vec<&'a Arc<Object>> {
    let kinds = stored().filter(|r| r.names().namespaced);
    kinds.flat_map(|r| snapshot.objects(r, Some(namespace))).collect()
}

/// What is being deleted already is left alone.
fn delete(object: &Arc<Object>) -> Option<Action> {
    let deletion = Deletion { propagation_policy: Some("Background"), ..Deletion::default() };
    object.meta().deletion_timestamp.is_none().then(|| Action::delete(object, deletion))
}

/// What is left after everything has been asked to go.
#[derive(Default)]
struct Totals {
    /// By `plural.group`.
    resources: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
}

impl Totals {
    /// Of what is there, only what a finalizer keeps, or what is already on its way, will still be there.
    fn of(objects: &[&Arc<Object>]) -> Self {
        let mut totals = Self::default();
        for object in objects {
            let (meta, names) = (object.meta(), object.resource().names());
            let kept = meta.finalizers.as_ref().is_some_and(|f| !f.is_empty());
            if !kept && meta.deletion_timestamp.is_none() {
                continue;
            }
            *totals.resources.entry(format!("{}.{}", names.plural, names.group)).or_default() += 1;
            for finalizer in meta.finalizers.iter().flatten() {
                *totals.finalizers.entry(finalizer.clone()).or_default() += 1;
            }
        }
        totals
    }

    fn bad(&self, kind: &str) -> Option<(&'static str, String)> {
        let list = |of: &BTreeMap<String, usize>, verb: &str| {
            of.iter().map(|(name, n)| format!("{name} {verb} {n} resource instances")).collect::<Vec<_>>().join(", ")
        };
        match kind {
            "NamespaceContentRemaining" if !self.resources.is_empty() => {
                Some(("SomeResourcesRemain", format!("Some resources are remaining: {}", list(&self.resources, "has"))))
            }
            "NamespaceFinalizersRemaining" if !self.finalizers.is_empty() => {
                let text = list(&self.finalizers, "in");
                Some(("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {text}")))
            }
            _ => None,
        }
    }
}

fn write_status(plan: &mut Plan, namespace: &Ref<Namespace>, totals: &Totals, now: Timestamp) {
    let mut healthy = (**namespace).clone();
    let changed = set_conditions(&mut healthy, now, |kind| totals.bad(kind));
    let phase = &mut healthy.status.get_or_insert_default().phase;
    let terminating = phase.replace("Terminating".into()).as_deref() == Some("Terminating");
    if changed || !terminating {
        plan.status = Some(Action::update::<Namespace>(&healthy).sub("status").forgive(super::plan::gone));
    }
    let before = namespace.clone();
    plan.on_failure = Some(Box::new(move |error: &Status| {
        let mut failed = (*before).clone();
        let message = format!("Failed to delete all resource types, 1 remaining: {}", error.message);
        let bad = |kind: &str| (kind == "NamespaceDeletionContentFailure").then(|| ("ContentDeletionFailed", message.clone()));
        set_conditions(&mut failed, now, bad).then(|| Action::update::<Namespace>(&failed).sub("status"))
    }));
}

/// Sets every condition, to what `bad` says or to well. Returns whether one changed.
fn set_conditions(namespace: &mut core::Namespace, now: Timestamp, bad: impl Fn(&str) -> Option<(&'static str, String)>) -> bool {
    let conditions = namespace.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for (kind, fine, text) in CONDITIONS {
        let (status, reason, message) = match bad(kind) {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", fine, text.to_owned()),
        };
        let present = conditions.iter_mut().find(|c| c.type_ == kind);
        if let Some(c) = &present
            && c.status == status
            && c.reason.as_deref() == Some(reason)
            && c.message.as_ref() == Some(&message)
        {
            continue;
        }
        changed = true;
        let kept = present.as_ref().filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        let condition = core::NamespaceCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(kept.unwrap_or_else(|| time::seconds(now))),
        };
        match present {
            Some(c) => *c = condition,
            None => conditions.push(condition),
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::testing::{World, follow, undone};
    use crate::kinds::{ConfigMap, Event as EventKind};
    use serde_json::json;

    fn conditions(world: &World) -> Vec<(String, String, String)> {
        let list = world.get::<Namespace>("", "a").unwrap().status.unwrap().conditions.unwrap();
        list.into_iter().map(|c| (c.type_, c.status, c.message.unwrap_or_default())).collect()
    }

    #[test]
    fn pods_go_first_then_the_rest_then_the_namespace() {
        let world = World::new();
        world.put::<Namespace>(json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}));
        world.put::<Pod>(json!({"metadata": {"name": "p", "namespace": "a"}}));
        world.put::<ConfigMap>(json!({"metadata": {"name": "held", "namespace": "a", "finalizers": ["example.com/hold"]}}));
        world.put::<ConfigMap>(json!({"metadata": {"name": "m", "namespace": "a"}}));
        world.put::<ConfigMap>(json!({"metadata": {"name": "m", "namespace": "b"}}));
        world.put::<EventKind>(json!({"metadata": {"name": "e", "namespace": "a"}, "involvedObject": {}}));
        follow(&world, &[&Namespaces], |_| false);
        assert_eq!(world.all::<Pod>().len(), 1);
        world.edit::<Namespace>("", "a", |n| n["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        follow(&world, &[&Namespaces], |_| false);
        assert!(world.get::<Pod>("a", "p").unwrap().metadata.deletion_timestamp.is_some());
        assert_eq!(world.all::<ConfigMap>().len(), 3);
        assert_eq!(world.get::<Namespace>("", "a").unwrap().status.unwrap().phase.as_deref(), Some("Terminating"));
        world.take::<Pod>("a", "p");
        follow(&world, &[&Namespaces], |_| false);
        assert_eq!((world.all::<ConfigMap>().len(), world.all::<EventKind>().len()), (2, 0));
        let remaining = "Some resources are remaining: configmaps. has 1 resource instances".to_owned();
        assert!(conditions(&world).contains(&("NamespaceContentRemaining".into(), "True".into(), remaining)));
        let held = "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances".to_owned();
        assert!(conditions(&world).contains(&("NamespaceFinalizersRemaining".into(), "True".into(), held)));
        world.take::<ConfigMap>("a", "held");
        follow(&world, &[&Namespaces], |_| false);
        assert!(world.get::<Namespace>("", "a").is_none());
        assert_eq!(world.all::<ConfigMap>().len(), 1);
        assert!(undone(&world, &[&Namespaces]).is_empty());
    }
}
