//! Changes of a member's office, for whoever waits for them.

use super::Types;
use super::node::Node;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;

/// Changes of this member's office.
pub struct Leadership {
    metrics: WatchReceiverOf<Types, RaftServerMetrics<Types>>,
    leads: Option<u64>,
    node: Node,
}

impl Leadership {
    /// Returns at the next change; false: the replica has stopped.
    pub async fn changed(&mut self) -> bool {
        while self.node.leadership() == self.leads {
            if self.metrics.changed().await.is_err() {
                return false;
            }
        }
        self.leads = self.node.leadership();
        true
    }
}

impl Node {
    /// Tells when this member takes or leaves office, or the replica stops.
    pub fn watch_leadership(&self) -> Leadership {
        let leads = self.leadership();
        Leadership { metrics: self.raft.server_metrics(), leads, node: self.clone() }
    }
}
