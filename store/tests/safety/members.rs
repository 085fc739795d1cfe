//! Three members in this process, over a network that can be cut: partitions whole, partial and one-way, a leader moved, a
//! member closed, opened, wiped and replaced (by snapshot, when the log has been purged), clocks that jump.

use crate::child::NAMES;
use crate::simulation::clock::Jumping;
use crate::target::Target;
use crate::workload::{LOAD, Load, Run, judged};
use futures::future::join_all;
use orchd_store::transport::memory::Mesh;
use orchd_store::{Group, OpenError, Options, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// So small that checkpoints and snapshots are written all the time.
const QUOTA: u64 = 110 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// Faults in one history.
const FAULTS: usize = 12;

#[derive(Clone, Copy, Debug)]
enum Fault {
    Isolate,
    OneWay,
    Partial,
    MoveLeader,
    Restart,
    Replace,
    Jump,
}

const EVERY: [Fault; 7] = [Fault::Isolate, Fault::Replace, Fault::OneWay, Fault::MoveLeader, Fault::Partial, Fault::Jump, Fault::Restart];

/// Three members and what is theirs.
pub struct Trio {
    mesh: Mesh,
    dir: TempDir,
    clocks: [Jumping; 3],
    pub stores: Vec<Store>,
}

async fn try_open(mesh: Mesh, dir: PathBuf, at: usize, clock: Jumping) -> Result<Store, OpenError> {
    let name = NAMES[at];
    let group = Group {
        name: name.into(),
        peers: NAMES.map(|name| (name.to_owned(), name.to_owned())).into(),
        peer_address: name.into(),
        client_addresses: Vec::new(),
        cluster: 9,
        transport: mesh.listen(name),
        force_new_cluster: false,
    };
    let opening = Store::open_with(Options { dir, quota_bytes: QUOTA, group: Some(group) }, Arc::new(clock));
    tokio::time::timeout(PATIENCE, opening).await.expect("a member does not open")
}

async fn open(mesh: Mesh, dir: PathBuf, at: usize, clock: Jumping) -> Store {
    try_open(mesh, dir, at, clock).await.unwrap()
}

impl Trio {
    pub async fn open() -> Self {
        let (mesh, dir) = (Mesh::default(), tempfile::tempdir().unwrap());
        let clocks = NAMES.map(|_| Jumping::new());
        let path = |at: usize| dir.path().join(NAMES[at]);
        let stores = join_all((0..3).map(|at| open(mesh.clone(), path(at), at, clocks[at].clone()))).await;
        Self { mesh, dir, clocks, stores }
    }

    pub fn dir(&self, at: usize) -> PathBuf {
        self.dir.path().join(NAMES[at])
    }

    /// Opens a member that was closed.
    pub async fn try_open(&self, at: usize) -> Result<Store, OpenError> {
        try_open(self.mesh.clone(), self.dir(at), at, self.clocks[at].clone()).await
    }

    pub async fn close(self) {
        join_all(self.stores.iter().map(Store::close)).await;
    }

    fn leader(&self) -> Option<usize> {
        self.stores.iter().position(|store| store.leads_in().is_some())
    }

    fn targets(&self, except: Option<usize>) -> Vec<Target> {
        self.stores.iter().enumerate().filter(|(at, _)| Some(*at) != except).map(|(_, store)| Target::Here(store.clone())).collect()
    }

    /// Does the worst while the clients are at work.
    async fn suffer(&mut self, fault: Fault, run: &mut Run, rng: &mut StdRng) {
        let leader = self.leader().filter(|_| rng.random_bool(0.6));
        let victim = leader.unwrap_or(rng.random_range(0..3));
        let other = (victim + rng.random_range(1..3)) % 3;
        let (before, during) = (Duration::from_millis(rng.random_range(50..300)), Duration::from_millis(rng.random_range(300..1500)));
        let away = matches!(fault, Fault::Restart | Fault::Replace).then_some(victim);
        let (targets, leaves) = (self.targets(away), self.stores[victim].clone());
        let (mesh, clock) = (self.mesh.clone(), self.clocks[victim].clone());
        let member = self.stores[other].member_id();
        let (asked, path) = (self.stores[other].clone(), self.dir(victim));
        let opened = run
            .round(&targets, async move {
                tokio::time::sleep(before).await;
                match fault {
                    Fault::Isolate => mesh.isolate(NAMES[victim]),
                    Fault::OneWay => mesh.cut(NAMES[victim], NAMES[other]),
                    Fault::Partial => {
                        mesh.cut(NAMES[victim], NAMES[other]);
                        mesh.cut(NAMES[other], NAMES[victim]);
                    }
                    // It may have been refused for good reason: who leads changes by itself too.
                    Fault::MoveLeader => drop(asked.move_leader(member).await),
                    Fault::Jump => clock.jump(4000),
                    Fault::Restart | Fault::Replace => leaves.close().await,
                }
                tokio::time::sleep(during).await;
                mesh.heal();
                let id = leaves.member_id();
                drop(leaves);
                let opened = match fault {
                    Fault::Restart => Some(open(mesh, path, victim, clock).await),
                    Fault::Replace => Some(replaced(&asked, id, mesh, &path, victim, clock).await),
                    _ => None,
                };
                tokio::time::sleep(before).await;
                opened
            })
            .await;
        if let Some(opened) = opened {
            self.stores[victim] = opened;
        }
    }
}

/// The member has lost its disk: it is removed, and added anew.
async fn replaced(asked: &Store, id: u64, mesh: Mesh, path: &Path, at: usize, clock: Jumping) -> Store {
    std::fs::remove_dir_all(path).unwrap();
    let begun = Instant::now();
    // While a leader is being elected the change may be refused; it may also have been done and the answer lost.
    while asked.members().iter().any(|member| member.id == id) {
        if let Err(error) = asked.member_remove(id).await {
            assert!(begun.elapsed() < PATIENCE, "the member cannot be removed: {error}");
        }
    }
    while !asked.members().iter().any(|member| member.name == NAMES[at]) {
        if let Err(error) = asked.member_add(NAMES[at], vec![NAMES[at].into()], false).await {
            assert!(begun.elapsed() < PATIENCE, "the member cannot be added: {error}");
        }
    }
    open(mesh, path.to_owned(), at, clock).await
}

async fn faults(count: usize, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut run = Run::new(Load { large: 30, leases: 5, ..LOAD }, seed);
    let mut trio = Trio::open().await;
    for at in 0..count {
        let fault = EVERY[(at + seed as usize) % EVERY.len()];
        trio.suffer(fault, &mut run, &mut rng).await;
    }
    let history = run.finish(&trio.targets(None)).await;
    trio.close().await;
    judged("members", &history);
    assert!(history.operations.len() > 20 * count, "the clients have hardly asked anything");
}

/// `SAFETY_FAULTS` sets how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_stay_one_store_whatever_befalls_them() {
    let mut left = crate::setting("SAFETY_FAULTS", FAULTS);
    let mut seed = crate::setting("SAFETY_SEED", 0) as u64;
    while left > 0 {
        let count = left.min(FAULTS);
        faults(count, seed).await;
        (left, seed) = (left - count, seed + 1);
    }
}
