//! How a node and a master come to trust each other: the node token (what a master writes as `node-token`), the check of
//! a master by the hash of its CA, and the certificate that a node asks for with a key that never leaves it.
//!
//! May import: security's own.

use super::pki::{CertKey, PkiError, ca_hash, client_config, hex, root_store};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Where a node posts the request for its certificate; the answer is the certificate, PEM.
pub const CERTIFICATE_PATH: &str = "/orchd/v1/node-certificate";
/// Letters of the token's public part, as Kubernetes' bootstrap tokens have it.
const ID_LEN: usize = 6;

/// What a node needs to join: no key, but whoever has it may become a node. As text, two lines:
///
/// ```text
/// ca-hash: sha256:<64 hexadecimal digits>
/// token: <6 hexadecimal digits>.<the bootstrap secret>
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeToken {
    /// Of the CA certificate's DER.
    pub ca_hash: String,
    /// What is sent as a bearer token.
    pub token: String,
}

/// The bearer token of a cluster's bootstrap secret: its id names the secret without telling it.
pub fn bearer_token(bootstrap_secret: &str) -> String {
    format!("{}.{bootstrap_secret}", &hex(&Sha256::digest(bootstrap_secret.as_bytes()))[..ID_LEN])
}

impl fmt::Display for NodeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ca-hash: {}\ntoken: {}\n", self.ca_hash, self.token)
    }
}

/// A text that is no node token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has no line \"{0}: …\"; a master writes it as node-token into its data dir")]
pub struct NotANodeToken(&'static str);

impl FromStr for NodeToken {
    type Err = NotANodeToken;

    fn from_str(text: &str) -> Result<Self, NotANodeToken> {
        let value = |key: &'static str, valid: fn(&str) -> bool| {
            let found = text.lines().find_map(|line| line.split_once(':').filter(|(k, _)| k.trim() == key));
            found.map(|(_, v)| v.trim().to_owned()).filter(|v| valid(v)).ok_or(NotANodeToken(key))
        };
        Ok(Self {
            ca_hash: value("ca-hash", |v| v.strip_prefix("sha256:").is_some_and(|h| h.len() == 64))?,
            token: value("token", |v| v.find('.') == Some(ID_LEN))?,
        })
    }
}

/// Trusts a master whose chain holds the CA of the expected hash and whose certificate that CA has signed.
#[derive(Debug)]
pub struct CaPin {
    hash: String,
    provider: Arc<rustls::crypto::CryptoProvider>,
    seen: Mutex<Seen>,
}

/// What masters have shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// PEM of the CA with the expected hash.
    pub ca_pem: Option<String>,
    /// The hash of another CA.
    pub other: Option<String>,
}

impl CaPin {
    pub fn new(hash: &str) -> Arc<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Arc::new(Self { hash: hash.to_owned(), provider, seen: Mutex::default() })
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// TLS of a client that has nothing yet but the hash.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn client_config(self: &Arc<Self>, alpn: &[&str]) -> Result<rustls::ClientConfig, PkiError> {
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Ok(config)
    }
}

fn certificate_error(error: impl fmt::Display) -> rustls::Error {
    rustls::Error::General(error.to_string())
}

impl ServerCertVerifier for CaPin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(ca) = intermediates.iter().find(|der| ca_hash(der) == self.hash) else {
            let other = intermediates.last().map_or_else(|| "no CA at all".into(), |der| format!("the CA {}", ca_hash(der)));
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).other = Some(other.clone());
            return Err(rustls::Error::General(format!("the master shows {other}, not {}", self.hash)));
        };
        let pem = pem_of(ca);
        let roots = Arc::new(root_store(&pem).map_err(certificate_error)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone()).build().map_err(certificate_error)?;
        let verified = verifier.verify_server_cert(end_entity, &[], name, ocsp, now)?;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).ca_pem = Some(pem);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn pem_of(der: &CertificateDer<'_>) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The user that a node's certificate names.
pub fn node_user(node: &str) -> String {
    format!("system:node:{node}")
}

/// A new key, and the request (PEM) for a certificate of the node by that name.
///
/// # Errors
/// Key generation failed.
pub fn certificate_request(node: &str) -> Result<(String, String), PkiError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, node_user(node));
    params.distinguished_name.push(DnType::OrganizationName, super::authn::NODES);
    let request = params.serialize_request(&key)?.pem()?;
    Ok((request, key.serialize_pem()))
}

/// Whom a certificate names, and when it holds (seconds since 1970).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    pub common_name: String,
    pub from_s: i64,
    pub until_s: i64,
}

impl Validity {
    /// # Errors
    /// It is no certificate.
    pub fn of(cert_pem: &str) -> Result<Self, PkiError> {
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes())?;
        let (_, cert) = X509Certificate::from_der(&der).map_err(|e| PkiError::Request(e.to_string()))?;
        let common_name = cert.subject().iter_common_name().next().and_then(|n| n.as_str().ok()).unwrap_or_default().to_owned();
        Ok(Self { common_name, from_s: cert.validity().not_before.timestamp(), until_s: cert.validity().not_after.timestamp() })
    }

    /// When a new one should be asked for: once two thirds of the time have passed.
    pub fn renew_at_s(&self) -> i64 {
        self.from_s + (self.until_s - self.from_s) / 3 * 2
    }
}

/// A client certificate that can be changed while connections are made with it.
#[derive(Debug)]
pub struct Rotating(RwLock<Arc<CertifiedKey>>);

impl Rotating {
    /// # Errors
    /// Damaged PEM.
    pub fn new(identity: &CertKey) -> Result<Arc<Self>, PkiError> {
        Ok(Arc::new(Self(RwLock::new(Arc::new(certified(identity)?)))))
    }

    /// # Errors
    /// Damaged PEM; the old certificate stays then.
    pub fn set(&self, identity: &CertKey) -> Result<(), PkiError> {
        let new = Arc::new(certified(identity)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// TLS of a client that trusts the CA alone and shows the certificate of the moment.
    ///
    /// # Errors
    /// Damaged PEM.
    pub fn client_config(self: &Arc<Self>, ca_pem: &str, alpn: &[&str]) -> Result<rustls::ClientConfig, PkiError> {
        let mut config = client_config(ca_pem, None, alpn)?;
        config.client_auth_cert_resolver = self.clone();
        // A resumed session would still be that of the certificate that began it.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}

fn certified(identity: &CertKey) -> Result<CertifiedKey, PkiError> {
    let chain = vec![CertificateDer::from_pem_slice(identity.cert_pem.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
    Ok(CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())?)
}

impl rustls::client::ResolvesClientCert for Rotating {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::{ClusterKey, Pki};

    #[test]
    fn a_token_is_read_as_written_and_half_a_one_is_refused() {
        let token = NodeToken { ca_hash: format!("sha256:{}", "a".repeat(64)), token: bearer_token("secret") };
        assert_eq!(token.to_string().parse::<NodeToken>().unwrap(), token);
        assert!(!token.token.starts_with("secret") && token.token.ends_with(".secret"));
        for text in ["", "token: abcdef.x", "ca-hash: sha256:00\ntoken: abcdef.x", &token.to_string().replace('.', "")] {
            assert!(text.parse::<NodeToken>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_node_gets_a_certificate_for_itself_alone_and_in_time_another() {
        let pki = Pki::new(ClusterKey::generate().unwrap(), &[]).unwrap();
        let (request, key_pem) = certificate_request("n1").unwrap();
        let cert_pem = pki.sign_node(&request, |node| node == "n1").unwrap();
        let validity = Validity::of(&cert_pem).unwrap();
        assert_eq!(validity.common_name, "system:node:n1");
        assert!(validity.from_s < validity.renew_at_s() && validity.renew_at_s() < validity.until_s);
        Rotating::new(&CertKey { cert_pem: cert_pem.clone(), key_pem }).unwrap();
        let (other, other_key) = certificate_request("n2").unwrap();
        assert!(Rotating::new(&CertKey { cert_pem, key_pem: other_key }).is_err(), "a key that is not the certificate's");
        assert!(pki.sign_node(&other, |node| node == "n1").is_err());
        let broken = request.replace("MIH", "MIG");
        assert!(pki.sign_node(&broken, |_| true).is_err());
        assert!(pki.sign_node("nonsense", |_| true).is_err());
    }

    #[test]
    fn a_request_for_anything_but_a_node_is_refused() {
        let pki = Pki::new(ClusterKey::generate().unwrap(), &[]).unwrap();
        for (name, group) in [("kubernetes-admin", "system:masters"), ("system:node:n1", "system:masters"), ("n1", "system:nodes")] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params.distinguished_name.push(DnType::OrganizationName, group);
            let request = params.serialize_request(&key).unwrap().pem().unwrap();
            assert!(pki.sign_node(&request, |_| true).is_err(), "{name} {group}");
        }
    }
}
