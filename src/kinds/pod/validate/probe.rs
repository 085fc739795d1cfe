//! Probes and lifecycle hooks.

use crate::kinds::fill::str_of;
use crate::kinds::{check, names};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, PodSpec, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub fn of_container(path: &FieldPath, c: &Container, spec: &PodSpec, errors: &mut FieldErrors) {
    let grace = spec.termination_grace_period_seconds;
    if let Some(hooks) = &c.lifecycle {
        lifecycle(&path.child("lifecycle"), hooks, grace, spec, errors);
    }
    for (field, probe) in [("livenessProbe", &c.liveness_probe), ("readinessProbe", &c.readiness_probe), ("startupProbe", &c.startup_probe)]
    {
        let Some(probe) = probe else { continue };
        let at = path.child(field);
        self::probe(&at, probe, errors);
        if field == "readinessProbe" {
            if let Some(seconds) = probe.termination_grace_period_seconds {
                errors.invalid(&at.child("terminationGracePeriodSeconds"), seconds, "must not be set for readinessProbes");
            }
        } else if probe.success_threshold != Some(1) {
            errors.invalid(&at.child("successThreshold"), probe.success_threshold.unwrap_or_default(), "must be 1");
        }
    }
}

fn probe(path: &FieldPath, probe: &Probe, errors: &mut FieldErrors) {
    let handler = Handler { exec: &probe.exec, http: &probe.http_get, tcp: &probe.tcp_socket, grpc: &probe.grpc, sleep: &None };
    handler.validate(path, None, errors);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        check::non_negative(&path.child(field), value.unwrap_or_default(), errors);
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|s| *s <= 0) {
        errors.invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

fn lifecycle(path: &FieldPath, hooks: &Lifecycle, grace: Option<i64>, spec: &PodSpec, errors: &mut FieldErrors) {
    for (field, hook) in [("postStart", &hooks.post_start), ("preStop", &hooks.pre_stop)] {
        if let Some(LifecycleHandler { exec, http_get, tcp_socket, sleep }) = hook {
            let handler = Handler { exec, http: http_get, tcp: tcp_socket, grpc: &None, sleep };
            handler.validate(&path.child(field), grace, errors);
        }
    }
    if hooks.stop_signal.is_some() && spec.os.is_none() {
        errors.forbidden(&path.child("stopSignal"), "may not be set for containers with empty `spec.os.name`");
    }
}

/// What a probe or a hook does; exactly one of them.
struct Handler<'a> {
    exec: &'a Option<ExecAction>,
    http: &'a Option<HTTPGetAction>,
    tcp: &'a Option<TCPSocketAction>,
    grpc: &'a Option<GRPCAction>,
    sleep: &'a Option<SleepAction>,
}

impl Handler<'_> {
    fn validate(&self, path: &FieldPath, grace: Option<i64>, errors: &mut FieldErrors) {
        let mut chosen = None;
        for (field, set) in [
            ("exec", self.exec.is_some()),
            ("httpGet", self.http.is_some()),
            ("tcpSocket", self.tcp.is_some()),
            ("grpc", self.grpc.is_some()),
            ("sleep", self.sleep.is_some()),
        ] {
            match (set, chosen) {
                (false, _) => {}
                (true, None) => chosen = Some(field),
                (true, Some(_)) => errors.forbidden(&path.child(field), "may not specify more than 1 handler type"),
            }
        }
        let Some(field) = chosen else {
            errors.required(path, "must specify a handler type");
            return;
        };
        let at = path.child(field);
        match (field, self) {
            ("exec", Self { exec: Some(exec), .. }) if exec.command.as_ref().is_none_or(Vec::is_empty) => {
                errors.required(&at.child("command"), "");
            }
            ("httpGet", Self { http: Some(get), .. }) => http(&at, get, errors),
            ("tcpSocket", Self { tcp: Some(tcp), .. }) => check::port(&at.child("port"), &tcp.port, errors),
            ("grpc", Self { grpc: Some(grpc), .. }) => check::port(&at.child("port"), &IntOrString::Int(grpc.port), errors),
            ("sleep", Self { sleep: Some(sleep), .. }) => {
                if let Some(grace) = grace.filter(|g| sleep.seconds < 0 || sleep.seconds > *g) {
                    let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    errors.invalid(&at, sleep.seconds, why);
                }
            }
            _ => {}
        }
    }
}

fn http(path: &FieldPath, get: &HTTPGetAction, errors: &mut FieldErrors) {
    if str_of(&get.path).is_empty() {
        errors.required(&path.child("path"), "");
    }
    check::port(&path.child("port"), &get.port, errors);
    let scheme = str_of(&get.scheme);
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in get.http_headers.iter().flatten() {
        errors.all_invalid(&path.child("httpHeaders"), header.name.as_str(), names::http_header(&header.name));
    }
}
