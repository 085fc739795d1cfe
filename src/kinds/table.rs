//! Cells that many tables share.

use super::Column;
use crate::meta::ObjectMeta;
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub const NAME: Column =
    Column { name: "Name", kind: "string", format: "name", description: "Name must be unique within a namespace.", priority: 0 };
pub const AGE: Column = Column { name: "Age", kind: "string", format: "", description: "Time since the object was created.", priority: 0 };
pub const NAME_AND_AGE: &[Column] = &[NAME, AGE];

/// A column of text; `priority` 1 shows only with `-o wide`.
pub const fn text(name: &'static str, description: &'static str, priority: i32) -> Column {
    Column { name, kind: "string", format: "", description, priority }
}

/// A column of numbers.
pub const fn number(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "integer", format: "", description, priority: 0 }
}

/// Names and images of containers, each joined by commas.
pub fn containers(containers: &[Container]) -> (String, String) {
    let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    let images: Vec<&str> = containers.iter().map(|c| c.image.as_deref().unwrap_or_default()).collect();
    (names.join(","), images.join(","))
}

/// `a,b,c`, or `a,b,c + 2 more...` if there are more than `shown`.
pub fn list_with_more(items: &[String], shown: usize) -> String {
    if items.len() <= shown {
        return items.join(",");
    }
    format!("{} + {} more...", items[..shown].join(","), items.len() - shown)
}

/// Time since `then` as `age` prints it.
pub fn since(then: Option<Timestamp>, now: Timestamp) -> String {
    then.map_or_else(|| "<unknown>".into(), |t| human_duration(now.as_second() - t.as_second()))
}

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
