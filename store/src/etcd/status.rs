//! How a call ends: gRPC's codes, and the errors that etcd's clients know by their texts (etcd's rpctypes). A client compares
//! the text word for word. May import: `error`.

use crate::error::StoreError;
use std::borrow::Cow;

/// gRPC's codes, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
}

/// Why a call was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: Cow<'static, str>,
}

impl Status {
    pub const fn new(code: Code, message: &'static str) -> Self {
        Self { code, message: Cow::Borrowed(message) }
    }

    pub fn text(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: Cow::Owned(message.into()) }
    }
}

/// Names a status that etcd knows.
macro_rules! known {
    ($($name:ident = $code:ident, $text:literal;)*) => {
        $(pub const $name: Status = Status::new(Code::$code, concat!("etcdserver: ", $text));)*
    };
}

known! {
    EMPTY_KEY = InvalidArgument, "key is not provided";
    KEY_NOT_FOUND = InvalidArgument, "key not found";
    VALUE_PROVIDED = InvalidArgument, "value is provided";
    LEASE_PROVIDED = InvalidArgument, "lease is provided";
    TOO_MANY_OPS = InvalidArgument, "too many operations in txn request";
    DUPLICATE_KEY = InvalidArgument, "duplicate key given in txn request";
    INVALID_SORT = InvalidArgument, "invalid sort option";
    COMPACTED = OutOfRange, "mvcc: required revision has been compacted";
    FUTURE_REVISION = OutOfRange, "mvcc: required revision is a future revision";
    NO_SPACE = ResourceExhausted, "mvcc: database space exceeded";
    LEASE_NOT_FOUND = NotFound, "requested lease not found";
    LEASE_EXISTS = FailedPrecondition, "lease already exists";
    LEASE_TTL_TOO_LARGE = OutOfRange, "too large lease TTL";
    MEMBER_BAD_URLS = InvalidArgument, "given member URLs are invalid";
    MEMBER_NOT_FOUND = NotFound, "member not found";
    PEER_URL_EXISTS = FailedPrecondition, "Peer URLs already exists";
    MEMBER_NOT_LEARNER = FailedPrecondition, "can only promote a learner member";
    LEARNER_NOT_READY = FailedPrecondition, "can only promote a learner member which is in sync with leader";
    BAD_LEADER_TRANSFEREE = FailedPrecondition, "bad leader transferee";
    NOT_ENOUGH_STARTED = FailedPrecondition, "re-configuration failed due to not enough started members";
    REQUEST_TOO_LARGE = InvalidArgument, "request is too large";
    AUTH_NOT_ENABLED = FailedPrecondition, "authentication is not enabled";
    NO_LEADER = Unavailable, "no leader";
    NOT_LEADER = FailedPrecondition, "not leader";
    STOPPED = Unavailable, "server stopped";
    TIMEOUT = Unavailable, "request timed out";
    LEARNER = FailedPrecondition, "rpc not supported for learner";
    WRONG_DOWNGRADE_FORMAT = InvalidArgument, "wrong downgrade target version format";
    INVALID_DOWNGRADE = InvalidArgument, "invalid downgrade target version";
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Compacted { .. } => COMPACTED,
            StoreError::Future { .. } => FUTURE_REVISION,
            // Operations were counted before the store was asked.
            StoreError::TooLarge(_) => REQUEST_TOO_LARGE,
            StoreError::DuplicateKey => DUPLICATE_KEY,
            StoreError::KeyNotFound => KEY_NOT_FOUND,
            StoreError::LeaseNotFound => LEASE_NOT_FOUND,
            StoreError::LeaseExists => LEASE_EXISTS,
            StoreError::NoSpace(_) => NO_SPACE,
            StoreError::NoLeader => NO_LEADER,
            StoreError::Timeout => TIMEOUT,
            StoreError::Closed => STOPPED,
            StoreError::MemberNotFound => MEMBER_NOT_FOUND,
            StoreError::MemberExists => PEER_URL_EXISTS,
            StoreError::NotLearner => MEMBER_NOT_LEARNER,
            StoreError::LearnerNotReady => LEARNER_NOT_READY,
            StoreError::NotVoter => BAD_LEADER_TRANSFEREE,
            StoreError::LastVoter => NOT_ENOUGH_STARTED,
            StoreError::MemberRefused(text) => Status::text(Code::FailedPrecondition, text),
            StoreError::Failed(text) => Status::text(Code::DataLoss, format!("the store failed: {text}")),
        }
    }
}
