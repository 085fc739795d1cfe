//! Priority: until PriorityClasses come there are the two that every cluster has, and zero.

use k8s_openapi::api::core::v1 as core;

const CLASSES: [(&str, i32); 2] = [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// # Errors
/// A class that does not exist, or a priority that is not its class's.
pub fn admit(spec: &mut core::PodSpec) -> Result<(), String> {
    let class = spec.priority_class_name.as_deref().unwrap_or_default();
    let priority = match class {
        "" => 0,
        name => match CLASSES.iter().find(|(class, _)| *class == name) {
            Some((_, value)) => *value,
            None => return Err(format!("no PriorityClass with name {name} was found")),
        },
    };
    if let Some(own) = spec.priority.filter(|own| *own != priority) {
        return Err(format!(
            "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
        ));
    }
    spec.priority = Some(priority);
    spec.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_come_from_classes() {
        let mut spec = core::PodSpec::default();
        admit(&mut spec).unwrap();
        assert_eq!((spec.priority, spec.preemption_policy.as_deref()), (Some(0), Some("PreemptLowerPriority")));
        let mut critical = core::PodSpec { priority_class_name: Some("system-node-critical".into()), ..Default::default() };
        admit(&mut critical).unwrap();
        assert_eq!(critical.priority, Some(2_000_001_000));
        let mut unknown = core::PodSpec { priority_class_name: Some("x".into()), ..Default::default() };
        assert_eq!(admit(&mut unknown).unwrap_err(), "no PriorityClass with name x was found");
        assert!(admit(&mut core::PodSpec { priority: Some(7), ..Default::default() }).is_err());
    }
}
