//! Amounts of resources: what a pod asks for, what a node has.

use crate::meta::Quantity;
use crate::meta::quantity::{Amount, amount};
use k8s_openapi::api::core::v1 as core;
use std::collections::BTreeMap;

type List = BTreeMap<String, Quantity>;

/// What a pod counts for when it asks for nothing: a tenth of a core and 200 MB, so that such pods spread too.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;
/// Resources that a pod may ask for as a whole.
const POD_LEVEL: [&str; 2] = ["cpu", "memory"];

/// Millicores, bytes, and counts of anything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    pub pods: i64,
    pub other: BTreeMap<String, i64>,
}

impl Resources {
    fn of(amounts: &BTreeMap<String, Amount>) -> Self {
        let mut out = Self::default();
        for (name, amount) in amounts {
            match name.as_str() {
                "cpu" => out.milli_cpu = amount.milli(),
                "memory" => out.memory = amount.value(),
                "ephemeral-storage" => out.ephemeral_storage = amount.value(),
                "pods" => out.pods = amount.value(),
                _ => {
                    out.other.insert(name.clone(), amount.value());
                }
            }
        }
        out
    }

    /// What a node offers.
    pub fn of_node(node: &core::Node) -> Self {
        Self::of(&amounts(node.status.as_ref().and_then(|s| s.allocatable.as_ref())))
    }

    pub fn add(&mut self, more: &Self, sign: i64) {
        self.milli_cpu += sign * more.milli_cpu;
        self.memory += sign * more.memory;
        self.ephemeral_storage += sign * more.ephemeral_storage;
        self.pods += sign * more.pods;
        for (name, n) in &more.other {
            *self.other.entry(name.clone()).or_default() += sign * n;
        }
    }
}

fn amounts(list: Option<&List>) -> BTreeMap<String, Amount> {
    list.into_iter().flatten().map(|(name, q)| (name.clone(), amount(Some(q)))).collect()
}

fn add(into: &mut BTreeMap<String, Amount>, more: &BTreeMap<String, Amount>) {
    for (name, n) in more {
        let sum = into.entry(name.clone()).or_default();
        *sum = *sum + *n;
    }
}

fn raise(into: &mut BTreeMap<String, Amount>, to: &BTreeMap<String, Amount>) {
    for (name, n) in to {
        let most = into.entry(name.clone()).or_default();
        *most = (*most).max(*n);
    }
}

/// What a container asks for; `floor` stands in for cpu and memory that it does not mention.
fn of_container(container: &core::Container, floor: Option<&BTreeMap<String, Amount>>) -> BTreeMap<String, Amount> {
    let mut out = amounts(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
    for (name, n) in floor.into_iter().flatten() {
        out.entry(name.clone()).or_insert(*n);
    }
    out
}

fn is_sidecar(container: &core::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// component-helpers' PodRequests: containers and sidecars together, or the most that an init container needs beside the
/// sidecars before it; then what the pod asks for as a whole, and its overhead.
fn of_pod(spec: &core::PodSpec, floor: Option<&BTreeMap<String, Amount>>) -> BTreeMap<String, Amount> {
    let mut sum = BTreeMap::new();
    for container in &spec.containers {
        add(&mut sum, &of_container(container, floor));
    }
    let (mut sidecars, mut init) = (BTreeMap::new(), BTreeMap::new());
    for container in spec.init_containers.iter().flatten() {
        let mut needs = of_container(container, floor);
        if is_sidecar(container) {
            add(&mut sum, &needs);
            add(&mut sidecars, &needs);
            needs = sidecars.clone();
        } else {
            add(&mut needs, &sidecars);
        }
        raise(&mut init, &needs);
    }
    raise(&mut sum, &init);
    let whole = amounts(spec.resources.as_ref().and_then(|r| r.requests.as_ref()));
    sum.extend(whole.into_iter().filter(|(name, _)| POD_LEVEL.contains(&name.as_str()) || name.starts_with("hugepages-")));
    add(&mut sum, &amounts(spec.overhead.as_ref()));
    sum
}

/// What a pod asks for, itself counted as one of `pods`; and its cpu and memory as the scores count them.
pub fn requests(spec: &core::PodSpec) -> (Resources, (i64, i64)) {
    let mut asked = Resources::of(&of_pod(spec, None));
    asked.pods = 1;
    let floor = BTreeMap::from([
        ("cpu".to_owned(), Amount::from_milli(DEFAULT_MILLI_CPU)),
        ("memory".to_owned(), Amount::from_value(DEFAULT_MEMORY)),
    ]);
    let counted = Resources::of(&of_pod(spec, Some(&floor)));
    (asked, (counted.milli_cpu, counted.memory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> core::PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn init_containers_sidecars_and_overhead_count_as_kubernetes_counts_them() {
        let container = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        for (value, milli) in [
            (json!({"containers": [container("a", "100m"), container("b", "200m")]}), 300),
            (json!({"containers": [container("a", "100m")], "initContainers": [container("i", "500m")]}), 500),
            (json!({"containers": [container("a", "400m")], "initContainers": [sidecar("200m"), container("i", "500m")]}), 700),
            (json!({"containers": [container("a", "100m")], "initContainers": [container("i", "500m"), sidecar("200m")]}), 500),
            (json!({"containers": [container("a", "100m")], "overhead": {"cpu": "50m"}}), 150),
            (json!({"containers": [container("a", "100m")], "resources": {"requests": {"cpu": "1"}}}), 1000),
        ] {
            assert_eq!(requests(&spec(value.clone())).0.milli_cpu, milli, "{value}");
        }
    }

    #[test]
    fn scores_count_pods_that_ask_for_nothing() {
        let (asked, counted) = requests(&spec(json!({"containers": [{"name": "a"}, {"name": "b"}]})));
        assert_eq!((asked.milli_cpu, asked.memory, asked.pods), (0, 0, 1));
        assert_eq!(counted, (200, 400 * 1024 * 1024));
    }
}
