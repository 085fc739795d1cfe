//! The generic verbs: create, get, list, watch, update, patch, delete, deletecollection, and the subresources that are
//! changes of an object (status, scale, finalize, binding, eviction, token). HTTP stays outside.
//!
//! May import: meta, kinds, security, watch, env, store, client (its trait). A read sees what the cache shows; a write is
//! one store transaction that compares the revision it was made from, and is answered once the cache shows it.

mod apply;
mod change;
mod compaction;
mod create;
mod decode;
mod delete;
mod duplicates;
mod events;
mod filter;
mod list;
mod metadata;
mod namespaces;
mod ownership;
mod paging;
mod patch;
mod pods;
mod reviews;
mod scale;
mod store;
#[cfg(test)]
mod tests;
mod token;
mod update;
mod watch;

pub use metadata::suffix;
pub use ownership::Present;

use crate::env::Clock;
use crate::meta::Status;
use crate::security::Tokens;
use crate::watch::{Cache, Feed, Snapshot};
use orchd_store::Store;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// What the verbs need to know of the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Network address and prefix length of Service addresses; its first host is for `default/kubernetes`.
    pub service_cidr: (Ipv4Addr, u8),
    pub node_ports: RangeInclusive<u16>,
    /// How long Events are kept, in seconds.
    pub event_ttl_s: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self { service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 16), node_ports: 30_000..=32_767, event_ttl_s: 3600 }
    }
}

/// Every verb over every kind. One for a master; share it as `Arc<Verbs>`.
#[derive(Clone)]
pub struct Verbs {
    store: Store,
    cache: Arc<Cache>,
    clock: Arc<dyn Clock>,
    tokens: Arc<Tokens>,
    config: Config,
    events: Arc<events::Leases>,
    /// Held while a Service gets its addresses, so that no two of this process take the same. Several masters are kept
    /// apart by the store: see `admission::service_address`.
    addresses: Arc<tokio::sync::Mutex<()>>,
}

impl Verbs {
    pub fn new(store: Store, cache: Arc<Cache>, clock: Arc<dyn Clock>, tokens: Arc<Tokens>, config: Config) -> Self {
        let events = Arc::new(events::Leases::new(config.event_ttl_s));
        Self { store, cache, clock, tokens, config, events, addresses: Arc::default() }
    }

    /// The same verbs, whose writes are carried out only while this master leads the store in `term`: for whoever acts on
    /// the cluster from one master at a time.
    #[must_use]
    pub fn fenced(&self, term: u64) -> Self {
        Self { store: self.store.fenced(term), ..self.clone() }
    }

    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A view that shows every write answered before the call.
    pub(crate) async fn newest(&self) -> Result<Snapshot, Status> {
        self.store.read_barrier().await.map_err(|e| store::failure(&e))?;
        self.cache.wait_for(self.store.revision()).await.map_err(|e| Status::new(crate::meta::Reason::Timeout, e.to_string()))?;
        Ok(self.cache.snapshot())
    }

    /// A view at least as new as `resource_version`: empty for the newest, `0` for any.
    async fn view(&self, resource_version: &str) -> Result<Snapshot, Status> {
        match list::parse_revision(resource_version)? {
            None => self.newest().await,
            Some(0) => Ok(self.cache.snapshot()),
            Some(revision) => self.not_older(revision).await,
        }
    }

    async fn not_older(&self, revision: i64) -> Result<Snapshot, Status> {
        /// As long as kube-apiserver waits for its cache.
        const PATIENCE: Duration = Duration::from_secs(3);
        match self.cache.wait_at_most(revision, PATIENCE).await {
            Ok(()) => Ok(self.cache.snapshot()),
            Err(late) => Err(list::too_large(revision, late.present)),
        }
    }
}
