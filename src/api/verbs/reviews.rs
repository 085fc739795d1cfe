//! Reviews of oneself: who am I, may I, what may I.

use super::Verbs;
use super::create::not_allowed;
use super::decode::decode;
use super::ownership::Present;
use crate::api::requests::{Answer, WriteOptions};
use crate::client::Target;
use crate::meta::Status;
use crate::security::authn::MASTERS;
use crate::security::{Attributes, User, authorize};
use crate::watch::Feed;
use k8s_openapi::api::authorization::v1::{SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReviewStatus};
use serde_json::{Value, json};

impl Verbs {
    pub(super) fn review(&self, target: &Target, body: &[u8], options: &WriteOptions) -> Result<Answer, Status> {
        let decoded = decode(target.resource, body, options.field_validation)?;
        let mut value = decoded.object.to_value();
        value["metadata"] = json!({"creationTimestamp": null});
        value["status"] = match target.resource.names().kind {
            "SelfSubjectReview" => json!({"userInfo": user_info(&options.user)}),
            "SelfSubjectAccessReview" => {
                let review: &SelfSubjectAccessReview = decoded.object.as_any().downcast_ref().ok_or_else(not_allowed)?;
                json!(self.access(&options.user, review))
            }
            "SelfSubjectRulesReview" => {
                let review: &SelfSubjectRulesReview = decoded.object.as_any().downcast_ref().ok_or_else(not_allowed)?;
                if review.spec.namespace.as_deref().unwrap_or_default().is_empty() {
                    return Err(Status::bad_request("no namespace on request"));
                }
                rules(&options.user)
            }
            _ => return Err(not_allowed()),
        };
        Ok(Answer::Json { status: 201, body: value.to_string().into(), warnings: decoded.warnings })
    }

    fn access(&self, user: &User, review: &SelfSubjectAccessReview) -> SubjectAccessReviewStatus {
        fn text(field: Option<&String>) -> &str {
            field.map_or("", String::as_str)
        }
        let present = Present(self.cache.snapshot());
        let mut asked = Attributes::default();
        if let Some(a) = &review.spec.resource_attributes {
            asked.verb = text(a.verb.as_ref());
            asked.group = text(a.group.as_ref());
            asked.resource = text(a.resource.as_ref());
            asked.subresource = text(a.subresource.as_ref());
            asked.namespace = text(a.namespace.as_ref());
            asked.name = text(a.name.as_ref());
        } else if let Some(a) = &review.spec.non_resource_attributes {
            asked.verb = text(a.verb.as_ref());
            asked.path = text(a.path.as_ref());
        }
        match authorize(user, &asked, &present) {
            Ok(()) => SubjectAccessReviewStatus { allowed: true, ..Default::default() },
            Err(why) => SubjectAccessReviewStatus { allowed: false, reason: Some(why), ..Default::default() },
        }
    }
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// The rules of `security::authorize`, as far as rules can say them: a node's depend on what its pods use.
fn rules(user: &User) -> Value {
    let everyone = json!({"verbs": ["get"],
        "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version"]});
    let reviews =
        [("authentication.k8s.io", "selfsubjectreviews"), ("authorization.k8s.io", "selfsubjectaccessreviews,selfsubjectrulesreviews")];
    let mut resources: Vec<Value> = reviews
        .iter()
        .map(|(group, names)| json!({"verbs": ["create"], "apiGroups": [group], "resources": names.split(',').collect::<Vec<_>>()}))
        .collect();
    let mut paths = vec![everyone];
    if user.in_group(MASTERS) {
        resources.insert(0, json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.insert(0, json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": user.node_name().is_some()})
}
