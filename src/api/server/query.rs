//! Query parameters: lists, watches, writes and deletes as the verbs take them, checked as kube-apiserver checks them.
//!
//! May import: meta, kinds, security, client (its options), api::requests, api::patch, api::tables.

use crate::api::patch::PatchKind;
use crate::api::requests::{DeleteRequest, FieldValidation, ListQuery, WatchQuery, WriteOptions};
use crate::client::DeleteOptions;
use crate::meta::{FieldErrors, FieldPath, Status};
use crate::security::User;
use serde::Deserialize;
use std::time::Duration;

/// The most bytes of a field manager's name.
const MAX_MANAGER_BYTES: usize = 128;

/// The decoded pairs of a query.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of a parameter; empty if it is not there.
    pub fn get(&self, name: &'static str) -> &str {
        self.all(name).next().unwrap_or_default()
    }

    fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// True if it is there and neither `0` nor `false`, as Kubernetes reads flags.
    pub fn flag(&self, name: &'static str) -> bool {
        self.all(name).next().is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }

    fn number(&self, name: &'static str) -> Result<Option<i64>, Status> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
        }
    }

    pub fn is_watch(&self) -> bool {
        self.flag("watch")
    }

    /// `timeoutSeconds`, if it is given and not 0.
    ///
    /// # Errors
    /// 400: no number.
    pub fn timeout(&self) -> Result<Option<Duration>, Status> {
        let seconds = self.number("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok());
        Ok(seconds.filter(|&s| s > 0).map(Duration::from_secs))
    }

    /// # Errors
    /// 400 or 422 for options that make no sense.
    pub fn list(&self) -> Result<ListQuery, Status> {
        self.check_list_options(false)?;
        Ok(ListQuery {
            label_selector: self.get("labelSelector").into(),
            field_selector: self.get("fieldSelector").into(),
            resource_version: self.get("resourceVersion").into(),
            resource_version_match: self.get("resourceVersionMatch").into(),
            limit: self.number("limit")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            continue_token: self.get("continue").into(),
        })
    }

    /// # Errors
    /// 422 for options that make no sense.
    pub fn watch(&self) -> Result<WatchQuery, Status> {
        self.check_list_options(true)?;
        Ok(WatchQuery {
            label_selector: self.get("labelSelector").into(),
            field_selector: self.get("fieldSelector").into(),
            resource_version: self.get("resourceVersion").into(),
            resource_version_match: self.get("resourceVersionMatch").into(),
            allow_bookmarks: self.flag("allowWatchBookmarks"),
            send_initial_events: self.flag("sendInitialEvents"),
        })
    }

    fn check_list_options(&self, watch: bool) -> Result<(), Status> {
        let mut errors = FieldErrors::default();
        let (version, matching) = (self.get("resourceVersion"), self.get("resourceVersionMatch"));
        let initial = self.all("sendInitialEvents").next().is_some();
        let path = FieldPath::new("resourceVersionMatch");
        match (watch, initial) {
            (false, true) => errors.forbidden(&FieldPath::new("sendInitialEvents"), "sendInitialEvents is forbidden for list"),
            (true, true) if matching != "NotOlderThan" => {
                errors.forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
            }
            (true, false) if !matching.is_empty() => {
                errors.forbidden(&path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
            }
            _ => {}
        }
        if !watch && !matching.is_empty() {
            if version.is_empty() {
                errors.forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.get("continue").is_empty() {
                errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
            }
            if !matches!(matching, "Exact" | "NotOlderThan") {
                errors.not_supported(&path, matching, &["Exact", "NotOlderThan", ""]);
            }
            if matching == "Exact" && version == "0" {
                errors.forbidden(&path, "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        fail_if_any("ListOptions", &errors)
    }

    /// Options of a create, update or patch (`patch` says of which kind).
    ///
    /// # Errors
    /// 422 for options that make no sense.
    pub fn write(&self, options_kind: &str, patch: Option<PatchKind>, user: &User, user_agent: &str) -> Result<WriteOptions, Status> {
        let mut errors = FieldErrors::default();
        let apply = patch == Some(PatchKind::Apply);
        if patch.is_some() && !apply && self.all("force").next().is_some() {
            errors.forbidden(&FieldPath::new("force"), "may not be specified for non-apply patch");
        }
        let manager = self.get("fieldManager");
        let path = FieldPath::new("fieldManager");
        if apply && manager.is_empty() {
            errors.required(&path, "is required for apply patch");
        }
        if manager.len() > MAX_MANAGER_BYTES {
            errors.too_long(&path, MAX_MANAGER_BYTES);
        }
        if let Some((at, c)) = manager.chars().enumerate().find(|(_, c)| c.is_control()) {
            errors.invalid(&path, manager, format!("invalid character {:?} (at position {at})", c.to_string()));
        }
        let field_validation = match self.get("fieldValidation") {
            "Ignore" => FieldValidation::Ignore,
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.not_supported(&FieldPath::new("fieldValidation"), other, &["Ignore", "Strict", "Warn"]);
                FieldValidation::Warn
            }
        };
        let dry_run = self.dry_run(&mut errors);
        fail_if_any(options_kind, &errors)?;
        let field_manager = if manager.is_empty() { manager_of(user_agent) } else { manager.to_owned() };
        Ok(WriteOptions { user: user.clone(), dry_run, field_validation, field_manager, force: self.flag("force") })
    }

    fn dry_run(&self, errors: &mut FieldErrors) -> bool {
        let all: Vec<&str> = self.all("dryRun").collect();
        check_dry_run(&all, errors)
    }

    /// Options of a delete: the body's if it has one, else the query's.
    ///
    /// # Errors
    /// 400 for a body that is no DeleteOptions; 422 for options that make no sense.
    pub fn delete(&self, json: &[u8], user: &User) -> Result<DeleteRequest, Status> {
        let body = if json.is_empty() { self.delete_body()? } else { DeleteBody::parse(json)? };
        let mut errors = FieldErrors::default();
        let dry_run: Vec<&str> = body.dry_run.iter().flatten().map(String::as_str).collect();
        let dry_run = check_dry_run(&dry_run, &mut errors);
        let path = FieldPath::new("propagationPolicy");
        let propagation_policy = match (body.propagation_policy, body.orphan_dependents) {
            (Some(policy), Some(_)) => {
                errors.invalid(&path, policy, "orphanDependents and deletionPropagation cannot be both set");
                None
            }
            (Some(policy), None) => {
                if !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan") {
                    errors.not_supported(&path, policy.as_str(), &["Foreground", "Background", "Orphan", "nil"]);
                }
                Some(policy)
            }
            (None, orphan) => orphan.map(|orphan| if orphan { "Orphan".to_owned() } else { "Background".to_owned() }),
        };
        fail_if_any("DeleteOptions", &errors)?;
        let preconditions = body.preconditions.unwrap_or_default();
        let options = DeleteOptions {
            grace_period_seconds: body.grace_period_seconds,
            uid: preconditions.uid,
            resource_version: preconditions.resource_version,
            propagation_policy,
        };
        Ok(DeleteRequest { user: user.clone(), dry_run, options })
    }

    fn delete_body(&self) -> Result<DeleteBody, Status> {
        let text = |name: &'static str| Some(self.get(name)).filter(|v| !v.is_empty()).map(str::to_owned);
        Ok(DeleteBody {
            grace_period_seconds: self.number("gracePeriodSeconds")?,
            orphan_dependents: self.all("orphanDependents").next().map(|_| self.flag("orphanDependents")),
            propagation_policy: text("propagationPolicy"),
            dry_run: Some(self.all("dryRun").map(str::to_owned).collect()),
            ..DeleteBody::default()
        })
    }
}

/// `metav1.DeleteOptions`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeleteBody {
    kind: String,
    grace_period_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    orphan_dependents: Option<bool>,
    propagation_policy: Option<String>,
    dry_run: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl DeleteBody {
    fn parse(json: &[u8]) -> Result<Self, Status> {
        let body: Self = serde_json::from_slice(json).map_err(|e| Status::bad_request(format!("the body is no DeleteOptions: {e}")))?;
        match body.kind.as_str() {
            "" | "DeleteOptions" => Ok(body),
            other => Err(Status::bad_request(format!("decoded object cannot be converted to DeleteOptions: it is a {other}"))),
        }
    }
}

fn check_dry_run(values: &[&str], errors: &mut FieldErrors) -> bool {
    let values: Vec<&str> = values.iter().copied().filter(|v| !v.is_empty()).collect();
    if let Some(other) = values.iter().find(|v| **v != "All") {
        errors.not_supported(&FieldPath::new("dryRun"), *other, &["All"]);
    }
    !values.is_empty()
}

fn fail_if_any(options_kind: &str, errors: &FieldErrors) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", options_kind, "", errors)) }
}

/// The manager that a user agent stands for: what comes before its first slash.
fn manager_of(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default();
    let mut manager = String::new();
    for c in name.chars().filter(|c| !c.is_control()) {
        if manager.len() + c.len_utf8() > MAX_MANAGER_BYTES {
            break;
        }
        manager.push(c);
    }
    manager
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User::anonymous()
    }

    #[test]
    fn flags_are_read_as_kubernetes_reads_them() {
        for (text, on) in [("", false), ("watch", true), ("watch=1", true), ("watch=true", true), ("watch=0", false), ("watch=False", false)] {
            assert_eq!(Query::parse(text).is_watch(), on, "{text}");
        }
    }

    #[test]
    fn list_options_that_make_no_sense_are_refused() {
        for (text, watch, ok) in [
            ("limit=500&continue=abc", false, true),
            ("limit=x", false, false),
            ("resourceVersion=0", false, true),
            ("resourceVersionMatch=Exact", false, false),
            ("resourceVersion=0&resourceVersionMatch=Exact", false, false),
            ("resourceVersion=5&resourceVersionMatch=Exact", false, true),
            ("resourceVersion=5&resourceVersionMatch=Cake", false, false),
            ("resourceVersion=5&resourceVersionMatch=Exact&continue=x", false, false),
            ("sendInitialEvents=true", false, false),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", true, true),
            ("sendInitialEvents=true", true, false),
            ("resourceVersionMatch=NotOlderThan", true, false),
        ] {
            let query = Query::parse(text);
            let got = if watch { query.watch().map(|_| ()) } else { query.list().map(|_| ()) };
            assert_eq!(got.is_ok(), ok, "{text}");
        }
    }

    #[test]
    fn write_options() {
        let write = |text: &str, patch| Query::parse(text).write("PatchOptions", patch, &user(), "kubectl/v1.33 (linux)");
        let plain = write("", None).unwrap();
        assert_eq!((plain.field_manager.as_str(), plain.dry_run, plain.field_validation), ("kubectl", false, FieldValidation::Warn));
        let strict = write("fieldManager=me&dryRun=All&fieldValidation=Strict", None).unwrap();
        assert_eq!((strict.field_manager.as_str(), strict.dry_run, strict.field_validation), ("me", true, FieldValidation::Strict));
        assert!(write("fieldManager=me&force=true", Some(PatchKind::Apply)).unwrap().force);
        let missing = write("", Some(PatchKind::Apply)).unwrap_err();
        assert_eq!(missing.message, "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch");
        assert_eq!(write("dryRun=Some", None).unwrap_err().code, 422);
        assert_eq!(write("fieldValidation=Maybe", None).unwrap_err().code, 422);
        assert_eq!(write("force=true", Some(PatchKind::Merge)).unwrap_err().code, 422);
        assert_eq!(write(&format!("fieldManager={}", "x".repeat(129)), None).unwrap_err().code, 422);
    }

    #[test]
    fn delete_options_come_from_body_or_query() {
        let body = br#"{"kind":"DeleteOptions","gracePeriodSeconds":0,"preconditions":{"uid":"u"},"propagationPolicy":"Orphan"}"#;
        let got = Query::parse("gracePeriodSeconds=9").delete(body, &user()).unwrap().options;
        assert_eq!((got.grace_period_seconds, got.uid.as_deref(), got.propagation_policy.as_deref()), (Some(0), Some("u"), Some("Orphan")));
        let got = Query::parse("gracePeriodSeconds=9&propagationPolicy=Foreground&dryRun=All").delete(b"", &user()).unwrap();
        assert_eq!((got.options.grace_period_seconds, got.dry_run), (Some(9), true));
        let legacy = Query::parse("orphanDependents=true").delete(b"", &user()).unwrap();
        assert_eq!(legacy.options.propagation_policy.as_deref(), Some("Orphan"));
        for (query, body) in [("propagationPolicy=Maybe", &b""[..]), ("", br#"{"orphanDependents":true,"propagationPolicy":"Orphan"}"#)] {
            assert_eq!(Query::parse(query).delete(body, &user()).unwrap_err().code, 422);
        }
        assert_eq!(Query::default().delete(br#"{"kind":"Pod"}"#, &user()).unwrap_err().code, 400);
        assert_eq!(Query::default().delete(b"[", &user()).unwrap_err().code, 400);
    }

    #[test]
    fn a_manager_is_cut_to_its_bound() {
        assert_eq!(manager_of("a\u{7}b/1"), "ab");
        assert_eq!(manager_of(&"é".repeat(100)).len(), 128);
    }
}
