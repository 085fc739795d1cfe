//! From a request's JSON to a typed object, with kube-apiserver's errors for what does not fit.

use super::duplicates::duplicates;
use crate::api::requests::FieldValidation;
use crate::api::schema::{Shape, Type, schema};
use crate::kinds::{self, AnyObject, Resource};
use crate::meta::{GroupVersion, Status};
use serde::Deserialize;
use serde_json::{Map, Value};

/// A typed object, and what to warn of.
#[derive(Debug)]
pub struct Decoded {
    pub object: Box<dyn AnyObject>,
    pub warnings: Vec<String>,
}

/// Why a document is not the object that it should be, as the text that follows `cannot be handled as a …: `.
#[derive(Debug)]
pub struct Misfit(pub String);

/// Decodes a request's body, which must be an object of `resource`.
///
/// # Errors
/// 400, in kube-apiserver's words.
pub fn decode(resource: &'static dyn Resource, json: &[u8], validation: FieldValidation) -> Result<Decoded, Status> {
    decode_or_misfit(resource, json, validation).map_err(|misfit| refusal(resource, json, &misfit.0))
}

/// As `decode`, for who words the refusal himself (patches).
///
/// # Errors
/// What is wrong.
pub fn decode_or_misfit(resource: &'static dyn Resource, json: &[u8], validation: FieldValidation) -> Result<Decoded, Misfit> {
    let (object, strict) = match validation {
        FieldValidation::Ignore => (typed(resource, json)?, Vec::new()),
        FieldValidation::Warn | FieldValidation::Strict => reporting(resource, json)?,
    };
    if validation == FieldValidation::Strict && !strict.is_empty() {
        return Err(Misfit(format!("strict decoding error: {}", strict.join(", "))));
    }
    Ok(Decoded { object, warnings: strict })
}

fn typed(resource: &'static dyn Resource, json: &[u8]) -> Result<Box<dyn AnyObject>, Misfit> {
    resource.decode(json).or_else(|error| {
        let normal = normalised(resource, json).ok_or_else(|| misfit(&error))?;
        resource.decode(&normal).map_err(|e| misfit(&e))
    })
}

fn reporting(resource: &'static dyn Resource, json: &[u8]) -> Result<(Box<dyn AnyObject>, Vec<String>), Misfit> {
    let decoded = resource.decode_reporting(json).or_else(|error| {
        let normal = normalised(resource, json).ok_or_else(|| misfit(&error))?;
        resource.decode_reporting(&normal).map_err(|e| misfit(&e))
    });
    let (object, unknown) = decoded?;
    let mut strict: Vec<String> = unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect();
    strict.extend(duplicates(json).iter().map(|path| format!("duplicate field \"{path}\"")));
    Ok((object, strict))
}

fn misfit(error: &serde_json::Error) -> Misfit {
    Misfit(error.to_string())
}

/// What Go writes where a time that must be there was never set, and JSON says null.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// The document as our types take it, where Go's are wider: numbers as strings where a Quantity stands (`cpu: 1` is what
/// people write), and times where one must stand and none does. None if it is no JSON or nothing had to change. Only
/// documents that do not decode come here.
fn normalised(resource: &dyn Resource, json: &[u8]) -> Option<Vec<u8>> {
    let n = resource.names();
    let mut value: Value = serde_json::from_slice(json).ok()?;
    let changed = mend(&mut value, Shape::of_kind(n.group, n.version, n.kind));
    changed.then(|| value.to_string().into_bytes())
}

fn mend(value: &mut Value, shape: Shape) -> bool {
    match value {
        Value::Number(number) if matches!(shape.ty(), Some(Type::Quantity)) => {
            *value = Value::String(number.to_string());
            true
        }
        Value::Object(map) => {
            let timed = set_times(map, shape);
            map.iter_mut().fold(timed, |any, (key, v)| mend(v, shape.child(key)) | any)
        }
        Value::Array(list) => list.iter_mut().fold(false, |any, v| mend(v, shape.item()) | any),
        _ => false,
    }
}

fn set_times(map: &mut Map<String, Value>, shape: Shape) -> bool {
    let Some(Type::Object(at)) = shape.ty() else { return false };
    let mut changed = false;
    for field in &schema().get(*at).fields {
        let required = matches!(field.ty, Type::Time | Type::MicroTime) && !field.omit_empty && !field.pointer;
        if required && map.get(field.name).is_none_or(Value::is_null) {
            map.insert(field.name.to_owned(), ZERO_TIME.into());
            changed = true;
        }
    }
    changed
}

/// What a document says it is. Values of other types are as good as missing ones.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TypeMeta {
    api_version: Option<String>,
    kind: Option<String>,
}

fn refusal(resource: &dyn Resource, json: &[u8], why: &str) -> Status {
    let n = resource.names();
    // A list would do for a struct in serde's eyes.
    let is_object = json.iter().find(|c| !c.is_ascii_whitespace()) == Some(&b'{');
    let Some(said) = serde_json::from_slice::<TypeMeta>(json).ok().filter(|_| is_object) else {
        return unrecognized(n.kind, why, json);
    };
    let expected = n.group_version();
    let version = match said.api_version.as_deref().filter(|v| !v.is_empty()) {
        None => expected.clone(),
        Some(text) => match GroupVersion::parse(text) {
            Some(version) => version,
            None => return unrecognized(n.kind, &format!("unexpected GroupVersion string: {text}"), json),
        },
    };
    let kind = said.kind.filter(|k| !k.is_empty()).unwrap_or_else(|| n.kind.to_owned());
    let handled =
        |why: &str| Status::bad_request(format!("{kind} in version \"{}\" cannot be handled as a {}: {why}", version.version, n.kind));
    if version == expected && kind == n.kind {
        return handled(why);
    }
    if kinds::find_kind(&version.group, &version.version, &kind).is_none() {
        let scheme = "scheme \"pkg/api/legacyscheme/scheme.go:30\"";
        return handled(&format!("no kind \"{kind}\" is registered for version \"{version}\" in {scheme}"));
    }
    if version != expected {
        return Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        ));
    }
    handled(&format!("converting ({}.{kind}) to ({}.{}): unknown conversion", version.version, n.version, n.kind))
}

/// The first bytes of the body are shown, as kube-apiserver does.
fn unrecognized(kind: &str, why: &str, json: &[u8]) -> Status {
    let text = String::from_utf8_lossy(json);
    let mut head: String = text.chars().take(30).collect();
    if head.len() < text.len() {
        head.push_str(" ...");
    }
    Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why} ({head})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{ConfigMap, Deployment, Pod, Registered};

    fn text(resource: &'static dyn Resource, json: &str, validation: FieldValidation) -> String {
        decode(resource, json.as_bytes(), validation).unwrap_err().message
    }

    #[test]
    fn strict_names_unknown_and_duplicate_fields() {
        let json = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},
            "spec":{"unknownField":"foo","replicas":2,"replicas":3,"selector":{},"template":{}}}"#;
        let want = "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.unknownField\", duplicate field \"spec.replicas\"";
        assert_eq!(text(Deployment::resource(), json, FieldValidation::Strict), want);
        let warned = decode(Deployment::resource(), json.as_bytes(), FieldValidation::Warn).unwrap();
        assert_eq!(warned.warnings, ["unknown field \"spec.unknownField\"", "duplicate field \"spec.replicas\""]);
        assert!(decode(Deployment::resource(), json.as_bytes(), FieldValidation::Ignore).unwrap().warnings.is_empty());
    }

    #[test]
    fn other_kinds_and_versions_are_refused() {
        let of = |json| text(ConfigMap::resource(), json, FieldValidation::Warn);
        assert!(of(r#"{"apiVersion":"v1","kind":"Nothing"}"#).starts_with(
            "Nothing in version \"v1\" cannot be handled as a ConfigMap: no kind \"Nothing\" is registered for version \"v1\""
        ));
        assert_eq!(
            of(r#"{"apiVersion":"apps/v1","kind":"Deployment"}"#),
            "the API version in the data (apps/v1) does not match the expected API version (v1)"
        );
        assert!(of("[]").starts_with("the object provided is unrecognized (must be of type ConfigMap): "));
        assert!(of(r#"{"kind":"ConfigMap","data":{"a":1}}"#).starts_with("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: "));
    }

    #[test]
    fn times_that_go_leaves_null_are_zero() {
        let json = br#"{"kind":"Service","status":{"conditions":[{"type":"a","status":"True","lastTransitionTime":null,"reason":"r","message":"m"}]}}"#;
        let service = decode(crate::kinds::Service::resource(), json, FieldValidation::Strict).unwrap().object.to_value();
        assert_eq!(service["status"]["conditions"][0]["lastTransitionTime"], "0001-01-01T00:00:00Z");
    }

    #[test]
    fn quantities_may_be_numbers() {
        let json = br#"{"kind":"Pod","spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":1,"memory":2.5}}}]}}"#;
        let pod = decode(Pod::resource(), json, FieldValidation::Strict).unwrap().object.to_value();
        assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"], serde_json::json!({"cpu": "1", "memory": "2.5"}));
    }
}
