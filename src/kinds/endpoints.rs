//! Endpoints (core/v1).

use super::fill::str_of;
use super::{Column, Kind, Names, address, check, fill, names, table};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// Addresses that a row shows before it says how many more there are.
const SHOWN: usize = 3;

pub struct Endpoints;

impl Kind for Endpoints {
    type Object = api::Endpoints;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        categories: &[],
        namespaced: true,
    };

    fn default(object: &mut api::Endpoints) {
        for port in object.subsets.iter_mut().flatten().flat_map(|s| s.ports.iter_mut().flatten()) {
            fill::text(&mut port.protocol, "TCP");
        }
    }

    fn validate(object: &api::Endpoints, errors: &mut FieldErrors) {
        for (i, subset) in object.subsets.iter().flatten().enumerate() {
            let path = FieldPath::new("subsets").index(i);
            let (ready, waiting) = (subset.addresses.as_deref(), subset.not_ready_addresses.as_deref());
            let (ready, waiting) = (ready.unwrap_or_default(), waiting.unwrap_or_default());
            if ready.is_empty() && waiting.is_empty() {
                errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
            }
            for (name, list) in [("addresses", ready), ("notReadyAddresses", waiting)] {
                list.iter().enumerate().for_each(|(i, a)| validate_address(&path.child(name).index(i), a, errors));
            }
            let ports = subset.ports.as_deref().unwrap_or_default();
            for (i, port) in ports.iter().enumerate() {
                validate_port(&path.child("ports").index(i), port, ports.len() > 1, errors);
            }
        }
    }

    fn warnings(_object: &api::Endpoints) -> Vec<String> {
        vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into()]
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[table::NAME, table::text("Endpoints", "The set of all endpoints is the union of all subsets.", 0), table::AGE];
        COLUMNS
    }

    fn cells(object: &api::Endpoints, now: Timestamp) -> Vec<Value> {
        vec![json!(object.metadata.name), json!(endpoints_text(object)), json!(table::age(&object.metadata, now))]
    }
}

fn endpoints_text(object: &api::Endpoints) -> String {
    let subsets = object.subsets.as_deref().unwrap_or_default();
    if subsets.is_empty() {
        return "<none>".into();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let ips = || subset.addresses.iter().flatten().map(|a| a.ip.as_str());
        let ports = subset.ports.as_deref().unwrap_or_default();
        if ports.is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in ports {
            all.extend(ips().map(|ip| if ip.contains(':') { format!("[{ip}]:{}", port.port) } else { format!("{ip}:{}", port.port) }));
        }
    }
    table::list_with_more(&all, SHOWN)
}

fn validate_address(path: &FieldPath, given: &api::EndpointAddress, errors: &mut FieldErrors) {
    address::ip(&path.child("ip"), &given.ip, errors);
    if !str_of(&given.hostname).is_empty() {
        errors.all_invalid(&path.child("hostname"), str_of(&given.hostname), names::label(str_of(&given.hostname)));
    }
    if let Some(node) = &given.node_name {
        errors.all_invalid(&path.child("nodeName"), node.as_str(), names::subdomain(node));
    }
    address::endpoint(&path.child("ip"), &given.ip, errors);
}

fn validate_port(path: &FieldPath, port: &api::EndpointPort, needs_name: bool, errors: &mut FieldErrors) {
    let name = str_of(&port.name);
    if !name.is_empty() {
        errors.all_invalid(&path.child("name"), name, names::label(name));
    } else if needs_name {
        errors.required(&path.child("name"), "");
    }
    errors.all_invalid(&path.child("port"), port.port, names::port_number(port.port));
    check::one_of(&path.child("protocol"), str_of(&port.protocol), &["SCTP", "TCP", "UDP"], errors);
    if let Some(protocol) = &port.app_protocol {
        errors.all_invalid(&path.child("appProtocol"), protocol.as_str(), names::qualified(protocol));
    }
}
