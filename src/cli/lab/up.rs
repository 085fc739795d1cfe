//! A lab comes up: namespaces, keys, processes, and then the cluster itself.

use super::super::CliError;
use super::super::watching::{Answer, wait};
use super::plan::{Host, Lab, Role};
use super::{block_on, kubeconfig, process};
use crate::client::HttpsClient;
use crate::env::DirWatch;
use crate::kinds::{Node, Ref};
use crate::network::{NodeRoute, lan};
use crate::node::admin::SOCKET;
use crate::security::files::write_private;
use crate::security::{ClusterKey, Pki};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::process::Child;
use tokio::time::timeout;

/// How long a host or the cluster may take; a machine may be busy with other things.
const LIMIT: Duration = Duration::from_secs(60);
const LOG_LINES: usize = 20;

/// Brings the lab up and returns; its processes go on.
///
/// # Errors
/// There is a lab already, or a part of it does not come up. What there is of it then is for `down` to remove.
pub fn run(lab: Lab) -> Result<(), CliError> {
    let began = Instant::now();
    if lab.file().exists() {
        return Err(CliError::text(format!("a lab is at {} already; orchd lab down ends it", lab.dir.display())));
    }
    let outcome = bring_up(&lab);
    if outcome.is_err() {
        eprintln!("what there is of the lab stays for a look; remove it with: orchd lab --dir {} down", lab.dir.display());
    }
    outcome?;
    println!("{} master(s) and {} node(s) are up in {:.1} s.\n", lab.masters, lab.nodes, began.elapsed().as_secs_f64());
    let dir = lab.dir.display();
    println!("    orchd lab --dir {dir} exec client -- kubectl --kubeconfig {} get nodes", lab.kubeconfig().display());
    Ok(())
}

fn bring_up(lab: &Lab) -> Result<(), CliError> {
    prepare(lab)?;
    lan::make(&lab.hub(), &lab.lan()).map_err(|e| CliError::new("cannot make the lab's network", e))?;
    let pki = keys(lab)?;
    // From here on this process is on the client's host, where the cluster can be reached.
    lan::enter(&lab.on_lan(&client(lab)?).netns).map_err(|e| CliError::new("cannot enter the client's host", e))?;
    block_on(async {
        let mut processes = Vec::new();
        for host in lab.hosts().into_iter().filter(|host| host.role != Role::Client) {
            processes.push(Starting::new(lab, host)?);
        }
        let signs: Vec<Sign> = processes.iter().map(|p| p.sign.clone()).collect();
        let nodes = tokio::select! {
            ready = cluster(lab, &pki, &signs) => ready?,
            error = any_end(lab, &mut processes) => return Err(error),
        };
        lan::route(&lab.on_lan(&client(lab)?), &nodes).map_err(|e| CliError::new("cannot lead the client to the pods", e))
    })
}

fn client(lab: &Lab) -> Result<Host, CliError> {
    lab.host(super::plan::CLIENT)
}

/// Directories, and what the lab is, before there is anything to remove.
fn prepare(lab: &Lab) -> Result<(), CliError> {
    let failed = |e: std::io::Error| CliError::new(format!("cannot use {}", lab.dir.display()), e);
    std::fs::create_dir_all(lab.netns_dir()).map_err(failed)?;
    lab.save().map_err(failed)?;
    for host in lab.hosts().iter().filter(|host| host.role != Role::Client) {
        std::fs::create_dir_all(lab.data(&host.name)).map_err(failed)?;
    }
    Ok(())
}

/// The cluster key, where the masters find it, and the node token.
fn keys(lab: &Lab) -> Result<Pki, CliError> {
    let failed = |e: &dyn std::fmt::Display| CliError::text(format!("cannot make the cluster's keys: {e}"));
    let key = ClusterKey::generate().map_err(|e| failed(&e))?;
    key.save(&lab.cluster_key()).map_err(|e| failed(&e))?;
    if lab.masters == 1 {
        for master in lab.of_role(Role::Master) {
            let dir = lab.data(&master.name).join("pki");
            std::fs::create_dir_all(&dir).map_err(|e| failed(&e))?;
            key.save(&dir.join("cluster.key")).map_err(|e| failed(&e))?;
        }
    }
    let pki = Pki::new(key, &[]).map_err(|e| failed(&e))?;
    let token = pki.node_token().map_err(|e| failed(&e))?;
    write_private(&lab.node_token(), token.to_string().as_bytes()).map_err(|e| failed(&e))?;
    Ok(pki)
}

/// The file that a host's process writes once it serves.
#[derive(Clone)]
struct Sign {
    host: Host,
    dir: PathBuf,
    file: PathBuf,
}

/// A process that has been started.
struct Starting {
    sign: Sign,
    child: Child,
}

impl Starting {
    fn new(lab: &Lab, host: Host) -> Result<Self, CliError> {
        let dir = lab.data(&host.name);
        let file = dir.join(if host.role == Role::Master { "kubeconfig" } else { SOCKET });
        if process::find(lab, &host.name)?.is_some() {
            return Err(CliError::text(format!("{} runs already", host.name)));
        }
        // Of an earlier run.
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(CliError::new(file.display().to_string(), e)),
            _ => {}
        }
        let child = process::start(lab, &host)?;
        Ok(Self { sign: Sign { host, dir, file }, child })
    }
}

impl Sign {
    /// Returns once the file is there.
    async fn appears(&self, lab: &Lab) -> Result<(), CliError> {
        let failed = |e: std::io::Error| CliError::new(format!("cannot watch {}", self.dir.display()), e);
        let mut watch = DirWatch::new(&self.dir).map_err(failed)?;
        let appearing = async {
            while !self.file.exists() {
                watch.wait().await.map_err(failed)?;
            }
            Ok(())
        };
        timeout(LIMIT, appearing).await.unwrap_or_else(|_| {
            let name = &self.host.name;
            Err(CliError::text(format!("{name} does not serve. Its log ends:\n{}", log_end(lab, name))))
        })
    }
}

/// The first process that ends, as the failure that it is.
async fn any_end(lab: &Lab, processes: &mut [Starting]) -> CliError {
    let ends = processes.iter_mut().map(|p| {
        Box::pin(async {
            let ended = p.child.wait().await;
            (p.sign.host.name.clone(), ended)
        })
    });
    let ((host, ended), _, _) = futures::future::select_all(ends).await;
    let how = ended.map_or_else(|e| e.to_string(), |status| status.to_string());
    CliError::text(format!("{host} ended ({how}). Its log ends:\n{}", log_end(lab, &host)))
}

fn log_end(lab: &Lab, host: &str) -> String {
    let text = std::fs::read_to_string(lab.log(host)).unwrap_or_else(|e| e.to_string());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|line| format!("   | {line}\n")).collect()
}

/// Waits until every master serves and every node is ready; returns where the nodes' pods are.
async fn cluster(lab: &Lab, pki: &Pki, signs: &[Sign]) -> Result<Vec<NodeRoute>, CliError> {
    let masters = signs.iter().filter(|sign| sign.host.role == Role::Master).map(|sign| sign.appears(lab));
    futures::future::try_join_all(masters).await?;
    kubeconfig::write(lab, pki, 0)?;
    let client: HttpsClient = kubeconfig::client(pki, &lab.servers())?;
    let count = usize::from(lab.nodes);
    wait::<Node, _>(
        &client,
        None,
        LIMIT,
        "the nodes' readiness",
        |_| {},
        |nodes| {
            let ready: Vec<NodeRoute> =
                nodes.values().filter(|node| is_ready(node)).filter_map(|node| crate::node::nodes::route_of(node)).collect();
            if ready.len() >= count { Answer::Yes(ready) } else { Answer::NotYet(format!("{} of {count} nodes are ready", ready.len())) }
        },
    )
    .await
}

fn is_ready(node: &Ref<Node>) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Starts a host's process again, and returns once it serves.
///
/// # Errors
/// It runs, or does not come up.
pub fn start_again(lab: &Lab, host: &Host) -> Result<(), CliError> {
    block_on(async {
        let mut starting = Starting::new(lab, host.clone())?;
        let sign = starting.sign.clone();
        tokio::select! {
            serving = sign.appears(lab) => serving,
            error = any_end(lab, std::slice::from_mut(&mut starting)) => Err(error),
        }
    })
}
