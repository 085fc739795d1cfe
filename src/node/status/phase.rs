//! The pod's phase, from the states of its containers: the kubelet's `getPhase`.

use crate::node::plan::restarts;
use crate::node::state::{PodState, Role, is_sidecar};
use k8s_openapi::api::core::v1 as api;

#[derive(Default)]
struct Count {
    pending_init: usize,
    pending_sidecar: usize,
    init_failed: bool,
    waiting: usize,
    running: usize,
    stopped: usize,
    over: usize,
    succeeded: usize,
}

/// `terminal`: the pod is to stop and nothing runs any more.
pub fn of(state: &PodState, inits: &[api::ContainerStatus], mains: &[api::ContainerStatus], terminal: bool) -> &'static str {
    let mut count = Count::default();
    for (spec, status) in state.inits().iter().zip(inits) {
        if is_sidecar(spec) { count.sidecar(status) } else { count.init(state, status) }
    }
    for status in mains {
        count.main(state, status);
    }
    count.phase(state, terminal)
}

/// The exit code of the state, or of the attempt that a wait follows.
fn exit_code(status: &api::ContainerStatus) -> Option<i32> {
    let now = status.state.as_ref()?;
    let ended = match &now.terminated {
        Some(ended) => Some(ended),
        None if now.waiting.is_some() => status.last_state.as_ref()?.terminated.as_ref(),
        None => None,
    };
    ended.map(|e| e.exit_code)
}

fn is_running(status: &api::ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

impl Count {
    fn init(&mut self, state: &PodState, status: &api::ContainerStatus) {
        match exit_code(status) {
            Some(0) => {}
            Some(code) => self.init_failed |= !restarts(state, Role::Init, code),
            None => self.pending_init += 1,
        }
    }

    fn sidecar(&mut self, status: &api::ContainerStatus) {
        if is_running(status) {
            self.pending_sidecar += usize::from(status.started != Some(true));
            self.running += 1;
        } else if exit_code(status).is_none() {
            self.pending_sidecar += 1;
            self.waiting += 1;
        }
    }

    fn main(&mut self, state: &PodState, status: &api::ContainerStatus) {
        if is_running(status) {
            self.running += 1;
        } else if let Some(code) = exit_code(status) {
            self.stopped += 1;
            self.over += usize::from(!restarts(state, Role::Main, code));
            let ended = status.state.as_ref().is_some_and(|s| s.terminated.is_some());
            self.succeeded += usize::from(code == 0 && ended);
        } else {
            self.waiting += 1;
        }
    }

    fn phase(&self, state: &PodState, terminal: bool) -> &'static str {
        if self.init_failed {
            return "Failed";
        }
        let sidecars_pending = self.pending_sidecar > 0 && !state.initialized_before();
        if self.pending_init > 0 || sidecars_pending || self.waiting > 0 {
            return "Pending";
        }
        match (self.running, self.stopped) {
            (0, 0) => "Pending",
            (0, _) if terminal && self.stopped == self.succeeded => "Succeeded",
            (0, _) if terminal => "Failed",
            (0, _) if self.stopped != self.over => "Running",
            (0, _) if self.stopped == self.succeeded => "Succeeded",
            (0, _) => "Failed",
            _ => "Running",
        }
    }
}
