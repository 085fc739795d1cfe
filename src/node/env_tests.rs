use super::*;
use crate::kinds::{ConfigMap, Registered, Secret, Service, load};
use serde_json::{Value, json};
use std::net::Ipv4Addr;

fn service(namespace: &str, name: &str, ip: &str, ports: Value) -> Arc<Object> {
    let json = json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": ip, "ports": ports}});
    load(Service::resource(), json.to_string().as_bytes(), 1).unwrap()
}

fn fetched() -> Fetched {
    let mut out = Fetched::default();
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "1", "not-a-name": "x"}});
    out.insert(SourceKind::ConfigMap, "m", load(ConfigMap::resource(), map.to_string().as_bytes(), 1).unwrap());
    let secret = json!({"metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"}});
    out.insert(SourceKind::Secret, "s", load(Secret::resource(), secret.to_string().as_bytes(), 1).unwrap());
    out
}

fn env_of(container: Value, links: bool) -> Result<BTreeMap<String, String>, String> {
    let mut container = container;
    container["name"] = json!("c");
    let pod: api::Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"},
        "spec": {"enableServiceLinks": links, "containers": [container]}}))
    .unwrap();
    let services = [
        service("n", "my-svc", "10.0.0.5", json!([{"name": "web", "port": 80}, {"name": "udp", "port": 53, "protocol": "UDP"}])),
        service("n", "headless", "None", json!([{"port": 80}])),
        service("default", "kubernetes", "10.0.0.1", json!([{"name": "https", "port": 443}])),
        service("default", "other", "10.0.0.2", json!([{"port": 1}])),
    ];
    environment(&Inputs {
        pod: &pod,
        container: &pod.spec.as_ref().unwrap().containers[0],
        addresses: Addresses { host: Ipv4Addr::LOCALHOST.into(), pod: Some(Ipv4Addr::new(10, 1, 1, 1).into()) },
        node: &Allocatable { cpu_milli: 2000, memory_bytes: 1 << 30, ephemeral_bytes: 0 },
        services: &services,
        fetched: &fetched(),
    })
}

#[test]
fn services_show_as_variables_and_links() {
    let env = env_of(json!({}), true).unwrap();
    for (name, value) in [
        ("MY_SVC_SERVICE_HOST", "10.0.0.5"),
        ("MY_SVC_SERVICE_PORT", "80"),
        ("MY_SVC_SERVICE_PORT_WEB", "80"),
        ("MY_SVC_SERVICE_PORT_UDP", "53"),
        ("MY_SVC_PORT", "tcp://10.0.0.5:80"),
        ("MY_SVC_PORT_80_TCP", "tcp://10.0.0.5:80"),
        ("MY_SVC_PORT_80_TCP_PROTO", "tcp"),
        ("MY_SVC_PORT_53_UDP", "udp://10.0.0.5:53"),
        ("MY_SVC_PORT_53_UDP_PORT", "53"),
        ("MY_SVC_PORT_80_TCP_ADDR", "10.0.0.5"),
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
    ] {
        assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!env.keys().any(|k| k.starts_with("OTHER") || k.starts_with("HEADLESS")));
    let without = env_of(json!({}), false).unwrap();
    assert!(without.contains_key("KUBERNETES_SERVICE_HOST") && !without.contains_key("MY_SVC_SERVICE_HOST"));
}

#[test]
fn variables_come_from_everywhere_and_expand_in_order() {
    let env = env_of(
        json!({
            "envFrom": [{"configMapRef": {"name": "m"}}, {"prefix": "P-", "secretRef": {"name": "s"}},
                {"configMapRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "a", "value": "over"},
                {"name": "X", "value": "$(a)/$(P-k)/$(LATER)/$(MY_SVC_SERVICE_PORT)/$$(a)"},
                {"name": "LATER", "value": "l"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "a"}}},
                {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "z", "optional": true}}},
                {"name": "GONE2", "valueFrom": {"configMapKeyRef": {"name": "z", "key": "z", "optional": true}}},
                {"name": "EMPTY"}
            ]
        }),
        true,
    )
    .unwrap();
    for (name, value) in [
        ("a", "over"),
        ("not-a-name", "x"),
        ("P-k", "secret"),
        ("X", "over/secret/$(LATER)/80/$(a)"),
        ("IP", "10.1.1.1"),
        ("CPU", "2"),
        ("KEY", "1"),
        ("SECRET", "secret"),
        ("EMPTY", ""),
    ] {
        assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!env.contains_key("GONE") && !env.contains_key("GONE2"));
}

#[test]
fn what_is_missing_is_named() {
    let key = |kind: &str, name: &str, key: &str| {
        let reference = json!({"name": name, "key": key});
        env_of(json!({"env": [{"name": "X", "valueFrom": {kind: reference}}]}), true).unwrap_err()
    };
    assert_eq!(key("configMapKeyRef", "no", "k"), "configmap \"no\" not found");
    assert_eq!(key("configMapKeyRef", "m", "k"), "couldn't find key k in ConfigMap n/m");
    assert_eq!(key("secretKeyRef", "no", "k"), "secret \"no\" not found");
    assert_eq!(key("secretKeyRef", "s", "z"), "couldn't find key z in Secret n/s");
    assert_eq!(env_of(json!({"envFrom": [{"secretRef": {"name": "no"}}]}), true).unwrap_err(), "secret \"no\" not found");
}

#[test]
fn command_and_args_replace_entrypoint_and_cmd() {
    let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let env: BTreeMap<String, String> = [("A".to_owned(), "1".to_owned())].into();
    for (command, args, want) in [
        (&[][..], &[][..], &["entry", "cmd"][..]),
        (&[], &["x$(A)"], &["entry", "x1"]),
        (&["run", "$(A)"], &[], &["run", "1"]),
        (&["run"], &["$$(A)"], &["run", "$(A)"]),
    ] {
        let container = api::Container { command: Some(words(command)), args: Some(words(args)), ..Default::default() };
        assert_eq!(merge_arguments(&container, words(&["entry"]), words(&["cmd"]), &env), words(want));
    }
}

#[test]
fn the_pods_variables_win_over_the_images() {
    let env: BTreeMap<String, String> = [("PATH".to_owned(), "/mine".to_owned()), ("X".to_owned(), "=y".to_owned())].into();
    let merged = merge_environment(vec!["PATH=/bin".into(), "HOME=/img".into()], &env, "host", "/root");
    assert_eq!(merged, ["HOME=/img", "PATH=/mine", "X==y", "HOSTNAME=host"]);
}
