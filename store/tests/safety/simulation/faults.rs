//! What may befall the members of a simulated cluster.

use super::cluster::Cluster;
use crate::child::NAMES;
use rand::Rng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A process is killed, what it wrote stays.
    Kill,
    /// The power of one fails.
    Power,
    /// The power of several fails, one soon after the other.
    Blackout,
    /// A member is closed and opened.
    Close,
    /// Nothing leads to a member, nor from it.
    Isolate,
    /// One direction between two is cut.
    OneWay,
    /// Both directions between two are cut.
    Partial,
    /// Connections break, again and again.
    Reset,
    /// Messages from one to another take long.
    SlowLink,
    SlowDisk,
    /// What one writes fails, until it is started anew.
    BrokenDisk,
    Jump,
    MoveLeader,
}

pub const EVERY: [Fault; 13] = [
    Fault::Kill,
    Fault::Power,
    Fault::Blackout,
    Fault::Close,
    Fault::Isolate,
    Fault::OneWay,
    Fault::Partial,
    Fault::Reset,
    Fault::SlowLink,
    Fault::SlowDisk,
    Fault::BrokenDisk,
    Fault::Jump,
    Fault::MoveLeader,
];

fn ms(rng: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

/// Lets a fault befall a member, the leader more often than others, and undoes it after a while.
pub async fn befall(cluster: Arc<Cluster>, fault: Fault, mut rng: StdRng) {
    sleep(ms(&mut rng, 0..1000)).await;
    let leader = cluster.leader().filter(|_| rng.random_bool(0.6));
    let victim = leader.unwrap_or(rng.random_range(0..3));
    let other = (victim + rng.random_range(1..3)) % 3;
    let (during, all_three) = (ms(&mut rng, 50..2500), rng.random_bool(0.5));
    cluster.trace.note(format_args!("{fault:?} of {} and {} for {during:?}", NAMES[victim], NAMES[other]));
    match fault {
        Fault::Kill => down(&cluster, victim, false, during).await,
        Fault::Power => down(&cluster, victim, true, during).await,
        Fault::Blackout => {
            let first = down(&cluster, victim, true, during);
            let second = async {
                sleep(during / 8).await;
                down(&cluster, other, true, during / 2).await;
            };
            let third = async {
                if all_three {
                    down(&cluster, 3 - victim - other, true, during).await;
                }
            };
            futures::join!(first, second, third);
        }
        Fault::Close => {
            if cluster.close(victim).await {
                sleep(during).await;
                cluster.start(victim);
            }
        }
        Fault::Isolate | Fault::OneWay | Fault::Partial => cut(&cluster, fault, victim, other, during).await,
        Fault::Reset => {
            for _ in 0..rng.random_range(1..6) {
                cluster.network.reset(NAMES[victim]);
                sleep(during / 4).await;
            }
        }
        Fault::SlowLink => {
            let us = rng.random_range(20_000..600_000);
            cluster.network.slow(NAMES[victim], NAMES[other], Some(us));
            sleep(during).await;
            cluster.network.slow(NAMES[victim], NAMES[other], None);
        }
        Fault::SlowDisk => {
            cluster.members[victim].drive.slow(Some(rng.random_range(50_000..1_500_000)));
            sleep(during).await;
            cluster.members[victim].drive.slow(None);
        }
        Fault::BrokenDisk => {
            cluster.members[victim].drive.break_down();
            sleep(during / 2).await;
            down(&cluster, victim, all_three, during / 2).await;
        }
        Fault::Jump => cluster.members[victim].clock.jump(rng.random_range(500..8_000)),
        Fault::MoveLeader => {
            if let (Some(asked), Some(target)) = (cluster.members[victim].slot.store(), cluster.members[other].slot.store()) {
                // It may be refused for good reason: who leads changes by itself too.
                let _ = asked.move_leader(target.member_id()).await;
            }
        }
    }
}

async fn down(cluster: &Arc<Cluster>, at: usize, power: bool, during: Duration) {
    if cluster.runs(at) {
        cluster.kill(at, power);
        sleep(during).await;
        cluster.start(at);
    }
}

async fn cut(cluster: &Cluster, fault: Fault, victim: usize, other: usize, during: Duration) {
    let (from, to) = (NAMES[victim], NAMES[other]);
    let third = NAMES[3 - victim - other];
    let links = match fault {
        Fault::OneWay => vec![(from, to)],
        Fault::Partial => vec![(from, to), (to, from)],
        _ => vec![(from, to), (to, from), (from, third), (third, from)],
    };
    for (from, to) in &links {
        cluster.network.cut(from, to);
    }
    sleep(during).await;
    for (from, to) in &links {
        cluster.network.heal(from, to);
    }
}
