//! create: POST to a collection. What cannot be written because something moved meanwhile is begun anew from the body.

use super::decode::{Decoded, decode};
use super::namespaces::Home;
use super::store::{Put, Write};
use super::{Verbs, metadata};
use crate::api::admission::{self, service_address};
use crate::api::requests::{Answer, WriteOptions, Written};
use crate::client::Target;
use crate::kinds::{AnyObject, Object, Resource, Service, Storage};
use crate::meta::{Reason, Status};
use crate::watch::{keys, record};
use bytes::Bytes;
use orchd_store::{Compare, Op};
use std::sync::Arc;

/// Attempts at a create whose generated name is taken, whose namespace changes, or whose addresses others allocate from.
const ATTEMPTS: usize = 8;

/// What one attempt came to.
enum Attempt {
    Done(Written),
    Taken { name: String, generated: bool },
    Moved,
}

impl Verbs {
    /// POST of a JSON body to a collection, a virtual resource or a subresource (binding, eviction, token).
    ///
    /// # Errors
    /// What Kubernetes answers.
    pub async fn create(&self, target: &Target, json: Bytes, options: &WriteOptions) -> Result<Answer, Status> {
        match target.subresource {
            Some("binding") => return self.bind(target, &json, options).await,
            Some("eviction") => return self.evict(target, &json, options).await,
            Some("token") => return self.token(target, &json, options).await,
            Some(_) => return Err(not_allowed()),
            None => {}
        }
        if target.resource.storage() == Storage::Virtual {
            return self.review(target, &json, options);
        }
        let mut taken = None;
        for _ in 0..ATTEMPTS {
            let decoded = decode(target.resource, &json, options.field_validation)?;
            match self.attempt(target, decoded, options).await? {
                Attempt::Done(written) => return Ok(Answer::Written(written)),
                Attempt::Taken { name, generated: false } => return Err(exists(target.resource, &name)),
                Attempt::Taken { name, .. } => taken = Some(name),
                Attempt::Moved => {}
            }
        }
        Err(match taken {
            Some(name) => exists(target.resource, &name),
            None => Status::new(Reason::Conflict, "the cluster changes too fast for this create; try again"),
        })
    }

    async fn attempt(&self, target: &Target, decoded: Decoded, options: &WriteOptions) -> Result<Attempt, Status> {
        let Decoded { mut object, mut warnings } = decoded;
        let managed = if options.applies { object.meta().managed_fields.clone() } else { None };
        let generated = self.identify(target, &mut *object)?;
        object.meta_mut().managed_fields = managed;
        let resource = target.resource;
        resource.prepare_create(&mut *object);
        resource.default(&mut *object);
        let home = self.home(target, &*object).await?;
        self.admit(target, &mut *object, options).await?;
        // Held until the addresses are written (or are not to be).
        let addresses = self.allocate(resource, &mut *object).await?;
        let name = object.meta().name.clone().unwrap_or_default();
        let mut errors = metadata::validate(resource, &*object);
        errors.0.extend(resource.validate(&*object).0);
        errors.0.extend(resource.validate_create(&*object).0);
        metadata::refuse(resource, &name, &errors)?;
        warnings.extend(resource.warnings(&*object));
        let stored = keys::stored(resource);
        let object = to_stored(resource, stored, object)?;
        let key = crate::kinds::ObjectKey::of(object.meta());
        let present =
            |o: Arc<Object>| super::list::shown(resource, stored, o).ok_or_else(|| Status::internal("the object cannot be shown"));
        if options.dry_run {
            if self.newest().await?.object(stored, &key).is_some() {
                return Ok(Attempt::Taken { name, generated });
            }
            let object = present(Arc::new(Object::new(stored, object, 0)))?;
            return Ok(Attempt::Done(Written { object, created: true, warnings }));
        }
        let mut guards: Vec<Compare> = home.iter().map(Home::unchanged).collect();
        let also: Vec<Op> = addresses.iter().map(|a| a.claim()).collect();
        guards.extend(addresses.iter().map(|a| a.unclaimed()));
        match self.put(Write { stored, key, expect: 0, guards, also }, object).await? {
            Put::Done(object) => Ok(Attempt::Done(Written { object: present(object)?, created: true, warnings })),
            Put::Clash(Some(_)) => Ok(Attempt::Taken { name, generated }),
            Put::Clash(None) => Ok(Attempt::Moved),
        }
    }

    /// Name, namespace, uid and times. True if the name was generated.
    fn identify(&self, target: &Target, object: &mut dyn AnyObject) -> Result<bool, Status> {
        let meta = object.meta_mut();
        if meta.resource_version.as_deref().is_some_and(|rv| !rv.is_empty()) {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(Status { code: 500, ..Status::new(Reason::Unknown, message) });
        }
        metadata::wipe(meta);
        metadata::place(meta, target.namespace.as_deref())?;
        let nameless = meta.name.as_deref().unwrap_or_default().is_empty();
        let base = meta.generate_name.as_deref().filter(|base| nameless && !base.is_empty());
        let generated = base.map(metadata::generate_name);
        let was_generated = generated.is_some();
        if was_generated {
            meta.name = generated;
        }
        metadata::fill(meta, target.resource.has_generation(), self.clock.now());
        Ok(was_generated)
    }

    async fn admit(&self, target: &Target, object: &mut dyn AnyObject, options: &WriteOptions) -> Result<(), Status> {
        let own = admission::node_restriction::create(&options.user, target.resource, object);
        own.map_err(|why| forbidden(target.resource, object, &why))?;
        let Some(account) = admission::service_account_of(object) else { return Ok(()) };
        let account = self.service_account(object, &account).await?;
        admission::mutate_pod(object, &account).map_err(|why| forbidden(target.resource, object, &why))
    }

    /// Addresses and node ports for a Service; None for all else.
    async fn allocate(
        &self,
        resource: &dyn Resource,
        object: &mut dyn AnyObject,
    ) -> Result<Option<service_address::Allocation<'_>>, Status> {
        self.allocate_for(resource, object, None).await
    }

    /// As `allocate`, for a Service that is updated from `old`.
    pub(super) async fn allocate_for(
        &self,
        resource: &dyn Resource,
        object: &mut dyn AnyObject,
        old: Option<&Object>,
    ) -> Result<Option<service_address::Allocation<'_>>, Status> {
        let Some(service) = object.as_any_mut().downcast_mut() else { return Ok(None) };
        let guard = self.addresses.lock().await;
        let snapshot = self.newest().await?;
        let pool = service_address::Pool::new(&self.config.service_cidr, self.config.node_ports.clone());
        let old = old.and_then(Object::get::<Service>);
        let used = service_address::used(&snapshot, service);
        let errors = service_address::assign(service, old, &pool, used);
        metadata::refuse(resource, service.metadata.name.as_deref().unwrap_or_default(), &errors?)?;
        Ok(Some(service_address::Allocation::new(guard, snapshot.revision())))
    }
}

pub(super) fn not_allowed() -> Status {
    Status::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
}

fn exists(resource: &dyn Resource, name: &str) -> Status {
    let n = resource.names();
    Status::already_exists(n.group, n.plural, name)
}

pub(super) fn forbidden(resource: &dyn Resource, object: &dyn AnyObject, why: &str) -> Status {
    let n = resource.names();
    Status::forbidden(n.group, n.plural, object.meta().name.as_deref().unwrap_or_default(), why)
}

/// An object of a view in its stored form; the object itself if it is no view's.
pub(super) fn to_stored(
    resource: &'static dyn Resource,
    stored: &'static dyn Resource,
    object: Box<dyn AnyObject>,
) -> Result<Box<dyn AnyObject>, Status> {
    if stored.names() == resource.names() {
        return Ok(object);
    }
    stored.decode_value(resource.to_stored(object.to_value())).map_err(Status::internal)
}

/// The object as the target's resource shows it.
pub(super) fn shown(target: &Target, object: &Arc<Object>) -> Result<Arc<Object>, Status> {
    let stored = keys::stored(target.resource);
    if stored.names() == target.resource.names() {
        return Ok(object.clone());
    }
    record::view(target.resource, object).ok_or_else(|| Status::internal("the object cannot be shown"))
}
