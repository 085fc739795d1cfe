//! What the clients of a workload ask: mostly single keys, some pairs of keys that belong together, some keys with leases.

use crate::checks::LEASED;
use crate::history::{Answer, Request};
use crate::sequential::Keys;
use bytes::Bytes;
use orchd_store::{Compare, CompareResult, CompareTarget, KeyRange, Op, OpResponse, RangeRequest, Revision, Txn, TxnResponse};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;

const SINGLES: usize = 6;
const PAIRS: usize = 2;
const LEASES: i64 = 3;

/// One client's choice of requests, and what it remembers of the answers.
pub struct Asker {
    client: usize,
    asked: usize,
    /// Revisions of keys as last seen; 0: not there.
    seen: BTreeMap<Bytes, Revision>,
    newest: Revision,
    /// Shares of what costs extra, in percent.
    pub leases: u32,
    pub compactions: u32,
    pub large: u32,
}

impl Asker {
    /// `client` is one in all of a history: values are made unique by it.
    pub fn new(client: usize) -> Self {
        Self { client, asked: 0, seen: BTreeMap::new(), newest: 1, leases: 0, compactions: 0, large: 2 }
    }

    fn value(&mut self, rng: &mut StdRng) -> Bytes {
        self.asked += 1;
        let padding = if rng.random_range(0..100) < self.large { rng.random_range(0..60_000) } else { rng.random_range(0..40) };
        format!("{}-{}{:.<padding$}", self.client, self.asked, "").into()
    }

    fn put(&mut self, key: Bytes, rng: &mut StdRng) -> Op {
        Op::Put { key, value: self.value(rng), lease: 0, prev_kv: rng.random_bool(0.5) }
    }

    fn get(key: &Bytes) -> Op {
        Op::Range(RangeRequest::new(KeyRange::key(key.clone())))
    }

    /// The next request. `floor` is what may be compacted at most.
    pub fn next(&mut self, rng: &mut StdRng, floor: Revision) -> Request {
        let single = Bytes::from(format!("single/{}", rng.random_range(0..SINGLES)));
        if rng.random_range(0..100) < self.leases {
            return self.lease(rng);
        }
        if rng.random_range(0..1000) < self.compactions * 10 && floor > 2 {
            return Request::Compact(rng.random_range(floor / 2..=floor));
        }
        match rng.random_range(0..100) {
            0..25 => Request::Txn(Txn { success: vec![self.put(single, rng)], ..Txn::default() }),
            25..33 => {
                let delete = Op::Delete { range: KeyRange::key(single), prev_kv: rng.random_bool(0.5) };
                Request::Txn(Txn { success: vec![delete], ..Txn::default() })
            }
            33..50 => self.swap(vec![single], rng),
            50..60 => {
                let pair = rng.random_range(0..PAIRS);
                self.swap(vec![format!("pair/{pair}/a").into(), format!("pair/{pair}/b").into()], rng)
            }
            60..63 => {
                let pair = rng.random_range(0..PAIRS);
                let delete = Op::Delete { range: KeyRange::prefix(format!("pair/{pair}/")), prev_kv: true };
                Request::Txn(Txn { success: vec![delete], ..Txn::default() })
            }
            63..85 => Request::Range(RangeRequest::new(KeyRange::key(single))),
            85..92 => Request::Range(RangeRequest::new(KeyRange::prefix(if rng.random_bool(0.5) { "pair/" } else { "single/" }))),
            92..95 => Request::Range(RangeRequest { limit: rng.random_range(1..4), ..RangeRequest::new(KeyRange::prefix("")) }),
            95..97 => {
                let revision = rng.random_range(1..=self.newest);
                Request::Range(RangeRequest { revision, ..RangeRequest::new(KeyRange::prefix("")) })
            }
            _ => Request::RangeLocal(RangeRequest::new(KeyRange::prefix("single/"))),
        }
    }

    /// Puts keys if the first stands as this client has seen it last; else has a look at them.
    fn swap(&mut self, keys: Vec<Bytes>, rng: &mut StdRng) -> Request {
        let seen = self.seen.get(&keys[0]).copied().unwrap_or(0);
        let mut compare = vec![Compare::mod_revision_is(keys[0].clone(), seen)];
        if rng.random_ratio(1, 4) {
            let range = KeyRange::key(keys[0].clone());
            compare = vec![Compare { range, target: CompareTarget::Version(rng.random_range(0..3)), result: CompareResult::Greater }];
        }
        let failure = keys.iter().map(Self::get).collect();
        let success = keys.into_iter().map(|key| self.put(key, rng)).collect();
        Request::Txn(Txn { compare, success, failure })
    }

    fn lease(&mut self, rng: &mut StdRng) -> Request {
        let id = rng.random_range(1..=LEASES);
        match rng.random_range(0..10) {
            0..2 => Request::LeaseGrant { id, ttl_s: 3 },
            2..4 => Request::LeaseKeepAlive { id },
            4..5 => Request::LeaseRevoke { id },
            _ => {
                let key = format!("{LEASED}{}", rng.random_range(0..4)).into();
                let put = Op::Put { key, value: self.value(rng), lease: id, prev_kv: true };
                Request::Txn(Txn { success: vec![put], ..Txn::default() })
            }
        }
    }

    /// Remembers what it was told.
    pub fn heard(&mut self, request: &Request, answer: &Answer) {
        match (request, answer) {
            (Request::Txn(txn), Answer::Txn(response)) => self.heard_txn(txn, response),
            (Request::Range(request), Answer::Range(response)) if request.revision == 0 => {
                self.newest = self.newest.max(response.revision);
                if request.range.end.is_none() {
                    let found = response.kvs.first().map_or(0, |kv| kv.mod_revision);
                    self.seen.insert(request.range.start.clone(), found);
                }
            }
            _ => {}
        }
    }

    fn heard_txn(&mut self, txn: &Txn, response: &TxnResponse) {
        self.newest = self.newest.max(response.revision);
        let ops = if response.succeeded { &txn.success } else { &txn.failure };
        for (op, told) in ops.iter().zip(&response.responses) {
            match (op, told) {
                (Op::Put { key, .. }, _) => {
                    self.seen.insert(key.clone(), response.revision);
                }
                (Op::Range(request), OpResponse::Range(range)) => {
                    self.seen.insert(request.range.start.clone(), range.kvs.first().map_or(0, |kv| kv.mod_revision));
                }
                _ => {}
            }
        }
    }
}

/// What stands in a map, as a range read shows it.
pub fn answer_range(keys: &Keys, request: &RangeRequest, revision: Revision) -> Answer {
    let found: Vec<_> = crate::sequential::within(keys, &request.range).map(|(key, held)| held.kv(key)).collect();
    let kept = if request.limit == 0 { found.len() } else { found.len().min(request.limit) };
    let (count, more) = (found.len(), kept < found.len());
    Answer::Range(orchd_store::RangeResponse { revision, kvs: found.into_iter().take(kept).collect(), more, count })
}
