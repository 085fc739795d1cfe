//! The endpoints for people, probes and Prometheus, as etcd has them. May import: `etcd`, `handle`.

use super::wire::{Reply, plain};
use super::{Face, VERSION};
use http::{Response, StatusCode};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4";

impl Face {
    /// What a GET of this path answers.
    pub async fn plain(&self, path: &str) -> Response<Reply> {
        match path {
            "/health" => self.health().await,
            "/version" => {
                plain(StatusCode::OK, JSON, format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"{VERSION}","storage":"{VERSION}"}}"#))
            }
            // A replica that has stopped is what a restart would help.
            "/livez" => match self.store.serves() {
                Err(crate::StoreError::Failed(text)) => plain(StatusCode::SERVICE_UNAVAILABLE, TEXT, text),
                _ => plain(StatusCode::OK, TEXT, "ok\n"),
            },
            "/readyz" => match self.store.read_barrier().await {
                Ok(()) => plain(StatusCode::OK, TEXT, "ok\n"),
                Err(error) => plain(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("[-]linearizable_read failed: {error}\n")),
            },
            "/metrics" => plain(StatusCode::OK, METRICS, self.metrics()),
            _ => plain(StatusCode::NOT_FOUND, TEXT, "404 page not found\n"),
        }
    }

    async fn health(&self) -> Response<Reply> {
        match self.store.read_barrier().await {
            Ok(()) => plain(StatusCode::OK, JSON, r#"{"health":"true","reason":""}"#),
            Err(error) => {
                let reason = error.to_string().replace(['"', '\\'], "'");
                plain(StatusCode::SERVICE_UNAVAILABLE, JSON, format!(r#"{{"health":"false","reason":"RANGE ERROR:{reason}"}}"#))
            }
        }
    }

    /// Under the names that etcd's dashboards and alerts know.
    fn metrics(&self) -> String {
        let status = self.store.status();
        let keys = self.store.shared.state.read(|machine| machine.key_count());
        let figures = [
            ("etcd_server_has_leader", "gauge", "Whether a leader is known.", u64::from(status.leader_id != 0)),
            ("etcd_server_is_leader", "gauge", "Whether this member leads.", u64::from(status.leader_id == self.member_id)),
            ("etcd_server_is_learner", "gauge", "Whether this member has no vote.", u64::from(status.learner)),
            ("etcd_server_proposals_committed_total", "gauge", "Last log index known.", status.log_index),
            ("etcd_server_proposals_applied_total", "gauge", "Last log index applied.", status.applied_index),
            ("etcd_mvcc_db_total_size_in_bytes", "gauge", "Bytes of the store's files.", status.db_bytes),
            ("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge", "Bytes of keys and values held.", status.db_in_use_bytes),
            ("etcd_debugging_mvcc_keys_total", "gauge", "Keys held, deleted ones that are not yet compacted included.", keys),
            ("etcd_debugging_mvcc_current_revision", "gauge", "The last revision applied.", self.store.revision() as u64),
            ("etcd_debugging_mvcc_compact_revision", "gauge", "The compacted revision.", self.store.compacted_revision() as u64),
            ("etcd_debugging_lease_total", "gauge", "Leases held.", self.store.leases().len() as u64),
        ];
        let memory = resident_bytes().map(|bytes| ("process_resident_memory_bytes", "gauge", "Memory of the process.", bytes));
        let line =
            |(name, kind, help, value): &(&str, &str, &str, u64)| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        figures.iter().chain(&memory).map(line).collect()
    }
}

/// What the process has in memory; None where the system does not tell.
fn resident_bytes() -> Option<u64> {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten()?;
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * page as u64)
}
