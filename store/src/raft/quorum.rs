//! Whether a leader still reaches a quorum. openraft's leader leads until it hears of another; one that was cut off never
//! does. What it is asked then would wait in vain, while others serve: it says so instead.
//!
//! Nothing hangs on this for safety: no write is acknowledged, and no read served, without a quorum's word.

use super::node::Node;
use futures::FutureExt;
use openraft::async_runtime::watch::WatchReceiver;
use std::time::Duration;
use tokio::sync::watch;

/// How often it looks, and looks in a row without word from a quorum that make a leader one without followers: more than an
/// election among the others takes. A process that is held up as a whole does not look either.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: u32 = 9;

/// Told by [`watch_quorum`].
#[derive(Clone)]
pub(super) struct Quorum(watch::Sender<bool>);

impl Default for Quorum {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Quorum {
    /// Whether nobody followed when this was last looked at.
    pub fn is_lost(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once nobody follows.
    pub async fn lost(&self) {
        // The sender is here.
        let _ = self.0.subscribe().wait_for(|lost| *lost).await;
    }
}

/// Keeps what a node knows of its quorum true, until the node is stopped.
pub(super) async fn watch_quorum(node: Node) {
    let mut stopped = node.stop.subscribe();
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut heard, mut silent) = (None, 0);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopped.wait_for(|stop| *stop).map(drop) => return,
        }
        let acked = {
            let metrics = node.raft.metrics();
            let metrics = metrics.borrow_watched();
            let needs_others = metrics.state.is_leader() && !node.raft.voter_ids().eq([node.id]);
            needs_others.then(|| metrics.last_quorum_acked.map(|at| at.into_inner()))
        };
        silent = if acked.is_some() && acked == heard { silent + 1 } else { 0 };
        heard = acked;
        let lost = silent >= LOOKS;
        if node.quorum.0.send_if_modified(|held| std::mem::replace(held, lost) != lost) {
            tracing::warn!(lost, "this member leads, and whether a quorum follows has changed");
        }
    }
}
