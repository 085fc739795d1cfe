//! Three members, each with a disk, a clock and a place in the network, all of them simulated; and what befalls them.

use super::Plan;
use super::clock::Jumping;
use super::disk::Drive;
use super::network::Network;
use super::slot::Slot;
use super::trace::Trace;
use crate::child::NAMES;
use crate::target::Target;
use orchd_store::world::{Sizes, World};
use orchd_store::{Group, Options, Store};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// So small that the log rolls, and is purged in favour of a snapshot, all the time.
const SIZES: Sizes = Sizes { segment: 512 << 10, first_segment: 16 << 10, log: 64 << 10 };
/// How long anything may take that must come to be once nothing befalls the members any more.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

pub struct Member {
    pub name: &'static str,
    pub slot: Slot,
    pub drive: Drive,
    pub clock: Jumping,
    /// Its process, if there is one, while it opens the store.
    process: Mutex<Option<AbortHandle>>,
}

pub struct Cluster {
    pub trace: Trace,
    pub network: Network,
    pub members: [Member; 3],
    /// Who has led in each term.
    leaders: Mutex<BTreeMap<u64, u64>>,
    /// What must not have happened.
    wrong: Mutex<Vec<String>>,
}

impl Cluster {
    pub fn new(plan: &Plan, rng: &mut StdRng) -> Arc<Self> {
        let trace = Trace::new(plan.keep_trace);
        let network = Network::new(trace.clone(), rng.random(), rng.random_range(200..5_000));
        let sync_us = rng.random_range(200..5_000);
        let members = NAMES.map(|name| Member {
            name,
            slot: Slot::new(name, trace.clone(), plan.stale_reads),
            drive: Drive::new(name, trace.clone(), rng.random(), sync_us, plan.lying_disks),
            clock: Jumping::new(),
            process: Mutex::default(),
        });
        Arc::new(Self { trace, network, members, leaders: Mutex::default(), wrong: Mutex::default() })
    }

    pub fn targets(&self) -> Vec<Target> {
        self.members.iter().map(|member| Target::Simulated(member.slot.clone())).collect()
    }

    pub fn leader(&self) -> Option<usize> {
        self.members.iter().position(|member| member.slot.store().is_some_and(|store| store.leads_in().is_some()))
    }

    pub fn runs(&self, at: usize) -> bool {
        self.members[at].process.lock().is_some()
    }

    fn options(&self, at: usize) -> (Options, World) {
        let member = &self.members[at];
        let group = Group {
            name: member.name.into(),
            peers: NAMES.map(|name| (name.to_owned(), name.to_owned())).into(),
            peer_address: member.name.into(),
            client_addresses: Vec::new(),
            cluster: 7,
            transport: self.network.listen(member.name),
            force_new_cluster: false,
        };
        let options = Options { dir: format!("/{}", member.name).into(), quota_bytes: 0, group: Some(group) };
        (options, World { disk: member.drive.mount(), clock: Arc::new(member.clock.clone()), sizes: SIZES })
    }

    /// Starts a member's process.
    pub fn start(self: &Arc<Self>, at: usize) {
        let (options, world) = self.options(at);
        let cluster = self.clone();
        self.trace.note(format_args!("{} starts", self.members[at].name));
        let opening = tokio::spawn(async move {
            let member = &cluster.members[at];
            match Store::open_in(options, world).await {
                Ok(store) => {
                    cluster.trace.note(format_args!("{} is open", member.name));
                    tokio::spawn(cluster.clone().watch_terms(store.clone()));
                    member.slot.put(Some(store));
                }
                Err(_) if member.drive.is_broken() => {}
                Err(error) => cluster.wrong.lock().push(format!("{} does not open: {error}", member.name)),
            }
        });
        *self.members[at].process.lock() = Some(opening.abort_handle());
    }

    /// Kills a member's process; with `power`, what its disk had not synced may be lost.
    pub fn kill(&self, at: usize, power: bool) {
        let member = &self.members[at];
        self.trace.note(format_args!("{} is killed{}", member.name, if power { ", its power fails" } else { "" }));
        self.network.leave(member.name);
        if power {
            member.drive.fail();
        } else {
            member.drive.take();
        }
        if let Some(process) = member.process.lock().take() {
            process.abort();
        }
        if let Some(store) = member.slot.put(None) {
            // It has neither disk nor network any more; this lets its tasks end.
            tokio::spawn(async move { store.close().await });
        }
    }

    /// Closes a member as it should be closed. False: it did not run.
    pub async fn close(&self, at: usize) -> bool {
        let Some(store) = self.members[at].slot.put(None) else { return false };
        self.trace.note(format_args!("{} is closed", self.members[at].name));
        // From here on nobody kills it, nor starts it anew.
        *self.members[at].process.lock() = None;
        store.close().await;
        true
    }

    async fn watch_terms(self: Arc<Self>, store: Store) {
        let (id, mut leadership) = (store.member_id(), store.watch_leadership());
        loop {
            if let Some(term) = store.leads_in() {
                self.trace.note(format_args!("{id:016x} leads in term {term}"));
                let other = *self.leaders.lock().entry(term).or_insert(id);
                if other != id {
                    self.wrong.lock().push(format!("two leaders in term {term}: {id:016x} and {other:016x}"));
                }
            }
            if !leadership.changed().await {
                return;
            }
        }
    }

    /// Removes a member that has lost its disk, adds it anew and starts it.
    pub async fn replace(self: &Arc<Self>, at: usize) {
        let (member, asked) = (&self.members[at], &self.members[(at + 1) % 3]);
        let (Some(gone), Some(asked)) = (member.slot.store(), asked.slot.store()) else { return };
        let id = gone.member_id();
        drop(gone);
        self.kill(at, true);
        member.drive.wipe();
        self.trace.note(format_args!("{} has lost its disk", member.name));
        let begun = Instant::now();
        // While a leader is being elected the change may be refused; it may also have been done and the answer lost.
        while asked.members().iter().any(|member| member.id == id) {
            if let Err(error) = asked.member_remove(id).await {
                assert!(begun.elapsed() < PATIENCE, "the member cannot be removed: {error}");
                tokio::time::sleep(LOOK).await;
            }
        }
        while !asked.members().iter().any(|other| other.name == member.name) {
            if let Err(error) = asked.member_add(member.name, vec![member.name.into()], false).await {
                assert!(begun.elapsed() < PATIENCE, "the member cannot be added: {error}");
                tokio::time::sleep(LOOK).await;
            }
        }
        self.start(at);
    }

    /// Starts who does not run, and waits until all serve and all vote, by everybody's account.
    pub async fn recover(self: &Arc<Self>) {
        for at in 0..3 {
            if !self.runs(at) {
                self.start(at);
            }
        }
        let begun = Instant::now();
        for member in &self.members {
            loop {
                let served = match member.slot.store() {
                    Some(store) => match store.read_barrier().await {
                        Ok(()) if store.members().iter().any(|member| member.learner) => Err("somebody does not vote".to_owned()),
                        served => served.map_err(|error| error.to_string()),
                    },
                    None => Err("it is not open".to_owned()),
                };
                let Err(why) = served else { break };
                self.check();
                assert!(begun.elapsed() < PATIENCE, "{} does not serve though nothing befalls it any more: {why}", member.name);
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Waits until all members stand at one revision, and compares what they hold.
    pub async fn agree(&self) {
        let stores: Vec<Store> = self.members.iter().filter_map(|member| member.slot.store()).collect();
        let begun = Instant::now();
        let everything = orchd_store::RangeRequest::new(orchd_store::KeyRange::prefix(""));
        loop {
            let held: Vec<_> =
                stores.iter().map(|store| (store.range_local(&everything), store.leases(), store.compacted_revision())).collect();
            if held.iter().all(|one| *one == held[0]) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the members do not agree: {held:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the group has three members that vote, each under its own name.
    pub async fn settle(&self) {
        let begun = Instant::now();
        for store in self.members.iter().filter_map(|member| member.slot.store()) {
            loop {
                let members = store.members();
                let mut names: Vec<_> = members.iter().filter(|member| !member.learner).map(|member| &member.name[..]).collect();
                names.sort_unstable();
                if names == NAMES && members.len() == NAMES.len() {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "the members should be three, each of them once: {members:?}");
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Panics if a start has left what a process that died was writing.
    pub fn check_files(&self) {
        for member in &self.members {
            let left: Vec<_> = member.drive.files().into_iter().filter(|path| path.to_string_lossy().contains("snapshot.")).collect();
            assert!(left.is_empty(), "nobody removes {left:?}");
        }
    }

    /// Panics if something has happened that must not.
    pub fn check(&self) {
        let wrong = self.wrong.lock();
        assert!(wrong.is_empty(), "{}", wrong.join("; "));
    }
}
