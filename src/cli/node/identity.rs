//! A node's certificate: got with the node token on first start, kept in the data dir, renewed in time. Its key is made
//! here and leaves this machine never.

use super::super::CliError;
use super::USER_AGENT;
use crate::client::HttpsClient;
use crate::meta::Status;
use crate::security::node_token::{CERTIFICATE_PATH, CaPin, Rotating, Validity, certificate_request, node_user};
use crate::security::pki::ca_hash_of;
use crate::security::{CertKey, NodeToken, PkiError, files::write_private};
use http::Method;
use k8s_openapi::jiff::Timestamp;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const CA: &str = "ca.crt";
/// The certificate, then its key: one file, so that they always fit together.
const CLIENT: &str = "client.pem";
const KEY_BEGINS: &str = "-----BEGIN PRIVATE KEY-----";
/// Waits between attempts to join.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Between attempts to renew, and the longest sleep: the clock may be set meanwhile.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);
const LONGEST_SLEEP_S: i64 = 3600;

/// What a node is known by, and what it knows masters by.
#[derive(Clone)]
pub struct Identity {
    dir: PathBuf,
    pub ca_pem: String,
    pub client: CertKey,
}

/// A node that may have joined already.
pub struct Joining<'a> {
    /// Where the identity is kept.
    pub dir: &'a Path,
    /// `https://host:port` each.
    pub servers: &'a [String],
    pub name: &'a str,
    pub token: Option<&'a NodeToken>,
}

fn now_s() -> i64 {
    Timestamp::now().as_second()
}

impl Joining<'_> {
    /// The identity of an earlier start, or a new one from the masters. Waits for masters that do not answer.
    ///
    /// # Errors
    /// The masters are not those of the token, or refuse it; the directory cannot be used.
    pub async fn identity(&self) -> Result<Identity, CliError> {
        if let Some(known) = self.known()? {
            return Ok(known);
        }
        let token = self.token.ok_or_else(|| {
            CliError::text(format!(
                "the node {} has no certificate that holds: join it with --token-file, what a master wrote as node-token",
                self.name
            ))
        })?;
        std::fs::create_dir_all(self.dir).map_err(|e| self.unusable(e))?;
        let identity = self.join(token).await?;
        identity.save().map_err(|e| self.unusable(e))?;
        Ok(identity)
    }

    fn unusable(&self, e: std::io::Error) -> CliError {
        CliError::new(format!("cannot use {}", self.dir.display()), e)
    }

    /// What is kept, if it is this node's and holds.
    fn known(&self) -> Result<Option<Identity>, CliError> {
        let Some(identity) = Identity::load(self.dir).map_err(|e| self.unusable(e))? else { return Ok(None) };
        let damaged = |e: PkiError| CliError::new(format!("{} is damaged", self.dir.display()), e);
        if let Some(token) = self.token {
            let own = ca_hash_of(&identity.ca_pem).map_err(damaged)?;
            if own != token.ca_hash {
                let (dir, other) = (self.dir.display(), &token.ca_hash);
                return Err(CliError::text(format!("{dir} belongs to the cluster with the CA {own}, the token to that with {other}")));
            }
        }
        let validity = Validity::of(&identity.client.cert_pem).map_err(damaged)?;
        Ok((validity.common_name == node_user(self.name) && now_s() < validity.until_s).then_some(identity))
    }

    async fn join(&self, token: &NodeToken) -> Result<Identity, CliError> {
        let tls = |e: PkiError| CliError::new("cannot set up TLS", e);
        let pin = CaPin::new(&token.ca_hash);
        let config = Arc::new(pin.client_config(&["h2"]).map_err(tls)?);
        let client = HttpsClient::new(self.servers, config, USER_AGENT).map_err(CliError::text)?.with_bearer(token.token.clone());
        let mut retry = FIRST_RETRY;
        loop {
            let error = match request(&client, self.name).await {
                Ok(identity) => {
                    let ca_pem = pin.seen().ca_pem.ok_or_else(|| CliError::text("the master showed no CA"))?;
                    return Ok(Identity { dir: self.dir.to_owned(), ca_pem, client: identity });
                }
                Err(Refusal::Certificate(error)) => return Err(tls(error)),
                Err(Refusal::Api(status)) => status,
            };
            if let Some(other) = pin.seen().other {
                return Err(CliError::text(format!("a master shows {other}, the token names {}: it is another cluster's", token.ca_hash)));
            }
            match error.code {
                401 => return Err(CliError::text("the masters do not know the node token: it is another cluster's, or was changed")),
                400 | 403 => return Err(CliError::text(format!("the masters do not let the node in: {error}"))),
                _ => tracing::warn!(%error, "the node has not joined yet, again in {retry:?}"),
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }
}

enum Refusal {
    Api(Status),
    Certificate(PkiError),
}

/// A certificate for a new key.
async fn request(client: &HttpsClient, name: &str) -> Result<CertKey, Refusal> {
    let (request, key_pem) = certificate_request(name).map_err(Refusal::Certificate)?;
    let signed = client.call(Method::POST, CERTIFICATE_PATH, "application/x-pem-file", request.into()).await.map_err(Refusal::Api)?;
    let cert_pem = String::from_utf8_lossy(&signed).into_owned();
    Validity::of(&cert_pem).map_err(Refusal::Certificate)?;
    Ok(CertKey { cert_pem, key_pem })
}

impl Identity {
    fn load(dir: &Path) -> std::io::Result<Option<Self>> {
        let read = |name: &str| match std::fs::read_to_string(dir.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        let (Some(ca_pem), Some(both)) = (read(CA)?, read(CLIENT)?) else { return Ok(None) };
        let at = both.find(KEY_BEGINS).unwrap_or(both.len());
        let client = CertKey { cert_pem: both[..at].to_owned(), key_pem: both[at..].to_owned() };
        Ok(Some(Self { dir: dir.to_owned(), ca_pem, client }))
    }

    fn save(&self) -> std::io::Result<()> {
        write_private(&self.dir.join(CA), self.ca_pem.as_bytes())?;
        write_private(&self.dir.join(CLIENT), format!("{}{}", self.client.cert_pem, self.client.key_pem).as_bytes())
    }

    /// Asks for a new certificate, with a new key, once two thirds of the present one's time have passed; for ever.
    pub async fn keep_fresh(mut self, name: &str, client: &HttpsClient, rotating: &Rotating) {
        loop {
            // It was read once already, when it was put to use.
            let renew_at_s = Validity::of(&self.client.cert_pem).map_or(0, |v| v.renew_at_s());
            let left_s = renew_at_s - now_s();
            if left_s > 0 {
                tokio::time::sleep(Duration::from_secs(left_s.min(LONGEST_SLEEP_S).unsigned_abs())).await;
                continue;
            }
            match self.renew(name, client, rotating).await {
                Ok(()) => tracing::info!(node = name, "the node's certificate was renewed"),
                Err(error) => {
                    tracing::warn!(node = name, error, "the node's certificate was not renewed, again in {RENEWAL_RETRY:?}");
                    tokio::time::sleep(RENEWAL_RETRY).await;
                }
            }
        }
    }

    async fn renew(&mut self, name: &str, client: &HttpsClient, rotating: &Rotating) -> Result<(), String> {
        let new = request(client, name).await.map_err(|refusal| match refusal {
            Refusal::Api(status) => status.to_string(),
            Refusal::Certificate(error) => error.to_string(),
        })?;
        let renewed = Self { client: new, ..self.clone() };
        renewed.save().map_err(|e| format!("{}: {e}", self.dir.display()))?;
        rotating.set(&renewed.client).map_err(|e| e.to_string())?;
        *self = renewed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::{ClusterKey, Pki};
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn an_identity_is_kept_and_belongs_to_one_name_and_one_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(ClusterKey::generate().unwrap(), &[]).unwrap();
        let client = pki.issue_client("system:node:n1", Some("system:nodes")).unwrap();
        Identity { dir: dir.path().to_owned(), ca_pem: pki.ca_pem().to_owned(), client: client.clone() }.save().unwrap();
        let mode = std::fs::metadata(dir.path().join(CLIENT)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let token = pki.node_token().unwrap();
        let joining = |name, token| Joining { dir: dir.path(), servers: &[], name, token };
        let known = joining("n1", Some(&token)).identity().await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((known.client.cert_pem, known.client.key_pem), (client.cert_pem, client.key_pem));
        let error = joining("n2", None).identity().await.err().unwrap().to_string();
        assert!(error.contains("--token-file"), "{error}");
        let other = Pki::new(ClusterKey::generate().unwrap(), &[]).unwrap().node_token().unwrap();
        let error = joining("n1", Some(&other)).identity().await.err().unwrap().to_string();
        assert!(error.contains("belongs to the cluster"), "{error}");
    }
}
