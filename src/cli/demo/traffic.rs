//! Calls to the demo's Service: counted ones, and a client that goes on calling while something else happens.

use super::super::CliError;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 4 << 10;
/// Between two calls of the client that goes on calling.
const PAUSE: Duration = Duration::from_millis(2);

/// One call on a connection of its own, so that each is balanced by itself.
///
/// # Errors
/// Why it failed.
pub(super) async fn call(address: SocketAddr) -> Result<String, String> {
    let call = async {
        let stream = TcpStream::connect(address).await.map_err(|e| format!("connect: {e}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let driver = tokio::spawn(connection);
        let request = Request::get("/").header("host", "hello").header("connection", "close").body(Empty::<Bytes>::new());
        let response = sender.send_request(request.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|e| e.to_string())?.to_bytes();
        driver.abort();
        if status.is_success() { Ok(String::from_utf8_lossy(&body).trim().to_owned()) } else { Err(format!("answered {status}")) }
    };
    timeout(CALL_TIMEOUT, call).await.map_err(|_| "no answer in time".to_owned())?
}

/// The word after `word` in an answer such as `hello from POD version 2`.
pub(super) fn word_after<'a>(answer: &'a str, word: &str) -> &'a str {
    answer.split_whitespace().skip_while(|w| *w != word).nth(1).unwrap_or_default()
}

/// Waits until the Service answers from `pods` pods: rules follow readiness by some milliseconds, and no event tells when.
///
/// # Errors
/// It does not within `CALL_TIMEOUT`; the last answer is told.
pub(super) async fn settle(address: SocketAddr, pods: usize) -> Result<(), CliError> {
    let (mut seen, mut last) = (BTreeSet::new(), String::new());
    let answers = async {
        while seen.len() < pods {
            match call(address).await {
                Ok(answer) => {
                    seen.insert(word_after(&answer, "from").to_owned());
                }
                Err(why) => last = why,
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    timeout(CALL_TIMEOUT, answers).await.map_err(|_| CliError::text(format!("the Service does not answer from {pods} pods: {last}")))
}

/// Calls `count` times; answers per pod.
///
/// # Errors
/// A call failed.
pub(super) async fn spread(address: SocketAddr, count: usize) -> Result<BTreeMap<String, usize>, CliError> {
    let mut by_pod = BTreeMap::new();
    for n in 1..=count {
        let answer = call(address).await.map_err(|e| CliError::new(format!("request {n} of {count} to the Service"), e))?;
        *by_pod.entry(word_after(&answer, "from").to_owned()).or_default() += 1;
    }
    Ok(by_pod)
}

/// A client that calls until it is stopped.
pub(super) struct Caller {
    stop: CancellationToken,
    task: JoinHandle<()>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    calls: AtomicUsize,
    failures: std::sync::Mutex<Vec<String>>,
}

/// What a caller saw.
pub(super) struct Calls {
    pub calls: usize,
    pub failures: Vec<String>,
}

impl Caller {
    pub fn start(address: SocketAddr) -> Self {
        let (stop, seen) = (CancellationToken::new(), Arc::new(Seen::default()));
        let task = tokio::spawn(go_on(address, seen.clone(), stop.clone()));
        Self { stop, task, seen }
    }

    pub async fn finish(self) -> Result<Calls, CliError> {
        self.stop.cancel();
        self.task.await.map_err(|e| CliError::new("the client", e))?;
        let failures = std::mem::take(&mut *self.seen.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        Ok(Calls { calls: self.seen.calls.load(Ordering::Relaxed), failures })
    }
}

async fn go_on(address: SocketAddr, seen: Arc<Seen>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(why) = call(address).await {
            seen.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(why);
        }
        seen.calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
}
