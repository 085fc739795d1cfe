//! `Client` over HTTPS: one HTTP/2 connection to one of the masters, made anew when it breaks, at the next master then.
//!
//! A master that is lost, does not answer its pings, or says that it cannot serve is left with all that runs over the
//! connection, so that watches go on elsewhere. A request is sent again only if the first one certainly was not carried
//! out, or changes nothing.

use super::{Client, DeleteOptions, List, ListOptions, PatchType, Target, WatchEvent, WatchEvents};
use crate::kinds::{Object, Resource};
use crate::meta::{Reason, Status};
use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one of several masters may take to answer before another one is asked: it may be cut off from the others.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
/// A master that does not answer a ping for this long is lost; a ping is sent after as long a silence.
const PING: Duration = Duration::from_secs(4);
/// The most attempts at one request.
const MAX_ATTEMPTS: usize = 8;
/// The most that one answer, or one watch event, may be long.
const MAX_ANSWER_BYTES: usize = 256 << 20;
const MAX_EVENT_BYTES: usize = 16 << 20;
/// Watch events that wait for their reader; beyond that the connection is not read.
const WATCH_QUEUE: usize = 256;

type Sender = SendRequest<Full<Bytes>>;

/// A client of one or several masters.
pub struct HttpsClient {
    /// `host:port` of each master.
    servers: Vec<String>,
    tls: TlsConnector,
    /// Which server is spoken to; moves on when a connection cannot be made.
    current: AtomicUsize,
    connection: Mutex<Option<Connection>>,
    bearer: Option<String>,
    user_agent: String,
}

/// An open connection.
#[derive(Clone)]
struct Connection {
    sender: Sender,
    server: String,
    /// Ends it, with every answer that is still being read.
    end: Arc<CancellationToken>,
}

/// Runs a connection's tasks until its end.
#[derive(Clone)]
struct Tasks(Arc<CancellationToken>);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let end = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = task => {}
                () = end.cancelled() => {}
            }
        });
    }
}

/// A request's body, and what it is; empty if there is none.
struct Content<'a> {
    kind: &'a str,
    body: Bytes,
}

/// Why there is no answer.
enum Lost {
    /// The request did not leave.
    Unsent(Status),
    /// It may have been carried out.
    Unknown(Status),
}

fn unreachable_master(why: impl std::fmt::Display) -> Status {
    Status::new(Reason::ServiceUnavailable, format!("cannot reach the API server: {why}"))
}

impl HttpsClient {
    /// `servers` are `https://host:port`; `tls` must offer `h2` alone.
    ///
    /// # Errors
    /// A server that is no such URL.
    pub fn new(servers: &[String], tls: Arc<rustls::ClientConfig>, user_agent: &str) -> Result<Self, String> {
        let host = |s: &String| {
            let host = s.strip_prefix("https://").ok_or_else(|| format!("{s}: a server is named https://HOST:PORT"))?;
            Ok(host.trim_end_matches('/').to_owned())
        };
        Ok(Self {
            servers: servers.iter().map(host).collect::<Result<_, String>>()?,
            tls: TlsConnector::from(tls),
            // Clients begin with different masters.
            current: AtomicUsize::new(rand::random_range(0..servers.len().max(1))),
            connection: Mutex::new(None),
            bearer: None,
            user_agent: user_agent.to_owned(),
        })
    }

    /// Sends a bearer token with every request.
    #[must_use]
    pub fn with_bearer(mut self, token: String) -> Self {
        self.bearer = Some(token);
        self
    }

    async fn connect(&self, server: &str) -> Result<Connection, Status> {
        let made = async {
            let tcp = TcpStream::connect(server).await.map_err(|e| unreachable_master(format!("{server}: {e}")))?;
            tcp.set_nodelay(true).map_err(unreachable_master)?;
            let host = server.rsplit_once(':').map_or(server, |(h, _)| h).trim_matches(['[', ']']);
            let name = ServerName::try_from(host.to_owned()).map_err(unreachable_master)?;
            let tls = self.tls.connect(name, tcp).await.map_err(|e| unreachable_master(format!("{server}: {e}")))?;
            let tasks = Tasks(Arc::default());
            let (sender, connection) = hyper::client::conn::http2::Builder::new(tasks.clone())
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .timer(TokioTimer::new())
                .keep_alive_interval(PING)
                .keep_alive_timeout(PING)
                .keep_alive_while_idle(true)
                .handshake(TokioIo::new(tls))
                .await
                .map_err(unreachable_master)?;
            hyper::rt::Executor::execute(&tasks, async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "the connection to the API server ended");
                }
            });
            Ok(Connection { sender, server: server.to_owned(), end: tasks.0 })
        };
        timeout(CONNECT_TIMEOUT, made).await.map_err(|_| unreachable_master(format!("{server}: no answer in time")))?
    }

    /// The open connection, or a new one to the first master that answers.
    async fn connection(&self) -> Result<Connection, Status> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|c| !c.sender.is_closed() && !c.end.is_cancelled()) {
            return Ok(connection.clone());
        }
        let mut last = unreachable_master("no server is configured");
        for _ in 0..self.servers.len() {
            let at = self.current.load(Ordering::Relaxed) % self.servers.len();
            match self.connect(&self.servers[at]).await {
                Ok(connection) => {
                    *slot = Some(connection.clone());
                    return Ok(connection);
                }
                Err(status) => last = status,
            }
            self.current.fetch_add(1, Ordering::Relaxed);
        }
        Err(last)
    }

    /// Gives a connection up, and begins with the next master.
    async fn leave(&self, connection: &Connection) {
        let mut slot = self.connection.lock().await;
        connection.end.cancel();
        if slot.as_ref().is_some_and(|present| Arc::ptr_eq(&present.end, &connection.end)) {
            *slot = None;
            self.current.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn request(&self, server: &str, method: &Method, path: &str, content: &Content) -> Result<Request<Full<Bytes>>, Status> {
        let mut builder = Request::builder()
            .method(method)
            .uri(format!("https://{server}{path}"))
            .header(http::header::USER_AGENT, &self.user_agent)
            .header(http::header::ACCEPT, "application/json");
        if !content.kind.is_empty() {
            builder = builder.header(http::header::CONTENT_TYPE, content.kind);
        }
        if let Some(token) = &self.bearer {
            builder = builder.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
        }
        builder.body(Full::new(content.body.clone())).map_err(|e| Status::bad_request(format!("{path}: {e}")))
    }

    /// One attempt at a request over an open connection.
    async fn attempt(&self, connection: &Connection, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Lost> {
        let mut sender = connection.sender.clone();
        sender.ready().await.map_err(|e| Lost::Unsent(unreachable_master(e)))?;
        sender.try_send_request(request).await.map_err(|mut failed| {
            // hyper hands a request back that it has not begun to send.
            let unsent = failed.take_message().is_some();
            let status = unreachable_master(failed.into_error());
            if unsent { Lost::Unsent(status) } else { Lost::Unknown(status) }
        })
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: Bytes) -> Result<Response<Incoming>, Status> {
        let call = self.send_until_answered(&method, path, Content { kind, body });
        timeout(CALL_TIMEOUT, call).await.map_err(|_| Status::new(Reason::Timeout, format!("{method} {path}: no answer in time")))?
    }

    /// Sends a request to one master after the other until one answers that can.
    async fn send_until_answered(&self, method: &Method, path: &str, content: Content<'_>) -> Result<Response<Incoming>, Status> {
        let harmless = *method == Method::GET;
        let mut failed = unreachable_master("no attempt was made");
        for _ in 0..MAX_ATTEMPTS.min(self.servers.len() + 1) {
            let connection = self.connection().await?;
            let request = self.request(&connection.server, method, path, &content)?;
            let limit = if self.servers.len() > 1 { ANSWER_TIMEOUT } else { CALL_TIMEOUT };
            let attempt = timeout(limit, self.attempt(&connection, request)).await;
            let late = || Lost::Unknown(Status::new(Reason::Timeout, format!("{method} {path}: no answer in time")));
            let again = match attempt.unwrap_or_else(|_| Err(late())) {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let unable = response.status() == StatusCode::SERVICE_UNAVAILABLE && self.servers.len() > 1;
                    failed = error_of(response).await;
                    if !unable {
                        return Err(failed);
                    }
                    harmless
                }
                Err(Lost::Unsent(status)) => {
                    failed = status;
                    true
                }
                Err(Lost::Unknown(status)) => {
                    failed = status;
                    harmless
                }
            };
            self.leave(&connection).await;
            if !again {
                break;
            }
        }
        Err(failed)
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// The API's Status, or ServiceUnavailable if there is no way to it.
    pub async fn call(&self, method: Method, path: &str, content_type: &str, body: Bytes) -> Result<Bytes, Status> {
        read_all(self.send(method, path, content_type, body).await?).await
    }

    async fn call_object(&self, target: &Target, method: Method, content_type: &str, body: Bytes) -> Result<Arc<Object>, Status> {
        let bytes = self.call(method, &path_of(target), content_type, body).await?;
        object_of(target.resource, &bytes)
    }
}

async fn read_all(response: Response<Incoming>) -> Result<Bytes, Status> {
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
    let read = timeout(CALL_TIMEOUT, body).await.map_err(|_| Status::new(Reason::Timeout, "the answer did not end in time"))?;
    Ok(read.map_err(|e| unreachable_master(format!("the answer broke off: {e}")))?.to_bytes())
}

async fn error_of(response: Response<Incoming>) -> Status {
    let code = response.status();
    match read_all(response).await {
        Ok(body) => serde_json::from_slice::<Value>(&body).ok().and_then(|v| Status::from_value(&v)).unwrap_or_else(|| plain(code, &body)),
        Err(status) => status,
    }
}

fn plain(code: StatusCode, body: &[u8]) -> Status {
    let mut status = Status::new(Reason::Unknown, format!("{code}: {}", String::from_utf8_lossy(&body[..body.len().min(1024)])));
    status.code = code.as_u16();
    status
}

/// `/api/v1/namespaces/default/pods/x/status`.
pub fn path_of(target: &Target) -> String {
    let n = target.resource.names();
    let mut path = if n.group.is_empty() { format!("/api/{}", n.version) } else { format!("/apis/{}/{}", n.group, n.version) };
    if let Some(namespace) = target.namespace.as_deref().filter(|ns| n.namespaced && !ns.is_empty()) {
        path.push_str("/namespaces/");
        path.push_str(namespace);
    }
    for part in [Some(n.plural), target.name.as_deref(), target.subresource].into_iter().flatten() {
        path.push('/');
        path.push_str(part);
    }
    path
}

fn query_of(options: &ListOptions, watch: bool) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let given = [
        ("labelSelector", &options.label_selector),
        ("fieldSelector", &options.field_selector),
        ("resourceVersion", &options.resource_version),
    ];
    for (key, value) in given {
        if let Some(value) = value {
            query.append_pair(key, value);
        }
    }
    if watch {
        query.append_pair("watch", "true").append_pair("allowWatchBookmarks", "true");
    }
    query.finish()
}

#[derive(Deserialize)]
struct OnlyMeta {
    #[serde(default)]
    metadata: OnlyVersion,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OnlyVersion {
    resource_version: Option<String>,
}

fn revision_of(json: &[u8]) -> Result<i64, Status> {
    let meta: OnlyMeta = serde_json::from_slice(json).map_err(|e| Status::internal(format!("the answer is no object: {e}")))?;
    Ok(meta.metadata.resource_version.and_then(|v| v.parse().ok()).unwrap_or(0))
}

fn object_of(resource: &'static dyn Resource, json: &[u8]) -> Result<Arc<Object>, Status> {
    let typed = resource.decode(json).map_err(|e| Status::internal(format!("the answer is no {}: {e}", resource.names().kind)))?;
    Ok(Arc::new(Object::new(resource, typed, revision_of(json)?)))
}

fn json_bytes(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

#[async_trait]
impl Client for HttpsClient {
    async fn get(&self, target: &Target) -> Result<Arc<Object>, Status> {
        self.call_object(target, Method::GET, "", Bytes::new()).await
    }

    async fn list(&self, target: &Target, options: &ListOptions) -> Result<List, Status> {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(default)]
            metadata: OnlyVersion,
            #[serde(borrow)]
            items: Option<Vec<&'a RawValue>>,
        }
        let path = format!("{}?{}", path_of(target), query_of(options, false));
        let bytes = self.call(Method::GET, &path, "", Bytes::new()).await?;
        let answer: Answer<'_> = serde_json::from_slice(&bytes).map_err(|e| Status::internal(format!("the answer is no list: {e}")))?;
        let items = answer.items.unwrap_or_default().into_iter().map(|raw| object_of(target.resource, raw.get().as_bytes()));
        let revision = answer.metadata.resource_version.and_then(|v| v.parse().ok()).unwrap_or(0);
        Ok(List { items: items.collect::<Result<_, _>>()?, revision })
    }

    async fn create(&self, target: &Target, body: Value) -> Result<Arc<Object>, Status> {
        self.call_object(target, Method::POST, "application/json", json_bytes(&body)).await
    }

    async fn update(&self, target: &Target, body: Value) -> Result<Arc<Object>, Status> {
        self.call_object(target, Method::PUT, "application/json", json_bytes(&body)).await
    }

    async fn patch(&self, target: &Target, kind: PatchType, body: Bytes) -> Result<Arc<Object>, Status> {
        let content_type = match kind {
            PatchType::Json => "application/json-patch+json",
            PatchType::Merge => "application/merge-patch+json",
            PatchType::Strategic => "application/strategic-merge-patch+json",
            PatchType::Apply => "application/apply-patch+yaml",
        };
        self.call_object(target, Method::PATCH, content_type, body).await
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<(), Status> {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(seconds) = options.grace_period_seconds {
            body["gracePeriodSeconds"] = json!(seconds);
        }
        if let Some(policy) = &options.propagation_policy {
            body["propagationPolicy"] = json!(policy);
        }
        if options.uid.is_some() || options.resource_version.is_some() {
            body["preconditions"] = json!({"uid": options.uid, "resourceVersion": options.resource_version});
        }
        self.call(Method::DELETE, &path_of(target), "application/json", json_bytes(&body)).await.map(drop)
    }

    async fn post(&self, target: &Target, body: Value) -> Result<Value, Status> {
        let bytes = self.call(Method::POST, &path_of(target), "application/json", json_bytes(&body)).await?;
        serde_json::from_slice(&bytes).map_err(|e| Status::internal(format!("the answer is no JSON: {e}")))
    }

    async fn watch(&self, target: &Target, options: &ListOptions) -> Result<WatchEvents, Status> {
        let path = format!("{}?{}", path_of(target), query_of(options, true));
        let response = self.send(Method::GET, &path, "", Bytes::new()).await?;
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
        tokio::spawn(read_watch(response.into_body(), target.resource, sender));
        Ok(receiver)
    }
}

/// Reads events line by line until the server or the reader ends it.
async fn read_watch(mut body: Incoming, resource: &'static dyn Resource, sender: mpsc::Sender<Result<WatchEvent, Status>>) {
    let mut buffer = BytesMut::new();
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = sender.closed() => return,
        };
        let data = match frame {
            None => return,
            Some(Err(e)) => return drop(sender.send(Err(unreachable_master(format!("the watch broke off: {e}")))).await),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line = buffer.split_to(end);
            buffer.advance(1);
            let event = event_of(&line, resource);
            let failed = event.is_err();
            if sender.send(event).await.is_err() || failed {
                return;
            }
        }
        if buffer.len() > MAX_EVENT_BYTES {
            return drop(sender.send(Err(Status::internal("a watch event is longer than this client takes"))).await);
        }
    }
}

fn event_of(line: &[u8], resource: &'static dyn Resource) -> Result<WatchEvent, Status> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        #[serde(borrow)]
        object: &'a RawValue,
    }
    let line: Line<'_> = serde_json::from_slice(line).map_err(|e| Status::internal(format!("a watch event is no JSON: {e}")))?;
    let json = line.object.get().as_bytes();
    match line.kind {
        "ADDED" => Ok(WatchEvent::Added(object_of(resource, json)?)),
        "MODIFIED" => Ok(WatchEvent::Modified(object_of(resource, json)?)),
        "DELETED" => Ok(WatchEvent::Deleted(object_of(resource, json)?)),
        "BOOKMARK" => Ok(WatchEvent::Bookmark(revision_of(json)?)),
        _ => Err(serde_json::from_slice(json)
            .ok()
            .and_then(|v| Status::from_value(&v))
            .unwrap_or_else(|| Status::internal("an unknown watch event"))),
    }
}
