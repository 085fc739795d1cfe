//! Requests about resources: which verb they are, and what it answers.
//!
//! May import: meta, kinds, security, client (its Target), and api's own.

use super::answer::Form;
use super::body;
use super::path::ResourcePath;
use super::query::Query;
use super::watch::{Frames, WatchBody};
use super::{Shared, answer};
use crate::api::discovery;
use crate::api::negotiate::{negotiate, unsupported_media_type};
use crate::api::patch::{self, PatchKind};
use crate::api::streams;
use crate::api::tables::Include;
use crate::client::Target;
use crate::kinds::{self, Resource, Storage};
use crate::meta::{GroupVersionKind, Reason, Status};
use crate::security::User;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use std::future::Future;
use std::time::Duration;

/// How long anything but a watch or a stream may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// A watch without a timeout of its own lasts this long at least, and at most twice as long.
const WATCH_SECONDS: u64 = 1800;

/// The verb of a request about a resource, as authorization names it.
pub fn verb(method: &Method, path: &ResourcePath, query: &Query) -> &'static str {
    match *method {
        Method::GET | Method::HEAD if !path.name.is_empty() => "get",
        Method::GET | Method::HEAD if query.is_watch() => "watch",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if path.name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// One authorized request.
pub struct Call<'a> {
    pub shared: &'a Shared,
    pub user: &'a User,
    pub verb: &'static str,
    pub path: &'a ResourcePath,
    pub query: &'a Query,
}

impl Call<'_> {
    /// # Errors
    /// The Status that the client is shown.
    pub async fn serve(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (target, body_kind) = self.target()?;
        let proxied = target.subresource == Some("proxy");
        if !self.path.rest.is_empty() && !proxied {
            return Err(Status::not_served());
        }
        if proxied || matches!(target.subresource, Some("log" | "exec" | "attach" | "portforward")) {
            let snapshot = self.shared.options.feed.snapshot();
            return Ok(streams::serve(&self.shared.options.nodes, &snapshot, &target, &self.path.rest, request).await);
        }
        let (parts, body) = request.into_parts();
        let form = self.form(&parts.headers, target.resource)?;
        if self.verb == "watch" {
            return self.watch(&target, form).await;
        }
        self.bounded(async {
            let body = body::read(body).await?;
            match self.verb {
                "get" => self.get(&target, form).await,
                "list" => {
                    let page = self.shared.options.verbs.list(&target, &self.query.list()?).await?;
                    form.page(target.resource, &page)
                }
                "create" | "update" => self.write(&target, form, &parts.headers, body, &body_kind).await,
                "patch" => self.patch(&target, form, &parts.headers, body).await,
                _ => self.delete(&target, form, &parts.headers, body).await,
            }
        })
        .await
    }

    /// What the path names, and the kind of a body sent there.
    fn target(&self) -> Result<(Target, GroupVersionKind), Status> {
        let path = self.path;
        let resource = kinds::find(&path.group, &path.version, &path.plural).ok_or_else(Status::not_served)?;
        let namespaced = resource.names().namespaced;
        if !namespaced && !path.namespace.is_empty() {
            return Err(Status::not_served());
        }
        let (subresource, kind, verbs) = if path.subresource.is_empty() {
            (None, resource.names().gvk(), discovery::verbs(resource))
        } else {
            let found = discovery::subresource(resource, &path.subresource);
            let (name, kind, verbs) = found.ok_or_else(Status::not_served)?;
            (Some(name), kind, verbs)
        };
        let across = namespaced && path.namespace.is_empty();
        let named_create = self.verb == "create" && subresource.is_none() && !path.name.is_empty();
        let unnamed_write = matches!(self.verb, "update" | "patch") && path.name.is_empty();
        if !verbs.contains(&self.verb) || named_create || unnamed_write || (across && !matches!(self.verb, "list" | "watch")) {
            return Err(Status::method_not_allowed());
        }
        let some = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
        Ok((Target { resource, namespace: some(&path.namespace), name: some(&path.name), subresource }, kind))
    }

    fn form(&self, headers: &HeaderMap, resource: &dyn Resource) -> Result<Form, Status> {
        let transforms = resource.storage() != Storage::Virtual;
        let accepted = negotiate(&joined(headers, &header::ACCEPT), transforms)?;
        let include = self.query.get("includeObject");
        let include =
            Include::parse(include).ok_or_else(|| Status::bad_request(format!("unrecognized includeObject value: \"{include}\"")))?;
        Ok(Form { accepted, include, pretty: pretty(self.query, headers), now: self.shared.options.clock.now() })
    }

    /// Runs `work` once there is room for it, within `REQUEST_TIMEOUT`.
    async fn bounded(&self, work: impl Future<Output = Result<Response<Body>, Status>>) -> Result<Response<Body>, Status> {
        let late = |_| Status::new(Reason::Timeout, "Timeout: request did not complete within the allotted timeout");
        tokio::time::timeout(REQUEST_TIMEOUT, async {
            let _room = self.shared.gate.acquire().await.map_err(Status::internal)?;
            work.await
        })
        .await
        .map_err(late)?
    }

    async fn get(&self, target: &Target, form: Form) -> Result<Response<Body>, Status> {
        let verbs = &self.shared.options.verbs;
        if target.subresource == Some("scale") {
            return Ok(form.bytes(StatusCode::OK, verbs.get_scale(target).await?));
        }
        form.object(StatusCode::OK, &verbs.get(target, self.query.get("resourceVersion")).await?)
    }

    async fn watch(&self, target: &Target, form: Form) -> Result<Response<Body>, Status> {
        let lasts = match self.query.timeout()? {
            Some(lasts) => lasts,
            None => Duration::from_secs(rand::random_range(WATCH_SECONDS..2 * WATCH_SECONDS)),
        };
        let options = &self.shared.options;
        let end = options.contact.token()?;
        let events = options.verbs.watch(target, self.query.watch()?).await?;
        let frames = Frames::new(target.resource, form.shown(), options.clock.clone());
        let mut response = answer::plain(StatusCode::OK, "application/json", Bytes::new());
        *response.body_mut() = Body::new(WatchBody::new(events, frames, lasts, end));
        Ok(response)
    }

    async fn write(
        &self,
        target: &Target,
        form: Form,
        headers: &HeaderMap,
        body: Bytes,
        kind: &GroupVersionKind,
    ) -> Result<Response<Body>, Status> {
        let json = body::to_json(text(headers, &header::CONTENT_TYPE), body, Some(kind))?;
        let verbs = &self.shared.options.verbs;
        let user_agent = text(headers, &header::USER_AGENT);
        let answer = if self.verb == "create" {
            verbs.create(target, json, &self.query.write("CreateOptions", None, self.user, user_agent)?).await?
        } else {
            verbs.update(target, json, &self.query.write("UpdateOptions", None, self.user, user_agent)?).await?
        };
        form.answer(&answer)
    }

    async fn patch(&self, target: &Target, form: Form, headers: &HeaderMap, body: Bytes) -> Result<Response<Body>, Status> {
        let content_type = text(headers, &header::CONTENT_TYPE);
        let kind = PatchKind::from_content_type(content_type).filter(|_| !content_type.contains("cbor"));
        let kind = kind.ok_or_else(|| unsupported_media_type(&patch::CONTENT_TYPES.join(", ")))?;
        let json = if kind == PatchKind::Apply { body::yaml_to_json(&body)? } else { body::utf8(body)? };
        let options = self.query.write("PatchOptions", Some(kind), self.user, text(headers, &header::USER_AGENT))?;
        form.answer(&self.shared.options.verbs.patch(target, kind, json, &options).await?)
    }

    async fn delete(&self, target: &Target, form: Form, headers: &HeaderMap, body: Bytes) -> Result<Response<Body>, Status> {
        let kind = GroupVersionKind { group: String::new(), version: "v1".into(), kind: "DeleteOptions".into() };
        let json = if body.is_empty() { body } else { body::to_json(text(headers, &header::CONTENT_TYPE), body, Some(&kind))? };
        let request = self.query.delete(&json, self.user)?;
        let verbs = &self.shared.options.verbs;
        if self.verb == "deletecollection" {
            let page = verbs.delete_collection(target, &self.query.list()?, &request).await?;
            return form.page(target.resource, &page);
        }
        form.deleted(&verbs.delete(target, &request).await?)
    }
}

/// A header's text; empty if it is not there or no text.
pub fn text<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> &'h str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// All values of a header that is a list.
pub fn joined(headers: &HeaderMap, name: &header::HeaderName) -> String {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
    values.join(",")
}

/// People are answered with line breaks: those who ask for them, and those who type curl.
pub fn pretty(query: &Query, headers: &HeaderMap) -> bool {
    if !query.get("pretty").is_empty() {
        return query.flag("pretty");
    }
    let agent = text(headers, &header::USER_AGENT);
    ["curl", "Wget"].iter().any(|tool| agent.starts_with(tool))
}
