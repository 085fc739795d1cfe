//! Label and field selectors: parsing and matching (labels.Selector and fields.Selector of apimachinery).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;

/// How one label is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
}

/// A conjunction of requirements; empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub Vec<Requirement>);

impl Requirement {
    pub fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let value = labels.and_then(|l| l.get(&self.key));
        let number = |v: Option<&String>| v.and_then(|v| v.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.contains(v)),
            Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number(value).is_some_and(|n| n > *bound),
            Operator::LessThan(bound) => number(value).is_some_and(|n| n < *bound),
        }
    }
}

impl Selector {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.0.iter().all(|r| r.matches(labels))
    }

    /// All of `labels`, equal.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        Self(labels.iter().map(|(k, v)| Requirement { key: k.clone(), operator: Operator::In(vec![v.clone()]) }).collect())
    }

    /// Of an API `LabelSelector`. A selector without requirements selects everything.
    ///
    /// # Errors
    /// An operator that is none of In, NotIn, Exists, DoesNotExist.
    pub fn from_label_selector(selector: &LabelSelector) -> Result<Self, String> {
        let mut out = Self::from_map(selector.match_labels.as_ref().unwrap_or(&BTreeMap::new()));
        for e in selector.match_expressions.iter().flatten() {
            let values = e.values.clone().unwrap_or_default();
            let operator = match e.operator.as_str() {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("\"{other}\" is not a valid label selector operator")),
            };
            out.0.push(Requirement { key: e.key.clone(), operator });
        }
        Ok(out)
    }
}

/// A conjunction of `field=value` and `field!=value`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(pub Vec<FieldTerm>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub field: String,
    pub value: String,
    pub equal: bool,
}

impl FieldSelector {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// `value_of` gives the value of a field that the kind lets select by.
    pub fn matches(&self, value_of: impl Fn(&str) -> Option<String>) -> bool {
        self.0.iter().all(|t| (value_of(&t.field).unwrap_or_default() == t.value) == t.equal)
    }
}
