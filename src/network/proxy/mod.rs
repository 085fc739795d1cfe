//! The service proxy of a node: Services and EndpointSlices as nftables rules, laid out as kube-proxy's nftables mode
//! lays them out.
//!
//! `state` says which endpoints each service port has on this node (pure), `rules` writes one service port as chains,
//! sets and map elements (pure), `difference` turns old and new state into one transaction (pure), `base` holds the
//! chains that are always there, `flows` ends UDP flows whose endpoint is gone.

mod base;
mod difference;
mod flows;
mod rules;
mod state;
#[cfg(test)]
mod tests;

pub use state::{HostPort, NodeView, PortName, Protocol, ProxyState, ServicePort};

use super::nft::{Change, Table};
use super::{NetworkError, NetworkOptions};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Before 6.2 the kernel notices only a little later that a removed map element no longer refers to a chain, so that
/// an emptied chain is deleted with a later sync.
const CHAIN_REST: Duration = Duration::from_secs(1);

/// The rules of a node. Blocking: a sync takes a few milliseconds.
pub struct Proxy {
    options: NetworkOptions,
    table: Table,
    flows: flows::Flows,
    present: Option<ProxyState>,
    /// Any flow may be stale: nobody has looked since the start, or since it failed.
    flows_unknown: bool,
    /// Emptied chains, and when the last of them was emptied.
    stale: BTreeSet<String>,
    stale_since: Instant,
}

impl Proxy {
    /// Changes nothing yet: what an earlier process left serves until the first sync takes its place in one step.
    ///
    /// # Errors
    /// The kernel has no nf_tables, or this process may not use it.
    pub fn open(options: NetworkOptions) -> Result<Self, NetworkError> {
        let table = Table::open(base::TABLE)?;
        Ok(Self { options, table, flows: flows::Flows::open()?, present: None, flows_unknown: true, stale: BTreeSet::new(), stale_since: Instant::now() })
    }

    /// Makes the rules those of `state`, in one transaction that touches only what changed.
    ///
    /// # Errors
    /// The kernel refuses; the rules are as they were then.
    pub fn sync(&mut self, state: ProxyState) -> Result<(), NetworkError> {
        let empty = ProxyState::default();
        let first = self.present.is_none();
        let old = self.present.as_ref().unwrap_or(&empty);
        let difference = difference::between(old, &state, &self.options);
        let flows = flows::Frontends::changed(old, &state, self.flows_unknown);
        if first {
            let mut changes = base::rules(&self.options);
            changes.extend(difference.changes);
            self.table.replace(changes)?;
        } else {
            self.delete_stale_chains();
            self.table.apply(&difference.changes)?;
        }
        if !difference.emptied.is_empty() {
            self.stale_since = Instant::now();
        }
        self.stale.retain(|chain| !difference.added.contains(chain));
        self.stale.extend(difference.emptied);
        self.present = Some(state);
        self.flows_unknown = true;
        flows.map_or(Ok(()), |frontends| self.flows.end_stale(&frontends))?;
        self.flows_unknown = false;
        Ok(())
    }

    /// Deletes chains that an earlier sync emptied. They do no harm, so that a refusal must not keep a sync from the rest.
    fn delete_stale_chains(&mut self) {
        if self.stale.is_empty() || self.stale_since.elapsed() < CHAIN_REST {
            return;
        }
        let changes: Vec<Change> = self.stale.iter().map(|chain| Change::DeleteChain { chain: chain.clone() }).collect();
        match self.table.apply(&changes) {
            Ok(()) => self.stale.clear(),
            Err(error) => {
                tracing::warn!(%error, "empty chains stay until the next change of a Service");
                self.stale_since = Instant::now();
            }
        }
    }

    /// Removes all rules.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn teardown(&mut self) -> Result<(), NetworkError> {
        self.present = None;
        self.stale.clear();
        self.table.delete()
    }
}
