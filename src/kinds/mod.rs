//! One file per kind: names, scope, defaulting, validation, columns, selectable fields, strategy.
//!
//! May import: meta. A kind is registered by one word in the `kinds!` list below; routes, discovery, OpenAPI, tables
//! and selectors follow from that. Everything here is pure.

pub mod address;
pub mod check;
pub mod config_map;
pub mod controller_revision;
pub mod deployment;
pub mod endpoint_slice;
pub mod endpoints;
pub mod event;
pub mod events_event;
pub mod fill;
pub mod kind;
pub mod labels;
pub mod lease;
pub mod names;
pub mod namespace;
pub mod node;
pub mod object;
pub mod pod;
pub mod pod_template;
#[cfg(test)]
mod reference_tests;
pub mod replica_set;
pub mod secret;
pub mod self_subject_access_review;
pub mod self_subject_review;
pub mod self_subject_rules_review;
pub mod service;
pub mod service_account;
pub mod table;
pub mod taints;
pub mod template;

pub use config_map::ConfigMap;
pub use controller_revision::ControllerRevision;
pub use deployment::Deployment;
pub use endpoint_slice::EndpointSlice;
pub use endpoints::Endpoints;
pub use event::Event;
pub use events_event::EventsEvent;
pub use kind::{Column, Kind, Names, Resource, Storage, Subresource, Typed, load};
pub use lease::Lease;
pub use namespace::Namespace;
pub use node::Node;
pub use object::{AnyObject, Object, ObjectKey, Ref, controller_of};
pub use pod::Pod;
pub use pod_template::PodTemplate;
pub use replica_set::ReplicaSet;
pub use secret::Secret;
pub use self_subject_access_review::SelfSubjectAccessReview;
pub use self_subject_review::SelfSubjectReview;
pub use self_subject_rules_review::SelfSubjectRulesReview;
pub use service::Service;
pub use service_account::ServiceAccount;

macro_rules! kinds {
    ($($kind:ty),* $(,)?) => {
        /// Every built-in resource, in the order in which discovery lists them.
        pub fn all() -> &'static [&'static dyn Resource] {
            const ALL: &[&dyn Resource] = &[$(const { &Typed::<$kind>::new() }),*];
            ALL
        }
        $(impl Registered for $kind {
            fn resource() -> &'static dyn Resource {
                const { &Typed::<$kind>::new() }
            }
        })*
    };
}

/// A kind of the list: gives its object-safe face.
pub trait Registered: Kind {
    fn resource() -> &'static dyn Resource;
}

kinds![
    Namespace,
    Node,
    Pod,
    PodTemplate,
    Service,
    Endpoints,
    ConfigMap,
    Secret,
    ServiceAccount,
    Event,
    ReplicaSet,
    Deployment,
    ControllerRevision,
    EventsEvent,
    SelfSubjectReview,
    SelfSubjectAccessReview,
    SelfSubjectRulesReview,
    Lease,
    EndpointSlice,
];

/// The resource of a group, version and plural name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static dyn Resource> {
    all().iter().copied().find(|r| {
        let n = r.names();
        n.group == group && n.version == version && n.plural == plural
    })
}

/// The resource of a kind.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static dyn Resource> {
    all().iter().copied().find(|r| {
        let n = r.names();
        n.group == group && n.version == version && n.kind == kind
    })
}
