//! Node (core/v1).

use super::pod::default::canonical_resources;
use super::{Column, Kind, Names, Subresource, address, check, fill, names, table};
use crate::meta::{FieldErrors, FieldPath, quantity};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";
const CIDR_IS_FIXED: &str = "node updates may not change podCIDR except from \"\" to valid";
const PROVIDER_IS_FIXED: &str = "node updates may not change providerID except from \"\" to valid";

pub struct Node;

impl Kind for Node {
    type Object = api::Node;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        categories: &[],
        namespaced: false,
    };
    const SUBRESOURCES: &'static [Subresource] = &[
        Subresource::Status,
        Subresource::Other {
            name: "proxy",
            group: "",
            version: "v1",
            kind: "NodeProxyOptions",
            verbs: &["create", "delete", "get", "patch", "update"],
        },
    ];

    fn default(object: &mut api::Node) {
        let spec = object.spec.get_or_insert_default();
        fill::drop_zero(&mut spec.unschedulable);
        fill::drop_zero(&mut spec.taints);
        fill::drop_zero(&mut spec.provider_id);
        // podCIDR is an old name of the first of podCIDRs.
        fill::drop_zero(&mut spec.pod_cidr);
        fill::drop_zero(&mut spec.pod_cidrs);
        if spec.pod_cidrs.is_none() {
            spec.pod_cidrs = spec.pod_cidr.clone().map(|c| vec![c]);
        }
        spec.pod_cidr = spec.pod_cidrs.as_ref().and_then(|c| c.first().cloned());
        let status = object.status.get_or_insert_default();
        status.node_info.get_or_insert_default();
        status.daemon_endpoints.get_or_insert_default().kubelet_endpoint.get_or_insert_default();
        if status.allocatable.is_none() {
            status.allocatable.clone_from(&status.capacity);
        }
        for list in [&mut status.allocatable, &mut status.capacity].into_iter().flatten() {
            canonical_resources(list);
        }
    }

    fn prepare_update(new: &mut api::Node, old: &api::Node) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(new: &mut api::Node, old: &api::Node) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(object: &api::Node, errors: &mut FieldErrors) {
        let spec = object.spec.clone().unwrap_or_default();
        validate_taints(spec.taints.as_deref().unwrap_or_default(), errors);
        let status = object.status.as_ref();
        for (name, list) in
            [("capacity", status.and_then(|s| s.capacity.as_ref())), ("allocatable", status.and_then(|s| s.allocatable.as_ref()))]
        {
            for (resource, value) in list.into_iter().flatten() {
                let path = FieldPath::new("status").child(name).child(resource);
                match quantity::parse(&value.0) {
                    Err(e) => errors.invalid(&path, value.0.as_str(), e.to_string()),
                    Ok(amount) if amount.0 < 0 => errors.invalid(&path, value.0.as_str(), "must be greater than or equal to 0"),
                    Ok(_) => {}
                }
            }
        }
        let cidrs = spec.pod_cidrs.unwrap_or_default();
        let path = FieldPath::new("spec").child("podCIDRs");
        for (i, value) in cidrs.iter().enumerate() {
            address::cidr(&path.index(i), value, errors);
        }
        if cidrs.len() > 2 || (cidrs.len() == 2 && cidrs[0].contains(':') == cidrs[1].contains(':')) {
            errors.invalid(&path, check::json_of(&cidrs), "may specify no more than one CIDR for each IP family");
        }
    }

    fn validate_update(new: &api::Node, old: &api::Node, errors: &mut FieldErrors) {
        let mut seen = HashSet::new();
        for (i, a) in new.status.iter().flat_map(|s| s.addresses.iter().flatten()).enumerate() {
            if !seen.insert((&a.type_, &a.address)) {
                errors.duplicate(&FieldPath::new("status").child("addresses").index(i), check::json_of(a));
            }
        }
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return };
        let path = FieldPath::new("spec");
        if old.pod_cidrs.is_some() && old.pod_cidrs != new.pod_cidrs {
            errors.forbidden(&path.child("podCIDRs"), CIDR_IS_FIXED);
        }
        if old.provider_id.is_some() && old.provider_id != new.provider_id {
            errors.forbidden(&path.child("providerID"), PROVIDER_IS_FIXED);
        }
        if old.external_id != new.external_id {
            errors.forbidden(&path.child("externalID"), "may not be updated");
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::text("Status", "The status of the node", 0),
            table::text("Roles", "The roles of the node", 0),
            table::AGE,
            table::text("Version", "Kubelet Version reported by the node.", 0),
            table::text("Internal-IP", "Addresses reachable from inside the cluster.", 1),
            table::text("External-IP", "Addresses reachable from outside the cluster.", 1),
            table::text("OS-Image", "OS Image reported by the node from /etc/os-release.", 1),
            table::text("Kernel-Version", "Kernel Version reported by the node from 'uname -r'.", 1),
            table::text("Container-Runtime", "ContainerRuntime Version reported by the node through runtime remote API.", 1),
        ];
        COLUMNS
    }

    fn cells(object: &api::Node, now: Timestamp) -> Vec<Value> {
        let status = object.status.clone().unwrap_or_default();
        let info = status.node_info.clone().unwrap_or_default();
        let address = |kind: &str| {
            let found = status.addresses.iter().flatten().find(|a| a.type_ == kind);
            found.map_or_else(|| "<none>".to_owned(), |a| a.address.clone())
        };
        let known = |text: String| if text.is_empty() { "<unknown>".to_owned() } else { text };
        vec![
            json!(object.metadata.name),
            json!(status_text(object)),
            json!(roles(object)),
            json!(table::age(&object.metadata, now)),
            json!(info.kubelet_version),
            json!(address("InternalIP")),
            json!(address("ExternalIP")),
            json!(known(info.os_image)),
            json!(known(info.kernel_version)),
            json!(known(info.container_runtime_version)),
        ]
    }

    const SELECTABLE: &'static [&'static str] = &["spec.unschedulable"];

    fn selectable(object: &api::Node) -> Vec<String> {
        vec![object.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)).to_string()]
    }
}

fn status_text(node: &api::Node) -> String {
    let ready = node.status.iter().flat_map(|s| s.conditions.iter().flatten()).rfind(|c| c.type_ == "Ready");
    let mut text = ready.map_or("Unknown", |c| if c.status == "True" { "Ready" } else { "NotReady" }).to_owned();
    if node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)) {
        text.push_str(",SchedulingDisabled");
    }
    text
}

fn roles(node: &api::Node) -> String {
    let labels = node.metadata.labels.iter().flatten();
    let roles: BTreeSet<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role),
            None if key == ROLE_LABEL => Some(value.as_str()),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() { "<none>".into() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn validate_taints(taints: &[api::Taint], errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, taint) in taints.iter().enumerate() {
        // Kubernetes names them under metadata.
        let path = FieldPath::new("metadata").child("taints").index(i);
        errors.all_invalid(&path.child("key"), taint.key.as_str(), names::qualified(&taint.key));
        let value = fill::str_of(&taint.value);
        let wrong = names::label_value(value);
        if !wrong.is_empty() {
            errors.invalid(&path.child("value"), value, wrong.join(";"));
        }
        check::one_of(&path.child("effect"), &taint.effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"], errors);
        if !seen.insert((&taint.effect, &taint.key)) {
            let kind = crate::meta::field::FieldErrorType::Duplicate;
            errors.push(kind, &path, check::json_of(taint), "taints must be unique by key and effect pair");
        }
    }
}
