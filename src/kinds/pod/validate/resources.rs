//! Resource requests and limits, of containers and of whole pods.

use crate::kinds::names;
use crate::kinds::pod::resources as effective;
use crate::meta::quantity::{self, Amount};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::{BTreeMap, HashSet};

type List = Option<BTreeMap<String, Quantity>>;

/// Resources of Kubernetes itself: without a domain, or under kubernetes.io.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Resources of which more may be promised than there is.
pub fn is_overcommittable(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified(&format!("requests.{name}")).is_empty()
}

/// Names without a domain that mean something somewhere (IsStandardResourceName).
fn is_standard(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "storage",
        "requests.storage",
        "services.nodeports",
        "services.loadbalancers",
    ];
    NAMES.contains(&name) || is_huge(name) || name.starts_with("requests.hugepages-")
}

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn container_resource_name(path: &FieldPath, name: &str, errors: &mut FieldErrors) {
    let before = errors.0.len();
    errors.all_invalid(path, name, names::qualified(name));
    let bare = !name.contains('/');
    if errors.0.len() == before && bare && !is_standard(name) {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    }
    if bare && !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge(name) {
        errors.invalid(path, name, "must be a standard resource for containers");
    } else if !bare && !is_native(name) && !is_extended(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

fn pod_resource_name(path: &FieldPath, name: &str, errors: &mut FieldErrors) {
    let wrong = names::qualified(name);
    if !wrong.is_empty() {
        errors.all_invalid(path, name, wrong);
    } else if !name.contains('/') && !is_standard(name) {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    } else if !effective::is_pod_level(name) {
        errors.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
    }
}

/// The amount, if it is one that the resource can have.
fn amount(path: &FieldPath, name: &str, quantity: &Quantity, errors: &mut FieldErrors) -> Amount {
    let text = quantity.0.as_str();
    match quantity::parse(text) {
        Err(e) => {
            errors.invalid(path, text, e.to_string());
            Amount::default()
        }
        Ok(amount) => {
            if amount.0 < 0 {
                errors.invalid(path, text, "must be greater than or equal to 0");
            }
            if is_extended(name) && amount != Amount::from_value(amount.value()) {
                errors.invalid(path, text, "must be an integer");
            }
            if is_huge(name) && !is_whole_pages(name, amount) {
                errors.invalid(path, text, format!("{text} is not positive integer multiple of {name}"));
            }
            amount
        }
    }
}

fn is_whole_pages(name: &str, amount: Amount) -> bool {
    let page = name.strip_prefix("hugepages-").and_then(|size| quantity::parse(size).ok());
    page.is_some_and(|page| page.0 > 0 && amount.0 % page.0 == 0)
}

pub fn of_container(path: &FieldPath, requirements: &ResourceRequirements, spec: &PodSpec, errors: &mut FieldErrors) {
    requests_and_limits(path, requirements, container_resource_name, errors);
    let known: HashSet<&str> = spec.resource_claims.iter().flatten().map(|c| c.name.as_str()).collect();
    let mut seen = HashSet::new();
    for (i, claim) in requirements.claims.iter().flatten().enumerate() {
        let at = path.child("claims").index(i);
        if claim.name.is_empty() {
            errors.required(&at, "");
            continue;
        }
        if !seen.insert((&claim.name, &claim.request)) {
            errors.duplicate(&at, claim.name.as_str());
        }
        if !known.contains(claim.name.as_str()) {
            let mut names: Vec<&str> = known.iter().copied().collect();
            names.sort_unstable();
            let list = if names.is_empty() { " which is empty".to_owned() } else { format!(": {}", names.join(", ")) };
            let kind = crate::meta::field::FieldErrorType::NotFound;
            errors.push(kind, &at, claim.name.as_str(), format!("must be one of the names in pod.spec.resourceClaims{list}"));
        }
    }
}

fn requests_and_limits(
    path: &FieldPath,
    requirements: &ResourceRequirements,
    name_rule: fn(&FieldPath, &str, &mut FieldErrors),
    errors: &mut FieldErrors,
) {
    let (limit_path, request_path) = (path.child("limits"), path.child("requests"));
    let mut limits = BTreeMap::new();
    for (name, quantity) in requirements.limits.iter().flatten() {
        let at = limit_path.key(name);
        name_rule(&at, name, errors);
        limits.insert(name.as_str(), (amount(&at, name, quantity, errors), quantity));
    }
    for (name, quantity) in requirements.requests.iter().flatten() {
        let at = request_path.key(name);
        name_rule(&at, name, errors);
        let request = amount(&at, name, quantity, errors);
        match limits.get(name.as_str()) {
            Some((limit, text)) if request != *limit && !is_overcommittable(name) => {
                errors.invalid(&request_path, quantity.0.as_str(), format!("must be equal to {name} limit of {}", text.0));
            }
            Some((limit, text)) if request > *limit => {
                errors.invalid(&request_path, quantity.0.as_str(), format!("must be less than or equal to {name} limit of {}", text.0));
            }
            None if !is_overcommittable(name) => errors.required(&limit_path, "Limit must be set for non overcommitable resources"),
            _ => {}
        }
    }
    let any = |of: &dyn Fn(&str) -> bool| {
        [&requirements.limits, &requirements.requests].iter().any(|l: &&List| l.iter().flatten().any(|(n, _)| of(n)))
    };
    if any(&is_huge) && !any(&|n| matches!(n, "cpu" | "memory")) {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// Pod-level resources: no less than what the containers ask for together, no less than the limit of any of them.
pub fn of_pod(path: &FieldPath, spec: &PodSpec, errors: &mut FieldErrors) {
    for (name, quantity) in spec.overhead.iter().flatten() {
        let at = path.child("overhead").key(name);
        container_resource_name(&at, name, errors);
        amount(&at, name, quantity, errors);
    }
    let Some(resources) = &spec.resources else { return };
    let path = path.child("resources");
    if resources.claims.is_some() {
        errors.forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level");
    }
    requests_and_limits(&path, resources, pod_resource_name, errors);
    let alone = PodSpec { resources: None, overhead: None, ..spec.clone() };
    let aggregate = effective::requests(&alone);
    for (name, quantity) in resources.requests.iter().flatten() {
        if let Some(sum) = aggregate.get(name).filter(|sum| **sum > quantity::amount(Some(quantity))) {
            let why = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.invalid(&path.child("requests").key(name), quantity.0.as_str(), why);
        }
    }
    for (i, c) in spec.containers.iter().enumerate() {
        for (name, limit) in c.resources.iter().flat_map(|r| r.limits.iter().flatten()) {
            let Some(of_pod) = resources.limits.as_ref().and_then(|l| l.get(name)) else { continue };
            if quantity::amount(Some(limit)) > quantity::amount(Some(of_pod)) {
                let at = path.child("containers").index(i).key(name).child("limits");
                errors.invalid(&at, limit.0.as_str(), format!("must be less than or equal to pod limits of {}", of_pod.0));
            }
        }
    }
}
