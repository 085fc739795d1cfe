//! Several masters: what the flags say of the group, and the way to the other masters.

use super::super::{CliError, MasterArgs};
use crate::env::peers::{PeerPort, PeerTls};
use crate::security::Pki;
use crate::security::authn::is_peer;
use crate::security::pki::PEER_NAME;
use orchd_store::Group;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What a master of several is told.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    pub name: String,
    pub listen: SocketAddr,
    /// Names and addresses of the founding masters.
    pub peers: Vec<(String, String)>,
    pub cluster_key_file: PathBuf,
    pub force_new_cluster: bool,
}

impl GroupOptions {
    /// None: a lone master.
    ///
    /// # Errors
    /// Flags are missing or do not fit together.
    pub fn of(args: &MasterArgs) -> Result<Option<Self>, CliError> {
        let (Some(listen), Some(name), Some(key)) = (args.peer_listen, &args.name, &args.cluster_key_file) else {
            let any = args.peer_listen.is_some() || args.name.is_some() || args.cluster_key_file.is_some() || !args.peers.is_empty();
            return if any || args.force_new_cluster {
                Err(CliError::text("several masters need --name, --peer-listen, --peers and --cluster-key-file together"))
            } else {
                Ok(None)
            };
        };
        let peers: Vec<(String, String)> = args.peers.iter().map(|peer| parse(peer)).collect::<Result<_, _>>()?;
        if !peers.iter().any(|(peer, _)| peer == name) {
            return Err(CliError::text(format!("--peers does not name this master, {name}")));
        }
        for (at, (peer, address)) in peers.iter().enumerate() {
            if peers[..at].iter().any(|(other, taken)| other == peer || taken == address) {
                return Err(CliError::text(format!("--peers names {peer} or its address {address} twice")));
            }
        }
        let (name, cluster_key_file) = (name.clone(), key.clone());
        Ok(Some(Self { name, listen, peers, cluster_key_file, force_new_cluster: args.force_new_cluster }))
    }

    /// Opens this master's port for the others.
    ///
    /// # Errors
    /// The port cannot be had; the cluster key is damaged.
    pub async fn open(&self, pki: &Pki, client_addresses: Vec<String>) -> Result<Group, CliError> {
        let key = |e| CliError::new("cannot use the cluster key", e);
        let (server, client) = pki.peer_configs().map_err(key)?;
        let name = ServerName::try_from(PEER_NAME).map_err(|e| CliError::new("the masters' TLS name", e))?;
        let port = PeerPort::bind(self.listen, PeerTls { server, client, name, is_peer }).await;
        let port = port.map_err(|e| CliError::new(format!("cannot listen for other masters at {}", self.listen), e))?;
        let peer_address = self.peers.iter().find(|(name, _)| *name == self.name).map_or_else(String::new, |(_, address)| address.clone());
        Ok(Group {
            name: self.name.clone(),
            peers: self.peers.clone(),
            peer_address,
            client_addresses,
            cluster: pki.cluster_id().map_err(key)?,
            transport: Arc::new(port),
            force_new_cluster: self.force_new_cluster,
        })
    }
}

fn parse(peer: &str) -> Result<(String, String), CliError> {
    let wrong = || CliError::text(format!("--peers has {peer:?}: a master is written name=host:port"));
    let (name, address) = peer.split_once('=').ok_or_else(wrong)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    if name.is_empty() || host.is_empty() || port.parse::<u16>().is_err() {
        return Err(wrong());
    }
    Ok((name.to_owned(), address.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_peer_is_a_name_and_where_it_is_reached() {
        assert_eq!(parse("m1=10.0.0.1:6444").unwrap(), ("m1".to_owned(), "10.0.0.1:6444".to_owned()));
        for wrong in ["m1", "m1=", "m1=host", "=host:1", "m1=:1", "m1=host:x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
