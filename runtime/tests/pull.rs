//! Pulling from registries: a small one in this test that can misbehave, and Debian's docker-registry where it is installed.

use orchd_runtime::image::{Images, PullError};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>())
}

fn layer(content: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut h = tar::Header::new_gnu();
    h.set_size(content.len() as u64);
    h.set_mode(0o644);
    h.set_uid(0);
    h.set_gid(0);
    h.set_mtime(0);
    tar.append_data(&mut h, "file", content.as_bytes()).unwrap();
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut z = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    z.write_all(bytes).unwrap();
    z.finish().unwrap()
}

/// A one-layer image: manifest, config, layer.
struct Parts {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

fn image(content: &str, claimed: i64) -> Parts {
    let tar = layer(content);
    let layer = gzip(&tar);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/x"]}},"rootfs":{{"type":"layers","diff_ids":["{}"]}},"history":[]}}"#,
        digest(&tar)
    )
    .into_bytes();
    let size = if claimed < 0 { layer.len() as i64 } else { claimed };
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":{size}}}]}}"#,
        digest(&config),
        config.len(),
        digest(&layer)
    )
    .into_bytes();
    Parts { manifest, config, layer }
}

#[derive(Default)]
struct Registry {
    /// By path: what is answered.
    paths: HashMap<String, Vec<u8>>,
    asked: Mutex<Vec<String>>,
    /// `user:password` that must come, as base64.
    auth: Option<String>,
}

impl Registry {
    fn add(&mut self, name: &str, parts: &Parts) {
        self.paths.insert(format!("/v2/{name}/manifests/1"), parts.manifest.clone());
        for blob in [&parts.config, &parts.layer] {
            self.paths.insert(format!("/v2/{name}/blobs/{}", digest(blob)), blob.clone());
        }
    }

    async fn serve(self) -> (Arc<Self>, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let this = Arc::new(self);
        let registry = this.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let registry = registry.clone();
                tokio::spawn(async move { registry.answer(socket).await });
            }
        });
        (this, port)
    }

    async fn answer(&self, mut socket: TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if socket.read(&mut byte).await.unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        self.asked.lock().unwrap().push(path.clone());
        let allowed =
            self.auth.as_ref().is_none_or(|a| head.contains(&format!("Basic {a}")) || head.contains(&format!("authorization: Basic {a}")));
        let missing = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_vec();
        let (status, extra, body) = match self.paths.get(&path) {
            _ if !allowed => (
                "401 Unauthorized",
                "WWW-Authenticate: Basic realm=\"x\"\r\n",
                br#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#.to_vec(),
            ),
            _ if path == "/v2/" => ("200 OK", "", b"{}".to_vec()),
            Some(body) => ("200 OK", "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n", body.clone()),
            None => ("404 Not Found", "", missing),
        };
        let head = format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = socket.write_all(head.as_bytes()).await;
        let _ = socket.write_all(&body).await;
    }
}

fn store() -> Option<(tempfile::TempDir, Images)> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: unpacking images needs root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(dir.path()).unwrap();
    Some((dir, images))
}

fn scratch_is_empty(images: &Images) {
    assert_eq!(std::fs::read_dir(images.scratch()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_once_whoever_asks() {
    let Some((_dir, images)) = store() else { return };
    let mut registry = Registry::default();
    registry.add("team/app", &image("hello", -1));
    let (registry, port) = registry.serve().await;
    let name = format!("localhost:{port}/team/app:1");
    let asks = (0..5).map(|_| {
        let (images, name) = (images.clone(), name.clone());
        tokio::spawn(async move { images.pull(&name, None, true).await.unwrap() })
    });
    for ask in asks.collect::<Vec<_>>() {
        let image = ask.await.unwrap();
        assert_eq!(image.read_file("file").unwrap(), b"hello");
        assert_eq!(image.references, std::slice::from_ref(&name));
    }
    let blobs = registry.asked.lock().unwrap().iter().filter(|p| p.contains("/blobs/")).count();
    assert_eq!(blobs, 2, "config and layer, once");
    assert!(images.get(&name).is_some());
    scratch_is_empty(&images);
}

#[tokio::test]
async fn what_goes_wrong_is_told_as_containerd_tells_it() {
    let Some((_dir, images)) = store() else { return };
    let mut registry = Registry::default();
    let good = image("good", -1);
    let mut damaged = image("damaged", -1);
    registry.add("long", &image("long", 3));
    registry.add("good", &good);
    let layer = std::mem::take(&mut damaged.layer);
    registry.add("damaged", &damaged);
    registry.paths.insert(format!("/v2/damaged/blobs/{}", digest(&layer)), vec![b'x'; layer.len()]);
    registry.paths.insert("/v2/nonsense/manifests/1".into(), b"<html>".to_vec());
    let (_, port) = registry.serve().await;
    let pull = |name: &str| {
        let (images, name) = (images.clone(), format!("localhost:{port}/{name}:1"));
        async move { images.pull(&name, None, true).await }
    };
    let error = pull("none").await.unwrap_err();
    let name = format!("localhost:{port}/none:1");
    let expected = format!("failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {name}: not found");
    assert!(matches!(error, PullError::NotFound { .. }) && error.to_string() == expected, "{error}");
    for name in ["long", "damaged", "nonsense"] {
        let error = pull(name).await.unwrap_err();
        assert!(matches!(error, PullError::Malformed { .. }), "{name}: {error:?}");
        assert!(images.get(&format!("localhost:{port}/{name}:1")).is_none());
    }
    scratch_is_empty(&images);
    pull("good").await.unwrap();
    let error = images.pull("localhost:1/x:1", None, true).await.unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }) && error.to_string().to_lowercase().contains("connection refused"), "{error}");
    assert!(matches!(images.pull("NOT VALID", None, true).await, Err(PullError::Reference(..))));
}

#[tokio::test]
async fn credentials_are_used_and_missed() {
    let Some((_dir, images)) = store() else { return };
    let mut registry = Registry { auth: Some("dTpw".into()), ..Registry::default() };
    registry.add("private", &image("private", -1));
    let (_, port) = registry.serve().await;
    let name = format!("localhost:{port}/private:1");
    let error = images.pull(&name, None, true).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized { .. }) && error.to_string().contains("pull access denied"), "{error}");
    let wrong = images.pull(&name, Some(("u".into(), "wrong".into())), true).await;
    assert!(matches!(wrong, Err(PullError::Unauthorized { .. })), "{wrong:?}");
    images.pull(&name, Some(("u".into(), "p".into())), true).await.unwrap();
}

/// The real thing: push to Debian's docker-registry, pull from it.
#[tokio::test]
async fn debians_registry_serves_us() {
    use oci_client::client::{Client, ClientConfig, ClientProtocol, Config, ImageLayer};
    let program = "/usr/bin/docker-registry";
    if !std::fs::exists(program).unwrap() {
        eprintln!("SKIPPED: {program} is not installed (apt-get install docker-registry)");
        return;
    }
    let Some((dir, images)) = store() else { return };
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let config = dir.path().join("registry.yml");
    let root = dir.path().join("blobs");
    let text = format!("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n", root.display());
    std::fs::write(&config, text).unwrap();
    let mut server = tokio::process::Command::new(program)
        .args(["serve", config.to_str().unwrap()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    for _ in 0..200 {
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // Pulling first chooses the TLS provider that the client below needs.
    let name = format!("localhost:{port}/real/app:2");
    assert!(matches!(images.pull(&name, None, true).await, Err(PullError::NotFound { .. })));
    let parts = image("from a real registry", -1);
    let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    let layers = [ImageLayer::oci_v1_gzip(parts.layer, None)];
    let remote = oci_client::Reference::try_from(name.as_str()).unwrap();
    let anonymous = oci_client::secrets::RegistryAuth::Anonymous;
    client.push(&remote, &layers, Config::oci_v1(parts.config, None), &anonymous, None).await.unwrap();
    let image = images.pull(&name, None, true).await.unwrap();
    assert_eq!(image.read_file("file").unwrap(), b"from a real registry");
    server.kill().await.unwrap();
}
