//! A change of an object that is there: update, patch, and the subresources that are changes. The caller says how the new
//! object is made from the old one; this decides whether it may be, and writes it. When somebody else was faster it is
//! made again from what stands there then, unless the client has named the version that it means.

use super::decode::Decoded;
use super::list::{key_of, not_found};
use super::store::{Put, Removal, Write};
use super::{Verbs, apply, create, metadata, namespaces};
use crate::api::admission;
use crate::api::requests::{WriteOptions, Written};
use crate::client::Target;
use crate::kinds::{AnyObject, Lease, Object, ObjectKey, Registered, Resource};
use crate::meta::{FieldErrors, FieldPath, ObjectMeta, Status};
use crate::watch::{Feed, keys};
use orchd_store::Op;
use std::sync::Arc;

/// Attempts at a change that does not name a version, while others write the same object.
const ATTEMPTS: usize = 20;
pub(super) const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// Which rules the new object must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Status,
    /// Of a namespace: its spec.
    Finalize,
    /// Made from the old object by code of ours, which kept the rules: resize, ephemeral containers.
    Trusted,
    /// A pod's node, which is no new desired state: the generation stays.
    Binding,
}

/// Where an update starts from.
struct Base {
    object: Arc<Object>,
    /// Read from the store itself, not from the cache.
    fresh: bool,
}

impl Verbs {
    /// Changes the target: `make` gives the new object from the present one (as the target's resource shows it).
    pub(super) async fn change(
        &self,
        target: &Target,
        part: Part,
        options: &WriteOptions,
        make: &(dyn Fn(&Arc<Object>) -> Result<Decoded, Status> + Sync),
    ) -> Result<Written, Status> {
        let (stored, key) = (keys::stored(target.resource), key_of(target)?);
        let mut base = self.base(target, stored, &key).await?;
        for _ in 0..ATTEMPTS {
            let old = create::shown(target, &base.object)?;
            let Decoded { object: mut new, mut warnings } = make(&old)?;
            if !check_version(target.resource, new.meta(), &old)? {
                if base.fresh {
                    return Err(conflict(target));
                }
                base = self.fresh(target, stored, &key).await?;
                continue;
            }
            check_uid(target, new.meta(), &old, &key)?;
            self.prepare(target, part, options, &mut *new, &old)?;
            let addresses = match part {
                Part::Whole => self.allocate_for(target.resource, &mut *new, Some(&old)).await?,
                Part::Status | Part::Finalize | Part::Trusted | Part::Binding => None,
            };
            validate(target.resource, part, &*new, &old)?;
            count_generation(target.resource, part, &mut *new, &old);
            warnings.extend(target.resource.warnings(&*new));
            new.meta_mut().resource_version.clone_from(&old.meta().resource_version);
            keep_managed_fields(options, new.meta_mut(), old.meta());
            let new = apply::track(target, options, new, &old, self.clock.now())?;
            if new.equals(old.any()) {
                return Ok(Written { object: old, created: false, warnings });
            }
            let new = create::to_stored(target.resource, stored, new)?;
            if options.dry_run {
                let object = create::shown(target, &Arc::new(Object::new(stored, new, base.object.revision())))?;
                return Ok(Written { object, created: false, warnings });
            }
            let also: Vec<Op> = addresses.iter().map(|a| a.claim()).collect();
            let guards = addresses.iter().map(|a| a.unclaimed()).collect();
            let write = Write { stored, key: key.clone(), expect: base.object.revision(), guards, also };
            match self.write(write, new, &base.object).await? {
                Put::Done(object) => return Ok(Written { object: create::shown(target, &object)?, created: false, warnings }),
                Put::Clash(Some(object)) => base = Base { object, fresh: true },
                Put::Clash(None) => return Err(not_found(target)),
            }
        }
        Err(conflict(target))
    }

    async fn base(&self, target: &Target, stored: &'static dyn Resource, key: &ObjectKey) -> Result<Base, Status> {
        match self.cache.snapshot().object(stored, key) {
            Some(object) => Ok(Base { object: object.clone(), fresh: false }),
            None => self.fresh(target, stored, key).await,
        }
    }

    async fn fresh(&self, target: &Target, stored: &'static dyn Resource, key: &ObjectKey) -> Result<Base, Status> {
        let object = self.fetch(stored, key).await?.ok_or_else(|| not_found(target))?;
        Ok(Base { object, fresh: true })
    }

    fn prepare(&self, target: &Target, part: Part, options: &WriteOptions, new: &mut dyn AnyObject, old: &Object) -> Result<(), Status> {
        let resource = target.resource;
        let own = admission::node_restriction::update(&options.user, resource, new, old);
        own.map_err(|why| create::forbidden(resource, old.any(), &why))?;
        metadata::place(new.meta_mut(), target.namespace.as_deref())?;
        metadata::carry_over(new.meta_mut(), old.meta());
        if !matches!(part, Part::Trusted | Part::Binding) {
            resource.default(new);
        }
        match part {
            Part::Whole => {
                admission::update(new);
                resource.prepare_update(new, old.any());
            }
            Part::Status => resource.prepare_status_update(new, old.any()),
            Part::Finalize => namespaces::finalize(new, old),
            Part::Trusted | Part::Binding => {}
        }
        Ok(())
    }

    /// Writes the new object, or takes it out if the change removes what kept it.
    async fn write(&self, write: Write, new: Box<dyn AnyObject>, old: &Arc<Object>) -> Result<Put, Status> {
        if !goes(&*new, old.meta()) {
            return self.put(write, new).await;
        }
        let (stored, revision) = (write.stored, write.expect);
        match self.remove(write).await? {
            Removal::Done => Ok(Put::Done(Arc::new(Object::new(stored, new, revision)))),
            Removal::Clash(object) => Ok(Put::Clash(object)),
        }
    }
}

/// True if an object that is being deleted has nothing left to wait for.
fn goes(new: &dyn AnyObject, old: &ObjectMeta) -> bool {
    old.deletion_timestamp.is_some()
        && new.meta().finalizers.as_ref().is_none_or(Vec::is_empty)
        && old.deletion_grace_period_seconds.is_none_or(|s| s == 0)
        && namespaces::may_go(new)
}

pub(super) fn conflict(target: &Target) -> Status {
    let n = target.resource.names();
    Status::conflict(n.group, n.plural, target.name.as_deref().unwrap_or_default(), MODIFIED)
}

/// Whether the version that the new object names, if any, is the present one.
fn check_version(resource: &dyn Resource, new: &ObjectMeta, old: &Object) -> Result<bool, Status> {
    match new.resource_version.as_deref().filter(|rv| !rv.is_empty() && *rv != "0") {
        Some(version) => match version.parse::<i64>() {
            Ok(revision) => Ok(revision == old.revision()),
            Err(_) => {
                let mut errors = FieldErrors::default();
                let why = format!("strconv.ParseUint: parsing \"{version}\": invalid syntax");
                errors.invalid(&FieldPath::new("metadata").child("resourceVersion"), version, why);
                let n = resource.names();
                Err(Status::invalid(n.group, n.kind, new.name.as_deref().unwrap_or_default(), &errors))
            }
        },
        None if resource.names() == Lease::resource().names() => {
            let mut errors = FieldErrors::default();
            errors.invalid(&FieldPath::new("metadata").child("resourceVersion"), "", "must be specified for an update");
            let n = resource.names();
            Err(Status::invalid(n.group, n.kind, new.name.as_deref().unwrap_or_default(), &errors))
        }
        None => Ok(true),
    }
}

fn check_uid(target: &Target, new: &ObjectMeta, old: &Object, key: &ObjectKey) -> Result<(), Status> {
    match new.uid.as_deref() {
        Some(uid) if !uid.is_empty() && uid != old.uid() => {
            let n = target.resource.names();
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                String::from_utf8_lossy(&keys::key(target.resource, key)),
                old.uid()
            );
            Err(Status::conflict(n.group, n.plural, &key.name, &why))
        }
        _ => Ok(()),
    }
}

fn validate(resource: &'static dyn Resource, part: Part, new: &dyn AnyObject, old: &Object) -> Result<(), Status> {
    let mut errors = metadata::validate(resource, new);
    errors.0.extend(metadata::validate_update(new.meta(), old.meta()).0);
    if part != Part::Status {
        errors.0.extend(resource.validate(new).0);
    }
    if !matches!(part, Part::Trusted | Part::Binding | Part::Finalize) {
        errors.0.extend(resource.validate_update(new, old.any()).0);
    }
    metadata::refuse(resource, new.meta().name.as_deref().unwrap_or_default(), &errors)
}

fn count_generation(resource: &dyn Resource, part: Part, new: &mut dyn AnyObject, old: &Object) {
    if !matches!(part, Part::Status | Part::Binding) && resource.has_generation() && resource.spec_changed(new, old.any()) {
        let meta = new.meta_mut();
        meta.generation = Some(meta.generation.unwrap_or(0) + 1);
    }
}

/// The managed fields of any write but an apply are the server's: they stay (and `apply::track` notes the change), unless
/// the client resets them with an empty entry.
fn keep_managed_fields(options: &WriteOptions, new: &mut ObjectMeta, old: &ObjectMeta) {
    if options.applies {
        return;
    }
    let resets = new.managed_fields.as_ref().is_some_and(|f| f.len() == 1 && f[0].manager.is_none() && f[0].fields_v1.is_none());
    new.managed_fields = if resets { None } else { old.managed_fields.clone() };
}
