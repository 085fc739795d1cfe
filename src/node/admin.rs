//! The agent's own socket, `agent.sock` in its data dir: what `orchd image` speaks to. Reachable by root alone.
//!
//! `GET /images`; `POST /images/import?path=…` (the agent reads the file); `POST /images/pull?reference=…`;
//! `POST /images/remove?reference=…`. Answers are JSON; an error is `{"error": "…"}` with a status that is not 200.

use super::images::ImageService;
use super::serve::Query;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use orchd_runtime::image::{Image, ImageError, Images};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

pub const SOCKET: &str = "agent.sock";

/// Serves the socket in `dir` until `stop`, then removes it.
///
/// # Errors
/// The socket cannot be made.
pub async fn serve(dir: &Path, images: Images, stop: CancellationToken) -> io::Result<()> {
    let path = dir.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => drop(tokio::spawn(connection(TokioIo::new(stream), images.clone()))),
                Err(error) => tracing::warn!(%error, "the agent's socket"),
            }
        }
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(%error, "the agent's socket was gone already");
        }
    });
    Ok(())
}

async fn connection(io: TokioIo<tokio::net::UnixStream>, images: Images) {
    let service = service_fn(move |request| {
        let images = images.clone();
        async move { Ok::<_, Infallible>(answer(images, request).await) }
    });
    if let Err(error) = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await {
        tracing::debug!(%error, "a client of the agent's socket");
    }
}

async fn answer(images: Images, request: Request<Incoming>) -> Response<Body> {
    let query = Query::of(request.uri());
    let done = match (request.method().as_str(), request.uri().path()) {
        ("GET", "/images") => Ok(json!(images.list().iter().map(describe).collect::<Vec<_>>())),
        ("POST", "/images/import") => {
            let path = PathBuf::from(query.text("path"));
            blocking(move || images.import(&path).map(|references| json!(references))).await
        }
        ("POST", "/images/pull") => {
            let pulled = ImageService::pull(&images, query.text("reference"), &[]).await;
            pulled.map(|image| json!(image.digest))
        }
        ("POST", "/images/remove") => {
            let reference = query.text("reference").to_owned();
            blocking(move || images.remove(&reference).map(|removed| json!(removed))).await
        }
        (method, path) => Err(format!("the agent does not serve {method} {path}")),
    };
    let (status, body) = match done {
        Ok(value) => (StatusCode::OK, value),
        Err(error) => (StatusCode::BAD_REQUEST, json!({"error": error})),
    };
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response
}

fn describe(image: &Image) -> Value {
    json!({"id": image.digest, "references": image.references, "size": image.size})
}

async fn blocking(work: impl FnOnce() -> Result<Value, ImageError> + Send + 'static) -> Result<Value, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(panic) => Err(panic.to_string()),
    }
}
