//! Labels and selectors as text: what tables and scales show (labels.FormatLabels, metav1.FormatLabelSelector).

use crate::meta::LabelSelector;
use std::collections::BTreeMap;

/// `a=b,c=d`, `<none>` without labels.
pub fn format_labels(labels: Option<&BTreeMap<String, String>>) -> String {
    match labels {
        Some(labels) if !labels.is_empty() => {
            let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            pairs.join(",")
        }
        _ => "<none>".into(),
    }
}

/// A selector as `kubectl -l` takes it: `app=web,!old,tier in (a,b)`, in the order of the keys.
///
/// # Errors
/// An operator that is none of In, NotIn, Exists, DoesNotExist.
pub fn selector_text(selector: &LabelSelector) -> Result<String, String> {
    let mut terms: Vec<(String, String)> = selector.match_labels.iter().flatten().map(|(k, v)| (k.clone(), format!("{k}={v}"))).collect();
    for e in selector.match_expressions.iter().flatten() {
        let mut values = e.values.clone().unwrap_or_default();
        values.sort();
        let values = values.join(",");
        let key = &e.key;
        let text = match e.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            "DoesNotExist" => format!("!{key}"),
            other => return Err(format!("\"{other}\" is not a valid label selector operator")),
        };
        terms.push((key.clone(), text));
    }
    terms.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(terms.into_iter().map(|t| t.1).collect::<Vec<_>>().join(","))
}

/// As `selector_text`, for a table: `<none>` if empty, `<error>` if it is none.
pub fn format_selector(selector: &LabelSelector) -> String {
    match selector_text(selector) {
        Ok(text) if text.is_empty() => "<none>".into(),
        Ok(text) => text,
        Err(_) => "<error>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    #[test]
    fn selectors_print_as_kubectl_takes_them() {
        let term = |key: &str, operator: &str, values: &[&str]| LabelSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
        };
        let selector = LabelSelector {
            match_labels: Some(BTreeMap::from([("app".into(), "web".into())])),
            match_expressions: Some(vec![term("tier", "In", &["b", "a"]), term("old", "DoesNotExist", &[]), term("new", "Exists", &[])]),
        };
        assert_eq!(selector_text(&selector).unwrap(), "app=web,new,!old,tier in (a,b)");
        assert_eq!(format_selector(&LabelSelector::default()), "<none>");
    }
}
