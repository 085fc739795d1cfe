//! The cluster's certificate authority and what it signs: the serving certificate, client certificates, kubeconfigs.
//!
//! The cluster key file holds all that masters must share: the CA, the service account signing key and the secret by
//! which nodes join. A lone master makes it on first start; `orchd key new` makes it for several.

use super::authn::NODES;
use super::files::write_private;
use super::node_token::{NodeToken, bearer_token, node_user};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, string::Ia5String,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use time::{Duration, OffsetDateTime};

/// How long the CA lives, and what it signs. Certificates are made anew at every start of a master.
const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;

/// The name under which a master shows itself to the others, and the organization that tells its certificate from all that
/// the CA signs for clients.
pub const PEER_NAME: &str = "peer.orchd.internal";
pub const PEERS: &str = "orchd:masters";

#[derive(Debug, Error)]
pub enum PkiError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} is no cluster key: {source}")]
    Format { path: PathBuf, source: serde_json::Error },
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot set up client authentication: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("the certificate request is refused: {0}")]
    Request(String),
    #[error("bad PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
}

/// What every master of a cluster shares.
#[derive(Clone, Serialize, Deserialize)]
pub struct ClusterKey {
    /// Version of this file's format.
    pub version: u32,
    pub ca_cert_pem: String,
    pub ca_key_pem: String,
    /// PKCS#8, P-256: signs service account tokens.
    pub service_account_key_pem: String,
    /// What a joining node proves to know.
    pub bootstrap_secret: String,
}

/// A certificate and its private key, PEM.
#[derive(Clone)]
pub struct CertKey {
    pub cert_pem: String,
    pub key_pem: String,
}

impl ClusterKey {
    /// A new CA (`CN=orchd-ca`) and new secrets. No other certificate may bear its name: OpenSSL takes one whose subject is
    /// its issuer's for self-signed.
    ///
    /// # Errors
    /// Key generation failed.
    pub fn generate() -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = leaf_params("orchd-ca", None, CA_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let secret: [u8; 32] = rand::random();
        Ok(Self {
            version: 1,
            ca_cert_pem: params.self_signed(&key)?.pem(),
            ca_key_pem: key.serialize_pem(),
            service_account_key_pem: KeyPair::generate()?.serialize_pem(),
            bootstrap_secret: hex(&secret),
        })
    }

    /// # Errors
    /// The file cannot be read, or holds no cluster key.
    pub fn load(path: &Path) -> Result<Self, PkiError> {
        let bytes = std::fs::read(path).map_err(|source| PkiError::Io { path: path.into(), source })?;
        serde_json::from_slice(&bytes).map_err(|source| PkiError::Format { path: path.into(), source })
    }

    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), PkiError> {
        let json = serde_json::to_vec_pretty(self).map_err(|source| PkiError::Format { path: path.into(), source })?;
        write_private(path, &json).map_err(|source| PkiError::Io { path: path.into(), source })
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn leaf_params(common_name: &str, organization: Option<&str>, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    // An hour of grace for clocks that are behind.
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
    params
}

/// A master's view of the cluster's keys.
pub struct Pki {
    key: ClusterKey,
    serving: CertKey,
}

impl Pki {
    /// Opens `dir/cluster.key`, making it on first start, and makes a serving certificate for `addresses`, the names
    /// of the `kubernetes` Service and localhost.
    ///
    /// # Errors
    /// The directory cannot be written, or the key file is damaged.
    pub fn open_or_create(dir: &Path, addresses: &[IpAddr]) -> Result<Self, PkiError> {
        std::fs::create_dir_all(dir).map_err(|source| PkiError::Io { path: dir.into(), source })?;
        let path = dir.join("cluster.key");
        let key = if path.exists() {
            ClusterKey::load(&path)?
        } else {
            let key = ClusterKey::generate()?;
            key.save(&path)?;
            key
        };
        Self::new(key, addresses)
    }

    /// # Errors
    /// The key's PEM is damaged.
    pub fn new(key: ClusterKey, addresses: &[IpAddr]) -> Result<Self, PkiError> {
        let serving = sign_serving(&key, addresses)?;
        Ok(Self { key, serving })
    }

    pub fn ca_pem(&self) -> &str {
        &self.key.ca_cert_pem
    }

    pub fn cluster_key(&self) -> &ClusterKey {
        &self.key
    }

    /// `sha256:<hex>` of the CA certificate: what a node checks a master by.
    pub fn ca_hash(&self) -> Result<String, PkiError> {
        ca_hash_of(&self.key.ca_cert_pem)
    }

    /// What a node needs to join.
    ///
    /// # Errors
    /// The CA is damaged.
    pub fn node_token(&self) -> Result<NodeToken, PkiError> {
        Ok(NodeToken { ca_hash: self.ca_hash()?, token: bearer_token(&self.key.bootstrap_secret) })
    }

    /// Signs the request (PEM) of a node for a client certificate. Nothing of it counts but its key and the node's name,
    /// which `may` is asked about.
    ///
    /// # Errors
    /// It is no request, its signature is wrong, or it names no node or another one.
    pub fn sign_node(&self, request_pem: &str, may: impl FnOnce(&str) -> bool) -> Result<String, PkiError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(|e| PkiError::Request(e.to_string()))?;
        let names = &request.params.distinguished_name;
        let text = |kind| match names.get(&kind) {
            Some(DnValue::Utf8String(text)) => text.as_str(),
            Some(DnValue::PrintableString(text)) => text.as_str(),
            _ => "",
        };
        let node = text(DnType::CommonName).strip_prefix("system:node:").unwrap_or_default().to_owned();
        if text(DnType::OrganizationName) != NODES || node.is_empty() {
            return Err(PkiError::Request(format!("its subject must be O={NODES}, CN=system:node:<name>")));
        }
        if !may(&node) {
            return Err(PkiError::Request(format!("it is for the node {node:?}")));
        }
        let mut params = leaf_params(&node_user(&node), Some(NODES), LEAF_DAYS);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params.signed_by(&request.public_key, &issuer(&self.key)?)?.pem())
    }

    /// A client certificate: `common_name` is the user, `organization` the group.
    ///
    /// # Errors
    /// Key generation failed.
    pub fn issue_client(&self, common_name: &str, organization: Option<&str>) -> Result<CertKey, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = leaf_params(common_name, organization, LEAF_DAYS);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        sign(&self.key, params, key)
    }

    /// TLS with the serving certificate; a client certificate is asked for, not required. ALPN h2 and http/1.1.
    ///
    /// # Errors
    /// The certificates do not fit together.
    pub fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(root_store(&self.key.ca_cert_pem)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).allow_unauthenticated().build()?;
        // The CA goes along for nodes that join: they know its hash.
        let chain = [&self.serving.cert_pem, &self.key.ca_cert_pem].map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()));
        let chain = chain.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(self.serving.key_pem.as_bytes())?)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// TLS between masters, as server and as client: each shows that it holds the cluster key.
    ///
    /// # Errors
    /// Key generation failed.
    pub fn peer_configs(&self) -> Result<(Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>), PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut params = leaf_params("orchd-peer", Some(PEERS), LEAF_DAYS);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(PEER_NAME)?));
        let identity = sign(&self.key, params, KeyPair::generate()?)?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(root_store(&self.key.ca_cert_pem)?), provider.clone()).build()?;
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(identity.cert_pem.as_bytes())?],
                PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?,
            )?;
        Ok((Arc::new(server), Arc::new(client_config(&self.key.ca_cert_pem, Some(&identity), &[])?)))
    }

    /// A number that only clusters of this key have.
    ///
    /// # Errors
    /// The CA is damaged.
    pub fn cluster_id(&self) -> Result<u64, PkiError> {
        let der = CertificateDer::from_pem_slice(self.key.ca_cert_pem.as_bytes())?;
        let digest = Sha256::digest(&der);
        Ok(digest.iter().take(8).fold(0, |id, byte| (id << 8) | u64::from(*byte)).max(1))
    }

    /// A kubeconfig for a client certificate, JSON being YAML too but here written as people expect it.
    pub fn kubeconfig(&self, server: &str, user: &str, client: &CertKey) -> String {
        let data = |pem: &str| STANDARD.encode(pem);
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: orchd\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    \
             client-key-data: {}\ncontexts:\n- name: orchd\n  context:\n    cluster: orchd\n    user: {user}\ncurrent-context: orchd\n",
            data(&self.key.ca_cert_pem),
            data(&client.cert_pem),
            data(&client.key_pem)
        )
    }
}

/// The CA as trust anchor of a client or server.
///
/// # Errors
/// Damaged PEM.
pub fn root_store(ca_pem: &str) -> Result<rustls::RootCertStore, PkiError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
    Ok(roots)
}

/// TLS of a client that trusts the CA alone and shows `identity` if it has one.
///
/// # Errors
/// Damaged PEM.
pub fn client_config(ca_pem: &str, identity: Option<&CertKey>, alpn: &[&str]) -> Result<rustls::ClientConfig, PkiError> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(root_store(ca_pem)?);
    let mut config = match identity {
        Some(id) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(id.cert_pem.as_bytes())?],
            PrivateKeyDer::from_pem_slice(id.key_pem.as_bytes())?,
        )?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(config)
}

fn sign_serving(key: &ClusterKey, addresses: &[IpAddr]) -> Result<CertKey, PkiError> {
    let mut params = leaf_params("orchd", None, LEAF_DAYS);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let service = ["", ".default", ".default.svc", ".default.svc.cluster.local"].map(|rest| format!("kubernetes{rest}"));
    for name in service.iter().map(String::as_str).chain(["localhost"]) {
        params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(name)?));
    }
    params.subject_alt_names.extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
    sign(key, params, KeyPair::generate()?)
}

fn issuer(ca: &ClusterKey) -> Result<Issuer<'static, KeyPair>, PkiError> {
    Ok(Issuer::from_ca_cert_pem(&ca.ca_cert_pem, KeyPair::from_pem(&ca.ca_key_pem)?)?)
}

/// `sha256:<hex>` of a CA certificate.
pub(crate) fn ca_hash(der: &CertificateDer<'_>) -> String {
    format!("sha256:{}", hex(&Sha256::digest(der)))
}

/// As `ca_hash`, of PEM.
///
/// # Errors
/// Damaged PEM.
pub fn ca_hash_of(ca_pem: &str) -> Result<String, PkiError> {
    Ok(ca_hash(&CertificateDer::from_pem_slice(ca_pem.as_bytes())?))
}

fn sign(ca: &ClusterKey, params: CertificateParams, key: KeyPair) -> Result<CertKey, PkiError> {
    let cert = params.signed_by(&key, &issuer(ca)?)?;
    Ok(CertKey { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
}
