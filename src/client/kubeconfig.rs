//! Kubeconfig files, as far as one that orchd writes goes: the current context's server, CA and client certificate.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_yaml::Value;
use std::path::Path;

/// How to reach a cluster, and as whom. PEM texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubeconfig {
    /// `https://host:port`.
    pub server: String,
    pub ca_pem: String,
    pub client_cert_pem: String,
    pub client_key_pem: String,
}

impl Kubeconfig {
    /// # Errors
    /// The file cannot be read, or lacks something; the text says what.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// # Errors
    /// See `load`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Value = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        let current = config["current-context"].as_str().ok_or("no current-context")?;
        let context = named(&config["contexts"], current).ok_or("the current context is missing")?["context"].clone();
        let of = |list: &str, key: &str| {
            let name = context[key].as_str().unwrap_or_default();
            named(&config[list], name).map(|entry| entry[key].clone()).ok_or(format!("no {key} \"{name}\""))
        };
        let (cluster, user) = (of("clusters", "cluster")?, of("users", "user")?);
        Ok(Self {
            server: cluster["server"].as_str().ok_or("the cluster has no server")?.to_owned(),
            ca_pem: data(&cluster, "certificate-authority-data")?,
            client_cert_pem: data(&user, "client-certificate-data")?,
            client_key_pem: data(&user, "client-key-data")?,
        })
    }
}

fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_sequence()?.iter().find(|entry| entry["name"].as_str() == Some(name))
}

fn data(entry: &Value, key: &str) -> Result<String, String> {
    let text = entry[key].as_str().ok_or(format!("no {key}"))?;
    let bytes = STANDARD.decode(text).map_err(|e| format!("{key}: {e}"))?;
    String::from_utf8(bytes).map_err(|e| format!("{key}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::{ClusterKey, Pki};

    #[test]
    fn what_a_master_writes_is_read_back() {
        let pki = Pki::new(ClusterKey::generate().unwrap(), &[]).unwrap();
        let client = pki.issue_client("admin", Some("system:masters")).unwrap();
        let read = Kubeconfig::parse(&pki.kubeconfig("https://127.0.0.1:6443", "admin", &client)).unwrap();
        assert_eq!((read.server.as_str(), read.ca_pem.as_str()), ("https://127.0.0.1:6443", pki.ca_pem()));
        assert_eq!((read.client_cert_pem, read.client_key_pem), (client.cert_pem, client.key_pem));
        assert!(Kubeconfig::parse("current-context: x").is_err());
    }
}
