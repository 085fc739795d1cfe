//! The server over a real store, on loopback: requests as clients send them, byte by byte where that matters.

use super::*;
use crate::env::SystemClock;
use crate::security::{CertKey, ClusterKey, Pki, pki};
use crate::watch::Cache;
use bytes::Bytes;
use http::{Response, header};
use http_body_util::{BodyExt, Full};
use orchd_store::{Options, Store};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

/// A server of one test; its files go when it does.
struct Running {
    address: SocketAddr,
    pki: Arc<Pki>,
    contact: Arc<Contact>,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options { dir: dir.path().join("store"), quota_bytes: 0, group: None }).await.unwrap();
        let cache = Cache::start(store.clone()).await.unwrap();
        let pki = Arc::new(Pki::new(ClusterKey::generate().unwrap(), &["127.0.0.1".parse().unwrap()]).unwrap());
        let tokens = Arc::new(Tokens::new(&pki.cluster_key().service_account_key_pem).unwrap());
        let clock = Arc::new(SystemClock);
        let verbs = Arc::new(Verbs::new(store, cache.clone(), clock.clone(), tokens.clone(), crate::api::verbs::Config::default()));
        let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
        let address = listeners.addresses()[0];
        let stop = CancellationToken::new();
        let contact = Arc::new(Contact::new(&stop));
        let options = ServerOptions {
            contact: contact.clone(),
            verbs,
            feed: cache,
            authenticator: Authenticator::new(tokens.clone()).with_bootstrap(&pki.cluster_key().bootstrap_secret),
            tokens,
            pki: pki.clone(),
            tls: pki.server_config().unwrap(),
            nodes: Nodes::default(),
            clock,
            advertise: address.to_string(),
            ready: Arc::new(|| vec![Check { name: "etcd", failure: None }]),
        };
        tokio::spawn(listeners.serve(options, stop.clone()));
        let running = Self { address, pki, contact, stop, dir };
        running.made("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await;
        running.made("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
        running
    }

    async fn made(&self, path: &str, body: Value) {
        let (status, body) = self.json("POST", path, &[], body.to_string()).await;
        assert_eq!(status, 201, "{body}");
    }

    fn admin(&self) -> CertKey {
        self.pki.issue_client("admin", Some("system:masters")).unwrap()
    }

    /// One request over a connection of its own.
    async fn send(
        &self,
        identity: Option<&CertKey>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let tls = pki::client_config(self.pki.ca_pem(), identity, &["http/1.1"]).unwrap();
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sender.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap()
    }

    async fn json(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> (u16, Value) {
        let response = self.send(Some(&self.admin()), method, path, headers, body).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_join_with_the_token_and_renew_for_themselves() {
    use crate::security::node_token::{CERTIFICATE_PATH, certificate_request};
    let server = Running::start().await;
    let token = format!("Bearer {}", server.pki.node_token().unwrap().token);
    let (request, key_pem) = certificate_request("n1").unwrap();
    let ask = async |identity: Option<&CertKey>, headers: &[(&str, &str)], request: &str| {
        let response = server.send(identity, "POST", CERTIFICATE_PATH, headers, request.to_owned()).await;
        let status = response.status().as_u16();
        (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    };
    assert_eq!(ask(None, &[], &request).await.0, 403);
    assert_eq!(ask(None, &[("authorization", "Bearer abcdef.0123")], &request).await.0, 401);
    let (status, cert_pem) = ask(None, &[("authorization", &token)], &request).await;
    assert_eq!(status, 200, "{cert_pem}");
    let node = CertKey { cert_pem, key_pem };
    assert_eq!(server.send(Some(&node), "GET", "/api/v1/nodes", &[], "").await.status(), 200);
    assert_eq!(ask(Some(&node), &[], &certificate_request("n1").unwrap().0).await.0, 200);
    assert_eq!(ask(Some(&node), &[], &certificate_request("n2").unwrap().0).await.0, 400);
    // The token is good for joining and for nothing else.
    assert_eq!(server.send(None, "GET", "/api/v1/nodes", &[("authorization", &token)], "").await.status(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_without_the_others_ends_its_watches() {
    let server = Running::start().await;
    let watch = format!("{MAPS}?watch=true&resourceVersion=1");
    let mut open = server.send(Some(&server.admin()), "GET", &watch, &[], "").await.into_body();
    server.contact.set(false);
    while open.frame().await.is_some() {}
    assert_eq!(server.json("GET", &watch, &[], "").await.0, 503);
    server.contact.set(true);
    assert_eq!(server.send(Some(&server.admin()), "GET", &watch, &[], "").await.status(), 200);
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_kubernetes_own() {
    let server = Running::start().await;
    let large = vec![b' '; 4 << 20];
    for (method, path, headers, body, code, text) in [
        ("GET", "/api/v1/namespaces/default/cakes", &[][..], Bytes::new(), 404, "the server could not find the requested resource"),
        ("GET", "/api/v1/namespaces/default/configmaps/none", &[], Bytes::new(), 404, "configmaps \"none\" not found"),
        (
            "GET",
            "/api/v1/namespaces/default/configmaps/none/cake",
            &[],
            Bytes::new(),
            404,
            "the server could not find the requested resource",
        ),
        ("PUT", MAPS, &[], Bytes::new(), 405, "the server does not allow this method on the requested resource"),
        ("POST", "/api/v1/configmaps", &[], Bytes::new(), 405, "the server does not allow this method on the requested resource"),
        (
            "POST",
            MAPS,
            &[("content-type", "text/plain")],
            Bytes::from_static(b"x"),
            415,
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ),
        ("POST", MAPS, &[], large.into(), 413, "Request entity too large: limit is 3145728"),
        (
            "PATCH",
            "/api/v1/namespaces/default/configmaps/none",
            &[("content-type", "application/json")],
            Bytes::from_static(b"{}"),
            415,
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
        ),
        (
            "GET",
            MAPS,
            &[("accept", "text/html")],
            Bytes::new(),
            406,
            "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ),
        (
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")],
            Bytes::from_static(b"{}"),
            406,
            "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ),
    ] {
        let (status, answer) = server.json(method, path, headers, body).await;
        assert_eq!((status, &answer["message"], &answer["kind"]), (code, &json!(text), &json!("Status")), "{method} {path}");
    }
    let (status, answer) = server.json("POST", &format!("{MAPS}?fieldValidation=Maybe"), &[], "{}").await;
    assert_eq!((status, answer["reason"].as_str()), (422, Some("Invalid")));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_known_sees_health_and_version_alone() {
    let server = Running::start().await;
    for (path, code) in
        [("/healthz", 200), ("/livez", 200), ("/readyz", 200), ("/readyz/etcd", 200), ("/version", 200), ("/api", 403), (MAPS, 403)]
    {
        let response = server.send(None, "GET", path, &[], "").await;
        assert_eq!(response.status().as_u16(), code, "{path}");
        assert!(response.headers().contains_key("audit-id"));
    }
    let bad = server.send(None, "GET", "/version", &[("authorization", "Bearer nonsense")], "").await;
    assert_eq!(bad.status().as_u16(), 401);
    let (_, verbose) = server.json("GET", "/readyz?verbose", &[], "").await;
    assert_eq!(verbose, json!("[+]ping ok\n[+]etcd ok\nreadyz check passed\n"));
    let as_bob = [("impersonate-user", "bob")];
    let (status, answer) = server.json("GET", MAPS, &as_bob, "").await;
    let want = "configmaps is forbidden: User \"bob\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    assert_eq!((status, answer["message"].as_str()), (403, Some(want)));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_come_as_json_yaml_and_protobuf() {
    let server = Running::start().await;
    server.made(MAPS, json!({"metadata": {"name": "json"}, "data": {"k": "v"}})).await;
    let yaml = "metadata:\n  name: yaml\ndata:\n  k: v\n";
    assert_eq!(server.json("POST", MAPS, &[("content-type", "application/yaml")], yaml).await.0, 201);
    let protobuf = {
        let mut map = crate::api::protobuf::wire::Writer::default();
        map.message(1, |meta| meta.put(1, b"protobuf"));
        map.message(2, |entry| {
            entry.put(1, b"k");
            entry.put(2, b"v");
        });
        crate::api::protobuf::tests::body("v1", "ConfigMap", &map.bytes)
    };
    let headers =
        [("content-type", "application/vnd.kubernetes.protobuf"), ("accept", "application/vnd.kubernetes.protobuf,application/json")];
    assert_eq!(server.json("POST", MAPS, &headers, protobuf).await.0, 201);
    let (_, list) = server.json("GET", MAPS, &[], "").await;
    let items = list["items"].as_array().unwrap();
    let names: Vec<&str> = items.iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["json", "protobuf", "yaml"]);
    assert!(items.iter().all(|i| i["data"] == json!({"k": "v"})));
    let delete = crate::api::protobuf::tests::body("v1", "DeleteOptions", &[]);
    let (status, gone) = server.json("DELETE", &format!("{MAPS}/json"), &headers[..1], delete).await;
    assert_eq!((status, &gone["status"], &gone["details"]["name"]), (200, &json!("Success"), &json!("json")));
    let bomb = (0..20).fold("a: &a0 [x,x,x,x,x,x,x,x]\n".to_owned(), |text, i| {
        format!("{text}b{i}: &a{} [{}]\n", i + 1, vec![format!("*a{i}"); 8].join(","))
    });
    let (status, _) = server.json("POST", MAPS, &[("content-type", "application/yaml")], bomb).await;
    assert_eq!(status, 400);
    assert_eq!(server.json("POST", MAPS, &[], Bytes::from_static(b"{\"data\":{\"k\":\"\xff\"}}")).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_streams_lines_and_ends_with_the_server() {
    let server = Running::start().await;
    let path = format!("{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    server.made(MAPS, json!({"metadata": {"name": "before"}})).await;
    let mut body = server.send(Some(&server.admin()), "GET", &path, &[], "").await.into_body();
    let mut text = String::new();
    let mut until = async |text: &mut String, wanted: &str| {
        while !text.contains(wanted) {
            let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.expect("the event comes").unwrap().unwrap();
            text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
    };
    until(&mut text, "initial-events-end").await;
    server.made(MAPS, json!({"metadata": {"name": "after"}})).await;
    until(&mut text, "\"name\":\"after\"").await;
    let types: Vec<String> = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(types, ["ADDED", "BOOKMARK", "ADDED"]);
    server.stop.cancel();
    let end = tokio::time::timeout(Duration::from_secs(5), body.collect()).await;
    assert!(end.is_ok(), "the watch ends with the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_metadata_are_served_when_asked_for() {
    let server = Running::start().await;
    server.made(MAPS, json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await;
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let (_, got) = server.json("GET", MAPS, &table, "").await;
    assert_eq!((&got["kind"], &got["rows"][0]["cells"][1]), (&json!("Table"), &json!(1)));
    let (_, got) = server.json("GET", &format!("{MAPS}/a?includeObject=Object"), &table, "").await;
    assert_eq!(got["rows"][0]["object"]["data"], json!({"k": "v"}));
    let partial = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let (_, got) = server.json("GET", MAPS, &partial, "").await;
    assert_eq!((&got["kind"], got["items"][0].get("data")), (&json!("PartialObjectMetadataList"), None));
    assert_eq!(server.json("GET", &format!("{MAPS}/a"), &partial, "").await.0, 406);
}

#[tokio::test]
async fn a_port_in_use_is_an_error_before_anything_runs() {
    let first = Listeners::bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
    let error = Listeners::bind(&[first.addresses()[0]]).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen on {}: ", first.addresses()[0])), "{error}");
}

mod kubectl;
