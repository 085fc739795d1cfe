//! What a lab consists of: pure, from the number of its masters and nodes.

use super::super::CliError;
use super::super::worker::Places;
use crate::network::lan::Host as LanHost;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The lab's one link. It exists in the lab's own namespaces alone.
const LINK: [u8; 3] = [10, 251, 0];
const LINK_PREFIX: u8 = 24;
const CLIENT_BYTE: u8 = 2;
const FIRST_MASTER: u8 = 10;
const FIRST_NODE: u8 = 100;
const MAX_MASTERS: u8 = 9;
const MAX_NODES: u8 = 100;
pub const API_PORT: u16 = 6443;
pub const PEER_PORT: u16 = 6444;
/// The host that runs nothing of ours.
pub const CLIENT: &str = "client";
const FILE: &str = "lab.json";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Master,
    Node,
    Client,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub role: Role,
    pub address: Ipv4Addr,
}

/// A lab, as it is written down in its directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lab {
    pub masters: u8,
    pub nodes: u8,
    #[serde(skip)]
    pub dir: PathBuf,
}

impl Lab {
    /// # Errors
    /// More hosts than the lab's link has addresses for, or no master.
    pub fn new(dir: &Path, masters: u8, nodes: u8) -> Result<Self, CliError> {
        if !(1..=MAX_MASTERS).contains(&masters) || nodes > MAX_NODES {
            return Err(CliError::text(format!("a lab has 1 to {MAX_MASTERS} masters and at most {MAX_NODES} nodes")));
        }
        let dir = std::path::absolute(dir).map_err(|e| CliError::new(dir.display().to_string(), e))?;
        Ok(Self { masters, nodes, dir })
    }

    /// # Errors
    /// There is no lab in the directory.
    pub fn load(dir: &Path) -> Result<Self, CliError> {
        let file = dir.join(FILE);
        let text = std::fs::read(&file).map_err(|e| CliError::new(format!("no lab is at {}", dir.display()), e))?;
        let found: Self = serde_json::from_slice(&text).map_err(|e| CliError::new(file.display().to_string(), e))?;
        Self::new(dir, found.masters, found.nodes)
    }

    pub fn save(&self) -> std::io::Result<()> {
        std::fs::write(self.file(), serde_json::to_vec(self)?)
    }

    pub fn file(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Masters, nodes, then the client.
    pub fn hosts(&self) -> Vec<Host> {
        let [a, b, c] = LINK;
        let host = |name: String, role, byte| Host { name, role, address: Ipv4Addr::new(a, b, c, byte) };
        let masters = (1..=self.masters).map(|n| host(format!("m{n}"), Role::Master, FIRST_MASTER + n));
        let nodes = (1..=self.nodes).map(|n| host(format!("n{n}"), Role::Node, FIRST_NODE + n));
        masters.chain(nodes).chain([host(CLIENT.into(), Role::Client, CLIENT_BYTE)]).collect()
    }

    pub fn of_role(&self, role: Role) -> Vec<Host> {
        self.hosts().into_iter().filter(|host| host.role == role).collect()
    }

    /// # Errors
    /// The lab has no such host.
    pub fn host(&self, name: &str) -> Result<Host, CliError> {
        self.hosts().into_iter().find(|host| host.name == name).ok_or_else(|| {
            let names: Vec<String> = self.hosts().into_iter().map(|host| host.name).collect();
            CliError::text(format!("the lab has no host {name:?}; it has {}", names.join(", ")))
        })
    }

    /// `https://ADDRESS:6443` of every master.
    pub fn servers(&self) -> Vec<String> {
        self.of_role(Role::Master).iter().map(|m| format!("https://{}:{API_PORT}", m.address)).collect()
    }

    /// The host as `network::lan` has it.
    pub fn on_lan(&self, host: &Host) -> LanHost {
        LanHost { name: host.name.clone(), netns: self.netns(&host.name), address: host.address, prefix: LINK_PREFIX }
    }

    pub fn lan(&self) -> Vec<LanHost> {
        self.hosts().iter().map(|host| self.on_lan(host)).collect()
    }

    /// Where a namespace is pinned; `lan` is the bridge's.
    pub fn netns(&self, name: &str) -> PathBuf {
        self.netns_dir().join(name)
    }
    pub fn netns_dir(&self) -> PathBuf {
        self.dir.join("net")
    }
    pub fn hub(&self) -> PathBuf {
        self.netns("lan")
    }
    /// A host's data dir.
    pub fn data(&self, host: &str) -> PathBuf {
        self.dir.join(host)
    }
    pub fn log(&self, host: &str) -> PathBuf {
        self.dir.join(format!("{host}.log"))
    }
    pub fn pid_file(&self, host: &str) -> PathBuf {
        self.dir.join(format!("{host}.pid"))
    }
    pub fn cluster_key(&self) -> PathBuf {
        self.dir.join("cluster.key")
    }
    pub fn node_token(&self) -> PathBuf {
        self.dir.join("node-token")
    }
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }
    pub fn places(&self, node: &str) -> Places {
        Places::new(&self.data(node), node)
    }

    /// What is run on a host: orchd's arguments. None for the client.
    pub fn command(&self, host: &Host) -> Option<Vec<String>> {
        let data = self.data(&host.name).to_string_lossy().into_owned();
        let words = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<String>>();
        match host.role {
            Role::Client => None,
            Role::Master => {
                let mut all = words(&["--data-dir", &data, "--listen", &format!("{}:{API_PORT}", host.address)]);
                if self.masters > 1 {
                    let peer = |master: &Host| format!("{}:{PEER_PORT}", master.address);
                    let peers: Vec<String> =
                        self.of_role(Role::Master).iter().map(|master| format!("{}={}", master.name, peer(master))).collect();
                    let key = self.cluster_key().to_string_lossy().into_owned();
                    let more =
                        ["--name", &host.name, "--peer-listen", &peer(host), "--peers", &peers.join(","), "--cluster-key-file", &key];
                    all.extend(words(&more));
                }
                Some(all)
            }
            Role::Node => {
                let token = self.node_token().to_string_lossy().into_owned();
                let servers = self.servers().join(",");
                Some(words(&["node", "--name", &host.name, "--data-dir", &data, "--token-file", &token, "--server", &servers]))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_names_and_addresses_of_their_own() {
        let lab = Lab::new(Path::new("/x"), 3, 2).unwrap();
        let hosts: Vec<String> = lab.hosts().iter().map(|h| format!("{} {}", h.name, h.address)).collect();
        let expected = ["m1 10.251.0.11", "m2 10.251.0.12", "m3 10.251.0.13", "n1 10.251.0.101", "n2 10.251.0.102", "client 10.251.0.2"];
        assert_eq!(hosts, expected);
        let most = Lab::new(Path::new("/x"), MAX_MASTERS, MAX_NODES).unwrap().hosts();
        let addresses: std::collections::BTreeSet<_> = most.iter().map(|h| h.address).collect();
        assert_eq!(addresses.len(), most.len());
        assert!(most.iter().all(|h| h.name.len() <= 15 && h.address.octets()[3] < 255));
        assert!(Lab::new(Path::new("/x"), 0, 1).is_err() && lab.host("m4").unwrap_err().to_string().contains("m1, m2"));
    }
}
