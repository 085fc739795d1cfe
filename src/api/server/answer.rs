//! Answers: an object, a list, a Status, in the form that the client accepts.
//!
//! May import: meta, kinds, api::negotiate, api::tables, api::requests.

use crate::api::negotiate::{Accepted, Media, View, not_acceptable};
use crate::api::requests::{Answer, Deleted, Page};
use crate::api::tables::{self, Include, ListMeta, Shown};
use crate::kinds::{Object, Resource};
use crate::meta::Status;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

/// Warnings beyond this many bytes are cut, each to `MAX_WARNING_CHARS`, and then dropped (kube-apiserver's limits).
const MAX_WARNINGS_BYTES: usize = 4096;
const MAX_WARNING_CHARS: usize = 256;

/// How one request wants its answer.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub accepted: Accepted,
    pub include: Include,
    pub pretty: bool,
    pub now: Timestamp,
}

impl Form {
    pub fn shown(&self) -> Shown {
        Shown { view: self.accepted.view, include: self.include, now: self.now }
    }

    /// JSON bytes, as they are or in the form asked for.
    pub fn bytes(&self, code: StatusCode, json: impl Into<Bytes>) -> Response<Body> {
        let json = json.into();
        let body = match self.accepted.media {
            Media::Json if self.pretty => serde_json::from_slice::<Value>(&json).ok().and_then(|v| serde_json::to_vec_pretty(&v).ok()),
            Media::Json => None,
            Media::Yaml => serde_json::from_slice::<Value>(&json).ok().and_then(|v| serde_yaml::to_string(&v).ok()).map(String::into_bytes),
        };
        let body = body.map_or(json, |mut text| {
            if text.last() != Some(&b'\n') {
                text.push(b'\n');
            }
            text.into()
        });
        plain(code, self.accepted.media.content_type(), body)
    }

    /// # Errors
    /// 406: a list is asked for where one object is the answer.
    pub fn object(&self, code: StatusCode, object: &Arc<Object>) -> Result<Response<Body>, Status> {
        if let View::PartialMetadataList(_) = self.accepted.view {
            return Err(not_acceptable());
        }
        Ok(match tables::single(object, self.shown(), true) {
            Some(view) => self.bytes(code, view),
            None => self.bytes(code, object.json().clone()),
        })
    }

    /// # Errors
    /// 406: one object is asked for where a list is the answer.
    pub fn page(&self, resource: &dyn Resource, page: &Page) -> Result<Response<Body>, Status> {
        if let View::PartialMetadata(_) = self.accepted.view {
            return Err(not_acceptable());
        }
        let meta = ListMeta {
            resource_version: page.revision.to_string(),
            r#continue: page.continue_token.clone(),
            remaining_item_count: page.remaining.filter(|n| *n > 0),
        };
        Ok(self.bytes(StatusCode::OK, tables::list(resource, &page.items, &meta, self.shown())))
    }

    /// # Errors
    /// See `object`.
    pub fn answer(&self, answer: &Answer) -> Result<Response<Body>, Status> {
        let (mut response, warnings) = match answer {
            Answer::Written(written) => {
                let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
                (self.object(code, &written.object)?, &written.warnings)
            }
            Answer::Json { status, body, warnings } => {
                let code = StatusCode::from_u16(*status).map_err(Status::internal)?;
                (self.bytes(code, body.clone()), warnings)
            }
        };
        warn(&mut response, warnings);
        Ok(response)
    }

    /// # Errors
    /// See `object`.
    pub fn deleted(&self, deleted: &Deleted) -> Result<Response<Body>, Status> {
        match deleted {
            Deleted::Pending(object) => self.object(StatusCode::OK, object),
            Deleted::Gone(object) => Ok(self.bytes(StatusCode::OK, success(object).to_string())),
        }
    }
}

/// What a completed delete answers with.
fn success(object: &Object) -> Value {
    let names = object.resource().names();
    let mut details = json!({"name": object.meta().name, "kind": names.plural, "uid": object.uid()});
    if !names.group.is_empty() {
        details["group"] = json!(names.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// A `metav1.Status` of a failure.
pub fn failure(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = plain(code, "application/json", status.to_value().to_string().into());
    if let Some(seconds) = status.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

pub fn plain(code: StatusCode, content_type: &str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    let content_type = HeaderValue::from_str(content_type).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// Adds `Warning: 299 - "…"` headers.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    let cut = warnings.iter().map(String::len).sum::<usize>() > MAX_WARNINGS_BYTES;
    let mut total = 0;
    for text in warnings {
        let limit = if cut { MAX_WARNING_CHARS } else { usize::MAX };
        let mut value = String::from("299 - \"");
        for c in text.chars().filter(|c| !c.is_control()).take(limit) {
            if matches!(c, '"' | '\\') {
                value.push('\\');
            }
            value.push(c);
        }
        value.push('"');
        total += value.len();
        if total > 2 * MAX_WARNINGS_BYTES {
            return;
        }
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::requests::Written;
    use crate::kinds::{ConfigMap, Deployment, Registered, load};
    use http_body_util::BodyExt;

    fn form(media: Media, view: View, pretty: bool) -> Form {
        Form { accepted: Accepted { media, view }, include: Include::Metadata, pretty, now: Timestamp::UNIX_EPOCH }
    }

    async fn text(response: Response<Body>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn one_object_in_every_form() {
        let object = load(ConfigMap::resource(), br#"{"metadata":{"name":"a"},"data":{"k":"v"}}"#, 7).unwrap();
        let answer = Answer::Written(Written { object, created: true, warnings: vec!["say \"no\"\n".into()] });
        let json = form(Media::Json, View::Object, false).answer(&answer).unwrap();
        assert_eq!(json.status(), StatusCode::CREATED);
        assert_eq!(json.headers()["warning"], "299 - \"say \\\"no\\\"\"");
        assert!(text(json).await.starts_with("{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\""));
        let yaml = form(Media::Yaml, View::Object, false).answer(&answer).unwrap();
        assert_eq!(yaml.headers()["content-type"], "application/yaml");
        assert!(text(yaml).await.contains("\n  k: v\n"));
        assert!(text(form(Media::Json, View::Object, true).answer(&answer).unwrap()).await.contains("{\n  \"apiVersion\""));
        assert!(text(form(Media::Json, View::Table("v1"), false).answer(&answer).unwrap()).await.contains("\"kind\":\"Table\""));
        assert_eq!(form(Media::Json, View::PartialMetadataList("v1"), false).answer(&answer).unwrap_err().code, 406);
    }

    #[tokio::test]
    async fn a_delete_answers_with_details() {
        let object = load(Deployment::resource(), br#"{"metadata":{"name":"d","uid":"u"}}"#, 7).unwrap();
        let gone: Value = serde_json::from_str(&text(form(Media::Json, View::Object, false).deleted(&Deleted::Gone(object)).unwrap()).await).unwrap();
        assert_eq!(gone["status"], "Success");
        assert_eq!(gone["details"], json!({"name": "d", "group": "apps", "kind": "deployments", "uid": "u"}));
    }

    #[test]
    fn retry_after_is_a_header_too() {
        let response = failure(&Status::too_many_requests("later", 7));
        assert_eq!(response.status().as_u16(), 429);
        assert_eq!(response.headers()["retry-after"], "7");
    }

    #[test]
    fn warnings_are_bounded() {
        let mut response = Response::new(Body::empty());
        warn(&mut response, &vec!["x".repeat(1000); 100]);
        let total: usize = response.headers().get_all("warning").iter().map(HeaderValue::len).sum();
        assert!(total <= 2 * MAX_WARNINGS_BYTES && total > MAX_WARNINGS_BYTES, "{total}");
    }
}
