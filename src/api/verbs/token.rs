//! TokenRequest: POST to `serviceaccounts/token`.

use super::Verbs;
use super::list::{key_of, not_found};
use super::pods::pod;
use crate::api::admission::node_restriction;
use crate::api::requests::{Answer, WriteOptions};
use crate::client::Target;
use crate::kinds::{Node, Object, ObjectKey, ServiceAccount};
use crate::meta::{FieldErrors, FieldPath, Status, time};
use crate::security::Claims;
use crate::security::token::{Bound, ISSUER};
use crate::watch::Snapshot;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestStatus};
use k8s_openapi::jiff::SignedDuration;

const DEFAULT_S: i64 = 3600;
const MIN_S: i64 = 600;
const MAX_S: i64 = 1 << 32;

/// What the token is bound to.
#[derive(Default)]
struct Binding {
    pod: Option<Bound>,
    node: Option<Bound>,
}

impl Verbs {
    pub(super) async fn token(&self, target: &Target, body: &[u8], options: &WriteOptions) -> Result<Answer, Status> {
        let mut request = decode(body)
            .map_err(|e| Status::bad_request(format!("TokenRequest in version \"v1\" cannot be handled as a TokenRequest: {e}")))?;
        let snapshot = self.newest().await?;
        let key = key_of(target)?;
        let account = snapshot.get::<ServiceAccount>(&key.namespace, &key.name).ok_or_else(|| not_found(target))?;
        adopt(&mut request, &key, account.object().uid())?;
        let now = self.clock.now();
        let seconds = request.spec.expiration_seconds.unwrap_or(DEFAULT_S);
        if request.spec.audiences.is_empty() {
            request.spec.audiences = vec![ISSUER.to_owned()];
        }
        check_expiration(seconds)?;
        let reference = request.spec.bound_object_ref.as_ref();
        node_restriction::token(&options.user, &snapshot, &key, reference).map_err(|why| forbidden(&key, &why))?;
        let binding = bind(&snapshot, &key, reference)?;
        let expires = now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
        let claims = Claims {
            namespace: key.namespace.clone(),
            service_account: Bound { name: key.name.clone(), uid: account.object().uid().to_owned() },
            pod: binding.pod,
            node: binding.node,
            audiences: request.spec.audiences.clone(),
            issued_at_s: now.as_second(),
            expires_at_s: expires.as_second(),
            id: uuid::Uuid::new_v4().to_string(),
        };
        let token = self.tokens.sign(&claims).map_err(Status::internal)?;
        request.metadata.creation_timestamp = Some(time::seconds(now));
        request.spec.expiration_seconds = Some(seconds);
        request.status = Some(TokenRequestStatus { token, expiration_timestamp: time::seconds(expires) });
        let body = serde_json::to_vec(&request).map_err(Status::internal)?;
        Ok(Answer::Json { status: 201, body: body.into(), warnings: Vec::new() })
    }
}

/// The status is ours to fill; clients send one whose time is null, which the type does not take.
fn decode(body: &[u8]) -> Result<TokenRequest, serde_json::Error> {
    let mut value: serde_json::Value = serde_json::from_slice(body)?;
    value.as_object_mut().and_then(|request| request.remove("status"));
    serde_json::from_value(value)
}

fn forbidden(key: &ObjectKey, why: &str) -> Status {
    Status::forbidden("", "serviceaccounts", &key.name, why)
}

fn invalid(name: &str, path: &FieldPath, value: &str, why: &str) -> Status {
    let mut errors = FieldErrors::default();
    errors.invalid(path, value, why);
    Status::invalid("authentication.k8s.io", "TokenRequest", name, &errors)
}

/// The request's metadata is that of the account; what it names itself must agree.
fn adopt(request: &mut TokenRequest, key: &ObjectKey, uid: &str) -> Result<(), Status> {
    let (meta, path) = (&mut request.metadata, FieldPath::new("metadata"));
    if let Some(own) = meta.name.as_deref().filter(|own| !own.is_empty() && *own != key.name) {
        return Err(invalid(&key.name, &path.child("name"), own, "must match the service account name if specified"));
    }
    if let Some(own) = meta.namespace.as_deref().filter(|own| !own.is_empty() && *own != key.namespace) {
        return Err(invalid(&key.name, &path.child("namespace"), own, "must match the service account namespace if specified"));
    }
    if let Some(own) = meta.uid.as_deref().filter(|own| !own.is_empty() && *own != uid) {
        let why = format!("the UID in the token request ({own}) does not match the UID of the service account ({uid})");
        return Err(Status::conflict("authentication.k8s.io", "TokenRequest", &key.name, &why));
    }
    meta.name = Some(key.name.clone());
    meta.namespace = Some(key.namespace.clone());
    meta.uid = Some(uid.to_owned());
    Ok(())
}

fn check_expiration(seconds: i64) -> Result<(), Status> {
    let path = FieldPath::new("spec").child("expirationSeconds");
    let mut errors = FieldErrors::default();
    if seconds < MIN_S {
        errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > MAX_S {
        errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &errors)) }
}

fn bind(snapshot: &Snapshot, account: &ObjectKey, reference: Option<&BoundObjectReference>) -> Result<Binding, Status> {
    let Some(reference) = reference else { return Ok(Binding::default()) };
    let name = reference.name.as_deref().unwrap_or_default();
    let core = matches!(reference.api_version.as_deref(), None | Some("" | "v1"));
    match reference.kind.as_deref() {
        Some("Pod") if core => {
            let key = ObjectKey::new(account.namespace.as_str(), name);
            let pod = pod(snapshot, &key).ok_or_else(|| Status::not_found("", "pods", name))?;
            let spec = pod.spec.clone().unwrap_or_default();
            if spec.service_account_name.as_deref() != Some(account.name.as_str()) {
                let why = "to pod running with different serviceaccount name.";
                return Err(Status::bad_request(format!("cannot bind token for serviceaccount \"{}\" {why}", account.name)));
            }
            same_uid(reference, pod.object(), name)?;
            let node = spec.node_name.filter(|n| !n.is_empty()).map(|node| {
                // Of a node that is gone the name is still told.
                let uid = snapshot.get::<Node>("", &node).map(|n| n.object().uid().to_owned()).unwrap_or_default();
                Bound { name: node, uid }
            });
            Ok(Binding { pod: Some(Bound { name: name.to_owned(), uid: pod.object().uid().to_owned() }), node })
        }
        Some("Node") if core => {
            let node = snapshot.get::<Node>("", name).ok_or_else(|| Status::not_found("", "nodes", name))?;
            same_uid(reference, node.object(), name)?;
            Ok(Binding { pod: None, node: Some(Bound { name: name.to_owned(), uid: node.object().uid().to_owned() }) })
        }
        kind => Err(Status::bad_request(format!(
            "cannot bind token to object of type {}, Kind={}",
            reference.api_version.as_deref().unwrap_or_default(),
            kind.unwrap_or_default()
        ))),
    }
}

fn same_uid(reference: &BoundObjectReference, object: &Object, name: &str) -> Result<(), Status> {
    match reference.uid.as_deref() {
        Some(uid) if !uid.is_empty() && uid != object.uid() => {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            Err(Status::conflict("", reference.kind.as_deref().unwrap_or_default(), name, &why))
        }
        _ => Ok(()),
    }
}
