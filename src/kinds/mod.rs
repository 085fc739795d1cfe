//! One file per kind: names, scope, defaulting, validation, columns, selectable fields, strategy.
//!
//! May import: meta. A kind is registered by one word in the `kinds!` list below; routes, discovery, OpenAPI, tables
//! and selectors follow from that. Everything here is pure.

pub mod config_map;
pub mod kind;
pub mod names;
pub mod object;
pub mod table;

pub use config_map::ConfigMap;
pub use kind::{Column, Kind, Names, Resource, Storage, Subresource, Typed, load};
pub use object::{AnyObject, Object, ObjectKey, Ref, controller_of};

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

kinds![ConfigMap];

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
