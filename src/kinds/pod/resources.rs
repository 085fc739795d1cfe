//! What a pod asks for in all: effective requests and limits (component-helpers' resource package), and its QoS class.

use super::containers::is_sidecar;
use crate::meta::quantity::{self, Amount};
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Amounts by resource name (`cpu` in cores, `memory` in bytes…).
pub type Amounts = BTreeMap<String, Amount>;

type Part = fn(&ResourceRequirements) -> Option<&BTreeMap<String, Quantity>>;

fn requests_part(r: &ResourceRequirements) -> Option<&BTreeMap<String, Quantity>> {
    r.requests.as_ref()
}

fn limits_part(r: &ResourceRequirements) -> Option<&BTreeMap<String, Quantity>> {
    r.limits.as_ref()
}

/// What the scheduler must find free for the pod: containers and sidecars together, or the hungriest init container
/// if that asks for more; pod-level requests in place of both; overhead on top.
pub fn requests(spec: &PodSpec) -> Amounts {
    let mut total = aggregate(spec, requests_part);
    override_by_pod_level(&mut total, spec, requests_part);
    add(&mut total, &amounts(spec.overhead.as_ref()));
    total
}

/// The pod's limits, counted the same way. A container without a limit counts nothing; overhead is added only to
/// resources that have a limit.
pub fn limits(spec: &PodSpec) -> Amounts {
    let mut total = aggregate(spec, limits_part);
    override_by_pod_level(&mut total, spec, limits_part);
    for (name, amount) in amounts(spec.overhead.as_ref()) {
        if let Some(limit) = total.get_mut(&name).filter(|l| l.0 != 0) {
            *limit = *limit + amount;
        }
    }
    total
}

/// True for the resources that `spec.resources` may name.
pub fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn override_by_pod_level(total: &mut Amounts, spec: &PodSpec, part: Part) {
    for (name, quantity) in spec.resources.as_ref().and_then(part).into_iter().flatten().filter(|(n, _)| is_pod_level(n)) {
        total.insert(name.clone(), quantity::amount(Some(quantity)));
    }
}

fn aggregate(spec: &PodSpec, part: Part) -> Amounts {
    let of = |c: &Container| amounts(c.resources.as_ref().and_then(part));
    let mut total = Amounts::new();
    for c in &spec.containers {
        add(&mut total, &of(c));
    }
    let (mut sidecars, mut init) = (Amounts::new(), Amounts::new());
    for c in spec.init_containers.iter().flatten() {
        let own = of(c);
        if is_sidecar(c) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut init, &sidecars);
        } else {
            let mut at_once = own;
            add(&mut at_once, &sidecars);
            raise(&mut init, &at_once);
        }
    }
    raise(&mut total, &init);
    total
}

pub fn amounts(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    list.into_iter().flatten().map(|(name, q)| (name.clone(), quantity::amount(Some(q)))).collect()
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let slot = total.entry(name.clone()).or_default();
        *slot = *slot + *amount;
    }
}

/// Takes the greater of both for each resource.
fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let slot = total.entry(name.clone()).or_default();
        *slot = (*slot).max(*amount);
    }
}

/// Fills pod-level requests from the containers' requests, and then from the pod-level limits.
pub fn default_pod_level(spec: &mut PodSpec) {
    if spec.resources.as_ref().is_none_or(|r| r.limits.as_ref().is_none_or(BTreeMap::is_empty)) {
        return;
    }
    let containers = aggregate(spec, requests_part);
    let Some(resources) = &mut spec.resources else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, amount) in containers.iter().filter(|(n, _)| matches!(n.as_str(), "cpu" | "memory")) {
        requests.entry(name.clone()).or_insert_with(|| Quantity(amount.to_string()));
    }
    for (name, quantity) in resources.limits.iter().flatten().filter(|(n, _)| is_pod_level(n)) {
        requests.entry(name.clone()).or_insert_with(|| quantity.clone());
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, by CPU and memory alone.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let compute = |list: Option<&BTreeMap<String, Quantity>>| -> Amounts {
        amounts(list).into_iter().filter(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && amount.0 > 0).collect()
    };
    let pod_level = spec.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some());
    let parts: Vec<Option<&ResourceRequirements>> =
        pod_level.map_or_else(|| super::containers::all(spec).map(|c| c.resources.as_ref()).collect(), |r| vec![Some(r)]);
    let (mut requests, mut limits, mut all_limited) = (Amounts::new(), Amounts::new(), true);
    for part in parts {
        add(&mut requests, &compute(part.and_then(requests_part)));
        let own = compute(part.and_then(limits_part));
        all_limited &= own.len() == 2;
        add(&mut limits, &own);
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if all_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn asks(cpu: &str) -> Value {
        json!({"requests": {"cpu": cpu}})
    }

    #[test]
    fn requests_count_init_containers_sidecars_and_overhead() {
        let cases = [
            (json!({"containers": [{"resources": asks("1")}, {"resources": asks("500m")}]}), 1500),
            (
                json!({"containers": [{"resources": asks("1")}], "initContainers": [{"resources": asks("3")}, {"resources": asks("2")}]}),
                3000,
            ),
            (
                json!({"containers": [{"resources": asks("1")}], "initContainers": [
                    {"restartPolicy": "Always", "resources": asks("1")}, {"resources": asks("2")}]}),
                3000,
            ),
            (
                json!({"containers": [{"resources": asks("5")}], "initContainers": [
                    {"resources": asks("2")}, {"restartPolicy": "Always", "resources": asks("1")}]}),
                6000,
            ),
            (json!({"containers": [{"resources": asks("1")}], "overhead": {"cpu": "250m"}}), 1250),
            (json!({"containers": [{"resources": asks("1")}], "resources": asks("4")}), 4000),
        ];
        for (value, milli) in cases {
            assert_eq!(requests(&spec(value.clone()))["cpu"].milli(), milli, "{value}");
        }
    }

    #[test]
    fn qos_follows_requests_and_limits() {
        let full = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1024Mi"}});
        for (value, class) in [
            (json!({"containers": [{}]}), "BestEffort"),
            (json!({"containers": [{"resources": asks("0")}]}), "BestEffort"),
            (json!({"containers": [{"resources": asks("1")}]}), "Burstable"),
            (json!({"containers": [{"resources": full}]}), "Guaranteed"),
            (json!({"containers": [{"resources": full}, {}]}), "Burstable"),
            (json!({"containers": [{}], "resources": full}), "Guaranteed"),
        ] {
            assert_eq!(qos_class(&spec(value.clone())), class, "{value}");
        }
    }
}
