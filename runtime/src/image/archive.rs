//! Archives of images: docker-archive (`docker save`) and OCI image layouts, as tar files, gzipped or not.

use super::store::ImageError;
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The most that a manifest or config may be long.
const MAX_JSON_BYTES: u64 = 4 << 20;
/// An image index may point to indexes; deeper than this is nonsense.
const MAX_INDEX_DEPTH: usize = 4;

/// One image found in an archive. `layers` are entries of the archive, base first.
#[derive(Debug)]
pub(super) struct Found {
    pub references: Vec<String>,
    pub config: Vec<u8>,
    pub layers: Vec<String>,
}

/// A tar file with an index of where each member starts.
pub(super) struct ArchiveFile {
    file: File,
    members: HashMap<String, (u64, u64)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl ArchiveFile {
    /// Opens a tar file, unzipping it into `scratch` first if need be.
    pub fn open(path: &Path, scratch: &Path) -> Result<Self, ImageError> {
        let mut file = File::open(path)?;
        let mut magic = [0; 2];
        let read = file.read(&mut magic)?;
        file.seek(SeekFrom::Start(0))?;
        if read == 2 && magic == [0x1f, 0x8b] {
            let mut plain = tempfile::tempfile_in(scratch)?;
            io::copy(&mut flate2::read::MultiGzDecoder::new(file), &mut plain)?;
            plain.seek(SeekFrom::Start(0))?;
            file = plain;
        }
        let mut members = HashMap::new();
        let mut links = Vec::new();
        for entry in tar::Archive::new(&file).entries_with_seek()? {
            let entry = entry?;
            let name = normal(&entry.path()?);
            match (entry.header().entry_type(), entry.link_name()?) {
                (tar::EntryType::Symlink, Some(target)) => {
                    let beside = Path::new(&name).parent().unwrap_or(Path::new("")).join(target);
                    links.push((name, normal(&beside)));
                }
                (tar::EntryType::Link, Some(target)) => links.push((name, normal(&target))),
                _ => drop(members.insert(name, (entry.raw_file_position(), entry.size()))),
            }
        }
        // docker save writes layers that several images share as links to one file.
        for (name, target) in links {
            if let Some(&at) = members.get(&target) {
                members.insert(name, at);
            }
        }
        Ok(Self { file, members })
    }

    /// A reader of one member.
    pub fn member(&self, name: &str) -> Result<io::Take<File>, ImageError> {
        let &(start, size) = self.members.get(name).ok_or_else(|| ImageError::Malformed(format!("the archive lacks {name}")))?;
        // A descriptor of its own: members are read side by side.
        let mut file = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file)))?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file.take(size))
    }

    fn json(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let mut reader = self.member(name)?;
        if reader.limit() > MAX_JSON_BYTES {
            return Err(ImageError::Malformed(format!("{name} is longer than {MAX_JSON_BYTES} bytes")));
        }
        reader.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<T, ImageError> {
        serde_json::from_slice(&self.json(name)?).map_err(|e| ImageError::Malformed(format!("{name}: {e}")))
    }

    /// The images of the archive, for this machine's architecture.
    pub fn images(&self) -> Result<Vec<Found>, ImageError> {
        if self.members.contains_key("manifest.json") {
            return self.docker_images();
        }
        if self.members.contains_key("index.json") {
            let mut found = Vec::new();
            for d in self.parse::<Index>("index.json")?.manifests {
                self.oci_image(&d, &name_of(&d), 0, &mut found)?;
            }
            return Ok(found);
        }
        Err(ImageError::Malformed("neither manifest.json (docker-archive) nor index.json (OCI layout) in the archive".into()))
    }

    fn docker_images(&self) -> Result<Vec<Found>, ImageError> {
        let list: Vec<DockerImage> = self.parse("manifest.json")?;
        let found = |i: DockerImage| {
            let config = self.json(&normal(Path::new(&i.config)))?;
            let layers = i.layers.iter().map(|l| normal(Path::new(l))).collect();
            Ok(Found { references: i.repo_tags.unwrap_or_default(), config, layers })
        };
        list.into_iter().map(found).collect()
    }

    fn oci_image(&self, d: &Descriptor, name: &Option<String>, depth: usize, found: &mut Vec<Found>) -> Result<(), ImageError> {
        let ours = |p: &Platform| p.os == "linux" && p.architecture == machine();
        if depth > MAX_INDEX_DEPTH || d.platform.as_ref().is_some_and(|p| !ours(p)) {
            return Ok(());
        }
        let manifest: Manifest = self.parse(&blob(&d.digest)?)?;
        if let Some(inner) = manifest.manifests {
            return inner.iter().try_for_each(|d| self.oci_image(d, name, depth + 1, found));
        }
        let (Some(config), Some(layers)) = (manifest.config, manifest.layers) else {
            return Err(ImageError::Malformed(format!("{} is neither an image nor an index", d.digest)));
        };
        let config = self.json(&blob(&config.digest)?)?;
        let layers = layers.iter().map(|l| blob(&l.digest)).collect::<Result<_, _>>()?;
        found.push(Found { references: name.iter().cloned().collect(), config, layers });
        Ok(())
    }
}

/// Go's name of the architecture that this program runs on.
pub(super) fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn name_of(d: &Descriptor) -> Option<String> {
    let key = |k: &str| d.annotations.get(k).cloned();
    key("io.containerd.image.name").or_else(|| key("org.opencontainers.image.ref.name"))
}

fn blob(digest: &str) -> Result<String, ImageError> {
    match digest.split_once(':') {
        Some(("sha256", hex)) if hex.len() == 64 => Ok(format!("blobs/sha256/{hex}")),
        _ => Err(ImageError::Malformed(format!("{digest} is no sha256 digest"))),
    }
}

/// `./a/../b` as `b`.
fn normal(path: &Path) -> String {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => out.push(name),
            std::path::Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out.to_string_lossy().into_owned()
}
