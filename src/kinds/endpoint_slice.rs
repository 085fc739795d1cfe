//! EndpointSlice (discovery.k8s.io/v1).

use super::fill::str_of;
use super::{Column, Kind, Names, address, check, fill, names, table};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::discovery::v1 as api;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashSet;

/// Ports and addresses that a row shows before it says how many more there are.
const SHOWN: usize = 3;
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_HINTS: usize = 8;

pub struct EndpointSlice;

impl Kind for EndpointSlice {
    type Object = api::EndpointSlice;

    const NAMES: Names = Names {
        group: "discovery.k8s.io",
        version: "v1",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };
    const HAS_GENERATION: bool = true;

    fn default(object: &mut api::EndpointSlice) {
        for port in object.ports.iter_mut().flatten() {
            fill::or(&mut port.name, String::new());
            fill::or(&mut port.protocol, "TCP".into());
        }
        for endpoint in &mut object.endpoints {
            endpoint.conditions.get_or_insert_default();
        }
    }

    fn validate(object: &api::EndpointSlice, errors: &mut FieldErrors) {
        check::one_of(&FieldPath::new("addressType"), &object.address_type, &["FQDN", "IPv4", "IPv6"], errors);
        validate_ports(&FieldPath::new("ports"), object.ports.as_deref().unwrap_or_default(), errors);
        let path = FieldPath::new("endpoints");
        if object.endpoints.len() > MAX_ENDPOINTS {
            errors.too_many(&path, object.endpoints.len(), MAX_ENDPOINTS);
            return;
        }
        for (i, endpoint) in object.endpoints.iter().enumerate() {
            validate_endpoint(&path.index(i), endpoint, &object.address_type, errors);
        }
    }

    fn validate_update(new: &api::EndpointSlice, old: &api::EndpointSlice, errors: &mut FieldErrors) {
        check::immutable(&FieldPath::new("addressType"), &new.address_type, &old.address_type, errors);
    }

    /// Everything but the metadata, and of that the labels.
    fn spec_changed(new: &api::EndpointSlice, old: &api::EndpointSlice) -> bool {
        new.endpoints != old.endpoints
            || new.ports != old.ports
            || new.address_type != old.address_type
            || new.metadata.labels != old.metadata.labels
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::text("AddressType", "The type of address carried by this EndpointSlice.", 0),
            table::text("Ports", "The list of network ports exposed by each endpoint in this slice.", 0),
            table::text("Endpoints", "The list of unique endpoints in this slice.", 0),
            table::AGE,
        ];
        COLUMNS
    }

    fn cells(object: &api::EndpointSlice, now: Timestamp) -> Vec<Value> {
        let port_text = |p: &api::EndpointPort| match (p.port, &p.name) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.clone(),
            (None, None) => "*".to_owned(),
        };
        let ports: Vec<String> = object.ports.iter().flatten().map(port_text).collect();
        let addresses: Vec<String> = object.endpoints.iter().flat_map(|e| e.addresses.clone()).collect();
        let list = |items: &[String]| if items.is_empty() { "<unset>".to_owned() } else { table::list_with_more(items, SHOWN) };
        vec![
            json!(object.metadata.name),
            json!(object.address_type),
            json!(list(&ports)),
            json!(list(&addresses)),
            json!(table::age(&object.metadata, now)),
        ]
    }
}

fn validate_ports(path: &FieldPath, ports: &[api::EndpointPort], errors: &mut FieldErrors) {
    if ports.len() > MAX_PORTS {
        errors.too_many(path, ports.len(), MAX_PORTS);
        return;
    }
    let mut seen = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = str_of(&port.name);
        if !name.is_empty() {
            errors.all_invalid(&at.child("name"), name, names::label(name));
        }
        if !seen.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        check::one_of(&at.child("protocol"), str_of(&port.protocol), &["SCTP", "TCP", "UDP"], errors);
        if let Some(protocol) = &port.app_protocol {
            errors.all_invalid(&at.child("appProtocol"), protocol.as_str(), names::qualified(protocol));
        }
    }
}

fn validate_endpoint(path: &FieldPath, endpoint: &api::Endpoint, kind: &str, errors: &mut FieldErrors) {
    let at = path.child("addresses");
    match endpoint.addresses.len() {
        0 => errors.required(&at, "must contain at least 1 address"),
        count if count > MAX_ADDRESSES => errors.too_many(&at, count, MAX_ADDRESSES),
        _ => {}
    }
    for (i, text) in endpoint.addresses.iter().enumerate() {
        validate_address(&at, i, text, kind, errors);
    }
    if let Some(node) = &endpoint.node_name {
        errors.all_invalid(&path.child("nodeName"), node.as_str(), names::subdomain(node));
    }
    if let Some(name) = &endpoint.hostname {
        errors.all_invalid(&path.child("hostname"), name.as_str(), names::label(name));
    }
    check::labels(&path.child("deprecatedTopology"), endpoint.deprecated_topology.as_ref(), errors);
    let Some(hints) = &endpoint.hints else { return };
    let zones: Vec<&str> = hints.for_zones.iter().flatten().map(|z| z.name.as_str()).collect();
    let nodes: Vec<&str> = hints.for_nodes.iter().flatten().map(|n| n.name.as_str()).collect();
    type Rule = fn(&str) -> Vec<String>;
    for (field, list, rule) in [("forZones", zones, names::label_value as Rule), ("forNodes", nodes, names::subdomain as Rule)] {
        let at = path.child("hints").child(field);
        if list.len() > MAX_HINTS {
            errors.too_many(&at, list.len(), MAX_HINTS);
            return;
        }
        let mut seen = HashSet::new();
        for (i, name) in list.into_iter().enumerate() {
            let at = at.index(i).child("name");
            if !seen.insert(name) {
                errors.duplicate(&at, name);
            }
            errors.all_invalid(&at, name, rule(name));
        }
    }
}

fn validate_address(path: &FieldPath, i: usize, text: &str, kind: &str, errors: &mut FieldErrors) {
    let at = path.index(i);
    let before = errors.0.len();
    match kind {
        "IPv4" => address::ip(&at, text, errors),
        "IPv6" => address::canonical_ip(&at, text, errors),
        "FQDN" => validate_fqdn(&at, text, errors),
        _ => {}
    }
    let Some(ip) = address::parse(text).filter(|_| errors.0.len() == before && kind != "FQDN") else { return };
    match (kind, ip.is_ipv4()) {
        ("IPv4", false) => errors.invalid(path, text, "must be an IPv4 address"),
        ("IPv6", true) => errors.invalid(path, text, "must be an IPv6 address"),
        _ => {}
    }
    address::endpoint(&at, text, errors);
}

fn validate_fqdn(path: &FieldPath, text: &str, errors: &mut FieldErrors) {
    if text.is_empty() {
        errors.required(path, "");
        return;
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let wrong = names::subdomain(name);
    if !wrong.is_empty() {
        errors.invalid(path, name, wrong.join(","));
    } else if !name.contains('.') {
        errors.invalid(path, name, "should be a domain with at least two segments separated by dots");
    } else if let Some(part) = name.split('.').find(|part| !names::label(part).is_empty()) {
        errors.invalid(path, part, names::label(part).join(","));
    }
}
