//! The store of images: unpacked layers by diff id, configs by digest, and which reference means which image.
//!
//! Layout below its directory: `layers/<diff id>/` (complete once it bears that name), `configs/<digest>`, `index.json`,
//! `scratch/`. A layer or index comes into being by a rename, so a crash leaves none half made.

use super::Reference;
use super::archive::ArchiveFile;
use super::unpack::unpack_layer;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum ImageError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("cannot unpack {path}: {source}")]
    Entry { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Malformed(String),
    #[error("layer {wanted} has the digest {got}")]
    Digest { wanted: String, got: String },
    #[error("{0}: {1}")]
    Reference(String, String),
}

impl From<nix::errno::Errno> for ImageError {
    fn from(e: nix::errno::Errno) -> Self {
        Self::Io(e.into())
    }
}

/// An image that is here, ready to run.
#[derive(Clone, Debug)]
pub struct Image {
    /// `sha256:…` of the config: the image's id.
    pub digest: String,
    /// Every reference that means it.
    pub references: Vec<String>,
    pub config: Arc<ImageConfiguration>,
    /// Unpacked layers, top first, as overlayfs wants them.
    pub layers: Vec<PathBuf>,
    /// Bytes of its layers' tars.
    pub size: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Record {
    digest: String,
    /// Diff ids, base first.
    layers: Vec<String>,
    size: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct IndexFile {
    /// Format of this directory.
    version: u32,
    images: BTreeMap<String, Record>,
    references: BTreeMap<String, String>,
}

/// The image store of a node. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    dir: PathBuf,
    index: Arc<Mutex<IndexFile>>,
    /// Held while an image is being pulled, so that who asks meanwhile waits and then finds it.
    pub(super) pulls: Arc<super::pull::Pulls>,
}

const FORMAT: u32 = 1;

impl Images {
    /// Opens the store in `dir`, making it if need be.
    ///
    /// # Errors
    /// The directory cannot be written, or was written by a newer orchd.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        for sub in ["layers", "configs", "scratch"] {
            std::fs::create_dir_all(dir.join(sub))?;
        }
        // What a crash left half unpacked.
        for entry in std::fs::read_dir(dir.join("scratch"))? {
            let path = entry?.path();
            if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
        }
        let index = match std::fs::read(dir.join("index.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| ImageError::Malformed(format!("{}/index.json: {e}", dir.display())))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => IndexFile { version: FORMAT, ..IndexFile::default() },
            Err(e) => return Err(e.into()),
        };
        if index.version > FORMAT {
            return Err(ImageError::Malformed(format!("{} was written by a newer orchd (format {})", dir.display(), index.version)));
        }
        Ok(Self { dir: dir.to_owned(), index: Arc::new(Mutex::new(index)), pulls: Arc::default() })
    }

    fn index(&self) -> MutexGuard<'_, IndexFile> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for files of a pull in progress; emptied at every start.
    pub fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// Imports every image of a docker-archive or OCI layout tar; returns their references. Blocks: call it from a
    /// thread that may.
    ///
    /// # Errors
    /// The archive is damaged or holds no image; layers that were whole stay.
    pub fn import(&self, path: &Path) -> Result<Vec<String>, ImageError> {
        let archive = ArchiveFile::open(path, &self.scratch())?;
        let mut imported = Vec::new();
        for found in archive.images()? {
            let layers = found.layers.iter().map(|name| archive.member(name));
            let image = self.ingest(&found.references, &found.config, layers)?;
            imported.extend(image.references);
        }
        if imported.is_empty() {
            return Err(ImageError::Malformed(format!("{} holds no image with a name", path.display())));
        }
        Ok(imported)
    }

    /// Takes in an image: its config's bytes and its layers (tar, plain or gzip or zstd), base first. Each layer's
    /// digest is checked against the config. Blocks.
    ///
    /// # Errors
    /// A layer is damaged or does not match the config.
    pub fn ingest<R: Read>(
        &self,
        references: &[String],
        config: &[u8],
        layers: impl Iterator<Item = Result<R, ImageError>>,
    ) -> Result<Image, ImageError> {
        let digest = format!("sha256:{}", hex(&Sha256::digest(config)));
        let parsed = parse_config(config)?;
        let diff_ids = parsed.rootfs().diff_ids();
        let (mut size, mut count) = (0, 0);
        for layer in layers {
            let diff_id = diff_ids.get(count).ok_or_else(|| ImageError::Malformed("more layers than the config lists".into()))?;
            size += self.ingest_layer(diff_id, layer?)?;
            count += 1;
        }
        if count != diff_ids.len() {
            return Err(ImageError::Malformed(format!("{count} layers where the config lists {}", diff_ids.len())));
        }
        write_whole(&self.dir.join("configs").join(file_name(&digest)?), config)?;
        let record = Record { digest: digest.clone(), layers: diff_ids.clone(), size };
        let names = references.iter().map(|r| normalise(r)).collect::<Result<Vec<_>, _>>()?;
        self.record(record, names)?;
        self.get(&digest).ok_or_else(|| ImageError::Malformed("the image is gone again".into()))
    }

    fn record(&self, record: Record, names: Vec<String>) -> Result<(), ImageError> {
        let mut index = self.index();
        for name in names {
            index.references.insert(name, record.digest.clone());
        }
        index.images.insert(record.digest.clone(), record);
        // Layers first, the index that names them after.
        nix::unistd::syncfs(File::open(&self.dir)?)?;
        self.save(&index)
    }

    fn save(&self, index: &IndexFile) -> Result<(), ImageError> {
        let json = serde_json::to_vec_pretty(index).map_err(|e| ImageError::Malformed(e.to_string()))?;
        Ok(write_whole(&self.dir.join("index.json"), &json)?)
    }

    /// Whether a layer is here, unpacked.
    pub(super) fn has_layer(&self, diff_id: &str) -> bool {
        file_name(diff_id).is_ok_and(|name| self.dir.join("layers").join(name).exists())
    }

    /// Makes a reference mean an image that is here; None if it is not.
    pub(super) fn tag(&self, reference: &str, digest: &str) -> Result<Option<Image>, ImageError> {
        let Some(record) = self.index().images.get(digest).cloned() else { return Ok(None) };
        if !record.layers.iter().all(|l| self.has_layer(l)) {
            return Ok(None);
        }
        let name = normalise(reference)?;
        if self.index().references.get(&name).is_none_or(|d| d != digest) {
            self.record(record, vec![name])?;
        }
        Ok(self.get(digest))
    }

    /// Unpacks a layer unless it is there; returns the bytes of its tar.
    fn ingest_layer(&self, diff_id: &str, reader: impl Read) -> Result<u64, ImageError> {
        let place = self.dir.join("layers").join(file_name(diff_id)?);
        if place.exists() {
            let size = std::fs::read_to_string(place.join("size"))?;
            return Ok(size.trim().parse().unwrap_or(0));
        }
        let scratch = tempfile::Builder::new().prefix("layer-").tempdir_in(self.scratch())?;
        let root = scratch.path().join("fs");
        std::fs::create_dir(&root)?;
        let mut hashing = Hashing { inner: decompress(reader)?, hash: Sha256::new(), bytes: 0 };
        unpack_layer(&mut hashing, &root)?;
        let got = format!("sha256:{}", hex(&hashing.hash.finalize()));
        if got != diff_id {
            return Err(ImageError::Digest { wanted: diff_id.to_owned(), got });
        }
        std::fs::write(scratch.path().join("size"), hashing.bytes.to_string())?;
        // tempfile's directories are private; a container's own user must be able to pass.
        std::fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let made = scratch.keep();
        match std::fs::rename(&made, &place) {
            // Another import was faster with the same layer.
            Err(_) if place.exists() => std::fs::remove_dir_all(&made)?,
            other => other?,
        }
        Ok(hashing.bytes)
    }

    /// The image that a reference or id means, if it is here.
    pub fn get(&self, reference: &str) -> Option<Image> {
        let digest = {
            let index = self.index();
            let by_id = index.images.contains_key(reference).then(|| reference.to_owned());
            by_id.or_else(|| index.references.get(&normalise(reference).ok()?).cloned())?
        };
        self.load(&digest)
    }

    fn load(&self, digest: &str) -> Option<Image> {
        let (record, references) = {
            let index = self.index();
            let references = index.references.iter().filter(|(_, d)| *d == digest).map(|(r, _)| r.clone()).collect();
            (index.images.get(digest)?.clone(), references)
        };
        let config = std::fs::read(self.dir.join("configs").join(file_name(digest).ok()?)).ok()?;
        let layers = record.layers.iter().rev().filter_map(|l| Some(self.dir.join("layers").join(file_name(l).ok()?).join("fs"))).collect();
        Some(Image { digest: record.digest, references, config: Arc::new(parse_config(&config).ok()?), layers, size: record.size })
    }

    /// Every image, by id.
    pub fn list(&self) -> Vec<Image> {
        let digests: Vec<String> = self.index().images.keys().cloned().collect();
        digests.iter().filter_map(|d| self.load(d)).collect()
    }

    /// Removes a reference, and with its last reference the image and the layers that no other has. Returns false if
    /// it was not here. The caller makes sure that no container uses it.
    ///
    /// # Errors
    /// The index cannot be written.
    pub fn remove(&self, reference: &str) -> Result<bool, ImageError> {
        let mut index = self.index();
        let by_id = index.images.contains_key(reference).then(|| reference.to_owned());
        let Some(digest) = by_id.clone().or_else(|| index.references.get(&normalise(reference).ok()?).cloned()) else { return Ok(false) };
        if by_id.is_some() {
            index.references.retain(|_, d| *d != digest);
        } else {
            index.references.remove(&normalise(reference)?);
        }
        if index.references.values().any(|d| *d == digest) {
            self.save(&index)?;
            return Ok(true);
        }
        let record = index.images.remove(&digest);
        self.save(&index)?;
        for layer in record.map(|r| r.layers).unwrap_or_default() {
            if !index.images.values().any(|i| i.layers.contains(&layer)) {
                std::fs::remove_dir_all(self.dir.join("layers").join(file_name(&layer)?))?;
            }
        }
        std::fs::remove_file(self.dir.join("configs").join(file_name(&digest)?))?;
        Ok(true)
    }
}

impl Image {
    /// The contents of a file of the image (path without leading slash), from the topmost layer that has it.
    pub fn read_file(&self, path: &str) -> Option<Vec<u8>> {
        for layer in &self.layers {
            let root = File::open(layer).ok()?;
            let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).resolve(ResolveFlag::RESOLVE_IN_ROOT);
            let Ok(fd) = openat2(&root, path, how) else { continue };
            let file = File::from(fd);
            if file.metadata().ok()?.file_type().is_char_device() {
                return None;
            }
            let mut bytes = Vec::new();
            file.take(1 << 20).read_to_end(&mut bytes).ok()?;
            return Some(bytes);
        }
        None
    }
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

/// A reader of the plain tar, by the magic of what comes.
fn decompress<'a>(reader: impl Read + 'a) -> Result<Box<dyn Read + 'a>, ImageError> {
    let mut reader = BufReader::with_capacity(128 << 10, reader);
    let magic = io::BufRead::fill_buf(&mut reader)?;
    if magic.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)));
    }
    if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(reader).map_err(|e| ImageError::Malformed(format!("zstd: {e}")))?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(reader))
}

pub(super) fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration, ImageError> {
    serde_json::from_slice(bytes).map_err(|e| ImageError::Malformed(format!("image config: {e}")))
}

pub(super) fn normalise(reference: &str) -> Result<String, ImageError> {
    Reference::parse(reference).map(|r| r.to_string()).map_err(|why| ImageError::Reference(reference.to_owned(), why))
}

/// The hex part of a digest, which is safe as a file name.
fn file_name(digest: &str) -> Result<&str, ImageError> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_hexdigit()) => Ok(hex),
        _ => Err(ImageError::Malformed(format!("{digest} is no sha256 digest"))),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("new");
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(content: &[u8]) -> Vec<u8> {
        let mut layer = tar::Builder::new(Vec::new());
        let mut h = tar::Header::new_gnu();
        h.set_size(content.len() as u64);
        h.set_mode(0o644);
        h.set_uid(0);
        h.set_gid(0);
        h.set_mtime(0);
        layer.append_data(&mut h, "etc/passwd", content).unwrap();
        let layer = layer.into_inner().unwrap();
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/x"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}},"history":[]}}"#,
            hex(&Sha256::digest(&layer))
        );
        let mut out = tar::Builder::new(Vec::new());
        let manifest = r#"[{"Config":"c.json","RepoTags":["demo:1"],"Layers":["l.tar"]}]"#;
        for (name, bytes) in [("manifest.json", manifest.as_bytes()), ("c.json", config.as_bytes()), ("l.tar", &layer)] {
            let mut h = tar::Header::new_gnu();
            h.set_size(bytes.len() as u64);
            out.append_data(&mut h, name, bytes).unwrap();
        }
        out.into_inner().unwrap()
    }

    #[test]
    fn an_archive_is_imported_found_again_and_removed() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: importing images needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.tar");
        std::fs::write(&file, archive(b"web:x:5:6::/w:/bin/sh\n")).unwrap();
        let images = Images::open(&dir.path().join("store")).unwrap();
        assert_eq!(images.import(&file).unwrap(), ["docker.io/library/demo:1"]);
        let again = Images::open(&dir.path().join("store")).unwrap();
        let image = again.get("demo:1").unwrap();
        assert_eq!(image.resolve_user("web").unwrap().uid, 5);
        assert_eq!(again.get(&image.digest).unwrap().references, image.references);
        assert!(again.remove("demo:1").unwrap() && !again.remove("demo:1").unwrap());
        assert_eq!(std::fs::read_dir(dir.path().join("store/layers")).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_layer_is_refused_whole() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: importing images needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.tar");
        let mut bytes = archive(b"web:x:5:6::/w:/bin/sh\n");
        let at = bytes.windows(4).rposition(|w| w == b"web:").unwrap();
        bytes[at] = b'W';
        std::fs::write(&file, bytes).unwrap();
        let images = Images::open(&dir.path().join("store")).unwrap();
        assert!(matches!(images.import(&file), Err(ImageError::Digest { .. })));
        assert!(images.list().is_empty());
    }
}
