//! Paths that are no resources: health, version, discovery, OpenAPI, the token issuer, the tunnel of nodes.
//!
//! May import: meta, kinds, security, api::discovery, api::openapi, api::streams.

use super::answer::plain;
use super::query::Query;
use super::resources::{joined, pretty, text};
use super::{Check, Shared};
use crate::api::negotiate::negotiate;
use crate::api::{discovery, openapi};
use crate::kinds::{self, names};
use crate::meta::{GroupVersion, Status};
use crate::security::node_token::CERTIFICATE_PATH;
use crate::security::token::ISSUER;
use crate::security::{PkiError, User};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Answers a request that `super::path` found no resource in; the caller has authorized it.
///
/// # Errors
/// 404, 405 or 406.
pub async fn serve(shared: &Shared, user: &User, query: &Query, request: Request<Body>) -> Result<Response<Body>, Status> {
    let path = request.uri().path().trim_end_matches('/').to_owned();
    if path == "/orchd/v1/tunnel" {
        let node = user.node_name().ok_or_else(|| Status::forbidden("", "", "", "only a node holds a tunnel"))?.to_owned();
        return Ok(shared.options.nodes.accept(&node, request).await);
    }
    if path == CERTIFICATE_PATH && request.method() == Method::POST {
        return node_certificate(shared, user, request).await;
    }
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    let headers = request.headers();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let answer = match segments[..] {
        [] => document(headers, query, paths())?,
        ["healthz" | "livez" | "readyz", ..] => health(shared, query, &segments),
        ["version"] => document(headers, query, version())?,
        ["api" | "apis", ..] => discover(shared, query, headers, &segments)?,
        ["openapi", ..] => open_api(query, headers, &segments)?,
        ["openid", "v1", "jwks"] => document(headers, query, shared.options.tokens.jwks())?,
        [".well-known", "openid-configuration"] => document(headers, query, issuer())?,
        _ => return Err(Status::not_served()),
    };
    if get { Ok(answer) } else { Err(Status::method_not_allowed()) }
}

/// Signs the certificate of a node: any node's for who has the node token, its own for a node.
async fn node_certificate(shared: &Shared, user: &User, request: Request<Body>) -> Result<Response<Body>, Status> {
    let body = super::body::read(request.into_body()).await?;
    let text = std::str::from_utf8(&body).map_err(|_| Status::bad_request("the certificate request is no PEM"))?;
    let may = |node: &str| names::dns_subdomain(node).is_ok() && user.node_name().is_none_or(|own| own == node);
    let signed = shared.options.pki.sign_node(text, may).map_err(|error| match error {
        PkiError::Request(_) => Status::bad_request(error.to_string()),
        other => Status::internal(other),
    })?;
    tracing::info!(user = user.name, "signed a node's certificate");
    Ok(plain(StatusCode::OK, "application/x-pem-file", signed.into()))
}

fn document(headers: &HeaderMap, query: &Query, value: Value) -> Result<Response<Body>, Status> {
    let accepted = negotiate(&joined(headers, &header::ACCEPT), false)?;
    let form = super::answer::Form {
        accepted,
        include: crate::api::tables::Include::Metadata,
        pretty: pretty(query, headers),
        now: k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
    };
    Ok(form.bytes(StatusCode::OK, value.to_string()))
}

fn paths() -> Value {
    let mut all: Vec<String> = vec!["/api".into(), "/api/v1".into(), "/apis".into()];
    for gv in discovery::group_versions(kinds::all()).iter().filter(|gv| !gv.group.is_empty()) {
        let group = format!("/apis/{}", gv.group);
        if all.last().is_none_or(|last| !last.starts_with(&format!("{group}/"))) {
            all.push(group);
        }
        all.push(format!("/apis/{gv}"));
    }
    let rest = ["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"];
    json!({"paths": all.iter().map(String::as_str).chain(rest).collect::<Vec<_>>()})
}

/// `/healthz`, `/livez`, `/readyz`, each with `/<check>` or `?verbose`, as kube-apiserver prints them.
fn health(shared: &Shared, query: &Query, segments: &[&str]) -> Response<Body> {
    let mut checks = vec![Check { name: "ping", failure: None }];
    // Liveness asks whether the process answers; readiness whether it should be asked.
    if segments[0] != "livez" {
        checks.extend((shared.options.ready)());
    }
    if segments[0] == "readyz" && shared.stop.is_cancelled() {
        checks.push(Check { name: "shutdown", failure: Some("process is shutting down".into()) });
    }
    let excluded = query.get("exclude");
    checks.retain(|c| c.name != excluded);
    if let Some(one) = segments.get(1) {
        checks.retain(|c| c.name == *one);
        if checks.is_empty() {
            return plain(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", Bytes::from_static(b"404 page not found\n"));
        }
    }
    let failed = checks.iter().any(|c| c.failure.is_some());
    let verbose = failed || query.flag("verbose");
    let mut out = String::new();
    for check in checks.iter().filter(|_| verbose) {
        match &check.failure {
            None => out.push_str(&format!("[+]{} ok\n", check.name)),
            Some(why) => out.push_str(&format!("[-]{} failed: {why}\n", check.name)),
        }
    }
    match (failed, verbose) {
        (true, _) => out.push_str(&format!("{} check failed\n", segments[0])),
        (false, true) => out.push_str(&format!("{} check passed\n", segments[0])),
        (false, false) => out.push_str("ok"),
    }
    let code = if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
    plain(code, "text/plain; charset=utf-8", out.into())
}

/// `version.Info`: the API is that of Kubernetes 1.35.
fn version() -> Value {
    json!({"major": "1", "minor": "35", "emulationMajor": "1", "emulationMinor": "35", "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "34", "gitVersion": openapi::git_version(), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" })})
}

fn issuer() -> Value {
    json!({"issuer": ISSUER, "jwks_uri": format!("{ISSUER}/openid/v1/jwks"), "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"]})
}

fn discover(shared: &Shared, query: &Query, headers: &HeaderMap, segments: &[&str]) -> Result<Response<Body>, Status> {
    let all = kinds::all();
    let core = segments[0] == "api";
    let found = match (core, &segments[1..]) {
        (_, []) => {
            if let Some((version, content_type)) = aggregated(&joined(headers, &header::ACCEPT)) {
                let body = Bytes::from(discovery::aggregated(all, core, version).to_string());
                let etag = etag(&body);
                return Ok(cached(headers, &etag, content_type, body, "public"));
            }
            Some(if core { discovery::core_versions(&shared.options.advertise) } else { discovery::group_list(all) })
        }
        (true, [version]) => discovery::resource_list(all, &GroupVersion::new("", *version)),
        (false, [group]) => discovery::group(all, group),
        (false, [group, version]) => discovery::resource_list(all, &GroupVersion::new(*group, *version)),
        _ => None,
    };
    document(headers, query, found.ok_or_else(Status::not_served)?)
}

/// The version of aggregated discovery that the client prefers, and the content type that it must see.
fn aggregated(accept: &str) -> Option<(&'static str, &'static str)> {
    accept.split(',').find_map(|clause| {
        let params: Vec<&str> = clause.split(';').map(str::trim).collect();
        if !params.contains(&"as=APIGroupDiscoveryList") || !params.contains(&"g=apidiscovery.k8s.io") || params[0] != "application/json" {
            return None;
        }
        if params.contains(&"v=v2") {
            Some(("v2", discovery::AGGREGATED_V2))
        } else if params.contains(&"v=v2beta1") {
            Some(("v2beta1", discovery::AGGREGATED_V2BETA1))
        } else {
            None
        }
    })
}

fn etag(body: &[u8]) -> String {
    let digest = Sha256::digest(body);
    format!("\"{}\"", digest.iter().map(|b| format!("{b:02X}")).collect::<String>())
}

/// An answer that a client may keep: 304 if it has it already.
fn cached(headers: &HeaderMap, etag: &str, content_type: &str, body: Bytes, control: &'static str) -> Response<Body> {
    let known = joined(headers, &header::IF_NONE_MATCH).split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag);
    let mut response =
        if known { plain(StatusCode::NOT_MODIFIED, content_type, Bytes::new()) } else { plain(StatusCode::OK, content_type, body) };
    if let Ok(value) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(control));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn open_api(query: &Query, headers: &HeaderMap, segments: &[&str]) -> Result<Response<Body>, Status> {
    let accept = text(headers, &header::ACCEPT);
    match segments[1..] {
        ["v3"] => document(headers, query, openapi::index()),
        ["v3", "api", version] => open_api_v3(query, headers, &GroupVersion::new("", version)),
        ["v3", "apis", group, version] => open_api_v3(query, headers, &GroupVersion::new(group, version)),
        ["v2"] => {
            let etag = format!("\"{}\"", openapi::hash(None));
            if accept.contains("com.github.proto-openapi.spec.v2") {
                return Ok(cached(headers, &etag, openapi::V2_PROTOBUF, openapi::v2_protobuf(), "public"));
            }
            Ok(cached(headers, &etag, "application/json", openapi::v2_json(), "public"))
        }
        _ => Err(Status::not_served()),
    }
}

fn open_api_v3(query: &Query, headers: &HeaderMap, gv: &GroupVersion) -> Result<Response<Body>, Status> {
    let body = openapi::v3_json(gv).ok_or_else(Status::not_served)?;
    let hash = openapi::hash(Some(gv));
    // What is asked for by its hash never changes.
    let control = if query.get("hash") == hash { "public, immutable, max-age=31536000" } else { "public" };
    Ok(cached(headers, &format!("\"{hash}\""), "application/json", body, control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_of_discovery_that_is_served_wins() {
        let both = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated(both).unwrap().0, "v2");
        assert_eq!(aggregated("application/json; g=apidiscovery.k8s.io; v=v2beta1; as=APIGroupDiscoveryList").unwrap().0, "v2beta1");
        assert_eq!(aggregated("application/json"), None);
        assert_eq!(aggregated("application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList"), None);
    }

    #[test]
    fn what_a_client_has_is_not_sent_again() {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"A\", W/\"B\""));
        assert_eq!(cached(&headers, "\"B\"", "x/y", Bytes::new(), "public").status(), StatusCode::NOT_MODIFIED);
        assert_eq!(cached(&headers, "\"C\"", "x/y", Bytes::new(), "public").status(), StatusCode::OK);
    }
}
