//! Lease (coordination.k8s.io/v1).

use super::{Kind, Names};
use k8s_openapi::api::coordination::v1 as api;

pub struct Lease;

impl Kind for Lease {
    type Object = api::Lease;

    const NAMES: Names = Names {
        group: "coordination.k8s.io",
        version: "v1",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };
}
