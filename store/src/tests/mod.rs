//! The store as a whole, through its handle.

mod basic;

use crate::{KeyRange, Op, Options, RangeRequest, Store, Txn};

pub async fn open(dir: &std::path::Path) -> Store {
    Store::open(Options { dir: dir.to_owned(), quota_bytes: 0 }).await.unwrap()
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
