//! What one master does at a time, and what each does for itself.
//!
//! Controllers, scheduler and compaction run on the master that leads the store, through verbs that are fenced by its term:
//! once it is deposed none of its writes is carried out, however long it takes to hear of it.

use crate::api::local::LocalClient;
use crate::api::verbs::Verbs;
use crate::client::{Client, PatchType, Target};
use crate::controllers::kubernetes_service::{MASTER_ADDRESS, MASTER_LABEL, MASTER_NAMESPACE};
use crate::controllers::{self, Options};
use crate::env::Clock;
use crate::kinds::Lease;
use crate::meta::{ObjectMeta, Reason, Status, time};
use crate::scheduler;
use crate::security::User;
use crate::watch::{Cache, Feed};
use k8s_openapi::api::coordination::v1 as coordination;
use orchd_store::Store;
use serde_json::json;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a master counts as live, how often it says that it is, and how soon it tries again.
const LIVE_SECONDS: i32 = 15;
const RENEW: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(500);

/// What the leader works with.
pub struct Duties {
    pub store: Store,
    pub cache: Arc<Cache>,
    pub verbs: Arc<Verbs>,
    pub clock: Arc<dyn Clock>,
    pub options: Options,
}

impl Duties {
    /// Works whenever this master leads, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut leadership = self.store.watch_leadership();
        loop {
            let term = self.store.leads_in();
            let office = stop.child_token();
            let tasks = term.map(|term| self.take_up(term, &office));
            let goes_on = tokio::select! {
                running = leadership.changed() => running,
                () = stop.cancelled() => false,
            };
            office.cancel();
            if let Some(tasks) = tasks {
                tracing::info!(term, "controllers and scheduler end here");
                tasks.wait().await;
            }
            if !goes_on {
                return;
            }
        }
    }

    fn take_up(&self, term: u64, office: &CancellationToken) -> TaskTracker {
        tracing::info!(term, "this master leads: controllers and scheduler begin");
        let tasks = TaskTracker::new();
        let verbs = Arc::new(self.verbs.fenced(term));
        let client = |name: &str| -> Arc<dyn Client> { Arc::new(LocalClient::new(verbs.clone(), User::system(name))) };
        let feed: Arc<dyn Feed> = self.cache.clone();
        let controller = client("system:kube-controller-manager");
        tasks.spawn(controllers::run(feed.clone(), controller, self.clock.clone(), self.options.clone(), office.clone()));
        tasks.spawn(scheduler::run(feed, client("system:kube-scheduler"), self.clock.clone(), office.clone()));
        let office = office.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = verbs.compact_loop() => {}
                () = office.cancelled() => {}
            }
        });
        tasks.close();
        tasks
    }
}

/// How a master of several tells that it lives.
pub struct Presence {
    pub name: String,
    pub address: Ipv4Addr,
    pub client: Arc<dyn Client>,
    pub clock: Arc<dyn Clock>,
}

impl Presence {
    /// Renews this master's Lease until `stop`, and then takes it away.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let pause = match self.renew().await {
                Ok(()) => RENEW,
                // The namespace may not be there yet; or nobody leads now.
                Err(status) => {
                    tracing::debug!(%status, "this master's lease was not renewed");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => break,
            }
        }
        if let Err(status) = self.client.delete(&self.target(), &crate::client::DeleteOptions::default()).await {
            tracing::debug!(%status, "this master's lease was not taken away; it runs out");
        }
    }

    fn lease_name(&self) -> String {
        format!("apiserver-{}", self.name)
    }

    fn target(&self) -> Target {
        Target::object::<Lease>(MASTER_NAMESPACE, &self.lease_name())
    }

    async fn renew(&self) -> Result<(), Status> {
        let now = time::micros(self.clock.now());
        let address = self.address.to_string();
        let patch = json!({
            "metadata": {"annotations": {MASTER_ADDRESS: address}},
            "spec": {"holderIdentity": self.name, "leaseDurationSeconds": LIVE_SECONDS, "renewTime": now},
        });
        match self.client.patch(&self.target(), PatchType::Merge, patch.to_string().into()).await {
            Err(status) if status.is(Reason::NotFound) => {}
            other => return other.map(drop),
        }
        let (label, value) = MASTER_LABEL;
        let lease = coordination::Lease {
            metadata: ObjectMeta {
                name: Some(self.lease_name()),
                namespace: Some(MASTER_NAMESPACE.into()),
                labels: Some([(label.to_owned(), value.to_owned())].into()),
                annotations: Some([(MASTER_ADDRESS.to_owned(), address)].into()),
                ..ObjectMeta::default()
            },
            spec: Some(coordination::LeaseSpec {
                holder_identity: Some(self.name.clone()),
                lease_duration_seconds: Some(LIVE_SECONDS),
                renew_time: Some(now),
                ..coordination::LeaseSpec::default()
            }),
        };
        self.client.put_new::<Lease>(&lease).await.map(drop)
    }
}
