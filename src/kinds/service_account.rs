//! ServiceAccount (core/v1).

use super::{Kind, Names, Subresource};
use k8s_openapi::api::core::v1 as api;

pub struct ServiceAccount;

impl Kind for ServiceAccount {
    type Object = api::ServiceAccount;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        categories: &[],
        namespaced: true,
    };
    const SUBRESOURCES: &'static [Subresource] =
        &[Subresource::Other { name: "token", group: "authentication.k8s.io", version: "v1", kind: "TokenRequest", verbs: &["create"] }];

    fn default(object: &mut api::ServiceAccount) {
        super::fill::drop_zero(&mut object.secrets);
        super::fill::drop_zero(&mut object.image_pull_secrets);
    }
}
