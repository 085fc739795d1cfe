//! delete and deletecollection: at once, or by a deletion timestamp that waits for a grace period and for finalizers.

use super::change::conflict;
use super::list::{key_of, not_found, objects};
use super::metadata::{FOREGROUND, ORPHAN};
use super::store::{Removal, Write};
use super::{Verbs, create, namespaces};
use crate::api::requests::{DeleteRequest, Deleted, ListQuery, Page};
use crate::client::{DeleteOptions, Target};
use crate::kinds::{AnyObject, Object, Resource};
use crate::meta::{FieldErrors, FieldPath, ObjectMeta, Reason, Status, time};
use crate::watch::{Feed, keys};
use futures::StreamExt;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

const ATTEMPTS: usize = 20;
/// Deletes of a collection that run at once.
const AT_ONCE: usize = 16;

/// What a delete comes to for an object as it stands.
#[derive(Debug)]
enum Decision {
    Remove,
    /// It is being deleted already, and no sooner for being asked again.
    Nothing,
    Mark(Box<dyn AnyObject>),
}

impl Verbs {
    /// Deletes the object, or begins to.
    ///
    /// # Errors
    /// NotFound; Conflict for a precondition that does not hold.
    pub async fn delete(&self, target: &Target, request: &DeleteRequest) -> Result<Deleted, Status> {
        let (stored, key) = (keys::stored(target.resource), key_of(target)?);
        check_options(&request.options)?;
        namespaces::check_delete(target)?;
        let mut old = match self.cache.snapshot().object(stored, &key) {
            Some(object) => object.clone(),
            None => self.fetch(stored, &key).await?.ok_or_else(|| not_found(target))?,
        };
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            if let Err(refusal) = preconditions(target, &old, &request.options) {
                if fresh {
                    return Err(refusal);
                }
                old = self.fetch(stored, &key).await?.ok_or_else(|| not_found(target))?;
                fresh = true;
                continue;
            }
            let write = Write { stored, key: key.clone(), expect: old.revision(), guards: Vec::new(), also: Vec::new() };
            let present = match decide(stored, &old, &request.options, self.clock.now()) {
                Decision::Nothing => return Ok(Deleted::Pending(create::shown(target, &old)?)),
                Decision::Remove if request.dry_run => return Ok(Deleted::Gone(create::shown(target, &old)?)),
                Decision::Remove => match self.remove(write).await? {
                    Removal::Done => return Ok(Deleted::Gone(create::shown(target, &old)?)),
                    Removal::Clash(present) => present,
                },
                Decision::Mark(new) if request.dry_run => {
                    let object = Arc::new(Object::new(stored, new, old.revision()));
                    return Ok(Deleted::Pending(create::shown(target, &object)?));
                }
                Decision::Mark(new) => match self.put(write, new).await? {
                    super::store::Put::Done(object) => return Ok(Deleted::Pending(create::shown(target, &object)?)),
                    super::store::Put::Clash(present) => present,
                },
            };
            old = present.ok_or_else(|| not_found(target))?;
            fresh = true;
        }
        Err(conflict(target))
    }

    /// Deletes what the selectors match; returns what was deleted.
    ///
    /// # Errors
    /// The first refusal of a delete; what was deleted before stays so.
    pub async fn delete_collection(&self, target: &Target, query: &ListQuery, request: &DeleteRequest) -> Result<Page, Status> {
        check_options(&request.options)?;
        let filter = super::filter::Filter::parse(target.resource, &query.label_selector, &query.field_selector)?;
        let snapshot = self.newest().await?;
        let matching: Vec<Arc<Object>> = objects(&snapshot, target).filter(|o| filter.matches(o)).collect();
        let one = |object: &Arc<Object>| {
            let meta = object.meta();
            Target { namespace: meta.namespace.clone(), name: meta.name.clone(), ..target.clone() }
        };
        let targets: Vec<Target> = matching.iter().map(one).collect();
        let deletes = targets.into_iter().map(|one| async move { self.delete(&one, request).await });
        let mut answers = futures::stream::iter(deletes).buffer_unordered(AT_ONCE);
        let mut refusal = None;
        while let Some(answer) = answers.next().await {
            // Somebody else has deleted it meanwhile: that is what was asked for.
            if let Err(status) = answer
                && !status.is(Reason::NotFound)
            {
                refusal.get_or_insert(status);
            }
        }
        drop(answers);
        match refusal {
            Some(status) => Err(status),
            None => {
                let revision = self.cache.revision();
                Ok(Page { items: matching, revision, continue_token: String::new(), remaining: None })
            }
        }
    }
}

fn check_options(options: &DeleteOptions) -> Result<(), Status> {
    let mut errors = FieldErrors::default();
    if let Some(policy) = options.propagation_policy.as_deref()
        && !matches!(policy, "Foreground" | "Background" | "Orphan")
    {
        errors.not_supported(&FieldPath::new("propagationPolicy"), policy, &["Foreground", "Background", "Orphan", "nil"]);
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors)) }
}

fn preconditions(target: &Target, old: &Object, options: &DeleteOptions) -> Result<(), Status> {
    let n = target.resource.names();
    let refuse = |why: String| Err(Status::conflict(n.group, n.kind, target.name.as_deref().unwrap_or_default(), &why));
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != old.uid()) {
        return refuse(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            old.uid()
        ));
    }
    let present = old.revision().to_string();
    if let Some(version) = options.resource_version.as_deref().filter(|version| *version != present) {
        return refuse(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({present}). The object might have been modified"
        ));
    }
    Ok(())
}

/// What becomes of the grace period.
enum Grace {
    /// The kind has none, or it is over.
    None,
    /// It goes on as it is.
    Pending,
    /// It was set, or shortened, to these seconds.
    Set(i64),
}

fn decide(resource: &dyn Resource, old: &Object, options: &DeleteOptions, now: Timestamp) -> Decision {
    if let Some(next) = namespaces::begin_delete(old, now) {
        return if next.equals(old.any()) { Decision::Nothing } else { Decision::Mark(next) };
    }
    let mut new = old.any().clone_box();
    let grace = grace(resource, old, &mut *new, options, now);
    if matches!(grace, Grace::Pending) {
        return Decision::Nothing;
    }
    let finalizers = finalizers(new.meta(), options.propagation_policy.as_deref());
    let held = !finalizers.is_empty();
    new.meta_mut().finalizers = held.then_some(finalizers);
    match grace {
        Grace::Set(seconds) if held || seconds > 0 => Decision::Mark(new),
        Grace::None if held => {
            mark(new.meta_mut(), now);
            if new.equals(old.any()) { Decision::Nothing } else { Decision::Mark(new) }
        }
        _ => Decision::Remove,
    }
}

fn grace(resource: &dyn Resource, old: &Object, new: &mut dyn AnyObject, options: &DeleteOptions, now: Timestamp) -> Grace {
    // A negative period is one second, as in apiserver's BeforeDelete.
    let asked = options.grace_period_seconds.map(|s| if s < 0 { 1 } else { s });
    let Some(given) = resource.grace_period_seconds(old.any(), asked) else { return Grace::None };
    let meta = new.meta_mut();
    let Some(deadline) = meta.deletion_timestamp.clone() else {
        meta.deletion_timestamp = Some(time::seconds(later(now, given)));
        meta.deletion_grace_period_seconds = Some(given);
        bump(meta);
        return Grace::Set(given);
    };
    match (meta.deletion_grace_period_seconds, asked) {
        (None | Some(0), _) => Grace::None,
        (Some(present), Some(asked)) if asked < present => {
            let mut seconds = asked;
            let mut moved = later(deadline.0, asked - present);
            if moved < now {
                moved = now;
                seconds = seconds.min(1);
            }
            meta.deletion_timestamp = Some(time::seconds(moved));
            meta.deletion_grace_period_seconds = Some(seconds);
            Grace::Set(seconds)
        }
        _ => Grace::Pending,
    }
}

fn later(from: Timestamp, seconds: i64) -> Timestamp {
    from.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(from)
}

fn bump(meta: &mut ObjectMeta) {
    if let Some(generation) = meta.generation.filter(|g| *g > 0) {
        meta.generation = Some(generation + 1);
    }
}

/// Marks an object that finalizers keep.
fn mark(meta: &mut ObjectMeta, now: Timestamp) {
    match &meta.deletion_timestamp {
        None => {
            bump(meta);
            meta.deletion_timestamp = Some(time::seconds(now));
        }
        Some(deadline) if deadline.0 > now => meta.deletion_timestamp = Some(time::seconds(now)),
        Some(_) => {}
    }
    meta.deletion_grace_period_seconds = Some(0);
}

/// The finalizers that the propagation policy leaves: those for the garbage collector are its to set.
fn finalizers(meta: &ObjectMeta, policy: Option<&str>) -> Vec<String> {
    let own = meta.finalizers.as_deref().unwrap_or_default();
    let has = |name: &str| own.iter().any(|f| f == name);
    let wanted = match policy {
        Some("Orphan") => Some(ORPHAN),
        Some("Foreground") => Some(FOREGROUND),
        Some(_) => None,
        None if has(ORPHAN) => Some(ORPHAN),
        None if has(FOREGROUND) => Some(FOREGROUND),
        None => None,
    };
    let others = own.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned();
    others.chain(wanted.map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{ConfigMap, Registered};
    use k8s_openapi::api::core::v1 as core;

    fn object(change: impl FnOnce(&mut ObjectMeta)) -> Object {
        let mut map = core::ConfigMap::default();
        map.metadata.name = Some("a".into());
        change(&mut map.metadata);
        Object::new(ConfigMap::resource(), Box::new(map), 7)
    }

    fn decided(object: &Object, policy: Option<&str>) -> Decision {
        let options = DeleteOptions { propagation_policy: policy.map(str::to_owned), ..DeleteOptions::default() };
        decide(ConfigMap::resource(), object, &options, Timestamp::from_second(1000).unwrap())
    }

    #[test]
    fn without_finalizers_it_goes_at_once() {
        assert!(matches!(decided(&object(|_| ()), None), Decision::Remove));
        assert!(matches!(decided(&object(|_| ()), Some("Background")), Decision::Remove));
        let orphaning = object(|m| m.finalizers = Some(vec![ORPHAN.into()]));
        assert!(matches!(decided(&orphaning, Some("Background")), Decision::Remove));
    }

    #[test]
    fn finalizers_keep_it_and_the_generation_grows_once() {
        let kept = object(|m| {
            m.finalizers = Some(vec!["example.com/x".into()]);
            m.generation = Some(1);
        });
        let Decision::Mark(marked) = decided(&kept, Some("Foreground")) else { panic!("it must stay") };
        let meta = marked.meta();
        assert_eq!(meta.finalizers.as_deref(), Some(&["example.com/x".to_owned(), FOREGROUND.to_owned()][..]));
        assert_eq!((meta.generation, meta.deletion_grace_period_seconds), (Some(2), Some(0)));
        let again = Object::new(ConfigMap::resource(), marked, 7);
        assert!(matches!(decided(&again, Some("Foreground")), Decision::Nothing));
    }
}
