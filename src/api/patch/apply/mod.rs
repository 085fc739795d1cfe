//! Server-side apply: merging what a manager wants into what is there, with each manager's fields kept in
//! `metadata.managedFields` (structured-merge-diff's rules, by the schema of `api::schema`).
//!
//! May import: meta, api::schema. Pure, over JSON values before defaulting: the caller decodes, defaults and validates
//! what comes out, as of any write.
//!
//! How the verbs call it: `apply` for an apply patch; `track` for every other write, with the object before and after,
//! so that a change by somebody else is known to the next apply. An object is tracked from its first apply on; what it
//! held before belongs to the manager `before-first-apply` (apimachinery's `NewSkipNonAppliedManager`), so objects that
//! nobody applies pay nothing.

mod managers;
mod set;
mod walk;

use crate::api::schema::Shape;
use crate::meta::{Cause, Reason, Status, status::Details};
use managers::{APPLY, Entry, UPDATE};
use serde_json::{Value, json};
use set::FieldSet;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who writes, by which version of the API and through which subresource, and when (RFC 3339, whole seconds).
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    pub name: &'a str,
    pub api_version: &'a str,
    pub subresource: &'a str,
    pub now: &'a str,
}

/// A field that another manager owns and that the apply would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager as it is shown: `"kubectl" using apps/v1`.
    pub with: String,
    /// `.spec.replicas`
    pub field: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The configuration cannot be applied (400).
    #[error("{0}")]
    Malformed(String),
    #[error("{}", message(.0))]
    Conflicts(Vec<Conflict>),
}

fn message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.with, one.field);
    }
    let mut lines = Vec::new();
    for (at, conflict) in conflicts.iter().enumerate() {
        if at == 0 || conflicts[at - 1].with != conflict.with {
            lines.push(format!("conflicts with {}:", conflict.with));
        }
        lines.push(format!("- {}", conflict.field));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

impl From<ApplyError> for Status {
    fn from(error: ApplyError) -> Self {
        let text = error.to_string();
        match error {
            ApplyError::Malformed(_) => Self::bad_request(text),
            ApplyError::Conflicts(conflicts) => {
                let cause =
                    |c: Conflict| Cause { reason: "FieldManagerConflict".into(), message: format!("conflict with {}", c.with), field: c.field };
                let details = Details { causes: conflicts.into_iter().map(cause).collect(), ..Details::default() };
                Self { details: Some(Box::new(details)), ..Self::new(Reason::Conflict, text) }
            }
        }
    }
}

/// What an apply of `config` makes of `live` (None: it does not exist yet), managedFields included. The answer equals
/// `live` if nothing changes. `ignored` are top-level fields that this endpoint does not write (`status`).
///
/// # Errors
/// `Malformed`, or `Conflicts` unless `force`.
pub fn apply(
    live: Option<&Value>,
    mut config: Value,
    shape: Shape,
    manager: &Manager<'_>,
    force: bool,
    ignored: &[&str],
) -> Result<Value, ApplyError> {
    if !config.is_object() {
        return Err(ApplyError::Malformed("the applied configuration is no object".into()));
    }
    if config["metadata"]["managedFields"].as_array().is_some_and(|l| !l.is_empty()) {
        return Err(ApplyError::Malformed("metadata.managedFields must be nil".into()));
    }
    managers::remove(&mut config);
    for field in ignored {
        config.as_object_mut().and_then(|c| c.remove(*field));
    }
    // The version of the object that the client saw is a precondition, not a wish.
    let whole = walk::set_of(&config, shape)?;
    let mut wanted = whole.clone();
    managers::strip(&mut wanted);
    let own = Entry::new(manager, APPLY, wanted);
    let Some(live) = live else {
        managers::write(&mut config, vec![own]);
        return Ok(config);
    };
    let mut bare = live.clone();
    managers::remove(&mut bare);
    let mut entries = managers::read(live);
    if entries.is_empty() {
        let mut set = walk::set_of(&bare, shape)?;
        managers::strip(&mut set);
        for field in ignored {
            set.remove_field(field);
        }
        let before = Manager { name: "before-first-apply", ..*manager };
        entries.push(Entry { time: None, ..Entry::new(&before, UPDATE, set) });
    }
    let last = entries.iter().position(|e| e.same_manager(&own)).map(|at| entries.remove(at));
    let mut merged = walk::merge(Some(&bare), &config, shape)?;
    if let Some(last) = &last {
        let mut keep = whole;
        entries.iter().for_each(|e| keep.union(&e.set));
        walk::remove(&mut merged, &last.set, &keep, shape);
    }
    let changes = walk::compare(Some(&bare), Some(&merged), shape);
    let conflicts = conflicts(&entries, &changes.taken());
    if !conflicts.is_empty() && !force {
        let allowed = if manager.name == "kubectl" { last_applied(&bare, shape, manager.api_version) } else { FieldSet::default() };
        let left: Vec<Conflict> = conflicts.into_iter().filter(|(_, set)| !set.within(&allowed)).flat_map(|(with, set)| shown(&with, &set)).collect();
        if !left.is_empty() {
            return Err(ApplyError::Conflicts(left));
        }
    }
    managers::give_up(&mut entries, &changes);
    let same = merged == bare && last.as_ref().is_some_and(|l| l.set == own.set && l.api_version == own.api_version);
    let time = if same { last.and_then(|l| l.time) } else { own.time.clone() };
    entries.push(Entry { time, ..own });
    managers::write(&mut merged, entries);
    Ok(if same { live.clone() } else { merged })
}

/// Notes in `new` which of its fields `manager` changed, if `old` or `new` is tracked at all.
pub fn track(old: &Value, new: &mut Value, shape: Shape, manager: &Manager<'_>) {
    if managers::asks_for_reset(new) {
        managers::remove(new);
        return;
    }
    let mut entries = managers::read(new);
    if entries.is_empty() {
        entries = managers::read(old);
    }
    managers::remove(new);
    if entries.is_empty() {
        return;
    }
    let mut bare = old.clone();
    managers::remove(&mut bare);
    let changes = walk::compare(Some(&bare), Some(new), shape);
    let mut taken = changes.taken();
    managers::strip(&mut taken);
    let own = Entry::new(manager, UPDATE, FieldSet::default());
    let mut mine = entries.iter().position(|e| e.same_manager(&own)).map_or(own, |at| entries.remove(at));
    managers::give_up(&mut entries, &changes);
    mine.set.subtract(&changes.removed);
    if !taken.is_empty() {
        mine.set.union(&taken);
        mine.time = Some(manager.now.to_owned());
    }
    if !mine.set.is_empty() {
        entries.push(mine);
    }
    managers::cap(&mut entries);
    managers::write(new, entries);
}

/// Which entries own fields that would change, and which fields.
fn conflicts(entries: &[Entry], taken: &FieldSet) -> Vec<(String, FieldSet)> {
    let mut out: Vec<(String, FieldSet)> =
        entries.iter().map(|e| (e.shown(), e.set.intersection(taken))).filter(|(_, set)| !set.is_empty()).collect();
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

fn shown(with: &str, set: &FieldSet) -> Vec<Conflict> {
    set.paths().into_iter().map(|field| Conflict { with: with.to_owned(), field }).collect()
}

/// The fields that client-side apply set and that still hold: kubectl takes them over without a conflict.
fn last_applied(live: &Value, shape: Shape, api_version: &str) -> FieldSet {
    let annotation = live["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or_default();
    let Ok(last) = serde_json::from_str::<Value>(annotation) else { return FieldSet::default() };
    if last["apiVersion"] != json!(api_version) {
        return FieldSet::default();
    }
    let Ok(mut set) = walk::set_of(&last, shape) else { return FieldSet::default() };
    let changes = walk::compare(Some(&last), Some(live), shape);
    set.subtract(&changes.taken());
    set.subtract(&changes.removed);
    set
}

#[cfg(test)]
mod tests;
