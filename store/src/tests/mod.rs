//! The store as a whole, through its handle.

mod basic;
mod crash;
pub mod disk;
mod failing;
pub mod fuzz;
mod group;
mod history;
mod leases;
mod recovery;
mod space;
mod speed;
mod watching;

use crate::{KeyRange, Op, Options, RangeRequest, Store, Txn};
use proptest::prelude::ProptestConfig;

/// So many cases of a property that needs no disk, or as many as `PROPTEST_CASES` says.
pub fn cases(otherwise: u32) -> ProptestConfig {
    // What is drawn and cannot be used grows with the cases, and is drawn again.
    let config = ProptestConfig { max_local_rejects: u32::MAX, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { ProptestConfig { cases: otherwise, ..config } }
}

pub async fn open(dir: &std::path::Path) -> Store {
    Store::open(Options { dir: dir.to_owned(), quota_bytes: 0, group: None }).await.unwrap()
}

pub fn put(key: impl Into<bytes::Bytes>, value: impl Into<bytes::Bytes>) -> Txn {
    Txn { success: vec![Op::put(key, value)], ..Txn::default() }
}

pub fn get(key: &str) -> RangeRequest {
    RangeRequest::new(KeyRange::key(key.to_owned()))
}

pub fn all() -> RangeRequest {
    RangeRequest::new(KeyRange::prefix(""))
}

/// Many writes at once: keys `prefix` and a number, each with its number as its value.
pub async fn fill(store: &Store, prefix: &str, count: usize) {
    let writes = (0..count).map(|at| store.txn(put(format!("{prefix}{at:06}"), at.to_string())));
    for done in futures::future::join_all(writes).await {
        done.unwrap();
    }
}
