//! A store with its etcd face, until Ctrl-C or SIGTERM: `serve DIR ADDRESS` one member alone, `serve DIR ADDRESS NAME PEER
//! NAME=PEER,…` one of several, with nothing to protect what they tell each other: for loopback. For measuring and for
//! trying clients.

use futures::future::BoxFuture;
use orchd_store::etcd::{self, serve};
use orchd_store::transport::{Connection, Transport};
use orchd_store::{Group, Options, Store};
use std::error::Error;
use std::io;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The members' connections, plain.
struct Plain(TcpListener);

fn quick(stream: TcpStream) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

impl Transport for Plain {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Connection>> {
        let address = address.to_owned();
        Box::pin(async move { quick(TcpStream::connect(address).await?) })
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move { quick(self.0.accept().await?.0) })
    }
}

async fn group(client: &str, name: &str, peer: &str, members: &str) -> Result<Group, Box<dyn Error>> {
    let pair = |member: &str| member.split_once('=').map(|(name, peer)| (name.to_owned(), peer.to_owned()));
    Ok(Group {
        name: name.to_owned(),
        peers: members.split(',').map(pair).collect::<Option<_>>().ok_or("members are NAME=PEER,…")?,
        peer_address: peer.to_owned(),
        client_addresses: vec![format!("http://{client}")],
        cluster: 1,
        transport: Arc::new(Plain(TcpListener::bind(peer).await?)),
        force_new_cluster: false,
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (dir, address, group) = match words[..] {
        [dir, address] => (dir, address, None),
        [dir, address, name, peer, members] => (dir, address, Some(group(address, name, peer, members).await?)),
        _ => return Err("serve DIR ADDRESS [NAME PEER NAME=PEER,…]".into()),
    };
    let store = Store::open(Options { dir: dir.into(), quota_bytes: 0, group }).await?;
    let mut terminated = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(address).await?;
    println!("serving on {}", listener.local_addr()?);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(store.clone(), listener, etcd::Options::default(), stop.clone()));
    tokio::select! {
        asked = tokio::signal::ctrl_c() => asked?,
        _ = terminated.recv() => {}
    }
    stop.cancel();
    serving.await?;
    store.close().await;
    Ok(())
}
