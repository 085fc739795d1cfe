//! Admission: what the API adds to objects before they are stored, and who may not write them. One plugin a file; all are
//! pure but for what they are handed.
//!
//! May import: meta, kinds, security, watch.

pub mod node_restriction;
pub mod priority;
pub mod service_account;
pub mod service_address;
pub mod tolerations;

use crate::kinds::{AnyObject, Ref, ServiceAccount};
use k8s_openapi::api::core::v1 as core;

/// Set by the kubelet on pods that mirror its static ones.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The ServiceAccount that a new pod runs as (`default` unless it says otherwise); None for all else, and for mirror pods.
pub fn service_account_of(object: &dyn AnyObject) -> Option<String> {
    let pod: &core::Pod = object.as_any().downcast_ref()?;
    if pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR)) {
        return None;
    }
    let named = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).filter(|n| !n.is_empty());
    Some(named.unwrap_or_else(|| "default".into()))
}

/// What every plugin does to a new pod.
///
/// # Errors
/// The text of a refusal (403).
pub fn mutate_pod(object: &mut dyn AnyObject, account: &Ref<ServiceAccount>) -> Result<(), String> {
    let Some(pod) = object.as_any_mut().downcast_mut::<core::Pod>() else { return Ok(()) };
    let spec = pod.spec.get_or_insert_default();
    service_account::admit(spec, account);
    tolerations::admit(spec);
    priority::admit(spec)
}

/// What an update is given: a pod whose tolerations were replaced gets the usual ones again.
pub fn update(object: &mut dyn AnyObject) {
    if let Some(spec) = object.as_any_mut().downcast_mut::<core::Pod>().and_then(|pod| pod.spec.as_mut()) {
        tolerations::admit(spec);
    }
}
