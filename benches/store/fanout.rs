//! Watchers that all see the same keys: how many events a second the servers deliver.

use super::connection::Event;
use super::drive::Ask;
use super::pool::Pool;
use super::{proto, usage};
use crate::figures::figure;
use std::time::{Duration, Instant};

/// Clients that put meanwhile, each waiting for its answer.
const PUTTERS: usize = 16;
const PREFIX: &[u8] = b"watched-";
const LIMIT: Duration = Duration::from_secs(120);

struct Fanout<'a> {
    ask: &'a Ask,
    /// By watcher: watching, and events seen.
    watching: usize,
    seen: Vec<usize>,
    events: usize,
    put: usize,
    value: Vec<u8>,
}

impl Fanout<'_> {
    fn put(&mut self, at: usize, pool_connection: &mut super::connection::Connection) {
        if self.put < self.ask.total {
            let mut request = Vec::new();
            proto::put(&mut request, format!("watched-{:06}", self.put % self.ask.keys).as_bytes(), &self.value);
            self.put += 1;
            pool_connection.call(self.ask.clients + at, proto::PUT, &request, true);
        }
    }

    fn handle(&mut self, connection: &mut super::connection::Connection, event: Event) {
        match event {
            Event::Message { caller, message } if caller < self.ask.clients => {
                let events = proto::events(&message);
                if events == 0 {
                    assert_eq!(proto::field_int(&message, 4), None, "a watch was cancelled");
                    self.watching += proto::field_int(&message, 3).unwrap_or_default() as usize;
                }
                self.seen[caller] += events;
                self.events += events;
            }
            Event::Message { .. } => {}
            Event::End { caller, clean } => {
                assert!(clean && caller >= self.ask.clients, "caller {caller}: a call ended");
                self.put(caller - self.ask.clients, connection);
            }
        }
    }
}

fn until(pool: &mut Pool, fanout: &mut Fanout<'_>, reached: impl Fn(&Fanout<'_>) -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !reached(fanout) {
        assert!(Instant::now() < deadline, "{} watching, {} events after {LIMIT:?}", fanout.watching, fanout.events);
        pool.turn(deadline, |_, connection, event| fanout.handle(connection, event)).expect("the servers keep their connections");
    }
}

pub fn run(ask: &Ask) {
    let mut pool = Pool::open(&ask.endpoints, ask.connections).expect("the servers take connections");
    let mut fanout = Fanout { ask, watching: 0, seen: vec![0; ask.clients], events: 0, put: 0, value: vec![b'v'; ask.value_bytes] };
    let mut request = Vec::new();
    proto::watch(&mut request, PREFIX);
    for watcher in 0..ask.clients {
        let at = watcher % ask.connections;
        pool.connections[at].call(watcher, proto::WATCH, &request, false);
        pool.flush(at).expect("the servers read");
    }
    until(&mut pool, &mut fanout, |fanout| fanout.watching == ask.clients);
    let began = Instant::now();
    let (cpu, own) = (usage::cpu_seconds(&ask.pids), usage::cpu_seconds(&[std::process::id()]));
    for putter in 0..PUTTERS {
        let at = putter % ask.connections;
        fanout.put(putter, &mut pool.connections[at]);
        pool.flush(at).expect("the servers read");
    }
    until(&mut pool, &mut fanout, |fanout| fanout.events >= ask.total * ask.clients);
    let span_s = began.elapsed().as_secs_f64();
    assert!(fanout.seen.iter().all(|seen| *seen == ask.total), "every watcher sees every event once");
    let thousands = fanout.events as f64 / 1e3;
    figure("rate", fanout.events as f64 / span_s, "per_second");
    figure("cpu", (usage::cpu_seconds(&ask.pids) - cpu) * 1e3 / thousands, "ms_per_thousand");
    figure("generator_cpu", (usage::cpu_seconds(&[std::process::id()]) - own) * 1e3 / thousands, "ms_per_thousand");
    figure("peak", usage::peak_mib(&ask.pids), "MiB");
}
