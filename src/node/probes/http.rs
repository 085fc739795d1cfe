//! HTTP requests of probes and hooks: one request on a connection of its own, TLS without verification, redirects only
//! within the host that was asked.

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1 as api;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::io;
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// As many bytes of an answer as are looked at.
const MAX_BODY: usize = 10 * 1024;
const MAX_REDIRECTS: usize = 10;

/// A request that a probe or hook is to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub https: bool,
    pub host: String,
    pub port: u16,
    /// With its query; begins with a slash.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub body: String,
    /// A redirect to another host, which is not followed.
    pub redirected_away: bool,
}

impl Ask {
    /// # Errors
    /// The port's name is none of the container's.
    pub fn of(action: &api::HTTPGetAction, container: &api::Container, pod_ip: &str) -> Result<Self, String> {
        let path = action.path.as_deref().unwrap_or_default();
        let headers = action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone()));
        Ok(Self {
            https: action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
            host: action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| pod_ip.to_owned()),
            port: super::port(&action.port, container)?,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            headers: headers.collect(),
        })
    }

    /// `10.0.0.1:80`, or `[fd00::1]:80`.
    fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }

    pub fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.path)
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, String> {
        let mut builder = Request::get(&self.path);
        let given = |name: &str| self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        for (name, value) in [("host", self.authority()), ("user-agent", "kube-probe/1.35".into()), ("accept", "*/*".into())] {
            if !given(name) {
                builder = builder.header(name, value);
            }
        }
        for (name, value) in &self.headers {
            // A header without a value means: none at all.
            if !value.is_empty() {
                builder = builder.header(name, value);
            }
        }
        builder.header(header::CONNECTION, "close").body(Empty::new()).map_err(|e| e.to_string())
    }
}

/// Sends the request and follows redirects within its host. The caller bounds the time.
///
/// # Errors
/// As Go's HTTP client words them: `Get "http://…": dial tcp …: connect: connection refused`.
pub async fn get(ask: &Ask) -> Result<Answer, String> {
    let mut at = ask.clone();
    for _ in 0..=MAX_REDIRECTS {
        let response = send(&at).await.map_err(|why| format!("Get \"{}\": {why}", at.url()))?;
        let status = response.status();
        let target = status.is_redirection().then(|| redirect(&at, &response)).flatten();
        match target {
            Some(next) if next.host == ask.host => at = next,
            other => return Ok(Answer { status, body: body(response).await, redirected_away: other.is_some() }),
        }
    }
    Err(format!("Get \"{}\": stopped after {MAX_REDIRECTS} redirects", at.url()))
}

/// Where a redirect leads; None if it has no usable Location.
fn redirect(from: &Ask, response: &Response<Incoming>) -> Option<Ask> {
    let uri: Uri = response.headers().get(header::LOCATION)?.to_str().ok()?.parse().ok()?;
    let path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let Some(host) = uri.host() else {
        return Some(Ask { path, ..from.clone() });
    };
    let https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    Some(Ask { https, host: host.trim_matches(['[', ']']).to_owned(), port, path, headers: from.headers.clone() })
}

async fn send(ask: &Ask) -> Result<Response<Incoming>, String> {
    let tcp = super::connect(&ask.host, ask.port).await?;
    let request = ask.request()?;
    if ask.https {
        let name = ServerName::try_from(ask.host.clone()).map_err(|e| e.to_string())?;
        let tls = tokio_rustls::TlsConnector::from(unverified()?).connect(name, tcp).await.map_err(|e| e.to_string())?;
        exchange(tls, request).await
    } else {
        exchange(tcp, request).await
    }
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Ends with the answer's body, or when the answer is dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::trace!(%error, "a probe's connection ended");
        }
    });
    sender.send_request(request).await.map_err(|e| if e.is_incomplete_message() { "EOF".to_owned() } else { e.to_string() })
}

async fn body(response: Response<Incoming>) -> String {
    let mut incoming = response.into_body();
    let mut out = Vec::new();
    while out.len() < MAX_BODY {
        match incoming.frame().await {
            Some(Ok(frame)) => out.extend_from_slice(&frame.into_data().unwrap_or_default()),
            // What came before the end, orderly or not, is the answer.
            _ => break,
        }
    }
    out.truncate(MAX_BODY);
    String::from_utf8_lossy(&out).into_owned()
}

/// Opens a TCP connection.
///
/// # Errors
/// `dial tcp 10.0.0.1:80: connect: connection refused`.
pub async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let stream = TcpStream::connect((host, port)).await.map_err(|e| format!("dial tcp {host}:{port}: {}", go_error(&e)))?;
    // A probe's packets are few; a failure to say so costs a few milliseconds at most.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

fn go_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        io::ErrorKind::TimedOut => "i/o timeout".into(),
        io::ErrorKind::ConnectionReset => "read: connection reset by peer".into(),
        _ => error.to_string(),
    }
}

/// A TLS client that takes any certificate, as probes do by Kubernetes' definition: it speaks to the pod at its address and
/// sends nothing that is secret.
fn unverified() -> Result<Arc<rustls::ClientConfig>, String> {
    static CONFIG: OnceLock<Result<Arc<rustls::ClientConfig>, String>> = OnceLock::new();
    let build = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| e.to_string())?;
        let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate)).with_no_client_auth();
        Ok(Arc::new(config))
    };
    CONFIG.get_or_init(build).clone()
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
