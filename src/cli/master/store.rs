//! The store's own clients: the etcd v3 endpoint, if one is asked for, and the socket in the data dir that `orchd member` and
//! `orchd snapshot` use.

use super::Master;
use crate::cli::CliError;
use crate::security::is_admin;
use orchd_store::etcd::{self, Authorize, serve};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};

/// The socket's name in the data dir.
pub const SOCKET: &str = "store.sock";

/// Where clients of the store come in; bound before anything is started.
pub struct StoreListeners {
    socket: UnixListener,
    tcp: Option<TcpListener>,
}

impl StoreListeners {
    /// # Errors
    /// The address is taken, or the socket cannot be made.
    pub async fn bind(dir: &Path, address: Option<SocketAddr>) -> Result<Self, CliError> {
        let tcp = match address {
            None => None,
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.map_err(|e| CliError::new(format!("cannot serve the store on {address}"), e))?)
            }
        };
        let path = dir.join(SOCKET);
        let failed = |e| CliError::new(format!("cannot serve the store on {}", path.display()), e);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let socket = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { socket, tcp })
    }
}

impl Master {
    /// Serves the store itself. Off loopback that is over TLS, and for administrators' certificates alone: whoever may speak
    /// to it may read and change everything.
    pub(super) fn serve_store(&self, listeners: StoreListeners) -> Result<(), CliError> {
        self.tasks.spawn(serve(self.store.clone(), listeners.socket, etcd::Options::default(), self.stop.clone()));
        let Some(tcp) = listeners.tcp else { return Ok(()) };
        let address = tcp.local_addr().map_err(|e| CliError::new("cannot serve the store", e))?;
        let mut options = etcd::Options::default();
        if !address.ip().is_loopback() {
            options.tls = Some(self.pki.server_config().map_err(|e| CliError::new("cannot set up TLS", e))?);
            let admin: Authorize = Arc::new(|chain| chain.first().is_some_and(|certificate| is_admin(certificate)));
            options.authorize = Some(admin);
        }
        tracing::info!(%address, tls = options.tls.is_some(), "the store is served to etcd's clients");
        self.tasks.spawn(serve(self.store.clone(), tcp, options, self.stop.clone()));
        Ok(())
    }
}
