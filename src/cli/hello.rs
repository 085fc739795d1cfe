//! The program of the image that orchd carries: a small web server and its companion, for the demo and for tests.
//!
//! `web` answers `/caller` with the caller's address, and every other path but `/healthz` with the pod's name (POD_NAME) and version (VERSION); it is ready once the file
//! GREETING_FILE is there. On SIGTERM it goes on serving for DRAIN_MS (requests may still be on their way), then finishes
//! what it has begun. `greeter` writes that file, and reaches the web server on localhost. The other roles are for trying
//! things out: `kubectl exec` and `kubectl run` need something to run.

use super::CliError;
use bytes::Bytes;
use clap::Subcommand;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

const PORT: u16 = 8080;
/// The most time that requests in progress get once the drain is over.
const FINISH: Duration = Duration::from_secs(5);
const DEFAULT_DRAIN_MS: u64 = 500;
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Between attempts of the greeter at its neighbour.
const RETRY: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Role {
    Web,
    Greeter,
    /// Copies standard input to standard output.
    Cat,
    /// Prints its arguments.
    Echo {
        words: Vec<String>,
    },
    /// Prints its environment.
    Env,
    /// Ends with this code.
    Exit {
        code: i32,
    },
    /// Asks a web server for a path, and prints its answer.
    Get {
        address: SocketAddr,
        path: String,
    },
    /// Takes this much memory and keeps it.
    Eat {
        mebibytes: usize,
    },
    /// Waits for SIGTERM.
    Wait,
}

struct Page {
    pod: String,
    version: String,
    greeting_file: PathBuf,
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Runs the role until SIGTERM.
///
/// # Errors
/// The port is taken, or the greeting cannot be written.
pub async fn run(role: Role) -> Result<(), CliError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| CliError::new("cannot wait for SIGTERM", e))?;
    match role {
        Role::Web => serve(terminate).await?,
        Role::Greeter => greet(terminate).await?,
        Role::Cat => {
            let copied = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::stdout()).await;
            copied.map_err(|e| CliError::new("cannot copy", e))?;
        }
        Role::Echo { words } => println!("{}", words.join(" ")),
        Role::Env => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        Role::Get { address, path } => print!("{}", get(address, &path).await?),
        Role::Exit { code } => std::process::exit(code),
        Role::Eat { mebibytes } => {
            let eaten = vec![1u8; mebibytes << 20];
            println!("holding {} bytes", eaten.len());
            terminate.recv().await;
        }
        Role::Wait => drop(terminate.recv().await),
    }
    Ok(())
}

async fn serve(mut terminate: Signal) -> Result<(), CliError> {
    let page = Arc::new(Page {
        pod: variable("POD_NAME", "nobody"),
        version: variable("VERSION", "0"),
        greeting_file: variable("GREETING_FILE", "/shared/greeting").into(),
    });
    let drain_ms = variable("DRAIN_MS", "").parse().unwrap_or(DEFAULT_DRAIN_MS);
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let listener = TcpListener::bind(address).await.map_err(|e| CliError::new(format!("cannot listen on {address}"), e))?;
    println!("version {} serves on port {PORT}", page.version);
    let connections = GracefulShutdown::new();
    let mut drained = std::pin::pin!(async {
        terminate.recv().await;
        println!("draining for {drain_ms} ms");
        tokio::time::sleep(Duration::from_millis(drain_ms)).await;
    });
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, caller)) => accept(stream, caller, &page, &connections),
                Err(error) => eprintln!("accept: {error}"),
            },
            () = &mut drained => break,
        }
    }
    drop(listener);
    if tokio::time::timeout(FINISH, connections.shutdown()).await.is_err() {
        eprintln!("some requests did not finish in time");
    }
    println!("done");
    Ok(())
}

fn accept(stream: TcpStream, caller: SocketAddr, page: &Arc<Page>, connections: &GracefulShutdown) {
    let page = page.clone();
    let service = service_fn(move |request| {
        let page = page.clone();
        async move { Ok::<_, Infallible>(answer(&page, caller, &request)) }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let watched = connections.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = watched.await {
            eprintln!("connection: {error}");
        }
    });
}

fn answer(page: &Page, caller: SocketAddr, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let greeting = std::fs::read_to_string(&page.greeting_file);
    if request.uri().path() == "/healthz" {
        let (status, text) =
            if greeting.is_ok() { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "no greeting yet\n") };
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        return response;
    }
    if request.uri().path() == "/caller" {
        return Response::new(Full::new(Bytes::from(format!("{}\n", caller.ip()))));
    }
    let greeting = greeting.unwrap_or_else(|_| "hello".into());
    Response::new(Full::new(Bytes::from(format!("{} from {} version {}\n", greeting.trim(), page.pod, page.version))))
}

async fn get(address: SocketAddr, path: &str) -> Result<String, CliError> {
    let failed = |e: &dyn std::fmt::Display| CliError::text(format!("GET http://{address}{path}: {e}"));
    let asking = async {
        let stream = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = Request::get(path).header("host", address.to_string()).body(Empty::<Bytes>::new()).map_err(|e| failed(&e))?;
        let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|e| failed(&e))?;
        drop(driver);
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    };
    tokio::time::timeout(FINISH, asking).await.unwrap_or_else(|_| Err(failed(&"no answer in time")))
}

async fn greet(mut terminate: Signal) -> Result<(), CliError> {
    let file = variable("GREETING_FILE", "/shared/greeting");
    std::fs::write(&file, variable("GREETING", "hello")).map_err(|e| CliError::new(format!("cannot write {file}"), e))?;
    println!("wrote {file}");
    let reach = async {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
        println!("the web server answers on localhost:{PORT}");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = reach => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
