//! What is particular to pods: binding, eviction, resize, ephemeral containers; and waiting for a new pod's ServiceAccount.

use super::change::Part;
use super::decode::Decoded;
use super::list::key_of;
use super::{Verbs, metadata};
use crate::api::requests::{Answer, DeleteRequest, WriteOptions};
use crate::client::{DeleteOptions, Target};
use crate::kinds::pod::{strategy, validate};
use crate::kinds::{AnyObject, Object, ObjectKey, Pod, Ref, ServiceAccount};
use crate::meta::{FieldErrors, Status, time};
use crate::watch::{Feed, Snapshot};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::policy::v1::Eviction;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How long a create waits for the ServiceAccount `default` of a namespace that is new.
const ACCOUNT_PATIENCE: Duration = Duration::from_secs(1);

/// `Success`, as POSTs of binding and eviction answer.
fn success(warnings: Vec<String>) -> Answer {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Answer::Json { status: 201, body: body.to_string().into(), warnings }
}

fn pod_of(object: &Object) -> Result<core::Pod, Status> {
    object.get::<Pod>().cloned().ok_or_else(|| Status::bad_request("the object is no Pod"))
}

fn bad_body(kind: &str, version: &str, error: &serde_json::Error) -> Status {
    Status::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {error}"))
}

impl Verbs {
    /// POST to `binding`: puts the pod on a node.
    pub(super) async fn bind(&self, target: &Target, body: &[u8], options: &WriteOptions) -> Result<Answer, Status> {
        let binding: core::Binding = serde_json::from_slice(body).map_err(|e| bad_body("Binding", "v1", &e))?;
        if binding.metadata.name.is_some() && binding.metadata.name != target.name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        let node = binding.target.name.clone().unwrap_or_default();
        if node.is_empty() {
            return Err(Status::bad_request("target.name: Required value"));
        }
        if !matches!(binding.target.kind.as_deref(), None | Some("" | "Node")) {
            return Err(Status::bad_request("target.kind: Unsupported value: supported values: \"Node\", \"<empty>\""));
        }
        let make = |old: &Arc<Object>| self.bound(target, &binding, &node, old);
        self.change(&Target { subresource: None, ..target.clone() }, Part::Binding, options, &make).await?;
        Ok(success(Vec::new()))
    }

    fn bound(&self, target: &Target, binding: &core::Binding, node: &str, old: &Object) -> Result<Decoded, Status> {
        let mut pod = pod_of(old)?;
        let name = target.name.as_deref().unwrap_or_default();
        let refuse = |why: String| Err(Status::conflict("", "pods/binding", name, &why));
        if pod.metadata.deletion_timestamp.is_some() {
            return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        let spec = pod.spec.get_or_insert_default();
        if let Some(present) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
            return refuse(format!("pod {name} is already assigned to node \"{present}\""));
        }
        if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
            return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        spec.node_name = Some(node.to_owned());
        pod.metadata.resource_version.clone_from(&binding.metadata.resource_version);
        if binding.metadata.uid.as_deref().is_some_and(|uid| !uid.is_empty()) {
            pod.metadata.uid.clone_from(&binding.metadata.uid);
        }
        extend(&mut pod.metadata.annotations, binding.metadata.annotations.as_ref());
        extend(&mut pod.metadata.labels, binding.metadata.labels.as_ref());
        let status = pod.status.get_or_insert_default();
        status.nominated_node_name = None;
        set_scheduled(status, time::seconds(self.clock.now()));
        Ok(Decoded { object: Box::new(pod), warnings: Vec::new() })
    }

    /// POST to `eviction`: a delete that disruption budgets may refuse (there are none yet).
    pub(super) async fn evict(&self, target: &Target, body: &[u8], options: &WriteOptions) -> Result<Answer, Status> {
        let eviction: Eviction = serde_json::from_slice(body).map_err(|e| bad_body("Eviction", "v1", &e))?;
        if eviction.metadata.name.is_some() && eviction.metadata.name != target.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let asked = eviction.delete_options.unwrap_or_default();
        let preconditions = asked.preconditions.unwrap_or_default();
        let request = DeleteRequest {
            user: options.user.clone(),
            dry_run: options.dry_run || asked.dry_run.is_some_and(|d| !d.is_empty()),
            options: DeleteOptions {
                grace_period_seconds: asked.grace_period_seconds,
                uid: preconditions.uid,
                resource_version: preconditions.resource_version,
                propagation_policy: asked.propagation_policy,
            },
        };
        key_of(target)?;
        self.delete(&Target { subresource: None, ..target.clone() }, &request).await?;
        Ok(success(Vec::new()))
    }

    /// The ServiceAccount that a new pod names. `default` may be on its way where the namespace is new.
    pub(super) async fn service_account(&self, pod: &dyn AnyObject, name: &str) -> Result<Ref<ServiceAccount>, Status> {
        let namespace = pod.meta().namespace.as_deref().unwrap_or_default();
        let find = |snapshot: &Snapshot| snapshot.get::<ServiceAccount>(namespace, name);
        if let Some(account) = find(&self.cache.snapshot()) {
            return Ok(account);
        }
        if let Some(account) = find(&self.newest().await?) {
            return Ok(account);
        }
        if name == "default" {
            let (snapshot, mut changes) = self.cache.subscribe();
            let arrival = async {
                let mut found = find(&snapshot);
                // A lagging or ended feed ends the wait: the last look below decides.
                while found.is_none() && matches!(changes.next().await, Ok(Some(_))) {
                    found = find(&self.cache.snapshot());
                }
                found
            };
            if let Ok(Some(account)) = tokio::time::timeout(ACCOUNT_PATIENCE, arrival).await {
                return Ok(account);
            }
        }
        find(&self.cache.snapshot()).ok_or_else(|| missing_account(pod, namespace, name))
    }
}

fn missing_account(pod: &dyn AnyObject, namespace: &str, name: &str) -> Status {
    let why = format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found");
    Status::forbidden("", "pods", pod.meta().name.as_deref().unwrap_or_default(), &why)
}

type Texts = std::collections::BTreeMap<String, String>;

fn extend(own: &mut Option<Texts>, more: Option<&Texts>) {
    for (key, value) in more.into_iter().flatten() {
        own.get_or_insert_default().insert(key.clone(), value.clone());
    }
}

fn set_scheduled(status: &mut core::PodStatus, now: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time) {
    let conditions = status.conditions.get_or_insert_default();
    let scheduled =
        core::PodCondition { type_: "PodScheduled".into(), status: "True".into(), last_transition_time: Some(now), ..Default::default() };
    match conditions.iter_mut().find(|c| c.type_ == "PodScheduled") {
        Some(own) if own.status == "True" => {}
        Some(own) => *own = scheduled,
        None => conditions.push(scheduled),
    }
}

/// `resize`: the old pod with the body's resources and resize policies.
pub(super) fn resized(body: Box<dyn AnyObject>, old: &Object) -> Result<Box<dyn AnyObject>, Status> {
    part_of_pod(body, old, strategy::prepare_resize, validate::resize)
}

/// `ephemeralcontainers`: the old pod with the body's ephemeral containers.
pub(super) fn with_ephemeral_containers(body: Box<dyn AnyObject>, old: &Object) -> Result<Box<dyn AnyObject>, Status> {
    part_of_pod(body, old, strategy::prepare_ephemeral_containers, validate::ephemeral_containers_update)
}

fn part_of_pod(
    mut body: Box<dyn AnyObject>,
    old: &Object,
    prepare: fn(&mut core::Pod, &core::Pod),
    check: fn(&core::Pod, &core::Pod, &mut FieldErrors),
) -> Result<Box<dyn AnyObject>, Status> {
    let old_pod = old.get::<Pod>().ok_or_else(|| Status::bad_request("the object is no Pod"))?;
    old.resource().default(&mut *body);
    let new: &mut core::Pod = body.as_any_mut().downcast_mut().ok_or_else(|| Status::bad_request("the object is no Pod"))?;
    prepare(new, old_pod);
    let mut errors = FieldErrors::default();
    check(new, old_pod, &mut errors);
    metadata::refuse(old.resource(), old.meta().name.as_deref().unwrap_or_default(), &errors)?;
    Ok(body)
}

/// Where pods are looked for by the names that others give.
pub(super) fn pod(snapshot: &Snapshot, key: &ObjectKey) -> Option<Ref<Pod>> {
    snapshot.get::<Pod>(&key.namespace, &key.name)
}
