//! Amounts of resources: what a pod asks for, what a node has.

use crate::kinds::pod::containers;
use crate::kinds::pod::resources::{self, Amounts};
use crate::meta::Quantity;
use k8s_openapi::api::core::v1 as core;
use std::collections::BTreeMap;

/// What a container counts for when it asks for nothing: a tenth of a core and 200 MB, so that such pods spread too.
const FLOOR: [(&str, &str); 2] = [("cpu", "100m"), ("memory", "200Mi")];

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
    fn of(amounts: &Amounts) -> Self {
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
        Self::of(&resources::amounts(node.status.as_ref().and_then(|s| s.allocatable.as_ref())))
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

/// What a pod asks for, itself counted as one of `pods`; and its cpu and memory as the scores count them.
pub fn requests(spec: &core::PodSpec) -> (Resources, (i64, i64)) {
    let mut asked = Resources::of(&resources::requests(spec));
    asked.pods = 1;
    let counted = Resources::of(&resources::requests(&floored(spec)));
    (asked, (counted.milli_cpu, counted.memory))
}

/// What counts for the sum, with the floor where a container says nothing.
fn floored(spec: &core::PodSpec) -> core::PodSpec {
    let mut out = core::PodSpec {
        containers: spec.containers.iter().map(bare).collect(),
        init_containers: spec.init_containers.as_ref().map(|list| list.iter().map(bare).collect()),
        resources: spec.resources.clone(),
        overhead: spec.overhead.clone(),
        ..core::PodSpec::default()
    };
    containers::each_mut(&mut out, |c| {
        let requests = c.resources.get_or_insert_default().requests.get_or_insert_default();
        for (name, amount) in FLOOR {
            requests.entry(name.into()).or_insert_with(|| Quantity(amount.into()));
        }
    });
    out
}

fn bare(c: &core::Container) -> core::Container {
    core::Container { resources: c.resources.clone(), restart_policy: c.restart_policy.clone(), ..core::Container::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> core::PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn scores_count_pods_that_ask_for_nothing() {
        let (asked, counted) = requests(&spec(json!({"containers": [{"name": "a"}, {"name": "b"}]})));
        assert_eq!((asked.milli_cpu, asked.memory, asked.pods), (0, 0, 1));
        assert_eq!(counted, (200, 400 * 1024 * 1024));
    }
}
