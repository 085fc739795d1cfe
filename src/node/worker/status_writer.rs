//! Writes a pod's status to the API: the latest alone, again until it is there.

use crate::client::{PatchType, Target};
use crate::kinds::Pod;
use crate::meta::{Reason, Status};
use crate::node::context::Context;
use k8s_openapi::api::core::v1 as api;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// A pod's status on its way.
pub struct StatusWriter {
    latest: watch::Sender<(u64, Option<Arc<api::PodStatus>>)>,
    /// Which one was written last, and the revision that it got.
    written: watch::Receiver<(u64, i64)>,
    _task: AbortOnDropHandle<()>,
}

impl StatusWriter {
    pub fn start(context: &Arc<Context>, pod: &api::Pod) -> Self {
        let meta = &pod.metadata;
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let target = Target::object::<Pod>(&text(&meta.namespace), &text(&meta.name)).sub("status");
        let latest = watch::Sender::new((0, None));
        let (done, written) = watch::channel((0, 0));
        let task = tokio::spawn(run(Arc::clone(context), target, text(&meta.uid), latest.subscribe(), done));
        Self { latest, written, _task: AbortOnDropHandle::new(task) }
    }

    /// Takes the place of what has not been written yet.
    pub fn write(&self, status: api::PodStatus) {
        self.latest.send_modify(|(number, latest)| {
            *number += 1;
            *latest = Some(Arc::new(status));
        });
    }

    /// True if nothing is on its way and the API's object has changed since the last write.
    pub fn is_behind(&self, revision: i64) -> bool {
        let written = *self.written.borrow();
        written.0 > 0 && written.0 == self.latest.borrow().0 && revision > written.1
    }

    /// Becomes ready once all that was given so far is written (or its pod is gone).
    pub fn flushed(&self) -> impl Future<Output = ()> + Send + 'static {
        let number = self.latest.borrow().0;
        let mut written = self.written.clone();
        async move {
            // An error means that the writer has ended with its pod.
            let _ = written.wait_for(|w| w.0 >= number).await;
        }
    }
}

async fn run(
    context: Arc<Context>,
    target: Target,
    uid: String,
    mut latest: watch::Receiver<(u64, Option<Arc<api::PodStatus>>)>,
    done: watch::Sender<(u64, i64)>,
) {
    let mut retry = FIRST_RETRY;
    while latest.changed().await.is_ok() {
        loop {
            let (number, status) = latest.borrow_and_update().clone();
            let Some(status) = status else { break };
            let patch = patch(&uid, &status).to_string();
            match context.client.patch(&target, PatchType::Strategic, patch.into()).await {
                Ok(object) => {
                    retry = FIRST_RETRY;
                    done.send_replace((number, object.revision()));
                    break;
                }
                Err(status) if is_gone(&status) => {
                    done.send_modify(|written| written.0 = number);
                    break;
                }
                Err(status) => {
                    tracing::warn!(pod = target.name, error = %status, "the pod's status was not written");
                    // A newer status may come meanwhile; it is then what is written.
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    }
}

/// The pod is gone, or another bears its name.
fn is_gone(status: &Status) -> bool {
    status.is(Reason::NotFound) || status.is(Reason::Conflict)
}

/// A strategic merge patch that leaves other writers' conditions alone, and takes away what is not said any more.
fn patch(uid: &str, status: &api::PodStatus) -> Value {
    // API types hold no map with keys that are not strings.
    let mut value = serde_json::to_value(status).unwrap_or_default();
    for field in ["reason", "message"] {
        if value.get(field).is_none() {
            value[field] = Value::Null;
        }
    }
    for condition in value["conditions"].as_array_mut().into_iter().flatten() {
        for field in ["reason", "message"] {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    for list in ["podIPs", "hostIPs"] {
        if let Some(items) = value.get_mut(list).and_then(Value::as_array_mut) {
            items.insert(0, json!({"$patch": "replace"}));
        }
    }
    json!({"metadata": {"uid": uid}, "status": value})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_takes_away_what_is_said_no_more() {
        let status: api::PodStatus = serde_json::from_value(json!({
            "phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}]}))
        .unwrap();
        let patch = patch("u", &status);
        assert_eq!(
            patch,
            json!({"metadata": {"uid": "u"}, "status": {"phase": "Running", "reason": null, "message": null,
                "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.1"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}]}})
        );
    }
}
