//! What the generator's clients ask. Every client has keys of its own and takes them in turn.

use super::drive::Ask;
use super::pool::call;
use super::proto;
use std::net::SocketAddr;
use std::time::Duration;

const PREFIX: &[u8] = b"key-";
/// Operations of one transaction when a store is filled, and bytes of its values: etcd's bounds are 128 and 1.5 MiB.
const FILL_OPS: usize = 100;
const FILL_BYTES: usize = 1 << 20;
const LEASE_S: i64 = 600;

/// A closed loop's requests.
pub trait Load {
    /// Writes the client's next request and returns its path; None: the client has nothing more to do.
    fn next(&mut self, client: usize, out: &mut Vec<u8>) -> Option<&'static str>;

    /// Takes the answer; returns the operations that it stands for.
    ///
    /// # Panics
    /// It is not the answer that the load must get.
    fn answered(&mut self, client: usize, answer: &[u8]) -> usize;

    /// Whether each client keeps one call open and sends its requests on it.
    fn streams(&self) -> bool {
        false
    }
}

pub fn key(at: usize) -> Vec<u8> {
    let mut key = PREFIX.to_vec();
    key.extend_from_slice(format!("{at:09}").as_bytes());
    key
}

/// Which key comes next for a client.
struct Turns {
    clients: usize,
    keys: usize,
    done: Vec<usize>,
}

impl Turns {
    fn new(ask: &Ask) -> Self {
        Self { clients: ask.clients, keys: ask.keys, done: vec![0; ask.clients] }
    }

    fn next(&mut self, client: usize) -> usize {
        let at = (client + self.done[client] * self.clients) % self.keys;
        self.done[client] += 1;
        at
    }
}

fn value(ask: &Ask) -> Vec<u8> {
    // Not compressible to nothing, and the same in every run.
    (0..ask.value_bytes).map(|at| (at * 131 % 251) as u8).collect()
}

/// The load of a name.
///
/// # Panics
/// There is none.
pub fn load(ask: &Ask) -> Box<dyn Load> {
    let value = value(ask);
    let turns = Turns::new(ask);
    match &ask.load[..] {
        "put" => Box::new(Puts { turns, value }),
        "get" => Box::new(Gets(turns)),
        "range" => Box::new(Ranges { limit: ask.keys }),
        "txn" => Box::new(Txns { turns, value, revisions: revisions(ask.endpoints[0], ask.keys), last: vec![0; ask.clients] }),
        "fill" => Box::new(Fill { keys: ask.keys, next: 0, value, filling: vec![0; ask.clients] }),
        "lease_grant" => Box::new(Grants),
        "lease_keepalive" => Box::new(KeepAlives(grants(ask))),
        other => panic!("no load is named {other}"),
    }
}

struct Puts {
    turns: Turns,
    value: Vec<u8>,
}

impl Load for Puts {
    fn next(&mut self, client: usize, out: &mut Vec<u8>) -> Option<&'static str> {
        proto::put(out, &key(self.turns.next(client)), &self.value);
        Some(proto::PUT)
    }

    fn answered(&mut self, _client: usize, answer: &[u8]) -> usize {
        assert!(proto::revision(answer) > 0, "a put has a revision");
        1
    }
}

/// Linearizable reads of one key that exists.
struct Gets(Turns);

impl Load for Gets {
    fn next(&mut self, client: usize, out: &mut Vec<u8>) -> Option<&'static str> {
        proto::range(out, &key(self.0.next(client)), None, 0);
        Some(proto::RANGE)
    }

    fn answered(&mut self, _client: usize, answer: &[u8]) -> usize {
        assert_eq!(proto::field_int(answer, 4), Some(1), "the key is there");
        1
    }
}

/// Linearizable reads of many keys at once.
struct Ranges {
    limit: usize,
}

impl Load for Ranges {
    fn next(&mut self, _client: usize, out: &mut Vec<u8>) -> Option<&'static str> {
        proto::range(out, PREFIX, Some(&proto::after(PREFIX)), self.limit as i64);
        Some(proto::RANGE)
    }

    fn answered(&mut self, _client: usize, answer: &[u8]) -> usize {
        let kvs = proto::Fields(answer).filter(|(field, _)| *field == 2).count();
        assert_eq!(kvs, self.limit, "every key is in the answer");
        1
    }
}

/// As kube-apiserver writes: put if the key still stands at the revision last seen.
struct Txns {
    turns: Turns,
    value: Vec<u8>,
    revisions: Vec<i64>,
    /// Each client's key.
    last: Vec<usize>,
}

impl Load for Txns {
    fn next(&mut self, client: usize, out: &mut Vec<u8>) -> Option<&'static str> {
        let at = self.turns.next(client);
        self.last[client] = at;
        proto::compare_and_put(out, &key(at), self.revisions[at], &self.value);
        Some(proto::TXN)
    }

    fn answered(&mut self, client: usize, answer: &[u8]) -> usize {
        let held = &mut self.revisions[self.last[client]];
        if proto::field_int(answer, 2) == Some(1) {
            *held = proto::revision(answer);
            return 1;
        }
        // Nobody else writes this key: a call that failed has been carried out after all. The answer tells its revision.
        let found = [3, 1, 2].iter().try_fold(answer, |message, field| proto::field_bytes(message, *field));
        *held = found.and_then(|kv| proto::field_int(kv, 3)).expect("a comparison that fails comes with the key");
        0
    }
}

/// The revision of every key.
fn revisions(endpoint: SocketAddr, keys: usize) -> Vec<i64> {
    const PAGE: usize = 20_000;
    let mut revisions = Vec::with_capacity(keys);
    while revisions.len() < keys {
        let mut request = Vec::new();
        proto::range(&mut request, &key(revisions.len()), Some(&proto::after(PREFIX)), PAGE as i64);
        proto::int(&mut request, 8, 1);
        let answer = call(endpoint, proto::RANGE, &request, Duration::from_secs(30)).expect("the keys can be listed").remove(0);
        let before = revisions.len();
        for (field, value) in proto::Fields(&answer) {
            if let (2, proto::Value::Bytes(kv)) = (field, value) {
                revisions.push(proto::field_int(kv, 3).expect("a key has a revision"));
            }
        }
        assert!(revisions.len() > before, "fewer keys than the load needs");
    }
    revisions
}

/// Brings the store's keys into being, many in a transaction.
struct Fill {
    keys: usize,
    next: usize,
    value: Vec<u8>,
    filling: Vec<usize>,
}

impl Load for Fill {
    fn next(&mut self, client: usize, out: &mut Vec<u8>) -> Option<&'static str> {
        let most = (FILL_BYTES / self.value.len().max(1)).clamp(1, FILL_OPS);
        let count = most.min(self.keys - self.next);
        for at in self.next..self.next + count {
            proto::success_put(out, &key(at), &self.value);
        }
        self.next += count;
        self.filling[client] = count;
        (count > 0).then_some(proto::TXN)
    }

    fn answered(&mut self, client: usize, answer: &[u8]) -> usize {
        assert!(proto::revision(answer) > 0, "a transaction has a revision");
        self.filling[client]
    }
}

struct Grants;

fn grant(out: &mut Vec<u8>) {
    proto::int(out, 1, LEASE_S);
}

impl Load for Grants {
    fn next(&mut self, _client: usize, out: &mut Vec<u8>) -> Option<&'static str> {
        grant(out);
        Some(proto::LEASE_GRANT)
    }

    fn answered(&mut self, _client: usize, answer: &[u8]) -> usize {
        assert_eq!(proto::field_int(answer, 3), Some(LEASE_S), "the lease has the seconds asked for");
        1
    }
}

struct KeepAlives(Vec<i64>);

impl Load for KeepAlives {
    fn next(&mut self, client: usize, out: &mut Vec<u8>) -> Option<&'static str> {
        proto::int(out, 1, self.0[client]);
        Some(proto::LEASE_KEEP_ALIVE)
    }

    fn answered(&mut self, _client: usize, answer: &[u8]) -> usize {
        assert_eq!(proto::field_int(answer, 3), Some(LEASE_S), "the lease is alive");
        1
    }

    fn streams(&self) -> bool {
        true
    }
}

/// A lease for every client.
fn grants(ask: &Ask) -> Vec<i64> {
    let mut request = Vec::new();
    grant(&mut request);
    let granted = |_| {
        let answer = call(ask.endpoints[0], proto::LEASE_GRANT, &request, Duration::from_secs(10)).expect("a lease is granted").remove(0);
        proto::field_int(&answer, 2).expect("a lease has an id")
    };
    (0..ask.clients).map(granted).collect()
}
