//! ControllerRevision (apps/v1).

use super::object::controller_of;
use super::{Column, Kind, Names, check, table};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::apps::v1 as api;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct ControllerRevision;

impl Kind for ControllerRevision {
    type Object = api::ControllerRevision;

    const NAMES: Names = Names {
        group: "apps",
        version: "v1",
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };

    fn validate(object: &api::ControllerRevision, errors: &mut FieldErrors) {
        check::non_negative(&FieldPath::new("revision"), object.revision, errors);
    }

    fn validate_create(object: &api::ControllerRevision, errors: &mut FieldErrors) {
        let path = FieldPath::new("data");
        match object.data.as_ref().map(|d| &d.0) {
            None | Some(Value::Null) => errors.required(&path, "data is mandatory"),
            Some(Value::Object(_)) => {}
            Some(_) => errors.required(&path, "data must be a valid JSON object"),
        }
    }

    fn validate_update(new: &api::ControllerRevision, old: &api::ControllerRevision, errors: &mut FieldErrors) {
        check::immutable(&FieldPath::new("data"), &new.data, &old.data, errors);
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::text("Controller", "Controller of the object", 0),
            table::text("Revision", "Revision indicates the revision of the state represented by Data.", 0),
            table::AGE,
        ];
        COLUMNS
    }

    fn cells(object: &api::ControllerRevision, now: Timestamp) -> Vec<Value> {
        let controller = controller_of(&object.metadata).map_or_else(
            || "<none>".to_owned(),
            |owner| {
                let kind = owner.kind.to_lowercase();
                match owner.api_version.split_once('/') {
                    Some((group, _)) => format!("{kind}.{group}/{}", owner.name),
                    None => format!("{kind}/{}", owner.name),
                }
            },
        );
        let age = table::age(&object.metadata, now);
        vec![json!(object.metadata.name), json!(controller), json!(object.revision), json!(age)]
    }
}
