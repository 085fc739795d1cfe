//! The lab's kubeconfig: a context for each master.

use super::super::CliError;
use super::block_on;
use super::plan::{CLIENT, Lab, Role};
use crate::client::HttpsClient;
use crate::network::lan;
use crate::security::files::write_private;
use crate::security::pki::client_config;
use crate::security::{ClusterKey, Pki};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Method;
use std::sync::Arc;
use std::time::Duration;

const ADMIN: &str = "kubernetes-admin";
/// How long a master may take to say that it is ready.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Writes the file; the current context is that of the master with this index.
///
/// # Errors
/// It cannot be written.
pub fn write(lab: &Lab, pki: &Pki, current: usize) -> Result<(), CliError> {
    let admin = pki.issue_client(ADMIN, Some("system:masters")).map_err(|e| CliError::new("the admin's certificate", e))?;
    let data = |pem: &str| STANDARD.encode(pem);
    let masters = lab.of_role(Role::Master);
    let mut text = "apiVersion: v1\nkind: Config\nclusters:\n".to_owned();
    for (master, server) in masters.iter().zip(lab.servers()) {
        let ca = data(pki.ca_pem());
        text += &format!("- name: {}\n  cluster:\n    server: {server}\n    certificate-authority-data: {ca}\n", master.name);
    }
    let (cert, key) = (data(&admin.cert_pem), data(&admin.key_pem));
    text += &format!("users:\n- name: {ADMIN}\n  user:\n    client-certificate-data: {cert}\n    client-key-data: {key}\ncontexts:\n");
    for master in &masters {
        text += &format!("- name: {0}\n  context:\n    cluster: {0}\n    user: {ADMIN}\n", master.name);
    }
    let name = masters.get(current).map_or("m1", |master| master.name.as_str());
    text += &format!("current-context: {name}\n");
    write_private(&lab.kubeconfig(), text.as_bytes()).map_err(|e| CliError::new(lab.kubeconfig().display().to_string(), e))
}

/// A client with every right.
///
/// # Errors
/// Key generation failed.
pub fn client(pki: &Pki, servers: &[String]) -> Result<HttpsClient, CliError> {
    let failed = |e| CliError::new("the admin's certificate", e);
    let admin = pki.issue_client(ADMIN, Some("system:masters")).map_err(failed)?;
    let tls = client_config(pki.ca_pem(), Some(&admin), &["h2"]).map_err(failed)?;
    HttpsClient::new(servers, Arc::new(tls), "orchd-lab").map_err(CliError::text)
}

/// Writes the file anew, for a master that is ready, and prints its path.
///
/// # Errors
/// The lab's keys are gone.
pub fn print(lab: &Lab) -> Result<(), CliError> {
    let failed = |e| CliError::new("the lab's cluster key", e);
    let pki = Pki::new(ClusterKey::load(&lab.cluster_key()).map_err(failed)?, &[]).map_err(failed)?;
    lan::enter(&lab.netns(CLIENT)).map_err(|e| CliError::new("cannot enter the client's host", e))?;
    let ready = block_on(async {
        let mut asks = Vec::new();
        for server in lab.servers() {
            let client = client(&pki, &[server])?;
            asks.push(async move {
                let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.call(Method::GET, "/readyz", "", Bytes::new())).await;
                answer.is_ok_and(|answer| answer.is_ok())
            });
        }
        Ok(futures::future::join_all(asks).await)
    })?;
    write(lab, &pki, ready.iter().position(|ready| *ready).unwrap_or(0))?;
    println!("{}", lab.kubeconfig().display());
    Ok(())
}
