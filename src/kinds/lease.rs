//! Lease (coordination.k8s.io/v1).

use super::{Column, Kind, Names, fill, table};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::coordination::v1 as api;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct Lease;

impl Kind for Lease {
    type Object = api::Lease;

    const NAMES: Names = Names {
        group: "coordination.k8s.io",
        version: "v1",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };

    fn default(object: &mut api::Lease) {
        object.spec.get_or_insert_default();
    }

    /// Without coordinated leader election (a feature that is off in v1.35) nobody asks for a holder.
    fn prepare_create(object: &mut api::Lease) {
        let spec = object.spec.get_or_insert_default();
        (spec.strategy, spec.preferred_holder) = (None, None);
    }

    fn prepare_update(new: &mut api::Lease, _old: &api::Lease) {
        Self::prepare_create(new);
    }

    fn validate(object: &api::Lease, errors: &mut FieldErrors) {
        let Some(spec) = &object.spec else { return };
        let path = FieldPath::new("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|s| *s <= 0) {
            errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        if let Some(count) = spec.lease_transitions.filter(|c| *c < 0) {
            errors.invalid(&path.child("leaseTransitions"), count, "must be greater than or equal to 0");
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[table::NAME, table::text("Holder", "The identity of the holder of a current lease.", 0), table::AGE];
        COLUMNS
    }

    fn cells(object: &api::Lease, now: Timestamp) -> Vec<Value> {
        let holder = object.spec.as_ref().map_or("", |s| fill::str_of(&s.holder_identity));
        vec![json!(object.metadata.name), json!(holder), json!(table::age(&object.metadata, now))]
    }
}
