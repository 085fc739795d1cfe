//! Which loads there are, and how each is run: fresh servers of every side in turn, A B A B.

use super::drive::Ask;
use super::serve::Native;
use super::servers::{Servers, Side, etcd};
use super::usage::{anonymous_mib, peak_mib};
use crate::figures::Rounds;
use std::time::Instant;

const VALUE_BYTES: usize = 256;
const CLIENTS: usize = 1000;
const CONNECTIONS: usize = 100;

/// How much is done.
#[derive(Clone, Copy)]
pub struct Size {
    pub rounds: usize,
    pub keys: usize,
    pub million: usize,
    pub warm_s: f64,
    pub span_s: f64,
    pub watched_puts: usize,
}

impl Size {
    pub const FULL: Self = Self { rounds: 3, keys: 100_000, million: 1_000_000, warm_s: 1.0, span_s: 5.0, watched_puts: 1000 };
    pub const QUICK: Self = Self { rounds: 1, keys: 20_000, million: 50_000, warm_s: 0.5, span_s: 2.0, watched_puts: 200 };
}

/// A row of the table.
struct Row {
    name: &'static str,
    load: &'static str,
    members: usize,
    clients: usize,
    connections: usize,
    stub: bool,
}

const ROWS: [Row; 10] = [
    Row { name: "put-3", load: "put", members: 3, clients: CLIENTS, connections: CONNECTIONS, stub: true },
    Row { name: "put-1", load: "put", members: 1, clients: CLIENTS, connections: CONNECTIONS, stub: true },
    Row { name: "put-3-one", load: "put", members: 3, clients: 1, connections: 1, stub: true },
    Row { name: "txn-3", load: "txn", members: 3, clients: CLIENTS, connections: CONNECTIONS, stub: false },
    Row { name: "get-3", load: "get", members: 3, clients: CLIENTS, connections: CONNECTIONS, stub: true },
    Row { name: "range-10k", load: "range", members: 3, clients: 8, connections: 8, stub: false },
    Row { name: "watch", load: "watch", members: 3, clients: CLIENTS, connections: CONNECTIONS, stub: false },
    Row { name: "lease-grant", load: "lease_grant", members: 3, clients: CLIENTS, connections: CONNECTIONS, stub: false },
    Row { name: "lease-keepalive", load: "lease_keepalive", members: 3, clients: CLIENTS, connections: CONNECTIONS, stub: false },
    Row { name: "churn", load: "churn", members: 3, clients: CLIENTS, connections: CONNECTIONS, stub: false },
];

pub struct Harness {
    pub size: Size,
    pub sides: Vec<Side>,
    pub rounds: Rounds,
}

impl Harness {
    /// The sides that can be run here.
    pub fn new(size: Size, only: &[Side]) -> Self {
        let mut sides = vec![Side::Orchd, Side::Etcd, Side::Stub];
        if etcd().is_none() {
            println!("there is no etcd here (ETCD_BIN, PATH): its figures are left out");
            sides.retain(|side| *side != Side::Etcd);
        }
        if !only.is_empty() {
            sides.retain(|side| only.contains(side));
        }
        Self { size, sides, rounds: Rounds::default() }
    }

    /// Runs the loads of these names; all, if none is named.
    pub fn run(&mut self, names: &[String]) {
        let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
        for row in ROWS.iter().filter(|row| wanted(row.name)) {
            let began = Instant::now();
            self.row(row);
            println!("{} took {:.0} s", row.name, began.elapsed().as_secs_f64());
        }
        if wanted("memory-1m") {
            self.million();
        }
        if wanted("native") {
            self.native();
        }
        if wanted("growth") {
            super::growth::run(self, self.size.rounds > 1);
        }
        self.rounds.print("etcd");
        self.rounds.print_ratios("orchd", "stub");
        self.rounds.print_ratios("etcd", "stub");
    }

    pub fn ask(&self, load: &str, clients: usize, connections: usize) -> Ask {
        Ask {
            load: load.to_owned(),
            endpoints: Vec::new(),
            pids: Vec::new(),
            clients,
            connections,
            keys: self.size.keys,
            value_bytes: VALUE_BYTES,
            warm_s: self.size.warm_s,
            span_s: self.size.span_s,
            total: self.size.watched_puts,
        }
    }

    fn row(&mut self, row: &Row) {
        let name = row.name.replace('-', "_");
        for _ in 0..self.size.rounds {
            for side in self.sides.clone() {
                if side == Side::Stub && !row.stub {
                    continue;
                }
                let members = if side == Side::Stub { 1 } else { row.members };
                let servers = Servers::start(side, members, VALUE_BYTES);
                let mut ask = self.ask(row.load, row.clients, row.connections);
                if row.load == "range" {
                    ask.keys = ask.keys.min(10_000);
                }
                if side != Side::Stub {
                    self.fill(&servers, &ask);
                }
                if row.load == "watch" {
                    // It has no time to warm up in: what the fill has left to be done is not its business.
                    servers.rest();
                }
                servers.drive(&ask, &name, &mut self.rounds);
            }
        }
    }

    /// Brings all keys of a load into being.
    pub fn fill(&self, servers: &Servers, ask: &Ask) {
        const LIMIT_S: f64 = 600.0;
        let fill = Ask { load: "fill".into(), clients: 32, connections: 8, warm_s: 0.0, span_s: LIMIT_S, ..ask.clone() };
        servers.drive(&fill, "fill", &mut Rounds::default());
    }

    /// Memory with a million keys of 1 KiB in one member, and how long it takes to serve again after a kill.
    fn million(&mut self) {
        const RESTARTS: usize = 3;
        for side in self.sides.clone() {
            if side == Side::Stub {
                continue;
            }
            let mut servers = Servers::start(side, 1, 0);
            let ask = Ask { keys: self.size.million, value_bytes: 1024, ..self.ask("fill", 1, 1) };
            self.fill(&servers, &ask);
            servers.rest();
            let name = side.name();
            self.rounds.add(&format!("{name}_million_pss"), servers.pss_mib(), "MiB");
            self.rounds.add(&format!("{name}_million_anonymous"), anonymous_mib(&servers.pids()), "MiB");
            self.rounds.add(&format!("{name}_million_peak"), peak_mib(&servers.pids()), "MiB");
            for _ in 0..RESTARTS {
                let took = servers.restart();
                servers.rest();
                self.rounds.add(&format!("{name}_million_restart"), took.as_secs_f64(), "s");
            }
            self.rounds.add(&format!("{name}_million_restarted_pss"), servers.pss_mib(), "MiB");
        }
    }

    /// Durable puts and linearizable gets through the handle, in the leader's process.
    fn native(&mut self) {
        if !self.sides.contains(&Side::Orchd) {
            return;
        }
        for members in [1, 3] {
            let mut servers = Servers::start(Side::Orchd, members, 0);
            for (what, callers) in [("put", 1), ("put", 1000), ("put", 4000), ("get", 1000)] {
                let ask = Native { what, callers, keys: self.size.keys, value_bytes: VALUE_BYTES, span_s: self.size.span_s };
                servers.native(&ask, &format!("native_{what}_{members}_members_{callers}_callers"), &mut self.rounds);
            }
        }
    }
}
