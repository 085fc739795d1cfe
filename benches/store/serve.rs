//! orchd's store as a process of its own, with nothing of the rest of orchd in it. A line on its input has it load itself
//! through the native interface, as the API server uses it.

use super::histogram::Histogram;
use super::usage::cpu_seconds;
use crate::figures::figure;
use futures::future::BoxFuture;
use orchd_store::transport::{Connection, Transport};
use orchd_store::{Group, KeyRange, Op, Options, RangeRequest, Store, Txn, etcd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The end of an answer on the output.
pub const DONE: &str = "done";

/// What a member's input may ask: `put|get CALLERS KEYS VALUE_BYTES SPAN_S`.
pub struct Native {
    pub what: &'static str,
    pub callers: usize,
    pub keys: usize,
    pub value_bytes: usize,
    pub span_s: f64,
}

impl Native {
    pub fn line(&self) -> String {
        format!("{} {} {} {} {}\n", self.what, self.callers, self.keys, self.value_bytes, self.span_s)
    }

    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [what, callers, keys, value_bytes, span_s] = words[..] else { panic!("not a load: {line}") };
        let number = |word: &str| word.parse().expect("a number");
        let what = if what == "put" { "put" } else { "get" };
        Self {
            what,
            callers: number(callers),
            keys: number(keys),
            value_bytes: number(value_bytes),
            span_s: span_s.parse().expect("seconds"),
        }
    }
}

/// One member: `NAME DIR CLIENT PEER NAME=PEER,… QUOTA`.
pub async fn serve(args: &[String]) {
    let [name, dir, client, peer, cluster, quota] = args else { panic!("--serve-store NAME DIR CLIENT PEER CLUSTER QUOTA") };
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).with_ansi(false).init();
    let peers: Vec<(String, String)> =
        cluster.split(',').filter_map(|member| member.split_once('=')).map(|(name, at)| (name.to_owned(), at.to_owned())).collect();
    let group = match peers.len() {
        0 | 1 => None,
        _ => Some(Group {
            name: name.clone(),
            peers,
            peer_address: peer.clone(),
            client_addresses: vec![format!("http://{client}")],
            cluster: 1,
            transport: Arc::new(Plain(TcpListener::bind(peer).await.expect("the peers' port is free"))),
            force_new_cluster: false,
        }),
    };
    let options = Options { dir: PathBuf::from(dir), quota_bytes: quota.parse().expect("bytes"), group };
    let store = Store::open(options).await.expect("the store opens");
    let listener = TcpListener::bind(client).await.expect("the clients' port is free");
    let stop = CancellationToken::new();
    let serving = tokio::spawn(etcd::serve(store.clone(), listener, etcd::Options::default(), stop.clone()));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.expect("the input can be read") {
        if store.leads_in().is_some() {
            native(&store, &Native::parse(&line)).await;
        }
        println!("{DONE}");
    }
    stop.cancel();
    serving.await.expect("the face ends");
    store.close().await;
}

/// Members without TLS between them, as etcd's are here.
struct Plain(TcpListener);

async fn quick(stream: std::io::Result<TcpStream>) -> std::io::Result<Connection> {
    let stream = stream?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

impl Transport for Plain {
    fn connect(&self, address: &str) -> BoxFuture<'static, std::io::Result<Connection>> {
        let address = address.to_owned();
        Box::pin(async move { quick(TcpStream::connect(address).await).await })
    }

    fn accept(&self) -> BoxFuture<'_, std::io::Result<Connection>> {
        Box::pin(async move { quick(self.0.accept().await.map(|(stream, _)| stream)).await })
    }
}

/// Callers that each wait for their answer.
async fn native(store: &Store, ask: &Native) {
    let (began, cpu) = (Instant::now(), cpu_seconds(&[std::process::id()]));
    let span = Duration::from_secs_f64(ask.span_s);
    let tasks: Vec<_> = (0..ask.callers)
        .map(|caller| {
            let (store, puts, callers, keys) = (store.clone(), ask.what == "put", ask.callers, ask.keys);
            let value = bytes::Bytes::from(vec![b'v'; ask.value_bytes]);
            tokio::spawn(async move {
                let (mut latencies, mut done) = (Vec::new(), 0);
                while began.elapsed() < span {
                    let key = super::loads::key((caller + done * callers) % keys);
                    let asked = Instant::now();
                    if puts {
                        let txn = Txn { success: vec![Op::put(key, value.clone())], ..Txn::default() };
                        store.txn(txn).await.expect("a put succeeds");
                    } else {
                        store.range(RangeRequest::new(KeyRange::key(key))).await.expect("a get succeeds");
                    }
                    latencies.push(asked.elapsed().as_nanos() as u64);
                    done += 1;
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Histogram::default();
    for task in tasks {
        for nanos in task.await.expect("a caller does not fail") {
            latencies.add(nanos);
        }
    }
    figure("rate", latencies.total() as f64 / began.elapsed().as_secs_f64(), "per_second");
    figure("own_cpu", (cpu_seconds(&[std::process::id()]) - cpu) * 1e6 / latencies.total() as f64, "ms_per_thousand");
    figure("p50", latencies.percentile_ms(0.5), "ms");
    figure("p99", latencies.percentile_ms(0.99), "ms");
}
