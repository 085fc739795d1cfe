use super::*;
use crate::node::outcome::{Outcome, StartFailure, apply};
use crate::node::state::{Ended, Running, Unhealthy};
use serde_json::{Value, json};
use std::sync::Arc;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pod(spec: Value) -> Arc<api::Pod> {
    Arc::new(serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap())
}

/// A pod driven by hand: steps are marked as they are planned, outcomes are fed in.
struct Drive {
    state: PodState,
    now: i64,
}

impl Drive {
    fn new(spec: Value) -> Self {
        Self { state: PodState::new(pod(spec), at(1000)), now: 1000 }
    }

    /// All steps until the plan rests, in short words.
    fn steps(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        for _ in 0..20 {
            let plan = plan(&self.state, at(self.now));
            if plan.steps.is_empty() {
                return out;
            }
            for step in plan.steps {
                mark(&mut self.state, &step, at(self.now));
                out.push(short(&step));
            }
        }
        panic!("the plan does not rest: {out:?}");
    }

    fn wake(&self) -> Option<i64> {
        plan(&self.state, at(self.now)).wake.map(|t| t.as_second() - self.now)
    }

    fn apply(&mut self, outcome: Outcome) {
        apply(&mut self.state, outcome, at(self.now));
    }

    fn ready(&mut self) -> Vec<String> {
        assert_eq!(self.steps(), ["sandbox", "volumes"]);
        self.apply(Outcome::Sandbox(Ok((1, None))));
        self.apply(Outcome::Volumes(Ok(())));
        self.steps()
    }

    fn started(&mut self, name: &str) -> Vec<String> {
        let id = format!("{name}{}", self.state.run(name).restarts);
        let running = Running {
            id,
            pid: 1,
            started_at: at(self.now),
            image: "i".into(),
            image_id: "sha256:1".into(),
            process: Default::default(),
            log_path: "/log".into(),
        };
        self.apply(Outcome::Started { container: name.into(), result: Ok(running), hook_failure: None });
        self.steps()
    }

    fn failed(&mut self, name: &str, failure: StartFailure) -> Vec<String> {
        self.apply(Outcome::Started { container: name.into(), result: Err(failure), hook_failure: None });
        self.steps()
    }

    fn exits(&mut self, name: &str, code: i32) -> Vec<String> {
        let id = self.state.run(name).running().unwrap().id.clone();
        let ended = ended(&id, code, self.now);
        self.apply(Outcome::Exited { id, ended });
        self.steps()
    }

    fn delete(&mut self, grace: i64) -> Vec<String> {
        let mut pod = (*self.state.pod).clone();
        pod.metadata.deletion_timestamp = Some(crate::meta::time::seconds(at(self.now + grace)));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.apply(Outcome::Pod(Arc::new(pod)));
        self.steps()
    }
}

fn ended(id: &str, code: i32, now: i64) -> Ended {
    Ended {
        id: id.into(),
        image_id: String::new(),
        code,
        signal: None,
        reason: "Error".into(),
        message: String::new(),
        started_at: None,
        finished_at: Some(at(now)),
    }
}

fn short(step: &Step) -> String {
    match step {
        Step::CreateSandbox => "sandbox".into(),
        Step::RemoveSandbox => "remove-sandbox".into(),
        Step::SetUpVolumes => "volumes".into(),
        Step::Start { container } => format!("start {container}"),
        Step::TellBackOff { container } => format!("back-off {container}"),
        Step::Kill { container, .. } => format!("kill {container}"),
        Step::RunPreStop { container, .. } => format!("pre-stop {container}"),
        Step::Signal { container, last } => format!("{} {container}", if *last { "KILL" } else { "TERM" }),
        Step::Fail(failure) => format!("fail {}", failure.reason),
        Step::TearDown => "tear-down".into(),
        Step::Finalize => "finalize".into(),
        Step::Forget => "forget".into(),
    }
}

fn containers(names: &[&str]) -> Value {
    names.iter().map(|n| json!({"name": n, "image": "i"})).collect()
}

#[test]
fn main_containers_start_one_after_the_other_once_all_is_ready() {
    let mut d = Drive::new(json!({"containers": containers(&["a", "b"])}));
    assert_eq!(d.ready(), ["start a"]);
    assert_eq!(d.started("a"), ["start b"]);
    assert_eq!(d.started("b"), [""; 0]);
    assert_eq!(d.wake(), None, "nothing to do, nothing to wait for");
}

#[test]
fn neither_sandbox_nor_volumes_alone_will_do_and_both_are_tried_again() {
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    assert_eq!(d.steps(), ["sandbox", "volumes"]);
    d.apply(Outcome::Sandbox(Err("no address".into())));
    d.apply(Outcome::Volumes(Err("configmap \"x\" not found".into())));
    assert_eq!(d.steps(), [""; 0]);
    assert_eq!(d.wake(), Some(2));
    d.apply(Outcome::SourceChanged);
    assert_eq!(d.steps(), ["volumes"], "a change of the source does not wait for the retry");
    d.now += 10;
    assert_eq!(d.steps(), ["sandbox"]);
    d.apply(Outcome::Sandbox(Ok((1, None))));
    assert_eq!(d.steps(), [""; 0]);
    d.apply(Outcome::Volumes(Ok(())));
    assert_eq!(d.steps(), ["start a"]);
}

#[test]
fn init_containers_run_in_order_and_gate_the_rest() {
    let mut d = Drive::new(json!({"initContainers": containers(&["i", "j"]), "containers": containers(&["a"])}));
    assert_eq!(d.ready(), ["start i"]);
    assert_eq!(d.started("i"), [""; 0]);
    assert_eq!(d.exits("i", 0), ["start j"]);
    d.started("j");
    assert_eq!(d.exits("j", 0), ["start a"]);
    d.started("a");
    // Restarts of the main container do not run them again.
    assert_eq!(d.exits("a", 1), ["start a"]);
}

#[test]
fn a_failed_init_container_is_tried_again_or_fails_the_pod() {
    for (policy, after) in [("Always", "start i"), ("OnFailure", "start i"), ("Never", "tear-down")] {
        let spec = json!({"restartPolicy": policy, "initContainers": containers(&["i"]), "containers": containers(&["a"])});
        let mut d = Drive::new(spec);
        d.ready();
        d.started("i");
        assert_eq!(d.exits("i", 1), [after], "{policy}");
    }
}

#[test]
fn the_restart_policy_decides() {
    for (policy, code, after) in [
        ("Always", 0, "start a"),
        ("Always", 1, "start a"),
        ("OnFailure", 0, "tear-down"),
        ("OnFailure", 1, "start a"),
        ("Never", 0, "tear-down"),
        ("Never", 1, "tear-down"),
    ] {
        let mut d = Drive::new(json!({"restartPolicy": policy, "containers": containers(&["a"])}));
        d.ready();
        d.started("a");
        assert_eq!(d.exits("a", code), [after], "{policy} {code}");
    }
}

#[test]
fn restarts_back_off() {
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    d.started("a");
    let mut waits = Vec::new();
    assert_eq!(d.exits("a", 1), ["start a"], "the first restart is immediate");
    for _ in 0..7 {
        d.started("a");
        assert_eq!(d.exits("a", 1), ["back-off a"]);
        let wait = d.wake().unwrap();
        waits.push(wait);
        d.now += wait;
        assert_eq!(d.steps(), ["start a"]);
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(d.state.run("a").restarts, 7);
    d.started("a");
    assert_eq!(d.state.run("a").restarts, 8);
    d.now += 700;
    assert_eq!(d.exits("a", 1), ["start a"], "after ten good minutes");
}

#[test]
fn a_container_that_backs_off_holds_back_no_other() {
    let mut d = Drive::new(json!({"containers": containers(&["a", "b"])}));
    d.ready();
    let image = || StartFailure::Image("ErrImagePull", "no".into());
    assert_eq!(d.failed("a", image()), ["start b"]);
    d.started("b");
    d.now += 2;
    assert_eq!(d.steps(), ["back-off a"]);
    assert_eq!(d.wake(), Some(8));
    d.now += 8;
    assert_eq!(d.steps(), ["start a"]);
    assert_eq!(d.failed("a", image()), [""; 0]);
    assert_eq!(d.wake(), Some(2));
    d.now += 2;
    d.steps();
    assert_eq!(d.wake(), Some(18), "twenty seconds this time");
}

#[test]
fn a_configuration_error_waits_for_its_source_or_the_pod() {
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    assert_eq!(d.failed("a", StartFailure::Config("secret \"s\" not found".into())), [""; 0]);
    assert_eq!(d.wake(), Some(10));
    d.now += 1;
    d.apply(Outcome::SourceChanged);
    assert_eq!(d.steps(), ["start a"]);
    d.failed("a", StartFailure::Config("again".into()));
    let mut changed = (*d.state.pod).clone();
    changed.metadata.annotations = Some([("k".to_owned(), "v".to_owned())].into());
    d.now += 1;
    d.apply(Outcome::Pod(Arc::new(changed)));
    assert_eq!(d.steps(), ["start a"]);
}

#[test]
fn a_program_that_cannot_run_counts_as_an_attempt() {
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    assert_eq!(d.failed("a", StartFailure::Run(ended("a0", 128, 1000))), ["start a"]);
    d.failed("a", StartFailure::Run(ended("a1", 128, 1000)));
    assert_eq!(d.state.run("a").restarts, 1);
    d.now += 2;
    assert_eq!(d.steps(), ["back-off a"]);
    let mut d = Drive::new(json!({"restartPolicy": "Never", "containers": containers(&["a"])}));
    d.ready();
    assert_eq!(d.failed("a", StartFailure::Run(ended("a0", 128, 1000))), ["tear-down"]);
}

#[test]
fn deletion_stops_tears_down_and_lets_go() {
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    d.started("a");
    assert_eq!(d.delete(30), ["kill a", "TERM a"]);
    assert_eq!(d.wake(), Some(30));
    assert_eq!(d.exits("a", 0), ["tear-down"]);
    d.apply(Outcome::TornDown(Ok(())));
    assert_eq!(d.steps(), ["finalize"]);
    d.apply(Outcome::Finalized(Ok(())));
    assert_eq!(d.steps(), [""; 0], "a finalizer may still hold the object");
    d.apply(Outcome::Removed);
    assert_eq!(short(&plan(&d.state, at(d.now)).steps[0]), "forget");
}

#[test]
fn who_does_not_stop_is_killed_and_a_second_delete_can_hurry() {
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    d.started("a");
    d.delete(30);
    d.now += 30;
    assert_eq!(d.steps(), ["KILL a"]);
    assert_eq!(d.steps(), [""; 0]);

    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    d.started("a");
    d.delete(600);
    d.now += 5;
    d.delete(1);
    d.now += 2;
    assert_eq!(d.steps(), ["KILL a"], "the shorter grace period counts");
}

#[test]
fn grace_of_zero_still_gives_two_seconds() {
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    d.started("a");
    assert_eq!(d.delete(0), ["kill a", "TERM a"]);
    assert_eq!(d.wake(), Some(2));
}

#[test]
fn a_pre_stop_hook_runs_inside_the_grace_period() {
    let hook = json!({"name": "a", "image": "i", "lifecycle": {"preStop": {"exec": {"command": ["x"]}}}});
    let mut d = Drive::new(json!({"containers": [hook]}));
    d.ready();
    d.started("a");
    assert_eq!(d.delete(30), ["kill a", "pre-stop a"]);
    d.now += 10;
    d.apply(Outcome::PreStopDone { id: "a0".into() });
    assert_eq!(d.steps(), ["TERM a"]);
    assert_eq!(d.wake(), Some(20));

    let mut d = Drive::new(json!({"containers": [hook]}));
    d.ready();
    d.started("a");
    d.delete(30);
    d.now += 30;
    assert_eq!(d.steps(), ["TERM a"], "a hook that takes too long");
    d.now += 2;
    assert_eq!(d.steps(), ["KILL a"]);
}

fn with_sidecars() -> Drive {
    let side = |name: &str| json!({"name": name, "image": "i", "restartPolicy": "Always"});
    let mut gated = side("s");
    gated["startupProbe"] = json!({"tcpSocket": {"port": 1}});
    let spec = json!({"restartPolicy": "Never", "initContainers": [gated, side("t")], "containers": containers(&["a"])});
    let mut d = Drive::new(spec);
    assert_eq!(d.ready(), ["start s"]);
    assert_eq!(d.started("s"), [""; 0], "its startup probe has not succeeded yet");
    d.apply(Outcome::StartedUp { id: "s0".into() });
    assert_eq!(d.steps(), ["start t"]);
    assert_eq!(d.started("t"), ["start a"]);
    d.started("a");
    d
}

#[test]
fn sidecars_come_first_and_go_last_in_reverse() {
    let mut d = with_sidecars();
    assert_eq!(d.exits("s", 1), ["start s"], "a sidecar is always restarted");
    d.started("s");
    assert_eq!(d.delete(30), ["kill s", "kill t", "kill a", "TERM a"]);
    assert_eq!(d.exits("a", 0), ["TERM t"]);
    assert_eq!(d.exits("t", 0), ["TERM s"]);
    assert_eq!(d.exits("s", 0), ["tear-down"]);
}

#[test]
fn sidecars_stop_once_the_main_containers_are_done() {
    let mut d = with_sidecars();
    assert_eq!(d.exits("a", 0), ["kill s", "kill t", "TERM t"]);
    assert_eq!(d.exits("t", 0), ["TERM s"]);
}

#[test]
fn a_deadline_fails_the_pod() {
    let mut d = Drive::new(json!({"activeDeadlineSeconds": 5, "containers": containers(&["a"])}));
    d.ready();
    d.started("a");
    assert_eq!(d.wake(), Some(5));
    d.now += 5;
    assert_eq!(d.steps(), ["fail DeadlineExceeded", "kill a", "TERM a"]);
    assert_eq!(d.exits("a", 137), ["tear-down"]);
    d.apply(Outcome::TornDown(Ok(())));
    assert_eq!(d.steps(), [""; 0], "the object stays");
}

#[test]
fn an_unhealthy_container_and_a_changed_image_restart() {
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    d.started("a");
    let unhealthy = Unhealthy { message: "Container a failed liveness probe, will be restarted".into(), grace: Some(3) };
    d.apply(Outcome::Unhealthy { id: "a0".into(), unhealthy });
    assert_eq!(d.steps(), ["kill a", "TERM a"]);
    assert_eq!(d.wake(), Some(3), "the probe's own grace period");
    assert_eq!(d.exits("a", 137), ["start a"]);
    d.started("a");
    let mut pod = (*d.state.pod).clone();
    pod.spec.as_mut().unwrap().containers[0].image = Some("other".into());
    d.apply(Outcome::Pod(Arc::new(pod)));
    assert_eq!(d.steps(), ["kill a", "TERM a"]);
}

#[test]
fn a_lost_sandbox_is_made_anew_and_its_containers_restart() {
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    d.started("a");
    d.apply(Outcome::SandboxLost);
    assert_eq!(d.steps(), ["remove-sandbox"]);
    d.apply(Outcome::SandboxRemoved(Ok(())));
    assert_eq!(d.steps(), ["sandbox"]);
    d.apply(Outcome::Sandbox(Ok((2, None))));
    assert_eq!(d.steps(), ["start a"]);
}

#[test]
fn a_new_sandbox_initializes_again() {
    let mut d = Drive::new(json!({"initContainers": containers(&["i"]), "containers": containers(&["a"])}));
    d.ready();
    d.started("i");
    d.exits("i", 0);
    d.started("a");
    d.apply(Outcome::SandboxLost);
    assert_eq!(d.steps(), ["remove-sandbox"]);
    d.apply(Outcome::SandboxRemoved(Ok(())));
    d.steps();
    d.apply(Outcome::Sandbox(Ok((2, None))));
    assert_eq!(d.steps(), ["start i"]);
    d.started("i");
    assert_eq!(d.exits("i", 0), ["start a"]);
    d.started("a");
    assert_eq!((d.state.run("i").restarts, d.state.run("a").restarts), (1, 1));
    assert_eq!(d.exits("a", 1), ["back-off a"]);
}

#[test]
fn a_pod_deleted_while_it_is_being_made_waits_for_what_is_on_its_way() {
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    assert_eq!(d.steps(), ["sandbox", "volumes"]);
    assert_eq!(d.delete(30), [""; 0]);
    d.apply(Outcome::Sandbox(Ok((1, None))));
    assert_eq!(d.steps(), [""; 0]);
    d.apply(Outcome::Volumes(Ok(())));
    assert_eq!(d.steps(), ["tear-down"]);

    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    assert_eq!(d.delete(30), [""; 0], "a start is in flight");
    assert_eq!(d.started("a"), ["kill a", "TERM a"]);
}

#[test]
fn a_failed_post_start_hook_stops_its_container() {
    let mut d = Drive::new(json!({"containers": containers(&["a"])}));
    d.ready();
    let running = Running {
        id: "a0".into(),
        pid: 1,
        started_at: at(1000),
        image: "i".into(),
        image_id: String::new(),
        process: Default::default(),
        log_path: "/log".into(),
    };
    d.apply(Outcome::Started { container: "a".into(), result: Ok(running), hook_failure: Some("no".into()) });
    assert_eq!(d.steps(), ["TERM a"]);
    assert_eq!(d.exits("a", 143), ["start a"]);
}

proptest::proptest! {
    /// Whatever happens in whatever order, the plan comes to rest, starts at most one container at a time, and never starts
    /// anything in a pod that is to stop.
    #[test]
    fn the_plan_always_rests(events in proptest::collection::vec((0..9usize, 0..3usize, 0..40i64), 0..40)) {
        let side = json!({"name": "s", "image": "i", "restartPolicy": "Always"});
        let mut d = Drive::new(json!({"initContainers": [side, {"name": "i", "image": "i"}], "containers": containers(&["a"])}));
        let names = ["s", "i", "a"];
        for (event, which, seconds) in events {
            d.now += seconds;
            let name = names[which];
            let starting = d.state.run(name).is_starting();
            match event {
                0 if d.state.sandbox == Sandbox::Creating => d.apply(Outcome::Sandbox(if seconds % 5 == 0 { Err("x".into()) } else { Ok((1, None)) })),
                1 if d.state.volumes == Stage::Busy => d.apply(Outcome::Volumes(Ok(()))),
                2 if starting => drop(d.started(name)),
                3 if starting => drop(d.failed(name, StartFailure::Image("ErrImagePull", "x".into()))),
                4 if d.state.run(name).running().is_some() => drop(d.exits(name, (seconds % 2) as i32)),
                5 if d.state.sandbox == (Sandbox::Ready { pid: 1 }) => d.apply(Outcome::SandboxLost),
                6 if d.state.sandbox == Sandbox::Removing => d.apply(Outcome::SandboxRemoved(Ok(()))),
                7 if seconds > 35 => drop(d.delete(seconds)),
                8 if d.state.teardown == Stage::Busy => d.apply(Outcome::TornDown(Ok(()))),
                _ => {}
            }
            let stop = stopping(&d.state);
            let steps = d.steps();
            proptest::prop_assert!(!stop || !steps.iter().any(|s| s.starts_with("start")), "{:?}", steps);
            proptest::prop_assert!(d.state.containers.values().filter(|r| r.is_starting()).count() <= 1);
        }
    }
}
