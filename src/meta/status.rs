//! `metav1.Status`: the one error type that a Kubernetes client sees.

use super::field::FieldErrors;
use serde_json::{Value, json};
use std::fmt;

/// `StatusReason`, each with the HTTP code it travels under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
    Timeout,
    Unknown,
}

impl Reason {
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Gone | Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError | Self::Unknown => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Expired => "Expired",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::Invalid => "Invalid",
            Self::TooManyRequests => "TooManyRequests",
            Self::InternalError => "InternalError",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::Timeout => "Timeout",
            Self::Unknown => "",
        }
    }

    pub fn parse(text: &str) -> Self {
        const ALL: [Reason; 17] = [
            Reason::BadRequest,
            Reason::Unauthorized,
            Reason::Forbidden,
            Reason::NotFound,
            Reason::MethodNotAllowed,
            Reason::NotAcceptable,
            Reason::AlreadyExists,
            Reason::Conflict,
            Reason::Gone,
            Reason::Expired,
            Reason::RequestEntityTooLarge,
            Reason::UnsupportedMediaType,
            Reason::Invalid,
            Reason::TooManyRequests,
            Reason::InternalError,
            Reason::ServiceUnavailable,
            Reason::Timeout,
        ];
        ALL.into_iter().find(|r| r.as_str() == text).unwrap_or(Self::Unknown)
    }
}

/// `metav1.StatusCause`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// `metav1.StatusDetails` without the fields that nobody fills.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource ("pods") or, for Invalid, the kind ("Pod"), as Kubernetes does it.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: Option<i64>,
}

/// An error answer of the API: `kind: Status, status: Failure`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u16,
    pub reason: Reason,
    pub message: String,
    pub details: Option<Box<Details>>,
    /// The continue token that an Expired list answer carries.
    pub continue_token: Option<String>,
}

impl std::error::Error for Status {}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// `deployments.apps`, or `pods` in the core group.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl Status {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { code: reason.code(), reason, message: message.into(), details: None, continue_token: None }
    }

    fn about(reason: Reason, group: &str, kind: &str, name: &str, message: String) -> Self {
        let details = Details { name: name.into(), group: group.into(), kind: kind.into(), ..Details::default() };
        Self { details: Some(Box::new(details)), ..Self::new(reason, message) }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(Reason::InternalError, format!("Internal error occurred: {message}"))
    }
    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self::about(Reason::NotFound, group, resource, name, format!("{} \"{name}\" not found", qualified(group, resource)))
    }
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self::about(Reason::AlreadyExists, group, resource, name, format!("{} \"{name}\" already exists", qualified(group, resource)))
    }
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(group, resource));
        Self::about(Reason::Conflict, group, resource, name, message)
    }
    /// `resource` is empty for a path that is no resource, `name` for a collection.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{} is forbidden: {why}", qualified(group, resource)),
            _ => format!("{} \"{name}\" is forbidden: {why}", qualified(group, resource)),
        };
        Self::about(Reason::Forbidden, group, resource, name, message)
    }
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i64) -> Self {
        Self::new(Reason::TooManyRequests, message).retry_after(retry_after_seconds)
    }
    /// Tells the client to ask again (`Retry-After`), as client-go does by itself: nothing has been carried out.
    pub fn retry_after(self, seconds: i64) -> Self {
        let details = Details { retry_after_seconds: Some(seconds), ..self.details.map_or_else(Details::default, |held| *held) };
        Self { details: Some(Box::new(details)), ..self }
    }
    /// 404 for what is not served at all, be it path, resource or subresource.
    pub fn not_served() -> Self {
        let message = "the server could not find the requested resource";
        Self { details: Some(Box::default()), ..Self::new(Reason::NotFound, message) }
    }
    pub fn method_not_allowed() -> Self {
        Self {
            details: Some(Box::default()),
            ..Self::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
        }
    }
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// 422 with one cause per invalid field. `kind` is the kind's name ("Pod").
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &FieldErrors) -> Self {
        let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        let list = if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) };
        let mut status =
            Self::about(Reason::Invalid, group, kind, name, format!("{} \"{name}\" is invalid: {list}", qualified(group, kind)));
        if let Some(details) = &mut status.details {
            details.causes =
                errors.0.iter().map(|e| Cause { reason: e.kind.reason().into(), message: e.body(), field: e.path.clone() }).collect();
        }
        status
    }

    pub fn is(&self, reason: Reason) -> bool {
        self.reason == reason
    }

    /// The object as it stands in a response body.
    pub fn to_value(&self) -> Value {
        let mut metadata = json!({});
        if let Some(token) = &self.continue_token {
            metadata["continue"] = json!(token);
        }
        let mut out = json!({"kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.message, "code": self.code});
        if self.reason != Reason::Unknown {
            out["reason"] = json!(self.reason.as_str());
        }
        if let Some(d) = &self.details {
            let mut details = serde_json::Map::new();
            for (key, text) in [("name", &d.name), ("group", &d.group), ("kind", &d.kind), ("uid", &d.uid)] {
                if !text.is_empty() {
                    details.insert(key.into(), json!(text));
                }
            }
            if !d.causes.is_empty() {
                let causes = d.causes.iter().map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}));
                details.insert("causes".into(), causes.collect());
            }
            if let Some(seconds) = d.retry_after_seconds {
                details.insert("retryAfterSeconds".into(), json!(seconds));
            }
            out["details"] = Value::Object(details);
        }
        out
    }

    /// Reads a Status from an error answer's body; None if it is none.
    pub fn from_value(v: &Value) -> Option<Self> {
        if v["kind"] != "Status" {
            return None;
        }
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let code = u16::try_from(v["code"].as_u64().unwrap_or(500)).unwrap_or(500);
        let d = &v["details"];
        let cause = |c: &Value| Cause { reason: text(&c["reason"]), message: text(&c["message"]), field: text(&c["field"]) };
        let details = d.is_object().then(|| {
            Box::new(Details {
                name: text(&d["name"]),
                group: text(&d["group"]),
                kind: text(&d["kind"]),
                uid: text(&d["uid"]),
                causes: d["causes"].as_array().into_iter().flatten().map(cause).collect(),
                retry_after_seconds: d["retryAfterSeconds"].as_i64(),
            })
        });
        let reason = Reason::parse(v["reason"].as_str().unwrap_or_default());
        let continue_token = v["metadata"]["continue"].as_str().map(str::to_owned);
        Some(Self { code, reason, message: text(&v["message"]), details, continue_token })
    }
}
