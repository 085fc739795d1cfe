use super::*;
use crate::node::outcome::{Outcome, StartFailure, apply};
use crate::node::plan::{mark, plan};
use crate::node::state::{Ended, Running};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::Arc;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

struct Drive {
    state: PodState,
    status: api::PodStatus,
    now: i64,
}

impl Drive {
    fn new(spec: Value) -> Self {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3}, "spec": spec});
        let state = PodState::new(Arc::new(serde_json::from_value(pod).unwrap()), at(1000));
        let mut d = Self { state, status: api::PodStatus::default(), now: 1000 };
        d.settle();
        d
    }

    fn settle(&mut self) {
        while let steps = plan(&self.state, at(self.now)).steps
            && !steps.is_empty()
        {
            steps.iter().for_each(|s| mark(&mut self.state, s, at(self.now)));
        }
        self.status = of(&self.state, &self.status, Ipv4Addr::new(10, 0, 0, 1).into(), at(self.now));
    }

    fn apply(&mut self, outcome: Outcome) {
        apply(&mut self.state, outcome, at(self.now));
        self.settle();
    }

    fn ready(&mut self) {
        self.apply(Outcome::Sandbox(Ok((1, Some(Ipv4Addr::new(10, 1, 0, 2).into())))));
        self.apply(Outcome::Volumes(Ok(())));
    }

    fn started(&mut self, name: &str) {
        let running = Running {
            id: format!("{name}{}", self.state.run(name).restarts),
            pid: 1,
            started_at: at(self.now),
            image: "i".into(),
            image_id: "sha256:1".into(),
            process: Default::default(),
            log_path: "/log".into(),
        };
        self.apply(Outcome::Started { container: name.into(), result: Ok(running), hook_failure: None });
    }

    fn exits(&mut self, name: &str, code: i32) {
        let running = self.state.run(name).running().unwrap();
        let exit = orchd_runtime::spec::Exit {
            code,
            signal: None,
            oom_killed: code == 137,
            started_at_ns: 0,
            finished_at_ns: self.now * 1_000_000_000,
        };
        let (id, ended) = (running.id.clone(), Ended::of(running, &exit, "bye".into()));
        self.apply(Outcome::Exited { id, ended });
    }

    fn fails(&mut self, name: &str, failure: StartFailure) {
        self.apply(Outcome::Started { container: name.into(), result: Err(failure), hook_failure: None });
    }

    /// `Phase name:state…`, as `kubectl get pod` would tell it.
    fn shown(&self) -> String {
        let all = self.status.init_container_statuses.iter().flatten().chain(self.status.container_statuses.iter().flatten());
        let one = |s: &api::ContainerStatus| {
            let state = s.state.as_ref().unwrap();
            let text = match (&state.waiting, &state.running, &state.terminated) {
                (Some(w), _, _) => w.reason.clone().unwrap(),
                (_, Some(_), _) => "Running".into(),
                (_, _, Some(t)) => format!("{}({})", t.reason.clone().unwrap(), t.exit_code),
                _ => "?".into(),
            };
            format!(" {}:{text}", s.name)
        };
        format!("{}{}", self.status.phase.as_deref().unwrap(), all.map(one).collect::<String>())
    }

    fn condition(&self, kind: &str) -> String {
        let c = self.status.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap();
        [Some(c.status.clone()), c.reason.clone(), c.message.clone()].into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

fn containers(names: &[&str]) -> Value {
    names.iter().map(|n| json!({"name": n, "image": "i"})).collect()
}

#[test]
fn a_pod_comes_up() {
    let mut d = Drive::new(json!({"containers": containers(&["a", "b"])}));
    assert_eq!(d.shown(), "Pending a:ContainerCreating b:ContainerCreating");
    assert_eq!(d.condition("PodReadyToStartContainers"), "False");
    assert_eq!(d.condition("Initialized"), "True");
    assert_eq!(d.condition("Ready"), "False ContainersNotReady containers with unready status: [a b]");
    d.ready();
    assert_eq!(d.condition("PodReadyToStartContainers"), "True");
    assert_eq!((d.status.pod_ip.as_deref(), d.status.host_ip.as_deref()), (Some("10.1.0.2"), Some("10.0.0.1")));
    d.started("a");
    assert_eq!(d.shown(), "Pending a:Running b:ContainerCreating");
    d.started("b");
    assert_eq!(d.shown(), "Running a:Running b:Running");
    assert_eq!((d.condition("Ready"), d.condition("ContainersReady")), ("True".into(), "True".into()));
    assert_eq!((d.status.observed_generation, d.status.qos_class.as_deref()), (Some(3), Some("BestEffort")));
    let a = &d.status.container_statuses.as_ref().unwrap()[0];
    assert_eq!((a.container_id.as_deref(), a.ready, a.started), (Some("orchd://a0"), true, Some(true)));
}

#[test]
fn crashes_show_their_end_and_then_the_back_off() {
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    d.started("a");
    d.exits("a", 1);
    assert_eq!(d.shown(), "Running a:Error(1)", "it is being started again at once");
    d.started("a");
    d.exits("a", 137);
    assert_eq!(d.shown(), "Running a:CrashLoopBackOff");
    let a = &d.status.container_statuses.as_ref().unwrap()[0];
    let waiting = a.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.message.as_deref(), Some("back-off 10s restarting failed container=a pod=p_n(u)"));
    let last = a.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.reason.as_deref(), last.message.as_deref(), a.restart_count), (Some("OOMKilled"), Some("bye"), 1));
}

#[test]
fn images_that_do_not_come() {
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    d.fails("a", StartFailure::Image("ErrImagePull", "not found".into()));
    assert_eq!(d.shown(), "Pending a:ErrImagePull");
    d.now += 2;
    d.settle();
    assert_eq!(d.shown(), "Pending a:ImagePullBackOff");
    let waiting = d.status.container_statuses.as_ref().unwrap()[0].state.as_ref().unwrap().waiting.clone().unwrap();
    assert_eq!(waiting.message.as_deref(), Some("Back-off pulling image \"i\": ErrImagePull: not found"));
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    d.fails("a", StartFailure::Config("secret \"s\" not found".into()));
    d.now += 5;
    d.settle();
    assert_eq!(d.shown(), "Pending a:CreateContainerConfigError");
}

#[test]
fn a_program_that_cannot_run() {
    let failure = || {
        StartFailure::Run(Ended {
            id: "x".into(),
            image_id: String::new(),
            code: 128,
            signal: None,
            reason: "StartError".into(),
            message: "no such file".into(),
            started_at: None,
            finished_at: Some(at(1000)),
        })
    };
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    d.fails("a", failure());
    d.fails("a", failure());
    assert_eq!(d.shown(), "Running a:RunContainerError");
    d.now += 3;
    d.settle();
    assert_eq!(d.shown(), "Running a:CrashLoopBackOff");
    let mut d = Drive::new(json!({"restartPolicy": "Never", "containers": containers(&["a"])}));
    d.ready();
    d.fails("a", failure());
    assert_eq!(d.shown(), "Failed a:StartError(128)");
}

#[test]
fn pods_end() {
    for (codes, phase, ready) in [([0, 0], "Succeeded", "False PodCompleted"), ([0, 1], "Failed", "False PodFailed")] {
        let mut d = Drive::new(json!({"restartPolicy": "Never", "containers": containers(&["a", "b"])}));
        d.ready();
        d.started("a");
        d.started("b");
        d.exits("a", codes[0]);
        assert!(d.shown().starts_with("Running"), "one still runs");
        d.exits("b", codes[1]);
        assert!(d.shown().starts_with(phase));
        assert_eq!(d.condition("Ready"), ready);
        d.apply(Outcome::TornDown(Ok(())));
        assert_eq!(d.condition("PodReadyToStartContainers"), "False");
        assert_eq!(d.status.pod_ip.as_deref(), Some("10.1.0.2"), "the address stays known");
    }
}

#[test]
fn init_containers_hold_the_pod_pending() {
    let mut d = Drive::new(json!({"initContainers": containers(&["i"]), "containers": containers(&["a"])}));
    d.ready();
    assert_eq!(d.shown(), "Pending i:PodInitializing a:PodInitializing");
    assert_eq!(d.condition("Initialized"), "False ContainersNotInitialized containers with incomplete status: [i]");
    d.started("i");
    assert_eq!(d.shown(), "Pending i:Running a:PodInitializing");
    d.exits("i", 0);
    assert_eq!(d.shown(), "Pending i:Completed(0) a:PodInitializing");
    assert_eq!(d.condition("Initialized"), "True");
    d.started("a");
    assert_eq!(d.shown(), "Running i:Completed(0) a:Running");
    let mut d = Drive::new(json!({"restartPolicy": "Never", "initContainers": containers(&["i"]), "containers": containers(&["a"])}));
    d.ready();
    d.started("i");
    d.exits("i", 1);
    assert_eq!(d.shown(), "Failed i:Error(1) a:PodInitializing");
}

#[test]
fn a_deadline_is_said_when_all_has_stopped() {
    let mut d = Drive::new(json!({"activeDeadlineSeconds": 5, "containers": containers(&["a"])}));
    d.ready();
    d.started("a");
    d.now += 5;
    d.settle();
    assert_eq!(d.shown(), "Running a:Running");
    d.exits("a", 143);
    assert_eq!((d.shown().as_str(), d.status.reason.as_deref()), ("Failed a:Error(143)", Some("DeadlineExceeded")));
}

#[test]
fn a_deleted_pod_ends_by_its_exit_codes() {
    for (code, phase) in [(0, "Succeeded"), (143, "Failed")] {
        let mut d = Drive::new(json!({"containers": containers(&["a"])}));
        d.ready();
        d.started("a");
        let mut pod = (*d.state.pod).clone();
        pod.metadata.deletion_timestamp = Some(time::seconds(at(1030)));
        d.apply(Outcome::Pod(Arc::new(pod)));
        d.exits("a", code);
        assert!(d.shown().starts_with(phase), "{}", d.shown());
    }
}

#[test]
fn probes_and_gates_decide_readiness() {
    let probed = json!({"name": "a", "image": "i", "startupProbe": {}, "readinessProbe": {}});
    let mut d = Drive::new(json!({"readinessGates": [{"conditionType": "example.com/g"}], "containers": [probed]}));
    d.ready();
    d.started("a");
    let a = |d: &Drive| {
        let s = &d.status.container_statuses.as_ref().unwrap()[0];
        (s.started, s.ready)
    };
    assert_eq!(a(&d), (Some(false), false));
    d.apply(Outcome::StartedUp { id: "a0".into() });
    assert_eq!(a(&d), (Some(true), false));
    d.apply(Outcome::Readiness { id: "a0".into(), ready: true });
    assert_eq!(a(&d), (Some(true), true));
    let gate = "corresponding condition of pod readiness gate \"example.com/g\" does not exist.";
    assert_eq!((d.condition("ContainersReady"), d.condition("Ready")), ("True".into(), format!("False ReadinessGatesNotReady {gate}")));
    let mut pod = (*d.state.pod).clone();
    pod.status = Some(serde_json::from_value(json!({"conditions": [{"type": "example.com/g", "status": "True"}]})).unwrap());
    d.apply(Outcome::Pod(Arc::new(pod)));
    assert_eq!(d.condition("Ready"), "True");
}

#[test]
fn transition_times_hold_until_something_changes() {
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.now += 60;
    d.ready();
    let time = |d: &Drive, kind: &str| {
        let c = d.status.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap();
        c.last_transition_time.as_ref().unwrap().0.as_second()
    };
    assert_eq!((time(&d, "Initialized"), time(&d, "PodReadyToStartContainers"), time(&d, "Ready")), (1000, 1060, 1000));
}
