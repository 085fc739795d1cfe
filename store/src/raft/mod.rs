//! Consensus: the only module that names openraft.
//!
//! [`Node`] is a running replica: it carries batches out, wherever the leader is, tells when a read may be done, and knows
//! who leads and who belongs to the group. May import: `cluster`, `codec`, `command`, `dir`, `disk`, `error`, `log`,
//! `random`, `state`, `snapshot`, `transport`, `work`, `world`.

mod exchange;
mod force;
mod founding;
mod leadership;
mod link;
mod log_store;
mod member;
mod membership;
mod network;
mod node;
mod quorum;
mod restore;
mod runtime;
mod serve;
mod snapshot_stream;
mod state_machine;
#[cfg(test)]
mod tests;
mod wire;

use crate::codec;
use crate::command::{Command, Output};
use crate::error::StoreError;
use bytes::Bytes;
pub use exchange::exchange;
pub use leadership::Leadership;
pub use member::Info;
pub use node::{KEEP_ENTRIES, Node, Office, Parts};
pub use restore::found;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;
use std::sync::Arc;
pub use wire::Change;

openraft::declare_raft_types!(
    /// What openraft is made of here: Raft as in the paper (one leader per term).
    pub Types:
        D = Batch,
        R = Reply,
        NodeId = u64,
        Node = Info,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = runtime::Runtime,
);

type Entry = <Types as openraft::RaftTypeConfig>::Entry;
type LogId = openraft::type_config::alias::LogIdOf<Types>;
type Vote = openraft::type_config::alias::VoteOf<Types>;
type Membership = openraft::type_config::alias::StoredMembershipOf<Types>;

/// A command with its encoding, which is made once, by whoever asks.
#[derive(Debug)]
pub struct Item {
    pub command: Command,
    pub encoded: Bytes,
}

impl Item {
    /// # Errors
    /// `Failed` if it cannot be encoded.
    pub fn new(command: Command) -> Result<Self, StoreError> {
        let encoded = codec::encode(&command).map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok(Self { command, encoded })
    }
}

/// The content of one log entry: every command that was waiting.
#[derive(Clone)]
pub struct Batch(pub Arc<[Item]>);

/// What an entry takes beside its commands' bytes, for each.
const COMMAND_OVERHEAD: usize = 16;

impl Batch {
    /// Bytes that it takes in the log, at most.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|item| (item.encoded.len() + COMMAND_OVERHEAD) as u64).sum()
    }

    /// Whether any of it makes the store larger.
    pub fn grows(&self) -> bool {
        self.0.iter().any(|item| item.command.grows())
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|item| &item.encoded))
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let items = Vec::<Bytes>::deserialize(deserializer)?;
        let decoded: Result<Vec<Item>, _> =
            items.into_iter().map(|encoded| codec::decode(&encoded).map(|command| Item { command, encoded })).collect();
        Ok(Self(decoded.map_err(D::Error::custom)?.into()))
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands", self.0.len())
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One answer for each command of a batch.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reply(pub Vec<Result<Output, StoreError>>);
