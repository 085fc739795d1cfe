//! nftables over nfnetlink: tables, chains, sets, maps, rules and the changes to them, in one atomic transaction.
//!
//! `expression` is what a rule is made of, `encode` writes changes as netlink messages, this file sends them. Values
//! here compare, so that a caller can hold the wanted state as data and send only the difference.

mod encode;
mod expression;

pub use expression::{Expression, FibAddress, Rule};

use super::NetworkError;
use super::netlink::{Refusal, Socket};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// Where the kernel calls a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    pub kind: ChainKind,
    pub hook: HookPoint,
    pub priority: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    Nat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

/// What a set's keys are, for the kernel's length and for people who read `nft list`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// ipv4_addr
    Address,
    /// inet_proto . inet_service
    ProtocolPort,
    /// ipv4_addr . inet_proto . inet_service
    AddressProtocolPort,
    /// A number in the machine's own order.
    Number,
}

/// A key as the kernel compares it: every part padded to four bytes.
pub type Key = Vec<u8>;

/// A named set, or a map to verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub key: KeyType,
    pub kind: SetKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetKind {
    Plain,
    VerdictMap,
    /// A map from 0, 1, 2… to these verdicts that never changes. (With a name: the kernel finds names for anonymous ones
    /// in a time that grows with the square of their number.)
    Numbered(Vec<Verdict>),
    /// Filled by rules; an element that was not refreshed for so long is gone.
    Dynamic {
        timeout_ms: u64,
    },
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    AddTable,
    DeleteTable,
    /// One that is there already is no error.
    AddChain {
        chain: String,
        hook: Option<Hook>,
    },
    /// Removes the rules of a chain.
    FlushChain {
        chain: String,
    },
    DeleteChain {
        chain: String,
    },
    AddRule {
        chain: String,
        rule: Rule,
    },
    AddSet {
        name: String,
        set: Set,
    },
    DeleteSet {
        name: String,
    },
    AddElements {
        set: String,
        elements: Vec<(Key, Option<Verdict>)>,
    },
    DeleteElements {
        set: String,
        keys: Vec<Key>,
    },
}

impl Change {
    fn subject(&self) -> String {
        match self {
            Self::AddTable => "adding the table".into(),
            Self::DeleteTable => "deleting the table".into(),
            Self::AddChain { chain, .. } => format!("adding chain {chain}"),
            Self::FlushChain { chain } => format!("flushing chain {chain}"),
            Self::DeleteChain { chain } => format!("deleting chain {chain}"),
            Self::AddRule { chain, .. } => format!("adding a rule to chain {chain}"),
            Self::AddSet { name, .. } => format!("adding set {name}"),
            Self::DeleteSet { name } => format!("deleting set {name}"),
            Self::AddElements { set, .. } => format!("adding elements to {set}"),
            Self::DeleteElements { set, .. } => format!("deleting elements of {set}"),
        }
    }
}

/// A table of the family `ip` that is ours alone.
pub struct Table {
    name: &'static str,
    socket: Socket,
}

impl Table {
    /// Opens the way to it; changes nothing.
    ///
    /// # Errors
    /// The kernel has no nf_tables, or this process may not use it.
    pub fn open(name: &'static str) -> Result<Self, NetworkError> {
        let socket =
            Socket::open(SockProtocol::NetlinkNetFilter).map_err(|source| NetworkError::Io { what: "nfnetlink socket".into(), source })?;
        Ok(Self { name, socket })
    }

    /// Carries out all changes, or none.
    ///
    /// # Errors
    /// The kernel refuses one of them.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), NetworkError> {
        self.commit(changes).map_err(|(refusal, subject)| refusal.explain(format!("nftables table {}: {subject}", self.name)))
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), (Refusal, String)> {
        if changes.is_empty() {
            return Ok(());
        }
        let encoded = encode::transaction(self.name, changes);
        self.socket.batch(encoded.messages).map_err(|refusal| {
            let subject = encoded.changes.get(refusal.index).and_then(|index| changes.get(*index));
            (refusal, subject.map_or_else(|| "transaction".into(), Change::subject))
        })
    }

    /// Makes the table anew with `changes` in it, in one step with the removal of what it held.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn replace(&mut self, changes: Vec<Change>) -> Result<(), NetworkError> {
        // Adding first makes the deletion succeed where there was none.
        let mut all = vec![Change::AddTable, Change::DeleteTable, Change::AddTable];
        all.extend(changes);
        self.apply(&all)
    }

    /// Removes the table with all it holds; one that is not there is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete(&mut self) -> Result<(), NetworkError> {
        match self.commit(&[Change::DeleteTable]) {
            Err((refusal, subject)) if !refusal.is(Errno::ENOENT) => {
                Err(refusal.explain(format!("nftables table {}: {subject}", self.name)))
            }
            _ => Ok(()),
        }
    }
}
