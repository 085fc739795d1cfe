//! Pulling images from registries.
//!
//! Blobs stream to scratch files (never whole in memory, never longer than their manifest says), are checked against
//! their digests on the way and against the config's diff ids when they are unpacked. What is here already is not fetched.

use super::store::{Image, ImageError, Images, parse_config};
use super::{Reference, store};
use futures::{StreamExt, TryStreamExt};
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::io::AsyncWrite;

/// Pulls in progress, by reference.
pub(super) type Pulls = Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>;

/// Blobs of one image at once, as containerd has it.
const PARALLEL: usize = 3;
const CONNECT: Duration = Duration::from_secs(10);
/// How long a registry may say nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest config.
const MAX_CONFIG_BYTES: i64 = 4 << 20;

/// Why an image did not come. The texts are containerd's.
#[derive(Debug, Error)]
pub enum PullError {
    #[error("failed to pull and unpack image \"{reference}\": failed to resolve reference \"{reference}\": {reference}: not found")]
    NotFound { reference: String },
    #[error(
        "failed to pull and unpack image \"{reference}\": failed to resolve reference \"{reference}\": pull access denied, repository does \
         not exist or may require authorization: {why}"
    )]
    Unauthorized { reference: String, why: String },
    #[error("failed to pull and unpack image \"{reference}\": failed to resolve reference \"{reference}\": failed to do request: {why}")]
    Unreachable { reference: String, why: String },
    /// What came is not an image, or not what its digest says.
    #[error("failed to pull and unpack image \"{reference}\": {why}")]
    Malformed { reference: String, why: String },
    #[error("failed to parse reference \"{0}\": {1}")]
    Reference(String, String),
    /// This machine's fault: disk full, for one.
    #[error("failed to pull and unpack image \"{reference}\": {source}")]
    Store { reference: String, source: ImageError },
}

impl Images {
    /// Pulls an image, with `auth` (user and password) or anonymously; over plain HTTP if `insecure_http`.
    /// Whoever asks for an image that is being pulled waits for it.
    ///
    /// # Errors
    /// See `PullError`; layers that were whole stay.
    pub async fn pull(&self, reference: &str, auth: Option<(String, String)>, insecure_http: bool) -> Result<Image, PullError> {
        let parsed = Reference::parse(reference).map_err(|why| PullError::Reference(reference.to_owned(), why))?;
        let name = parsed.to_string();
        let turn = self.pulls.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default().clone();
        let held = turn.lock().await;
        let pull = Pull::new(self.clone(), name.clone(), auth, insecure_http);
        let pulled = match pull {
            Ok(pull) => pull.run().await,
            Err(e) => Err(e),
        };
        drop(held);
        let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's and ours: nobody waits.
        if Arc::strong_count(&turn) <= 2 {
            pulls.remove(&name);
        }
        pulled
    }
}

struct Pull {
    images: Images,
    name: String,
    remote: oci_client::Reference,
    client: Client,
    auth: RegistryAuth,
}

impl Pull {
    fn new(images: Images, name: String, auth: Option<(String, String)>, insecure_http: bool) -> Result<Self, PullError> {
        // Another part of the program may have chosen already: ring as well.
        if rustls::crypto::CryptoProvider::get_default().is_none() && rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("a TLS provider was installed meanwhile");
        }
        let remote = oci_client::Reference::try_from(name.as_str()).map_err(|e| PullError::Reference(name.clone(), e.to_string()))?;
        let config = ClientConfig {
            protocol: if insecure_http { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: concat!("orchd/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let auth = auth.map_or(RegistryAuth::Anonymous, |(user, password)| RegistryAuth::Basic(user, password));
        let unreachable = |e: OciDistributionError| PullError::Unreachable { reference: name.clone(), why: chain(&e) };
        // One client per pull: credentials of one are not the next one's.
        let client = Client::try_from(config).map_err(unreachable)?;
        Ok(Self { images, name, remote, client, auth })
    }

    fn malformed(&self, why: impl Into<String>) -> PullError {
        PullError::Malformed { reference: self.name.clone(), why: why.into() }
    }

    fn store(&self, source: impl Into<ImageError>) -> PullError {
        match source.into() {
            e @ (ImageError::Malformed(_) | ImageError::Digest { .. } | ImageError::Entry { .. }) => self.malformed(e.to_string()),
            source => PullError::Store { reference: self.name.clone(), source },
        }
    }

    async fn run(&self) -> Result<Image, PullError> {
        let (manifest, _) = self.client.pull_image_manifest(&self.remote, &self.auth).await.map_err(|e| self.explain(&e))?;
        if let Some(image) = self.images.tag(&self.name, &manifest.config.digest).map_err(|e| self.store(e))? {
            return Ok(image);
        }
        let config = self.config(&manifest.config).await?;
        let diff_ids = parse_config(&config).map_err(|e| self.store(e))?.rootfs().diff_ids().clone();
        if diff_ids.len() != manifest.layers.len() {
            return Err(self.malformed(format!("{} layers where the config lists {}", manifest.layers.len(), diff_ids.len())));
        }
        let mut wanted = Vec::with_capacity(diff_ids.len());
        for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
            wanted.push(self.layer_unless_here(layer, diff_id));
        }
        let files: Vec<Option<File>> = futures::stream::iter(wanted).buffered(PARALLEL).try_collect().await?;
        let (images, names) = (self.images.clone(), vec![self.name.clone()]);
        let unpacked = tokio::task::spawn_blocking(move || {
            // One that is here is not read.
            let readers = files.into_iter().map(|f| Ok(f.map_or_else(|| Box::new(io::empty()) as Box<dyn io::Read>, |f| Box::new(f))));
            images.ingest(&names, &config, readers)
        });
        unpacked.await.map_err(|e| self.store(io::Error::other(e)))?.map_err(|e| self.store(e))
    }

    async fn config(&self, descriptor: &OciDescriptor) -> Result<Vec<u8>, PullError> {
        if descriptor.size > MAX_CONFIG_BYTES {
            return Err(self.malformed(format!("a config of {} bytes", descriptor.size)));
        }
        let mut bytes = Vec::new();
        let sink = Bounded { inner: &mut bytes, room: descriptor.size };
        self.client.pull_blob(&self.remote, descriptor, sink).await.map_err(|e| self.explain(&e))?;
        let got = format!("sha256:{}", store::hex(&<sha2::Sha256 as sha2::Digest>::digest(&bytes)));
        if got != descriptor.digest {
            return Err(self.malformed(format!("the config {} has the digest {got}", descriptor.digest)));
        }
        Ok(bytes)
    }

    async fn layer_unless_here(&self, descriptor: &OciDescriptor, diff_id: &str) -> Result<Option<File>, PullError> {
        if self.images.has_layer(diff_id) { Ok(None) } else { self.layer(descriptor).await.map(Some) }
    }

    /// Fetches a layer into a file that has no name.
    async fn layer(&self, descriptor: &OciDescriptor) -> Result<File, PullError> {
        let scratch = self.images.scratch();
        let made = tokio::task::spawn_blocking(move || tempfile::tempfile_in(scratch));
        let file = made.await.map_err(io::Error::other).and_then(|made| made).map_err(|e| self.store(e))?;
        let mut writer = tokio::fs::File::from_std(file);
        let sink = Bounded { inner: &mut writer, room: descriptor.size };
        self.client.pull_blob(&self.remote, descriptor, sink).await.map_err(|e| self.explain(&e))?;
        let mut file = writer.into_std().await;
        file.seek(SeekFrom::Start(0)).map_err(|e| self.store(e))?;
        Ok(file)
    }

    fn explain(&self, e: &OciDistributionError) -> PullError {
        let reference = self.name.clone();
        let not_found = || PullError::NotFound { reference: self.name.clone() };
        let denied = |why: String| PullError::Unauthorized { reference: self.name.clone(), why };
        match e {
            OciDistributionError::ImageManifestNotFoundError(_) => not_found(),
            OciDistributionError::ServerError { code: 404, .. } => not_found(),
            OciDistributionError::ServerError { code: 401 | 403, .. } => denied("authorization failed".into()),
            OciDistributionError::UnauthorizedError { .. } => denied("authorization failed".into()),
            OciDistributionError::AuthenticationFailure(why) => denied(format!("server message: {}", why.trim())),
            OciDistributionError::RegistryError { envelope, .. } => {
                let has = |codes: &[OciErrorCode]| envelope.errors.iter().any(|e| codes.contains(&e.code));
                if has(&[OciErrorCode::ManifestUnknown, OciErrorCode::NameUnknown, OciErrorCode::NotFound, OciErrorCode::BlobUnknown]) {
                    not_found()
                } else if has(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                    denied("server message: insufficient_scope: authorization failed".into())
                } else {
                    PullError::Unreachable { reference, why: chain(e) }
                }
            }
            OciDistributionError::RequestError(_) | OciDistributionError::ServerError { .. } => {
                PullError::Unreachable { reference, why: chain(e) }
            }
            OciDistributionError::IoError(e) if e.get_ref().is_some_and(|inner| inner.is::<TooLong>()) => self.malformed(e.to_string()),
            OciDistributionError::IoError(e) => self.store(io::Error::new(e.kind(), e.to_string())),
            other => self.malformed(chain(other)),
        }
    }
}

/// An error with its causes.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[derive(Debug, Error)]
#[error("a blob is longer than its manifest says")]
struct TooLong;

/// Takes no more than was announced.
struct Bounded<'a, W> {
    inner: &'a mut W,
    room: i64,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Bounded<'_, W> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if i64::try_from(bytes.len()).map_or(true, |length| length > self.room) {
            return Poll::Ready(Err(io::Error::other(TooLong)));
        }
        let done = Pin::new(&mut *self.inner).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = &done {
            self.room -= i64::try_from(*written).unwrap_or(i64::MAX);
        }
        done
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_shutdown(context)
    }
}
