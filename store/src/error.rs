//! Why the store does not open, or does not answer as asked. May import: `command`.

use crate::command::Revision;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use thiserror::Error;

/// Why a store does not open.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} was written by a newer orchd (format {found}, this one knows {known})")]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error("{path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The group has no place for this member.
    #[error("{0}")]
    Refused(String),
}

/// Why the store does not answer as asked.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum StoreError {
    /// The revision has been compacted; the oldest that can be read is one above.
    #[error("mvcc: required revision has been compacted")]
    Compacted { compacted: Revision },
    #[error("mvcc: required revision is a future revision")]
    Future { current: Revision },
    #[error("the request is too large: {0}")]
    TooLarge(String),
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    #[error("key not found")]
    KeyNotFound,
    #[error("lease not found")]
    LeaseNotFound,
    #[error("lease already exists")]
    LeaseExists,
    #[error("no space left in the data directory: {0}")]
    NoSpace(String),
    #[error("no leader")]
    NoLeader,
    #[error("the request timed out; it may or may not have been carried out")]
    Timeout,
    #[error("member not found")]
    MemberNotFound,
    #[error("the member exists already")]
    MemberExists,
    #[error("the member votes already")]
    NotLearner,
    #[error("the learner has not caught up yet")]
    LearnerNotReady,
    #[error("the member does not vote")]
    NotVoter,
    #[error("the last voting member cannot be removed")]
    LastVoter,
    /// Another member may not take part; the text says why and what to do.
    #[error("{0}")]
    MemberRefused(String),
    #[error("the store is shutting down")]
    Closed,
    #[error("the store failed: {0}")]
    Failed(String),
}
