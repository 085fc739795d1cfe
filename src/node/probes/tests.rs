use super::*;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(2);

/// Answers each connection by what `answer` makes of the request; returns its port.
async fn server(answer: impl Fn(&str) -> String + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if tcp.read(&mut byte).await.unwrap_or(0) == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            let text = answer(&String::from_utf8_lossy(&request));
            let _ = tcp.write_all(text.as_bytes()).await;
        }
    });
    port
}

fn reply(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 2\r\n\r\nhi")
}

fn ask(port: u16, action: serde_json::Value) -> http::Ask {
    let mut action = action;
    action["port"] = json!(port);
    http::Ask::of(&serde_json::from_value(action).unwrap(), &api::Container::default(), "127.0.0.1").unwrap()
}

#[test]
fn thresholds_are_counted_in_a_row() {
    let probe = api::Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Default::default() };
    let mut counter = Counter::of(&probe);
    let results: Vec<_> = [true, true, false, false, true, false, false, false, false].into_iter().map(|s| counter.count(s)).collect();
    assert_eq!(results, [None, Some(true), None, None, None, None, None, Some(false), Some(false)]);
    let mut default = Counter::of(&api::Probe::default());
    assert_eq!([false, false, false].map(|s| default.count(s)), [None, None, Some(false)]);
}

#[test]
fn ports_are_numbers_or_names() {
    let container: api::Container =
        serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).unwrap();
    let of = |p| port(&p, &container);
    assert_eq!(of(IntOrString::Int(80)), Ok(80));
    assert_eq!(of(IntOrString::String("web".into())), Ok(8080));
    assert_eq!(of(IntOrString::String("81".into())), Ok(81));
    assert!(of(IntOrString::String("no".into())).is_err() && of(IntOrString::Int(0)).is_err() && of(IntOrString::Int(70000)).is_err());
}

#[tokio::test]
async fn http_statuses_decide() {
    let port = server(|request| match request.split(' ').nth(1) {
        Some("/ok?q=1") if request.contains("x-custom: y") && request.contains("host: named") => reply("200 OK", ""),
        Some("/moved") => reply("302 Found", "Location: /ok?q=1\r\n"),
        Some("/away") => reply("302 Found", "Location: http://elsewhere.example/\r\n"),
        Some("/loop") => reply("302 Found", "Location: /loop\r\n"),
        _ => reply("503 Service Unavailable", ""),
    })
    .await;
    let headers = json!([{"name": "X-Custom", "value": "y"}, {"name": "Host", "value": "named"}]);
    let probe = async |path: &str| http_probe_of(port, path, headers.clone()).await;
    assert_eq!(probe("ok?q=1").await, Verdict::Success);
    assert_eq!(probe("/moved").await, Verdict::Success);
    assert_eq!(probe("/away").await, Verdict::Warning("Probe terminated redirects, Response body: hi".into()));
    assert_eq!(probe("/bad").await, Verdict::Failure("HTTP probe failed with statuscode: 503".into()));
    assert!(matches!(probe("/loop").await, Verdict::Failure(why) if why.ends_with("stopped after 10 redirects")));
}

async fn http_probe_of(port: u16, path: &str, headers: serde_json::Value) -> Verdict {
    http_probe(&ask(port, json!({"path": path, "httpHeaders": headers})), LIMIT).await
}

#[tokio::test]
async fn what_does_not_answer_fails_in_gos_words() {
    let refused = http_probe(&ask(1, json!({"path": "/x"})), LIMIT).await;
    assert_eq!(refused, Verdict::Failure("Get \"http://127.0.0.1:1/x\": dial tcp 127.0.0.1:1: connect: connection refused".into()));
    assert_eq!(tcp_probe("127.0.0.1", 1, LIMIT).await, Verdict::Failure("dial tcp 127.0.0.1:1: connect: connection refused".into()));
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    assert_eq!(tcp_probe("127.0.0.1", port, LIMIT).await, Verdict::Success);
    let late = http_probe(&ask(port, json!({})), Duration::from_millis(50)).await;
    assert!(matches!(late, Verdict::Failure(why) if why.contains("context deadline exceeded")));
    let action = api::GRPCAction { port: port.into(), service: None };
    let late = grpc_probe("127.0.0.1", &action, Duration::from_millis(50)).await;
    assert!(matches!(late, Verdict::Failure(why) if why.starts_with("timeout: failed to connect service")));
}
