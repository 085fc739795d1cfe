//! DefaultTolerationSeconds: a pod tolerates a node that is not ready or unreachable for five minutes.

use k8s_openapi::api::core::v1 as core;

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub fn admit(spec: &mut core::PodSpec) {
    for taint in TAINTS {
        let own = spec.tolerations.get_or_insert_default();
        if !own.iter().any(|t| covers(t, taint)) {
            own.push(core::Toleration {
                key: Some(taint.to_owned()),
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                toleration_seconds: Some(SECONDS),
                value: None,
            });
        }
    }
}

fn covers(toleration: &core::Toleration, taint: &str) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    (key == taint || key.is_empty()) && matches!(effect, "" | "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_once_and_only_where_missing() {
        let mut spec = core::PodSpec::default();
        admit(&mut spec);
        admit(&mut spec);
        assert_eq!(spec.tolerations.as_ref().map(Vec::len), Some(2));
        let all = core::Toleration { operator: Some("Exists".into()), ..Default::default() };
        let mut tolerant = core::PodSpec { tolerations: Some(vec![all]), ..Default::default() };
        admit(&mut tolerant);
        assert_eq!(tolerant.tolerations.map(|t| t.len()), Some(1));
    }
}
