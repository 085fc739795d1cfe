//! The ConfigMap `kube-root-ca.crt` of every active namespace: the CA by which pods know the API.
//! Follows pkg/controller/certificates/rootcacertpublisher.

use super::plan::{Action, Controller, Key, Plan};
use super::service_account::{is_active, keys_of_namespace, made_or_moot};
use crate::kinds::{ConfigMap, Namespace};
use crate::meta::ObjectMeta;
use crate::watch::{Event, Snapshot};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

pub struct RootCa {
    data: BTreeMap<String, String>,
}

impl RootCa {
    pub fn new(pem: &str) -> Self {
        Self { data: BTreeMap::from([("ca.crt".into(), pem.into())]) }
    }
}

impl Controller for RootCa {
    fn name(&self) -> &'static str {
        "root-ca-cert-publisher"
    }

    fn keys_for(&self, event: &Event, _: &Snapshot) -> Vec<Key> {
        keys_of_namespace::<ConfigMap>(event, NAME)
    }

    fn all_keys(&self, snapshot: &Snapshot) -> Vec<Key> {
        super::owners::keys_of::<Namespace>(snapshot)
    }

    fn reconcile(&self, snapshot: &Snapshot, key: &Key, _: Timestamp) -> Plan {
        let namespace = &key.object.name;
        if !is_active(snapshot, namespace) {
            return Plan::default();
        }
        let (annotation, text) = DESCRIPTION;
        if let Some(map) = snapshot.get::<ConfigMap>(namespace, NAME) {
            let described = map.metadata.annotations.as_ref().is_some_and(|a| a.get(annotation).is_some_and(|t| t == text));
            if map.data.as_ref() == Some(&self.data) && map.binary_data.as_ref().is_none_or(BTreeMap::is_empty) && described {
                return Plan::default();
            }
            let mut right = (*map).clone();
            right.data = Some(self.data.clone());
            right.binary_data = None;
            right.metadata.annotations.get_or_insert_default().insert(annotation.into(), text.into());
            return Plan::step(vec![Action::update::<ConfigMap>(&right)]);
        }
        let metadata = ObjectMeta {
            name: Some(NAME.into()),
            namespace: Some(namespace.clone()),
            annotations: Some(BTreeMap::from([(annotation.into(), text.into())])),
            ..ObjectMeta::default()
        };
        let map = core::ConfigMap { metadata, data: Some(self.data.clone()), ..core::ConfigMap::default() };
        Plan::step(vec![Action::create::<ConfigMap>(&map).forgive(made_or_moot)])
    }
}
