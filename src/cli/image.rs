//! `orchd image`: images of a node, through the socket of its agent.

use super::{CliError, DEFAULT_DATA_DIR};
use crate::node::admin::SOCKET;
use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

const MAX_ANSWER_BYTES: usize = 16 << 20;

#[derive(Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    verb: ImageVerb,
    /// The data dir of the node.
    #[arg(long, global = true, default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
}

#[derive(Subcommand)]
enum ImageVerb {
    /// Takes in every image of docker-archive or OCI layout files.
    Import {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Pulls an image from its registry.
    Pull { reference: String },
    /// Lists the images that are here.
    Ls,
    /// Removes an image, or one of its names.
    Rm { reference: String },
}

/// # Errors
/// There is no agent, or it refuses.
pub async fn run(args: ImageArgs) -> Result<(), CliError> {
    let dir = args.data_dir;
    match args.verb {
        ImageVerb::Import { files } => {
            for name in import(&dir, &files).await? {
                println!("{name}");
            }
        }
        ImageVerb::Pull { reference } => {
            let id = call(&dir, "POST", "/images/pull", &[("reference", &reference)]).await?;
            println!("{}", id.as_str().unwrap_or_default());
        }
        ImageVerb::Ls => print_list(&call(&dir, "GET", "/images", &[]).await?),
        ImageVerb::Rm { reference } => {
            if call(&dir, "POST", "/images/remove", &[("reference", &reference)]).await? != Value::Bool(true) {
                return Err(CliError::text(format!("no image is called {reference}")));
            }
        }
    }
    Ok(())
}

/// Takes image files in at the node whose data dir it is; returns the images' names.
///
/// # Errors
/// There is no agent, or it refuses.
pub async fn import(dir: &Path, files: &[PathBuf]) -> Result<Vec<String>, CliError> {
    let mut all = Vec::new();
    for file in files {
        let whole = std::fs::canonicalize(file).map_err(|e| CliError::new(file.display().to_string(), e))?;
        let names = call(dir, "POST", "/images/import", &[("path", &whole.to_string_lossy())]).await?;
        all.extend(names.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
    }
    Ok(all)
}

fn print_list(list: &Value) {
    println!("{:<60} {:<20} {:>10}", "IMAGE", "ID", "SIZE");
    for image in list.as_array().into_iter().flatten() {
        let id = image["id"].as_str().unwrap_or_default();
        let short = id.get(..19).unwrap_or(id);
        let size = format!("{:.1}MB", image["size"].as_f64().unwrap_or_default() / 1e6);
        let names: Vec<&str> = image["references"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for name in if names.is_empty() { vec!["<none>"] } else { names } {
            println!("{name:<60} {short:<20} {size:>10}");
        }
    }
}

async fn call(dir: &Path, method: &str, path: &str, query: &[(&str, &str)]) -> Result<Value, CliError> {
    let socket = dir.join(SOCKET);
    let no_agent = |e: &dyn std::fmt::Display| {
        CliError::text(format!("no node agent answers at {}: {e} (is orchd up with --data-dir {}?)", socket.display(), dir.display()))
    };
    let stream = UnixStream::connect(&socket).await.map_err(|e| no_agent(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| no_agent(&e))?;
    let driver = tokio::spawn(connection);
    let query: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    let request = Request::builder().method(method).uri(format!("{path}?{query}")).header("host", "agent").body(Empty::<Bytes>::new());
    let request = request.map_err(|e| CliError::new("the request", e))?;
    let response = sender.send_request(request).await.map_err(|e| no_agent(&e))?;
    let ok = response.status().is_success();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|e| no_agent(&e))?.to_bytes();
    driver.abort();
    let value: Value = serde_json::from_slice(&body).map_err(|e| CliError::new("the agent's answer", e))?;
    if ok { Ok(value) } else { Err(CliError::text(value["error"].as_str().unwrap_or("the agent refuses").to_owned())) }
}
