//! The etcd face, as its clients meet it: our own generated client for what must be exact, unmodified etcdctl for the rest.

#![allow(clippy::disallowed_methods, reason = "tests start clients")]

mod bad_input;
mod differential;
mod errors;
mod etcdctl;
mod members;
mod pieces;
mod queues;
mod saving;
mod served;
mod watching;

use served::*;
