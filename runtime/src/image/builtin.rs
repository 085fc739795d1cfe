//! The image that orchd carries: one layer with this program's own file, so that something runs where no registry is.

use super::store::{Image, ImageError, Images};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where the program lies in the image.
pub const PROGRAM: &str = "/orchd";
/// The label by which an image tells which file it was made of.
const MADE_OF: &str = "dev.orchd.made-of";
/// A tar ends with two empty blocks.
const END: [u8; 1024] = [0; 1024];

impl Images {
    /// Makes sure that `reference` means the image of this very program file: its entrypoint is the program with
    /// `arguments`. Costs nothing where it is there already. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, or the store not be written.
    pub fn ensure_builtin(&self, reference: &str, program: &Path, arguments: &[&str]) -> Result<Image, ImageError> {
        let meta = File::open(program)?.metadata()?;
        let made_of = format!("{}-{}-{}-{}", meta.dev(), meta.ino(), meta.len(), meta.mtime_nsec() ^ meta.mtime());
        if let Some(image) = self.get(reference).filter(|i| label(i).is_some_and(|l| l == made_of)) {
            return Ok(image);
        }
        let mut digest = Sha256::new();
        io::copy(&mut layer(program)?, &mut digest)?;
        let entrypoint: Vec<&str> = [PROGRAM].into_iter().chain(arguments.iter().copied()).collect();
        let config = json!({
            "architecture": super::archive::machine(), "os": "linux",
            "config": {"Entrypoint": entrypoint, "Env": ["PATH=/"], "WorkingDir": "/", "Labels": {MADE_OF: made_of}},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", super::store::hex(&digest.finalize()))]},
            "history": [],
        });
        self.ingest(&[reference.to_owned()], config.to_string().as_bytes(), std::iter::once(layer(program)))
    }
}

fn label(image: &Image) -> Option<String> {
    image.config.config().as_ref()?.labels().as_ref()?.get(MADE_OF).cloned()
}

/// The layer as a tar stream: the program, and the directories that every image should have.
fn layer(program: &Path) -> Result<impl Read + use<>, ImageError> {
    let file = File::open(program)?;
    let length = file.metadata()?.len();
    let mut head = Vec::new();
    for dir in ["tmp", "etc", "dev", "proc", "sys"] {
        head.extend_from_slice(header(dir, tar::EntryType::Directory, if dir == "tmp" { 0o1777 } else { 0o755 }, 0)?.as_bytes());
    }
    head.extend_from_slice(header(PROGRAM.trim_start_matches('/'), tar::EntryType::Regular, 0o755, length)?.as_bytes());
    let padding = vec![0u8; usize::try_from(length.next_multiple_of(512) - length).unwrap_or(0)];
    Ok(io::Cursor::new(head).chain(file.take(length)).chain(io::Cursor::new(padding)).chain(&END[..]))
}

fn header(path: &str, kind: tar::EntryType, mode: u32, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_follows_its_program() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("SKIPPED: unpacking layers needs root");
        }
        let dir = tempfile::tempdir().unwrap();
        let (images, program) = (Images::open(&dir.path().join("images")).unwrap(), dir.path().join("program"));
        std::fs::write(&program, "one").unwrap();
        let first = images.ensure_builtin("orchd.dev/x:builtin", &program, &["verb"]).unwrap();
        assert_eq!(first.read_file("orchd").as_deref(), Some(&b"one"[..]));
        assert_eq!(images.ensure_builtin("orchd.dev/x:builtin", &program, &["verb"]).unwrap().digest, first.digest);
        std::fs::write(&program, "other").unwrap();
        let second = images.ensure_builtin("orchd.dev/x:builtin", &program, &["verb"]).unwrap();
        assert_eq!(second.read_file("orchd").as_deref(), Some(&b"other"[..]));
        assert_eq!(images.get("orchd.dev/x:builtin").unwrap().digest, second.digest);
    }
}
