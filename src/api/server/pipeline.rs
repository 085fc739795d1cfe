//! What every request goes through, in order: a number, authentication, impersonation, its path, authorization, its verb.
//!
//! May import: meta, security, watch, and api's own.

use super::path::{self, Route};
use super::query::Query;
use super::resources::{Call, text, verb};
use super::{Peer, Shared, answer, fixed};
use crate::api::verbs::Present;
use crate::meta::Status;
use crate::security::authn::MASTERS;
use crate::security::{Attributes, User, authorize};
use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use std::borrow::Cow;
use tracing::Instrument;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");
const IMPERSONATE_GROUP: HeaderName = HeaderName::from_static("impersonate-group");
const IMPERSONATE_UID: HeaderName = HeaderName::from_static("impersonate-uid");
/// The most bytes of an Audit-Id that a client chose.
const MAX_AUDIT_ID_BYTES: usize = 64;

/// Answers one request; errors become their Status.
pub async fn handle(shared: &Shared, peer: &Peer, request: Request<Body>) -> Response<Body> {
    let audit_id = audit_id(request.headers());
    let span = tracing::debug_span!("request", method = %request.method(), path = request.uri().path(), id = ?audit_id);
    async {
        let mut response = respond(shared, peer, request).await.unwrap_or_else(|status| answer::failure(&status));
        tracing::debug!(status = response.status().as_u16(), "answered");
        let headers = response.headers_mut();
        headers.insert(AUDIT_ID, audit_id);
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        response
    }
    .instrument(span)
    .await
}

/// What the client calls its request, or a number of ours.
fn audit_id(headers: &HeaderMap) -> HeaderValue {
    let own = headers.get(&AUDIT_ID).filter(|v| !v.is_empty() && v.len() <= MAX_AUDIT_ID_BYTES).cloned();
    own.or_else(|| HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).ok()).unwrap_or(HeaderValue::from_static("unknown"))
}

async fn respond(shared: &Shared, peer: &Peer, request: Request<Body>) -> Result<Response<Body>, Status> {
    let user = authenticate(shared, peer, request.headers())?;
    let user = impersonate(user, request.headers())?;
    let route = path::parse(request.uri().path()).ok_or_else(Status::not_served)?;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match route {
        Route::Other => {
            let method = request.method().as_str().to_ascii_lowercase();
            let asked = Attributes { verb: if method == "head" { "get" } else { &method }, path: request.uri().path(), ..Attributes::default() };
            permit(shared, &user, &asked)?;
            fixed::serve(shared, &user, &query, request).await
        }
        Route::Resource(path) => {
            let verb = verb(request.method(), &path, &query);
            let of_namespace = path.plural == "namespaces" && path.group.is_empty();
            let asked = Attributes {
                verb,
                group: &path.group,
                resource: &path.plural,
                subresource: &path.subresource,
                namespace: if of_namespace { &path.name } else { &path.namespace },
                name: &path.name,
                path: "",
                field_selector: query.get("fieldSelector"),
            };
            permit(shared, &user, &asked)?;
            Call { shared, user: &user, verb, path: &path, query: &query }.serve(request).await
        }
    }
}

/// The certificate's user is known since the connection began; a token is looked at each time, since what it is bound to
/// may be gone.
fn authenticate<'p>(shared: &Shared, peer: &'p Peer, headers: &HeaderMap) -> Result<Cow<'p, User>, Status> {
    if let Some(user) = &peer.user {
        return user.as_ref().map(Cow::Borrowed).map_err(Clone::clone);
    }
    let bearer = match text(headers, &header::AUTHORIZATION).split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some(token.trim()),
        _ => None,
    };
    let options = &shared.options;
    let now_s = options.clock.now().as_second();
    options.authenticator.authenticate(None, bearer, &Present(options.feed.snapshot()), now_s).map(Cow::Owned)
}

/// `kubectl --as`: who may do all may do it as somebody else.
fn impersonate<'p>(user: Cow<'p, User>, headers: &HeaderMap) -> Result<Cow<'p, User>, Status> {
    let (name, groups) = (text(headers, &IMPERSONATE_USER), headers.get_all(&IMPERSONATE_GROUP));
    if name.is_empty() && groups.iter().next().is_none() && !headers.contains_key(&IMPERSONATE_UID) {
        return Ok(user);
    }
    if name.is_empty() {
        return Err(Status::bad_request("requested impersonation without impersonating a user"));
    }
    if !user.in_group(MASTERS) {
        let why = format!("User \"{}\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope", user.name);
        return Err(Status::forbidden("", "users", name, &why));
    }
    let mut groups: Vec<String> = groups.iter().filter_map(|g| g.to_str().ok()).map(str::to_owned).collect();
    if let Some(account) = name.strip_prefix("system:serviceaccount:").filter(|_| groups.is_empty()) {
        let namespace = account.split(':').next().unwrap_or_default();
        groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    let everyone = if name == crate::security::authn::ANONYMOUS { "system:unauthenticated" } else { "system:authenticated" };
    if !groups.iter().any(|g| g == everyone) {
        groups.push(everyone.to_owned());
    }
    Ok(Cow::Owned(User { name: name.to_owned(), uid: text(headers, &IMPERSONATE_UID).to_owned(), groups, ..User::default() }))
}

fn permit(shared: &Shared, user: &User, asked: &Attributes<'_>) -> Result<(), Status> {
    authorize(user, asked, &Present(shared.options.feed.snapshot())).map_err(|why| Status::forbidden(asked.group, asked.resource, asked.name, &why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn only_masters_act_as_others() {
        let as_bob = headers(&[("impersonate-user", "bob")]);
        let master = impersonate(Cow::Owned(User::system("admin")), &as_bob).unwrap();
        assert_eq!((master.name.as_str(), master.groups.as_slice()), ("bob", &["system:authenticated".to_owned()][..]));
        assert_eq!(impersonate(Cow::Owned(User::anonymous()), &as_bob).unwrap_err().code, 403);
        let group_alone = headers(&[("impersonate-group", "g")]);
        assert_eq!(impersonate(Cow::Owned(User::system("admin")), &group_alone).unwrap_err().code, 400);
        let account = headers(&[("impersonate-user", "system:serviceaccount:ns:default")]);
        let account = impersonate(Cow::Owned(User::system("admin")), &account).unwrap();
        assert!(account.in_group("system:serviceaccounts:ns"));
    }

    #[test]
    fn a_client_may_number_its_request() {
        assert_eq!(audit_id(&headers(&[("audit-id", "x")])), "x");
        assert_eq!(audit_id(&HeaderMap::new()).len(), 36);
    }
}
