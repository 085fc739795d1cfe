//! The kinds against Kubernetes itself: `testdata/reference.json` holds what kube-apiserver v1.35.4 answered to creates,
//! updates and table reads (recorded with `conformance/reference`; server-set metadata and what admission adds taken
//! out). Ours must answer the same, field by field and word by word.

use super::pod::{strategy, validate};
use super::{AnyObject, Resource, find_kind};
use crate::meta::FieldErrors;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::LazyLock;

fn recorded(part: &str) -> &'static [Value] {
    static ALL: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(include_str!("testdata/reference.json")).unwrap());
    ALL[part].as_array().unwrap()
}

fn resource(case: &Value) -> &'static dyn Resource {
    let (kind, group) = match case["kind"].as_str().unwrap() {
        "EventsEvent" => ("Event", "events.k8s.io"),
        kind => (
            kind,
            match kind {
                "Deployment" | "ReplicaSet" | "ControllerRevision" => "apps",
                "EndpointSlice" => "discovery.k8s.io",
                "Lease" => "coordination.k8s.io",
                "SelfSubjectAccessReview" => "authorization.k8s.io",
                _ => "",
            },
        ),
    };
    find_kind(group, "v1", kind).unwrap_or_else(|| panic!("no kind {group} {kind}"))
}

fn decode(resource: &'static dyn Resource, value: &Value) -> Box<dyn AnyObject> {
    resource.decode_value(value.clone()).unwrap()
}

/// Objects in an error are shown as Kubernetes' internal types (`{"Type":…}`), and a changed spec as their difference:
/// neither is ours.
fn shown(path: &str, reason: &str, body: &str) -> String {
    let body = body.lines().next().unwrap_or_default();
    let body = match (body.find(": {").or_else(|| body.find(": [{")), body.rfind('}')) {
        (Some(start), Some(end)) => format!("{}: {{…}}{}", &body[..start], &body[end + 1..].trim_start_matches(']')),
        _ => body.to_owned(),
    };
    format!("{path} | {reason} | {body}")
}

fn causes(errors: &FieldErrors) -> BTreeSet<String> {
    errors.0.iter().map(|e| shown(&e.path, e.kind.reason(), &e.body())).collect()
}

fn expected_causes(case: &Value) -> BTreeSet<String> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let causes = case["answer"]["causes"].as_array().into_iter().flatten();
    causes.map(|c| shown(&text(&c[0]), &text(&c[1]), &text(&c[2]))).collect()
}

/// Without null and without what only the server knows.
fn plain(mut value: Value, top: bool) -> Value {
    if top && let Some(meta) = value["metadata"].as_object_mut() {
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "namespace"] {
            meta.remove(field);
        }
    }
    match value {
        Value::Object(map) => {
            let kept =
                map.into_iter().filter(|(k, _)| k != "lastTransitionTime").map(|(k, v)| (k, plain(v, false))).filter(|(_, v)| !v.is_null());
            Value::Object(kept.collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(|v| plain(v, false)).collect()),
        other => other,
    }
}

/// The fields in which two values differ.
fn differences(path: &str, ours: &Value, theirs: &Value, out: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                differences(&format!("{path}.{key}"), &ours[key], &theirs[key], out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| differences(&format!("{path}[{i}]"), a, b, out));
        }
        _ if ours == theirs => {}
        _ => out.push(format!("{path}: ours {ours}, Kubernetes {theirs}")),
    }
}

/// Addresses and node ports are allocated by admission: take theirs.
fn take_allocated(object: &mut Value, theirs: &Value) {
    for field in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
        if object["spec"].get(field).is_none() && theirs["spec"].get(field).is_some() {
            object["spec"][field] = theirs["spec"][field].clone();
        }
    }
    for (i, port) in object["spec"]["ports"].as_array_mut().into_iter().flatten().enumerate() {
        let theirs = &theirs["spec"]["ports"][i]["nodePort"];
        if port.get("nodePort").is_none() && !theirs.is_null() {
            port["nodePort"] = theirs.clone();
        }
    }
}

fn verdict(case: &Value, errors: &FieldErrors, ours: Option<Value>) -> Option<String> {
    let title = format!("{} {}", case["kind"].as_str().unwrap(), case["title"].as_str().unwrap());
    if case["code"].as_i64().unwrap() >= 400 {
        let (ours, theirs) = (causes(errors), expected_causes(case));
        let missing: Vec<_> = theirs.difference(&ours).collect();
        let extra: Vec<_> = ours.difference(&theirs).collect();
        return (!missing.is_empty() || !extra.is_empty()).then(|| format!("{title}\n  missing {missing:#?}\n  extra {extra:#?}"));
    }
    if !errors.is_empty() {
        return Some(format!("{title}\n  refused {:#?}", causes(errors)));
    }
    let mut out = Vec::new();
    differences("", &plain(ours?, true), &plain(case["answer"].clone(), true), &mut out);
    (!out.is_empty()).then(|| format!("{title}\n  {}", out.join("\n  ")))
}

fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} cases differ:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn creates_are_answered_as_kubernetes_does() {
    let mut faults = Vec::new();
    for case in recorded("create") {
        let r = resource(case);
        let mut object = decode(r, &case["manifest"]);
        if r.names().namespaced {
            object.meta_mut().namespace = Some("default".into());
        }
        if let Some(Pod { spec: Some(spec), .. }) = object.as_any_mut().downcast_mut()
            && spec.service_account_name.is_none()
            && spec.service_account.is_none()
        {
            // Admission's.
            spec.service_account_name = Some("default".into());
        }
        r.prepare_create(object.as_mut());
        r.default(object.as_mut());
        let mut value = object.to_value();
        if r.names().kind == "Service" {
            take_allocated(&mut value, &case["answer"]);
            object = decode(r, &value);
        }
        let mut errors = r.validate(object.as_ref());
        errors.0.extend(r.validate_create(object.as_ref()).0);
        let name = object.meta().name.clone().unwrap_or_default();
        if r.names().kind != "SelfSubjectAccessReview"
            && let Err(why) = r.validate_name(&name)
        {
            errors.invalid(&crate::meta::FieldPath::new("metadata").child("name"), name, why);
        }
        faults.extend(verdict(case, &errors, Some(value)));
    }
    assert_none(faults);
}

#[test]
fn updates_are_answered_as_kubernetes_does() {
    let mut faults = Vec::new();
    for case in recorded("update") {
        let r = resource(case);
        let (mut old, mut new) = (decode(r, &case["old"]), decode(r, &case["new"]));
        r.default(old.as_mut());
        r.default(new.as_mut());
        let mut errors = FieldErrors::default();
        match case["sub"].as_str().unwrap() {
            "" => {
                r.prepare_update(new.as_mut(), old.as_ref());
                errors.0.extend(r.validate(new.as_ref()).0);
                errors.0.extend(r.validate_update(new.as_ref(), old.as_ref()).0);
            }
            "status" => {
                r.prepare_status_update(new.as_mut(), old.as_ref());
                errors.0.extend(r.validate_update(new.as_ref(), old.as_ref()).0);
            }
            sub => {
                let new: &mut Pod = new.as_any_mut().downcast_mut().unwrap();
                let old: &Pod = old.as_any().downcast_ref().unwrap();
                if sub == "resize" {
                    strategy::prepare_resize(new, old)
                } else {
                    strategy::prepare_ephemeral_containers(new, old)
                }
                validate::pod(new, &mut errors);
                if sub == "resize" {
                    validate::resize(new, old, &mut errors)
                } else {
                    validate::ephemeral_containers_update(new, old, &mut errors)
                }
            }
        }
        let mut value = new.to_value();
        if r.names().kind == "Service" {
            take_allocated(&mut value, &case["answer"]);
        }
        faults.extend(verdict(case, &errors, Some(value)));
    }
    assert_none(faults);
}

#[test]
fn tables_are_those_of_kubernetes() {
    let mut faults = Vec::new();
    for case in recorded("table") {
        let r = resource(case);
        let mut object = decode(r, &case["object"]);
        r.default(object.as_mut());
        let columns: Vec<Value> = r.columns().iter().map(|c| json!([c.name, c.kind, c.format, c.priority])).collect();
        let title = format!("{} {}", case["kind"].as_str().unwrap(), case["title"].as_str().unwrap());
        if Value::from(columns.clone()) != case["columns"] {
            faults.push(format!("{title}\n  columns {:?}\n  Kubernetes {}", columns, case["columns"]));
            continue;
        }
        let cells = r.cells(object.as_ref(), Timestamp::now());
        let theirs = case["cells"].as_array().unwrap();
        for ((ours, theirs), column) in cells.iter().zip(theirs).zip(r.columns()) {
            let timed = matches!(column.name, "Age" | "Last Seen" | "First Seen" | "Restarts");
            // What a time reads as depends on when the table was read.
            let of = |v: &Value| if timed { json!(v.as_str().map(|t| (t.split(' ').count(), t == "<unknown>"))) } else { v.clone() };
            let no_age = column.name == "Age";
            if !no_age && of(ours) != of(theirs) {
                faults.push(format!("{title}\n  {}: ours {ours}, Kubernetes {theirs}", column.name));
            }
        }
        if cells.len() != theirs.len() {
            faults.push(format!("{title}\n  {} cells, Kubernetes {}", cells.len(), theirs.len()));
        }
    }
    assert_none(faults);
}

/// What Kubernetes stored is complete: defaulting it again changes nothing.
#[test]
fn defaults_change_nothing_in_a_stored_object() {
    let mut faults = Vec::new();
    for case in recorded("create").iter().filter(|c| c["code"] == 201) {
        let r = resource(case);
        let object = decode(r, &case["answer"]);
        let mut again = object.clone_box();
        r.default(again.as_mut());
        let mut out = Vec::new();
        differences("", &plain(again.to_value(), true), &plain(object.to_value(), true), &mut out);
        if !out.is_empty() {
            faults.push(format!("{} {}\n  {}", case["kind"], case["title"], out.join("\n  ")));
        }
    }
    assert_none(faults);
}

/// Puts `value` in place of the `n`th value of a document, counted depth first.
fn plant(document: &mut Value, n: &mut usize, value: &Value) {
    if *n == 0 {
        *document = value.clone();
    }
    // usize::MAX once planted: it is never counted down to 0.
    *n = n.wrapping_sub(1);
    match document {
        Value::Object(map) => map.values_mut().for_each(|v| plant(v, n, value)),
        Value::Array(list) => list.iter_mut().for_each(|v| plant(v, n, value)),
        _ => {}
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(1500))]

    /// Any document that decodes is defaulted once and for all, and judged without a panic.
    #[test]
    fn any_object_is_defaulted_and_judged(pick in 0..10_000usize, spots in proptest::collection::vec((0..120usize, 0..9usize), 0..4)) {
        let cases = recorded("create");
        let case = &cases[pick % cases.len()];
        let mut document = case["manifest"].clone();
        let values = [
            json!(null), json!(""), json!("\u{e9}../-"), json!(-1), json!(0), json!(i32::MAX), json!([]), json!({}), json!(true),
        ];
        for (spot, value) in spots {
            plant(&mut document, &mut spot.clone(), &values[value]);
        }
        let r = resource(case);
        if let Ok(mut object) = r.decode_value(document) {
            r.default(object.as_mut());
            let once = object.clone_box();
            r.default(object.as_mut());
            proptest::prop_assert!(object.equals(once.as_ref()), "{:?}\n{:?}", object, once);
            r.prepare_create(object.as_mut());
            let errors = r.validate(object.as_ref());
            errors.0.iter().for_each(|e| drop(e.to_string()));
            r.validate_create(object.as_ref());
            r.validate_update(object.as_ref(), once.as_ref());
            r.warnings(object.as_ref());
            proptest::prop_assert_eq!(r.cells(object.as_ref(), Timestamp::now()).len(), r.columns().len());
            proptest::prop_assert_eq!(r.selectable(object.as_ref()).len(), r.selectable_names().len());
        }
    }
}
