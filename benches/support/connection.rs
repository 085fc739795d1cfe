//! One HTTP connection over TLS, without a pool, retries or decoding: the generator shares its cores with the server.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use orchd::client::kubeconfig::Kubeconfig;
use orchd::security::CertKey;
use orchd::security::pki::client_config;
use rustls_pki_types::ServerName;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where a cluster is, and as whom to speak to it.
#[derive(Clone)]
pub struct Server {
    address: SocketAddr,
    config: Kubeconfig,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

pub struct Connection {
    sender: Sender,
    authority: String,
}

impl Server {
    pub fn load(path: &Path) -> Self {
        let config = Kubeconfig::load(path).unwrap();
        Self { address: config.server.trim_start_matches("https://").parse().unwrap(), config }
    }

    async fn stream(&self, protocol: &str) -> TokioIo<TlsStream<TcpStream>> {
        let identity = CertKey { cert_pem: self.config.client_cert_pem.clone(), key_pem: self.config.client_key_pem.clone() };
        let tls = client_config(&self.config.ca_pem, Some(&identity), &[protocol]).unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::IpAddress(self.address.ip().into());
        TokioIo::new(TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap())
    }

    /// A connection for one request at a time.
    pub async fn connect(&self) -> Connection {
        let (sender, connection) = http1::handshake(self.stream("http/1.1").await).await.unwrap();
        tokio::spawn(connection);
        Connection { sender: Sender::One(sender), authority: self.address.to_string() }
    }

    /// A connection for many requests at once, as client-go's are.
    pub async fn connect_http2(&self) -> Connection {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), self.stream("h2").await).await.unwrap();
        tokio::spawn(connection);
        Connection { sender: Sender::Two(sender), authority: self.address.to_string() }
    }
}

impl Connection {
    /// The answer's body, as a stream.
    pub async fn open(&mut self, method: Method, path: &str, content_type: &str, body: impl Into<Bytes>) -> Incoming {
        let request = Request::builder().method(&method).header("content-type", content_type).header("accept", "application/json");
        let body = Full::new(body.into());
        let sent = match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request.uri(path).header("host", &self.authority).body(body).unwrap()).await
            }
            Sender::Two(sender) => {
                sender.ready().await.unwrap();
                let uri = format!("https://{}{path}", self.authority);
                sender.send_request(request.uri(uri).body(body).unwrap()).await
            }
        };
        let (head, body) = sent.unwrap().into_parts();
        if !matches!(head.status, StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED) {
            let text = body.collect().await.unwrap().to_bytes();
            panic!("{method} {path}: {}: {}", head.status, String::from_utf8_lossy(&text));
        }
        body
    }

    /// The whole answer.
    pub async fn send(&mut self, method: Method, path: &str, content_type: &str, body: impl Into<Bytes>) -> Bytes {
        self.open(method, path, content_type, body).await.collect().await.unwrap().to_bytes()
    }

    pub async fn post(&mut self, path: &str, body: &serde_json::Value) -> Bytes {
        self.send(Method::POST, path, "application/json", body.to_string()).await
    }
}
