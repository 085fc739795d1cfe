//! nodeSelector and required node affinity (component-helpers' nodeaffinity).

use super::super::{cluster::NodeState, wanted::Wanted};
use super::Refusal;
use crate::kinds::{Node, Ref};
use crate::meta::selector::{Operator, Requirement};
use k8s_openapi::api::core::v1 as core;

const NAME_FIELD: &str = "metadata.name";

pub fn filter(wanted: &Wanted, node: &Ref<Node>, _: &NodeState) -> Result<(), Refusal> {
    let Some(spec) = wanted.spec() else { return Ok(()) };
    let labels = node.metadata.labels.as_ref();
    let has = |(k, v): (&String, &String)| labels.and_then(|l| l.get(k)) == Some(v);
    let selected = spec.node_selector.iter().flatten().all(has);
    let required = required(spec);
    if let Some(terms) = required
        && !names_allow(terms, node)
    {
        return Err(Refusal::for_good("node(s) didn't satisfy plugin(s) [NodeAffinity]"));
    }
    if selected && required.is_none_or(|terms| terms.iter().any(|t| term_matches(t, node))) {
        return Ok(());
    }
    Err(Refusal::for_good("node(s) didn't match Pod's node affinity/selector"))
}

fn required(spec: &core::PodSpec) -> Option<&[core::NodeSelectorTerm]> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    Some(&affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms)
}

/// False if every term names nodes, and none names this one.
fn names_allow(terms: &[core::NodeSelectorTerm], node: &Ref<Node>) -> bool {
    let by_name = |r: &&core::NodeSelectorRequirement| r.key == NAME_FIELD && r.operator == "In";
    let name = node.metadata.name.as_ref();
    terms.is_empty()
        || terms.iter().any(|t| {
            let mut named = t.match_fields.iter().flatten().filter(by_name);
            // A term that names no node, or names this one in each of its requirements.
            named.all(|r| name.is_some_and(|n| r.values.iter().flatten().any(|v| v == n)))
        })
}

/// True if the node meets every requirement of the term; an empty term is met by none.
pub fn term_matches(term: &core::NodeSelectorTerm, node: &Ref<Node>) -> bool {
    let (expressions, mut fields) = (term.match_expressions.iter().flatten(), term.match_fields.iter().flatten());
    let labels = node.metadata.labels.as_ref();
    let some = expressions.clone().next().is_some() || fields.clone().next().is_some();
    some && expressions.map(requirement).all(|r| r.is_some_and(|r| r.matches(labels))) && fields.all(|f| field(f, node))
}

fn requirement(r: &core::NodeSelectorRequirement) -> Option<Requirement> {
    let values = r.values.clone().unwrap_or_default();
    let bound = || values.first()?.parse::<i64>().ok();
    let operator = match r.operator.as_str() {
        "In" => Operator::In(values),
        "NotIn" => Operator::NotIn(values),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan(bound()?),
        "Lt" => Operator::LessThan(bound()?),
        _ => return None,
    };
    Some(Requirement { key: r.key.clone(), operator })
}

/// Of fields only the name can be asked for, and of one node.
fn field(r: &core::NodeSelectorRequirement, node: &Ref<Node>) -> bool {
    let [value] = r.values.as_deref().unwrap_or_default() else { return false };
    let same = node.metadata.name.as_ref() == Some(value);
    match r.operator.as_str() {
        "In" => r.key == NAME_FIELD && same,
        "NotIn" => r.key == NAME_FIELD && !same,
        _ => false,
    }
}
