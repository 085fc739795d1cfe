//! Authentication: a client certificate of our CA, a service account token, or nobody.

use super::node_token::bearer_token;
use super::token::{Claims, ISSUER, Tokens};
use crate::meta::Status;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

pub const ANONYMOUS: &str = "system:anonymous";
pub const MASTERS: &str = "system:masters";
pub const NODES: &str = "system:nodes";
/// Who has nothing but the node token.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// Who asks, as `authentication.k8s.io` UserInfo.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.into(), groups: vec!["system:unauthenticated".into()], ..Self::default() }
    }

    /// What the master's own parts act as.
    pub fn system(name: &str) -> Self {
        Self { name: name.into(), groups: vec![MASTERS.into(), "system:authenticated".into()], ..Self::default() }
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node's name, if the user is a node.
    pub fn node_name(&self) -> Option<&str> {
        if self.in_group(NODES) { self.name.strip_prefix("system:node:") } else { None }
    }
}

/// Answers whether what a token is bound to still exists.
pub trait BoundObjects: Send + Sync {
    /// The uid of the present ServiceAccount of that name.
    fn service_account_uid(&self, namespace: &str, name: &str) -> Option<String>;
    /// The uid of the present Pod of that name.
    fn pod_uid(&self, namespace: &str, name: &str) -> Option<String>;
}

/// Turns credentials into a user.
pub struct Authenticator {
    tokens: Arc<Tokens>,
    /// Digest of the node token's bearer part, and its id.
    bootstrap: Option<([u8; 32], String)>,
}

impl Authenticator {
    pub fn new(tokens: Arc<Tokens>) -> Self {
        Self { tokens, bootstrap: None }
    }

    /// Also knows nodes that join, by the cluster's bootstrap secret.
    #[must_use]
    pub fn with_bootstrap(mut self, secret: &str) -> Self {
        let token = bearer_token(secret);
        let id = token.split('.').next().unwrap_or_default().to_owned();
        self.bootstrap = Some((Sha256::digest(&token).into(), id));
        self
    }

    /// `peer_cert_der` is a certificate that TLS has already verified against the CA; `bearer` the token of an
    /// Authorization header. A certificate wins. With neither, the user is anonymous.
    ///
    /// # Errors
    /// 401 for a token that does not hold.
    pub fn authenticate(
        &self,
        peer_cert_der: Option<&[u8]>,
        bearer: Option<&str>,
        bound: &dyn BoundObjects,
        now_s: i64,
    ) -> Result<User, Status> {
        match (peer_cert_der, bearer) {
            (Some(der), _) => user_of_certificate(der).ok_or_else(Status::unauthorized),
            (None, Some(token)) => match self.bootstrapper(token) {
                Some(user) => Ok(user),
                None => self.user_of_token(token, bound, now_s),
            },
            (None, None) => Ok(User::anonymous()),
        }
    }

    /// The user of Kubernetes' bootstrap tokens. Digests are compared, so that the time it takes tells nothing of the secret.
    fn bootstrapper(&self, token: &str) -> Option<User> {
        let (digest, id) = self.bootstrap.as_ref()?;
        let groups = [BOOTSTRAPPERS, "system:authenticated"].map(str::to_owned).into();
        (Sha256::digest(token)[..] == digest[..]).then(|| User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
    }

    fn user_of_token(&self, token: &str, bound: &dyn BoundObjects, now_s: i64) -> Result<User, Status> {
        let claims = self.tokens.verify(token, Some(ISSUER), now_s).map_err(|error| {
            tracing::debug!(%error, "a bearer token was refused");
            Status::unauthorized()
        })?;
        if still_bound(&claims, bound) { Ok(user_of_claims(&claims)) } else { Err(Status::unauthorized()) }
    }
}

fn still_bound(claims: &Claims, bound: &dyn BoundObjects) -> bool {
    let account = bound.service_account_uid(&claims.namespace, &claims.service_account.name);
    account.as_deref() == Some(claims.service_account.uid.as_str())
        && claims.pod.as_ref().is_none_or(|p| bound.pod_uid(&claims.namespace, &p.name).as_deref() == Some(p.uid.as_str()))
}

/// The user that a service account token speaks for.
pub fn user_of_claims(claims: &Claims) -> User {
    let mut extra = BTreeMap::new();
    extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={}", claims.id)]);
    if let Some(pod) = &claims.pod {
        extra.insert("authentication.kubernetes.io/pod-name".into(), vec![pod.name.clone()]);
        extra.insert("authentication.kubernetes.io/pod-uid".into(), vec![pod.uid.clone()]);
    }
    if let Some(node) = &claims.node {
        extra.insert("authentication.kubernetes.io/node-name".into(), vec![node.name.clone()]);
        extra.insert("authentication.kubernetes.io/node-uid".into(), vec![node.uid.clone()]);
    }
    let ns = &claims.namespace;
    User {
        name: format!("system:serviceaccount:{ns}:{}", claims.service_account.name),
        uid: claims.service_account.uid.clone(),
        groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{ns}"), "system:authenticated".into()],
        extra,
    }
}

/// Whether a certificate that TLS has verified is a master's.
pub fn is_peer(der: &[u8]) -> bool {
    user_of_certificate(der).is_some_and(|user| user.in_group(super::pki::PEERS))
}

/// Whether a certificate that TLS has verified is an administrator's.
pub fn is_admin(der: &[u8]) -> bool {
    user_of_certificate(der).is_some_and(|user| user.in_group(MASTERS))
}

/// Common name is the user, organizations are groups.
fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let subject = cert.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    groups.push("system:authenticated".into());
    Some(User { name, groups, ..User::default() })
}
