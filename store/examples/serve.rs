//! A store of one member alone, with its etcd face, until Ctrl-C: `serve DIR ADDRESS`. For measuring and for trying clients.

use orchd_store::etcd::{self, serve};
use orchd_store::{Options, Store};
use std::error::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (Some(dir), Some(address)) = (std::env::args().nth(1), std::env::args().nth(2)) else {
        return Err("serve DIR ADDRESS".into());
    };
    let store = Store::open(Options { dir: dir.into(), quota_bytes: 0, group: None }).await?;
    let listener = TcpListener::bind(address).await?;
    println!("serving on {}", listener.local_addr()?);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(store.clone(), listener, etcd::Options::default(), stop.clone()));
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    serving.await?;
    store.close().await;
    Ok(())
}
