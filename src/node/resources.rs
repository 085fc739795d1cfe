//! cgroups of pods and containers: names, shares, quotas, limits, OOM scores, as the kubelet computes them. Pure.

use crate::kinds::pod::containers::{self, is_sidecar};
use crate::kinds::pod::resources as pod;
pub use crate::kinds::pod::resources::qos_class;
use crate::meta::quantity::{Amount, amount};
use k8s_openapi::api::core::v1 as api;
use orchd_runtime::spec::Resources;

const PERIOD_US: u64 = 100_000;
const LEAST_QUOTA_US: i64 = 1000;
const LEAST_SHARES: u64 = 2;
const MOST_SHARES: u64 = 262_144;

/// What pods of a node can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocatable {
    pub cpu_milli: i64,
    pub memory_bytes: i64,
    pub ephemeral_bytes: i64,
}

impl Allocatable {
    pub fn get(&self, resource: &str) -> Option<Amount> {
        match resource {
            "cpu" => Some(Amount::from_milli(self.cpu_milli)),
            "memory" => Some(Amount::from_value(self.memory_bytes)),
            "ephemeral-storage" => Some(Amount::from_value(self.ephemeral_bytes)),
            _ => None,
        }
    }
}

fn request(container: &api::Container, name: &str) -> Amount {
    amount(container.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|l| l.get(name)))
}

fn limit(container: &api::Container, name: &str) -> Amount {
    amount(container.resources.as_ref().and_then(|r| r.limits.as_ref()).and_then(|l| l.get(name)))
}

/// `<root>/kubepods/burstable/pod<uid>`; pods that are Guaranteed lie directly under kubepods.
pub fn cgroup_path(root: &str, spec: &api::PodSpec, uid: &str) -> String {
    match qos_class(spec) {
        "Guaranteed" => format!("{root}/kubepods/pod{uid}"),
        class => format!("{root}/kubepods/{}/pod{uid}", class.to_lowercase()),
    }
}

fn shares(milli: i64) -> u64 {
    u64::try_from(milli).map_or(LEAST_SHARES, |m| (m * 1024 / 1000).clamp(LEAST_SHARES, MOST_SHARES))
}

fn quota(milli: i64) -> i64 {
    (milli.saturating_mul(100)).max(LEAST_QUOTA_US)
}

/// Limits of a pod's cgroup. A limit that not every container has is none of the pod, unless the pod itself has it.
pub fn of_pod(spec: &api::PodSpec) -> Resources {
    if qos_class(spec) == "BestEffort" {
        return Resources { cpu_shares: Some(LEAST_SHARES), ..Resources::default() };
    }
    let (requests, limits) = (pod::requests(spec), pod::limits(spec));
    let of = |amounts: &pod::Amounts, name: &str| amounts.get(name).copied().unwrap_or_default();
    let own = |name: &str| spec.resources.as_ref().and_then(|r| r.limits.as_ref()).is_some_and(|l| l.contains_key(name));
    let declared = |name: &str| own(name) || containers::all(spec).all(|c| limit(c, name) != Amount::default());
    let cpu = declared("cpu").then(|| quota(of(&limits, "cpu").milli()));
    Resources {
        cpu_shares: Some(shares(of(&requests, "cpu").milli())),
        cpu_quota_us: cpu,
        cpu_period_us: cpu.map(|_| PERIOD_US),
        memory_limit_bytes: declared("memory").then(|| of(&limits, "memory").value()),
        ..Resources::default()
    }
}

/// Limits of a container's cgroup, and its OOM score.
pub fn of_container(spec: &api::PodSpec, container: &api::Container, node_memory_bytes: i64) -> Resources {
    let (cpu_limit, memory) = (limit(container, "cpu").milli(), limit(container, "memory").value());
    // Without a request, the limit stands for it.
    let asked = container.resources.as_ref().and_then(|r| r.requests.as_ref()).is_some_and(|r| r.contains_key("cpu"));
    let cpu = if !asked && cpu_limit > 0 { cpu_limit } else { request(container, "cpu").milli() };
    let cpu_quota = (cpu_limit > 0).then(|| quota(cpu_limit));
    Resources {
        cpu_shares: Some(shares(cpu)),
        cpu_quota_us: cpu_quota,
        cpu_period_us: cpu_quota.map(|_| PERIOD_US),
        memory_limit_bytes: (memory > 0).then_some(memory),
        pids_limit: None,
        oom_score_adj: Some(oom_score(spec, container, node_memory_bytes)),
    }
}

fn oom_score(spec: &api::PodSpec, container: &api::Container, node_memory_bytes: i64) -> i32 {
    const GUARANTEED: i64 = -997;
    const BEST_EFFORT: i64 = 1000;
    let critical = spec.priority_class_name.as_deref() == Some("system-node-critical");
    let score = match qos_class(spec) {
        "Guaranteed" => GUARANTEED,
        _ if critical => GUARANTEED,
        "BestEffort" => BEST_EFFORT,
        _ => {
            let of = |bytes: i64| 1000 - 1000 * bytes / node_memory_bytes.max(1);
            let mut score = of(request(container, "memory").value());
            if is_sidecar(container) {
                let least = spec.containers.iter().map(|c| request(c, "memory").value()).min().unwrap_or(0);
                score = score.min(of(least));
            }
            score.clamp(1000 + GUARANTEED, BEST_EFFORT - 1)
        }
    };
    i32::try_from(score).unwrap_or(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(containers: Value) -> api::PodSpec {
        serde_json::from_value(json!({"containers": containers})).unwrap()
    }

    fn container(requests: Value, limits: Value) -> Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn classes_and_paths() {
        let same = json!({"cpu": "100m", "memory": "64Mi"});
        for (containers, class, path) in [
            (json!([{"name": "c"}]), "BestEffort", "orchd/n/kubepods/besteffort/podu"),
            (json!([container(same.clone(), same.clone())]), "Guaranteed", "orchd/n/kubepods/podu"),
            (json!([container(same.clone(), same.clone()), {"name": "d"}]), "Burstable", "orchd/n/kubepods/burstable/podu"),
            (json!([container(json!({"cpu": "1"}), json!({}))]), "Burstable", "orchd/n/kubepods/burstable/podu"),
        ] {
            let spec = spec(containers);
            assert_eq!((qos_class(&spec), cgroup_path("orchd/n", &spec, "u").as_str()), (class, path));
        }
    }

    #[test]
    fn pod_limits_hold_only_if_every_container_has_one() {
        let limited = container(json!({"cpu": "250m"}), json!({"cpu": "500m", "memory": "64Mi"}));
        let both = of_pod(&spec(json!([limited, limited])));
        assert_eq!((both.cpu_shares, both.cpu_quota_us, both.memory_limit_bytes), (Some(512), Some(100_000), Some(128 << 20)));
        let one = of_pod(&spec(json!([limited, {"name": "d"}])));
        assert_eq!((one.cpu_quota_us, one.memory_limit_bytes), (None, None));
        assert_eq!(of_pod(&spec(json!([{"name": "d"}]))).cpu_shares, Some(2));
    }

    #[test]
    fn container_numbers_are_the_kubelets() {
        let node = 10 << 30;
        let burstable = spec(json!([container(json!({"cpu": "100m", "memory": "1Gi"}), json!({"cpu": "5m"}))]));
        let r = of_container(&burstable, &burstable.containers[0], node);
        assert_eq!((r.cpu_shares, r.cpu_quota_us, r.oom_score_adj), (Some(102), Some(1000), Some(900)));
        let only_limit = spec(json!([container(json!({}), json!({"cpu": "1"}))]));
        assert_eq!(of_container(&only_limit, &only_limit.containers[0], node).cpu_shares, Some(1024));
        let best = spec(json!([{"name": "c"}]));
        let r = of_container(&best, &best.containers[0], node);
        assert_eq!((r.cpu_shares, r.cpu_quota_us, r.memory_limit_bytes, r.oom_score_adj), (Some(2), None, None, Some(1000)));
        let small = spec(json!([container(json!({"memory": "1"}), json!({}))]));
        assert_eq!(of_container(&small, &small.containers[0], node).oom_score_adj, Some(999));
        let huge = spec(json!([container(json!({"memory": "100Gi"}), json!({}))]));
        assert_eq!(of_container(&huge, &huge.containers[0], node).oom_score_adj, Some(3));
    }
}
