//! Pod (core/v1).
//!
//! A folder, because pods are large: `default` and `volumes_default` fill in, `validate` checks, `strategy` says what an
//! update may do, `columns` prints. `resources`, `state` and `containers` are pure questions about a pod that the
//! scheduler, the controllers and the node agent ask too.

mod columns;
pub mod containers;
pub mod default;
pub mod resources;
pub mod state;
pub mod strategy;
pub mod validate;
mod volumes_default;
mod warnings;

pub use warnings::{name_warning, template_warnings};

use super::{Column, Kind, Names, Subresource, fill::str_of};
use crate::meta::FieldErrors;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct Pod;

impl Kind for Pod {
    type Object = api::Pod;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        namespaced: true,
    };
    const SUBRESOURCES: &'static [Subresource] = &[
        Subresource::Status,
        Subresource::Other { name: "log", group: "", version: "v1", kind: "Pod", verbs: &["get"] },
        Subresource::Other { name: "exec", group: "", version: "v1", kind: "PodExecOptions", verbs: &["create", "get"] },
        Subresource::Other { name: "attach", group: "", version: "v1", kind: "PodAttachOptions", verbs: &["create", "get"] },
        Subresource::Other { name: "portforward", group: "", version: "v1", kind: "PodPortForwardOptions", verbs: &["create", "get"] },
        Subresource::Other {
            name: "proxy",
            group: "",
            version: "v1",
            kind: "PodProxyOptions",
            verbs: &["create", "delete", "get", "patch", "update"],
        },
        Subresource::Other { name: "binding", group: "", version: "v1", kind: "Binding", verbs: &["create"] },
        Subresource::Other { name: "eviction", group: "policy", version: "v1", kind: "Eviction", verbs: &["create"] },
        Subresource::Other { name: "ephemeralcontainers", group: "", version: "v1", kind: "Pod", verbs: &["get", "patch", "update"] },
        Subresource::Other { name: "resize", group: "", version: "v1", kind: "Pod", verbs: &["get", "patch", "update"] },
    ];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut api::Pod) {
        default::pod(object);
    }

    fn prepare_create(object: &mut api::Pod) {
        strategy::prepare_create(object);
    }

    fn prepare_update(new: &mut api::Pod, old: &api::Pod) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut api::Pod, old: &api::Pod) {
        strategy::prepare_status_update(new, old);
    }

    fn validate(object: &api::Pod, errors: &mut FieldErrors) {
        validate::pod(object, errors);
    }

    fn validate_create(object: &api::Pod, errors: &mut FieldErrors) {
        validate::create(object, errors);
    }

    fn validate_update(new: &api::Pod, old: &api::Pod, errors: &mut FieldErrors) {
        validate::update(new, old, errors);
    }

    fn spec_changed(new: &api::Pod, old: &api::Pod) -> bool {
        new.spec != old.spec
    }

    fn warnings(object: &api::Pod) -> Vec<String> {
        warnings::pod(object)
    }

    fn grace_period_seconds(object: &api::Pod, asked: Option<i64>) -> Option<i64> {
        Some(strategy::grace_period_seconds(object, asked))
    }

    fn columns() -> &'static [Column] {
        columns::COLUMNS
    }

    fn cells(object: &api::Pod, now: Timestamp) -> Vec<Value> {
        columns::cells(object, now)
    }

    const SELECTABLE: &'static [&'static str] = &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ];

    fn selectable(object: &api::Pod) -> Vec<String> {
        let (spec, status) = (object.spec.as_ref(), object.status.as_ref());
        let of_spec = |f: fn(&api::PodSpec) -> &Option<String>| spec.map_or("", |s| str_of(f(s))).to_owned();
        let of_status = |f: fn(&api::PodStatus) -> &Option<String>| status.map_or("", |s| str_of(f(s))).to_owned();
        let ip = state::first_ip(object).to_owned();
        vec![
            of_spec(|s| &s.node_name),
            of_spec(|s| &s.restart_policy),
            of_spec(|s| &s.scheduler_name),
            of_spec(|s| &s.service_account_name),
            spec.is_some_and(|s| s.host_network == Some(true)).to_string(),
            of_status(|s| &s.phase),
            ip.clone(),
            ip,
            of_status(|s| &s.nominated_node_name),
        ]
    }
}
