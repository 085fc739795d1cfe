//! The generator: clients that each wait for their answer before they ask again, all on one thread.

use super::connection::{Connection, Event};
use super::histogram::Histogram;
use super::loads::{Load, load};
use super::pool::{Pool, call};
use super::{proto, usage};
use crate::figures::figure;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// One call in so many may fail, or each client's once, before the figures mean nothing.
const MOST_FAILED: usize = 100;

/// Given to the generator's process as `key=value` words.
#[derive(Clone, Debug)]
pub struct Ask {
    pub load: String,
    pub endpoints: Vec<SocketAddr>,
    /// The servers, whose cost is counted.
    pub pids: Vec<u32>,
    pub clients: usize,
    pub connections: usize,
    pub keys: usize,
    pub value_bytes: usize,
    pub warm_s: f64,
    pub span_s: f64,
    /// Of a load that ends by itself: how much of it.
    pub total: usize,
}

impl Ask {
    pub fn words(&self) -> Vec<String> {
        let join = |all: Vec<String>| all.join(",");
        vec![
            format!("load={}", self.load),
            format!("endpoints={}", join(self.endpoints.iter().map(ToString::to_string).collect())),
            format!("pids={}", join(self.pids.iter().map(ToString::to_string).collect())),
            format!("clients={}", self.clients),
            format!("connections={}", self.connections),
            format!("keys={}", self.keys),
            format!("value_bytes={}", self.value_bytes),
            format!("warm_s={}", self.warm_s),
            format!("span_s={}", self.span_s),
            format!("total={}", self.total),
        ]
    }

    pub fn parse(words: &[String]) -> Self {
        let of = |key: &str| {
            let found = words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("{key}=… is missing"))
        };
        let number = |key: &str| of(key).parse::<usize>().expect("a number");
        let seconds = |key: &str| of(key).parse::<f64>().expect("seconds");
        Self {
            load: of("load").to_owned(),
            endpoints: of("endpoints").split(',').map(|e| e.parse().expect("an address")).collect(),
            pids: of("pids").split(',').map(|pid| pid.parse().expect("a process")).collect(),
            clients: number("clients"),
            connections: number("connections"),
            keys: number("keys"),
            value_bytes: number("value_bytes"),
            warm_s: seconds("warm_s"),
            span_s: seconds("span_s"),
            total: number("total"),
        }
    }
}

/// Runs the load that is asked for, and prints its figures.
pub fn run(ask: &Ask) {
    match &ask.load[..] {
        "watch" => super::fanout::run(ask),
        "churn" => churn(ask),
        _ => Window::over(ask, |clients| clients.run(Duration::from_secs_f64(ask.span_s))).print(ask),
    }
}

struct Client {
    connection: usize,
    stream: Option<u32>,
    asked: Instant,
    answered: bool,
}

/// All clients of a load.
struct Clients {
    pool: Pool,
    load: Box<dyn Load>,
    clients: Vec<Client>,
    running: usize,
    latencies: Histogram,
    done: usize,
    /// Calls that had no answer but an error, as when there is no leader for a moment; their clients go on.
    failed: usize,
    request: Vec<u8>,
}

impl Clients {
    fn start(ask: &Ask) -> Self {
        let pool = Pool::open(&ask.endpoints, ask.connections).expect("the servers take connections");
        let client = |at: usize| Client { connection: at % ask.connections, stream: None, asked: Instant::now(), answered: false };
        let mut clients = Self {
            pool,
            load: load(ask),
            clients: (0..ask.clients).map(client).collect(),
            running: 0,
            latencies: Histogram::default(),
            done: 0,
            failed: 0,
            request: Vec::new(),
        };
        for at in 0..clients.clients.len() {
            let connection = clients.clients[at].connection;
            clients.running += 1;
            clients.ask(at, None);
            clients.pool.flush(connection).expect("the servers read");
        }
        clients
    }

    /// `connection` is given if the pool has lent it out.
    fn ask(&mut self, client: usize, connection: Option<&mut Connection>) {
        self.request.clear();
        let Some(path) = self.load.next(client, &mut self.request) else {
            self.running -= 1;
            return;
        };
        let streams = self.load.streams();
        let held = &mut self.clients[client];
        held.asked = Instant::now();
        held.answered = false;
        let connection = connection.unwrap_or_else(|| &mut self.pool.connections[held.connection]);
        match held.stream {
            Some(stream) => connection.send(stream, &self.request, false),
            None => {
                let stream = connection.call(client, path, &self.request, !streams);
                held.stream = streams.then_some(stream);
            }
        }
    }

    fn handle(&mut self, connection: &mut Connection, event: Event) {
        match event {
            Event::Message { caller, message } => {
                self.done += self.load.answered(caller, &message);
                self.latencies.add(self.clients[caller].asked.elapsed().as_nanos() as u64);
                self.clients[caller].answered = true;
                if self.load.streams() {
                    self.ask(caller, Some(connection));
                }
            }
            Event::End { caller, clean } => {
                let failed = !clean || !self.clients[caller].answered || self.load.streams();
                self.failed += usize::from(failed);
                self.clients[caller].stream = None;
                self.ask(caller, Some(connection));
            }
        }
    }

    /// Goes on for a while, or until no client has anything to do.
    fn run(&mut self, span: Duration) {
        let end = Instant::now() + span;
        let mut pool = std::mem::replace(&mut self.pool, Pool::open(&[], 0).expect("an empty pool"));
        while self.running > 0 && Instant::now() < end {
            pool.turn(end, |_, connection, event| self.handle(connection, event)).expect("the servers keep their connections");
        }
        self.pool = pool;
    }
}

/// What a span of the load came to.
struct Window {
    done: usize,
    failed: usize,
    span_s: f64,
    latencies: Histogram,
    server_cpu_s: f64,
    own_cpu_s: f64,
    syncs: Option<u64>,
}

impl Window {
    fn over(ask: &Ask, act: impl FnOnce(&mut Clients)) -> Self {
        let began = Instant::now();
        let mut clients = Clients::start(ask);
        if ask.warm_s > 0.0 {
            clients.run(Duration::from_secs_f64(ask.warm_s));
        }
        // What ends by itself is measured from its first request on.
        Self::of(&mut clients, ask, if ask.warm_s > 0.0 { Instant::now() } else { began }, act)
    }

    fn of(clients: &mut Clients, ask: &Ask, began: Instant, act: impl FnOnce(&mut Clients)) -> Self {
        clients.latencies = Histogram::default();
        (clients.done, clients.failed) = (0, 0);
        let own = [std::process::id()];
        let mut syncs = usage::Syncs::attach(&ask.pids);
        let (cpu, own_cpu) = (usage::cpu_seconds(&ask.pids), usage::cpu_seconds(&own));
        act(clients);
        Self {
            done: clients.done,
            failed: clients.failed,
            span_s: began.elapsed().as_secs_f64(),
            latencies: std::mem::take(&mut clients.latencies),
            server_cpu_s: usage::cpu_seconds(&ask.pids) - cpu,
            own_cpu_s: usage::cpu_seconds(&own) - own_cpu,
            syncs: syncs.as_mut().map(usage::Syncs::count),
        }
    }

    fn print(&self, ask: &Ask) {
        assert!(self.latencies.total() > 0, "nothing was answered");
        let most = self.done / MOST_FAILED;
        assert!(self.failed <= most.max(ask.clients), "{} calls of {} failed", self.failed, self.done);
        if self.failed > 0 {
            figure("failed", self.failed as f64, "count");
        }
        let per_thousand_ms = |cpu_s: f64| cpu_s * 1e6 / self.done as f64;
        figure("rate", self.done as f64 / self.span_s, "per_second");
        figure("p50", self.latencies.percentile_ms(0.5), "ms");
        figure("p99", self.latencies.percentile_ms(0.99), "ms");
        figure("cpu", per_thousand_ms(self.server_cpu_s), "ms_per_thousand");
        figure("generator_cpu", per_thousand_ms(self.own_cpu_s), "ms_per_thousand");
        if let Some(syncs) = self.syncs {
            figure("syncs", syncs as f64 / self.span_s, "per_second");
        }
        figure("peak", usage::peak_mib(&ask.pids), "MiB");
    }
}

/// Puts while nothing else happens, and then while the store is compacted every second and a snapshot is being taken.
fn churn(ask: &Ask) {
    let ask = &Ask { load: "put".into(), ..ask.clone() };
    let span = Duration::from_secs_f64(ask.span_s);
    let mut clients = Clients::start(ask);
    clients.run(Duration::from_secs_f64(ask.warm_s));
    let steady = Window::of(&mut clients, ask, Instant::now(), |clients| clients.run(span));
    let stop = AtomicBool::new(false);
    let endpoint = ask.endpoints[0];
    let disturbed = std::thread::scope(|scope| {
        let compacts = scope.spawn(|| compact(endpoint, &stop));
        let snapshots = scope.spawn(|| snapshot(endpoint, &stop));
        let disturbed = Window::of(&mut clients, ask, Instant::now(), |clients| clients.run(span));
        stop.store(true, Ordering::Relaxed);
        figure("compactions", compacts.join().expect("compactions succeed") as f64, "count");
        figure("snapshots", snapshots.join().expect("snapshots succeed") as f64, "count");
        disturbed
    });
    disturbed.print(ask);
    let (steady, disturbed) = (steady.latencies.percentile_ms(0.99), disturbed.latencies.percentile_ms(0.99));
    figure("steady_p99", steady, "ms");
    figure("disturbed_over_steady_p99", disturbed / steady, "ratio");
}

/// Compacts up to the present, every second.
fn compact(endpoint: SocketAddr, stop: &AtomicBool) -> usize {
    const LIMIT: Duration = Duration::from_secs(60);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut get = Vec::new();
        proto::range(&mut get, b"none", None, 0);
        let now = proto::revision(&call(endpoint, proto::RANGE, &get, LIMIT).expect("a read is answered")[0]);
        let mut request = Vec::new();
        proto::int(&mut request, 1, now);
        call(endpoint, proto::COMPACT, &request, LIMIT).expect("a compaction is answered");
        count += 1;
        std::thread::sleep(Duration::from_secs(1));
    }
    count
}

/// Takes one snapshot after the other; returns how many were begun.
fn snapshot(endpoint: SocketAddr, stop: &AtomicBool) -> usize {
    const LIMIT: Duration = Duration::from_secs(60);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let parts = call(endpoint, proto::SNAPSHOT, &[], LIMIT).expect("a snapshot is sent");
        assert!(parts.iter().map(Vec::len).sum::<usize>() > 0, "a snapshot holds something");
        count += 1;
    }
    count
}
