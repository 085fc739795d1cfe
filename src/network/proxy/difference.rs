//! From one state to another in one transaction that touches only what changed. Pure.

use super::super::NetworkOptions;
use super::super::nft::{Change, Key, Verdict};
use super::rules::{self, Objects};
use super::state::ProxyState;
use std::collections::{BTreeMap, BTreeSet};

/// A transaction, and what it does to chains.
#[derive(Debug, Default)]
pub struct Difference {
    pub changes: Vec<Change>,
    pub added: BTreeSet<String>,
    /// Chains that hold nothing now and that nothing leads to: to be deleted a little later.
    pub emptied: BTreeSet<String>,
}

/// What there is in either state of something that changed.
fn changed(old: &ProxyState, new: &ProxyState, options: &NetworkOptions) -> (Objects, Objects) {
    let (mut before, mut after) = (Objects::default(), Objects::default());
    for (name, port) in &old.services {
        if new.services.get(name) != Some(port) {
            add(&mut before, rules::service(name, port, options));
        }
    }
    for (name, port) in &new.services {
        if old.services.get(name) != Some(port) {
            add(&mut after, rules::service(name, port, options));
        }
    }
    old.host_ports.difference(&new.host_ports).for_each(|port| add(&mut before, rules::host_port(port)));
    new.host_ports.difference(&old.host_ports).for_each(|port| add(&mut after, rules::host_port(port)));
    (before, after)
}

fn add(all: &mut Objects, one: Objects) {
    all.chains.extend(one.chains);
    all.sets.extend(one.sets);
    all.elements.extend(one.elements);
}

/// The order within the transaction: what leads to old chains goes first, what leads to new ones comes last, so that
/// every step finds what it refers to.
pub fn between(old: &ProxyState, new: &ProxyState, options: &NetworkOptions) -> Difference {
    let (mut before, mut after) = changed(old, new, options);
    share_cluster_ips(&mut before, &mut after, old, new);
    let mut difference = Difference::default();
    let changes = &mut difference.changes;
    let old_elements = before.elements.iter().filter(|(key, verdict)| after.elements.get(key) != Some(verdict));
    let new_elements = after.elements.iter().filter(|(key, verdict)| before.elements.get(key) != Some(verdict));
    for (set, keys) in by_set(old_elements.map(|(key, _)| (key, ()))) {
        changes.push(Change::DeleteElements { set: set.into(), keys: keys.into_iter().map(|(key, ())| key).collect() });
    }
    for chain in after.chains.keys().filter(|chain| !before.chains.contains_key(*chain)) {
        changes.push(Change::AddChain { chain: chain.clone(), hook: None });
        difference.added.insert(chain.clone());
    }
    for (name, set) in after.sets.iter().filter(|(name, _)| !before.sets.contains_key(*name)) {
        changes.push(Change::AddSet { name: name.clone(), set: set.clone() });
    }
    for (chain, rules) in &before.chains {
        let now = after.chains.get(chain);
        if now != Some(rules) {
            changes.push(Change::FlushChain { chain: chain.clone() });
        }
        if now.is_none() {
            difference.emptied.insert(chain.clone());
        }
    }
    for (chain, rules) in after.chains.iter().filter(|(chain, rules)| before.chains.get(*chain) != Some(rules)) {
        changes.extend(rules.iter().map(|rule| Change::AddRule { chain: chain.clone(), rule: rule.clone() }));
    }
    for (set, elements) in by_set(new_elements) {
        let elements = elements.into_iter().map(|(key, verdict): (Key, &Option<Verdict>)| (key, verdict.clone())).collect();
        changes.push(Change::AddElements { set: set.into(), elements });
    }
    changes.extend(before.sets.keys().filter(|set| !after.sets.contains_key(*set)).map(|set| Change::DeleteSet { name: set.clone() }));
    difference
}

/// A cluster address is an element of every port of its Service, of which some may not have changed.
fn share_cluster_ips(before: &mut Objects, after: &mut Objects, old: &ProxyState, new: &ProxyState) {
    let one_sided = |some: &Objects, other: &Objects| -> Vec<(&'static str, Key)> {
        some.elements.keys().filter(|key| key.0 == super::base::CLUSTER_IPS && !other.elements.contains_key(*key)).cloned().collect()
    };
    let touched = [one_sided(before, after), one_sided(after, before)].concat();
    if touched.is_empty() {
        return;
    }
    let addresses =
        |state: &ProxyState| -> BTreeSet<Key> { state.services.values().map(|port| rules::address_key(port.cluster_ip)).collect() };
    let (old, new) = (addresses(old), addresses(new));
    for element in touched {
        for (objects, there) in [(&mut *before, &old), (&mut *after, &new)] {
            if there.contains(&element.1) {
                objects.elements.insert(element.clone(), None);
            } else {
                objects.elements.remove(&element);
            }
        }
    }
}

fn by_set<'a, V>(elements: impl Iterator<Item = (&'a (&'static str, Key), V)>) -> BTreeMap<&'static str, Vec<(Key, V)>> {
    let mut sets: BTreeMap<&'static str, Vec<(Key, V)>> = BTreeMap::new();
    for ((set, key), value) in elements {
        sets.entry(set).or_default().push((key.clone(), value));
    }
    sets
}
