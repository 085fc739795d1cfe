//! The pod template: its hash, its equality, and the ReplicaSet that is made from it.

use super::super::owners::controller_ref;
use super::{Rollout, scale};
use crate::meta::{LabelSelector, ObjectMeta};
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1::PodTemplateSpec;

pub const HASH_LABEL: &str = "pod-template-hash";
/// A name is a DNS subdomain of at most this length.
const NAME_MAX: usize = 253;

/// True if a ReplicaSet's template is the Deployment's, but for the hash label.
pub fn same(of_set: Option<&PodTemplateSpec>, of_deployment: &PodTemplateSpec) -> bool {
    let Some(of_set) = of_set else { return false };
    of_set.spec == of_deployment.spec && without_hash(of_set) == without_hash(of_deployment)
}

fn without_hash(template: &PodTemplateSpec) -> ObjectMeta {
    let mut meta = template.metadata.clone().unwrap_or_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    meta.labels = meta.labels.filter(|l| !l.is_empty());
    meta.annotations = meta.annotations.filter(|a| !a.is_empty());
    meta
}

/// FNV-1a over the template's JSON (whose keys are sorted) and the number of collisions met so far, in letters and digits
/// that spell no words. Any stable hash will do: sets are told apart by their templates, not by this.
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let json = serde_json::to_vec(template).expect("a pod template is plain JSON");
    let suffix = collisions.map(i32::to_le_bytes);
    let bytes = json.iter().chain(suffix.iter().flatten());
    let sum = bytes.fold(0x811c_9dc5_u32, |sum, &byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    sum.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// `<deployment>-<hash>`, the first part cut short if need be.
fn set_name(deployment: &str, hash: &str) -> String {
    let keep = deployment.len().min(NAME_MAX - 1 - hash.len());
    format!("{}-{hash}", deployment.get(..keep).unwrap_or(deployment))
}

/// The ReplicaSet of the present template; replicas and annotations are the caller's.
pub fn new_set(r: &Rollout) -> apps::ReplicaSet {
    let mut template = r.spec.template.clone();
    let hash = hash(&template, r.status.collision_count);
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let mut selector: LabelSelector = r.spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    apps::ReplicaSet {
        metadata: ObjectMeta {
            name: Some(set_name(r.name(), &hash)),
            namespace: r.d.metadata.namespace.clone(),
            labels: Some(labels.clone()),
            owner_references: Some(vec![controller_ref(r.d.object())]),
            ..ObjectMeta::default()
        },
        spec: Some(apps::ReplicaSetSpec {
            replicas: Some(scale::new_set_replicas(r, 0)),
            min_ready_seconds: r.spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}
