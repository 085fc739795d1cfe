use super::*;
use proptest::prelude::*;
use serde_json::json;
use wire::Writer;

/// A body as client-go writes it.
pub fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut unknown = Writer::default();
    unknown.message(1, |meta| {
        meta.put(1, api_version.as_bytes());
        meta.put(2, kind.as_bytes());
    });
    unknown.put(2, raw);
    unknown.put(3, b"");
    unknown.put(4, b"");
    [&MAGIC[..], &unknown.bytes].concat()
}

fn entry(writer: &mut Writer, number: u32, key: &str, value: &[u8]) {
    writer.message(number, |e| {
        e.put(1, key.as_bytes());
        e.put(2, value);
    });
}

#[test]
fn a_config_map_reads_as_its_json() {
    let mut map = Writer::default();
    map.message(1, |meta| {
        meta.put(1, b"cm");
        meta.put(2, b"");
        meta.put(3, b"default");
        meta.int(7, 0);
        meta.message(8, |_| {});
        entry(meta, 11, "app", b"x");
    });
    entry(&mut map, 2, "key", b"value");
    entry(&mut map, 2, "empty", b"");
    entry(&mut map, 3, "bin", &[0, 255]);
    map.int(4, 0);
    let got = to_value(&body("v1", "ConfigMap", &map.bytes), None).unwrap();
    let want = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "cm", "namespace": "default", "labels": {"app": "x"}},
        "data": {"key": "value", "empty": ""}, "binaryData": {"bin": "AP8="}, "immutable": false});
    assert_eq!(got, want);
}

#[test]
fn a_deployment_keeps_its_quantities_ports_and_probes() {
    let mut deployment = Writer::default();
    deployment.message(2, |spec| {
        spec.int(1, 3);
        spec.message(3, |template| {
            template.message(2, |pod| {
                pod.message(2, |container| {
                    container.put(1, b"web");
                    container.message(6, |port| {
                        port.put(1, b"");
                        port.int(2, 0);
                        port.int(3, 80);
                    });
                    container.message(8, |resources| {
                        resources.message(1, |e| {
                            e.put(1, b"cpu");
                            e.message(2, |q| q.put(1, b"100m"));
                        });
                    });
                    // readinessProbe: its handler is a message of its own on the wire, inlined in JSON.
                    container.message(11, |probe| {
                        probe.message(1, |handler| {
                            handler.message(2, |get| {
                                get.put(1, b"/healthz");
                                get.message(2, |port| {
                                    port.int(1, 1);
                                    port.int(2, 0);
                                    port.put(3, b"http");
                                });
                            });
                        });
                        probe.int(2, 5);
                    });
                });
            });
        });
    });
    let got = to_value(&body("apps/v1", "Deployment", &deployment.bytes), None).unwrap();
    let container = &got["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(got["spec"]["replicas"], json!(3));
    assert_eq!(container["ports"], json!([{"containerPort": 80}]));
    assert_eq!(container["resources"], json!({"limits": {"cpu": "100m"}}));
    assert_eq!(container["readinessProbe"], json!({"httpGet": {"path": "/healthz", "port": "http"}, "initialDelaySeconds": 5}));
}

#[test]
fn delete_options_come_under_any_group() {
    let mut options = Writer::default();
    options.int(1, 0);
    options.message(2, |p| p.put(1, b"u-1"));
    options.put(4, b"Foreground");
    let got = to_value(&body("apps/v1", "DeleteOptions", &options.bytes), None).unwrap();
    assert_eq!(got["gracePeriodSeconds"], json!(0));
    assert_eq!(got["preconditions"], json!({"uid": "u-1"}));
    assert_eq!(got["propagationPolicy"], json!("Foreground"));
}

#[test]
fn a_body_without_a_kind_takes_the_endpoints() {
    let gvk = GroupVersionKind { group: String::new(), version: "v1".into(), kind: "Namespace".into() };
    let got = to_value(&body("", "", &[]), Some(&gvk)).unwrap();
    assert_eq!(got, json!({"apiVersion": "v1", "kind": "Namespace"}));
    assert_eq!(to_value(b"{}", None), Err(ProtobufError::Prefix));
    assert!(matches!(to_value(&body("v1", "Nothing", &[]), None), Err(ProtobufError::UnknownKind { .. })));
}

#[test]
fn times_and_negative_numbers() {
    let mut event = Writer::default();
    event.message(6, |t| {
        t.int(1, 1_700_000_000);
        t.int(2, 5000);
    });
    event.message(10, |t| {
        t.int(1, 1_700_000_000);
        t.int(2, 5000);
    });
    event.int(8, -1);
    let got = to_value(&body("v1", "Event", &event.bytes), None).unwrap();
    assert_eq!(got["firstTimestamp"], json!("2023-11-14T22:13:20Z"));
    assert_eq!(got["eventTime"], json!("2023-11-14T22:13:20.000005Z"));
    assert_eq!(got["count"], json!(-1));
}

#[test]
fn no_two_fields_of_a_type_share_a_number() {
    for def in schema().types() {
        let mut numbers: Vec<u32> = def.fields.iter().map(|f| f.number).filter(|n| *n != 0).collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "{}", def.name);
    }
}

#[test]
fn every_stored_kind_has_a_type() {
    for names in crate::kinds::all().iter().map(|r| r.names()) {
        assert!(schema().kind(names.group, names.version, names.kind).is_some(), "{}", names.kind);
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..6) {
        let kind = [("v1", "Pod"), ("apps/v1", "Deployment"), ("v1", "Event"), ("v1", "Service"), ("v1", "DeleteOptions"),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition")][at];
        let _ = to_value(&body(kind.0, kind.1, &bytes), None);
        let _ = to_value(&bytes, None);
    }

    #[test]
    fn what_is_written_is_read(number in 1u32..1000, int in any::<i64>(), text in ".{0,40}") {
        let mut writer = Writer::default();
        writer.int(number, int);
        writer.put(number + 1, text.as_bytes());
        let mut reader = wire::Reader::new(&writer.bytes);
        prop_assert_eq!(reader.next().unwrap(), Some((number, wire::Field::Varint(int.cast_unsigned()))));
        prop_assert_eq!(reader.next().unwrap(), Some((number + 1, wire::Field::Bytes(text.as_bytes()))));
        prop_assert_eq!(reader.next().unwrap(), None);
    }
}
