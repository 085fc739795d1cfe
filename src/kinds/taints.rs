//! Taints and tolerations: which pods a tainted node takes (v1.Toleration.ToleratesTaint).

use k8s_openapi::api::core::v1::{Taint, Toleration};

fn text(value: Option<&String>) -> &str {
    value.map(String::as_str).unwrap_or_default()
}

/// True if `toleration` bears `taint`.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let (effect, key) = (text(toleration.effect.as_ref()), text(toleration.key.as_ref()));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match text(toleration.operator.as_ref()) {
        "" | "Equal" => text(toleration.value.as_ref()) == text(taint.value.as_ref()),
        operator => operator == "Exists",
    }
}

/// True if one of `tolerations` bears `taint`.
pub fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_bear_taints_by_key_value_and_effect() {
        let taint = Taint { key: "a".into(), value: Some("x".into()), effect: "NoSchedule".into(), ..Taint::default() };
        for (key, operator, value, effect, bears) in [
            ("a", "Equal", "x", "NoSchedule", true),
            ("a", "", "x", "", true),
            ("a", "Equal", "y", "NoSchedule", false),
            ("a", "Exists", "", "NoSchedule", true),
            ("a", "Exists", "", "NoExecute", false),
            ("b", "Exists", "", "", false),
            ("", "Exists", "", "", true),
            ("a", "Nonsense", "x", "", false),
        ] {
            let some = |s: &str| Some(s.to_owned()).filter(|s| !s.is_empty());
            let t =
                Toleration { key: some(key), operator: some(operator), value: some(value), effect: some(effect), toleration_seconds: None };
            assert_eq!(tolerates(&t, &taint), bears, "{t:?}");
        }
    }
}
