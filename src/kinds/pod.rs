//! Pod (core/v1).

use super::{Kind, Names, Subresource};
use k8s_openapi::api::core::v1 as api;

pub struct Pod;

impl Kind for Pod {
    type Object = api::Pod;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        namespaced: true,
    };
    const SUBRESOURCES: &'static [Subresource] = &[
        Subresource::Status,
        Subresource::Other { name: "log", group: "", version: "v1", kind: "Pod", verbs: &["get"] },
        Subresource::Other { name: "exec", group: "", version: "v1", kind: "PodExecOptions", verbs: &["create", "get"] },
        Subresource::Other { name: "attach", group: "", version: "v1", kind: "PodAttachOptions", verbs: &["create", "get"] },
        Subresource::Other { name: "portforward", group: "", version: "v1", kind: "PodPortForwardOptions", verbs: &["create", "get"] },
        Subresource::Other {
            name: "proxy",
            group: "",
            version: "v1",
            kind: "PodProxyOptions",
            verbs: &["create", "delete", "get", "patch", "update"],
        },
        Subresource::Other { name: "binding", group: "", version: "v1", kind: "Binding", verbs: &["create"] },
        Subresource::Other { name: "eviction", group: "policy", version: "v1", kind: "Eviction", verbs: &["create"] },
        Subresource::Other { name: "ephemeralcontainers", group: "", version: "v1", kind: "Pod", verbs: &["get", "patch", "update"] },
        Subresource::Other { name: "resize", group: "", version: "v1", kind: "Pod", verbs: &["get", "patch", "update"] },
    ];
    const HAS_GENERATION: bool = true;
}
