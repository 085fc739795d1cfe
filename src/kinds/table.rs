//! Cells that many tables share.

use super::Column;
use crate::meta::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub const NAME: Column =
    Column { name: "Name", kind: "string", format: "name", description: "Name must be unique within a namespace.", priority: 0 };
pub const AGE: Column = Column { name: "Age", kind: "string", format: "", description: "Time since the object was created.", priority: 0 };
pub const NAME_AND_AGE: &[Column] = &[NAME, AGE];

pub fn name_and_age(meta: &ObjectMeta, now: Timestamp) -> Vec<Value> {
    vec![json!(meta.name), json!(age(meta, now))]
}

/// Time since creation as kubectl prints it, `<unknown>` without a creation time.
pub fn age(meta: &ObjectMeta, now: Timestamp) -> String {
    meta.creation_timestamp.as_ref().map_or_else(|| "<unknown>".into(), |t| human_duration(now.as_second() - t.0.as_second()))
}

/// A duration in apimachinery's `duration.HumanDuration` form: `9s`, `3m12s`, `5h`, `2d3h`, `1y20d`.
pub fn human_duration(seconds: i64) -> String {
    let pair = |whole: i64, unit: &str, rest: i64, rest_unit: &str| {
        if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{rest_unit}") }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        ..-1 => "<invalid>".into(),
        -1..=0 => "0s".into(),
        1..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// The path of an ignored field as client-go prints it: `spec.containers[0].foo`.
pub fn ignored_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", ignored_path(parent)),
        Path::Map { parent, key } => {
            let base = ignored_path(parent);
            if base.is_empty() { key.clone() } else { format!("{base}.{key}") }
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => ignored_path(parent),
    }
}
