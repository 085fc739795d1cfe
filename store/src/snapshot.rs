//! Snapshots: a whole image of the store in one file, below which the log is purged. A broken checkpoint and a member that
//! has fallen too far behind are brought up from it.
//!
//! The file: a magic, then records of length, checksum and bytes: the header, then key and value of every entry in key
//! order, then an empty record. It is written beside the old one, synced, and renamed. May import: `checkpoint`, `codec`,
//! `disk`, `engine`, `machine`, `rows`, `state`, `work`.

use crate::checkpoint::Checkpoint;
use crate::codec;
use crate::disk::{Disk, File, Open, Stream, remove_if_there};
use crate::engine::EngineError;
use crate::machine::Machine;
use crate::rows::{Header, Loader};
use crate::state::{Applied, State};
use crate::work::{background, blocking};
use parking_lot::Mutex;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const MAGIC: &[u8; 8] = b"orchdsn1";
const NAME: &str = "snapshot";
const BUFFER: usize = 128 << 10;
/// Bytes that a snapshot being written leaves to the disk at once: the log's syncs wait behind them.
const SYNC_BYTES: usize = 4 << 20;
/// Bytes that a snapshot may hold for nothing, beside half of what it is for.
const WASTE_BYTES: u64 = 4 << 20;
/// Bytes of the largest record that a reader believes in.
const RECORD: u32 = 64 << 20;

/// A snapshot on disk.
pub struct Image {
    disk: Arc<dyn Disk>,
    header: Header,
    path: PathBuf,
}

impl Image {
    pub fn applied(&self) -> &Applied {
        &self.header.applied
    }

    /// The file, opened for reading; it stays readable when a newer snapshot takes its name.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn file(&self) -> io::Result<Arc<dyn File>> {
        self.disk.open(&self.path, Open::Read)
    }

    /// Opens a snapshot that was written before, or received; None: there is no file.
    ///
    /// # Errors
    /// It is not readable or no snapshot.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> io::Result<Option<Self>> {
        let file = match disk.open(path, Open::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let header = read_header(&mut BufReader::new(Stream::new(file)))?;
        Ok(Some(Self { disk, header, path: path.to_owned() }))
    }

    /// Writes it anew, as standing for another position.
    ///
    /// # Errors
    /// It cannot be read, or the new one not written.
    pub fn copy(&self, applied: Applied, path: &Path) -> io::Result<()> {
        let mut reader = self.reader()?;
        let header = Header { applied, ..read_header(&mut reader)? };
        let mut writer = BufWriter::with_capacity(BUFFER, Stream::new(self.disk.open(path, Open::Create)?));
        writer.write_all(MAGIC)?;
        write_record(&mut writer, &codec::encode(&header)?)?;
        while let Some(record) = read_record(&mut reader)? {
            write_record(&mut writer, &record)?;
        }
        writer.write_all(&[0; 8])?;
        writer.into_inner().map_err(io::IntoInnerError::into_error)?.file.sync_all()?;
        let dir = path.parent().ok_or_else(|| damaged("a snapshot without a directory"))?;
        self.disk.sync_dir(dir)
    }

    fn reader(&self) -> io::Result<BufReader<Stream>> {
        Ok(BufReader::with_capacity(BUFFER, Stream::new(self.file()?)))
    }

    /// Makes the machine of it.
    ///
    /// # Errors
    /// It is not readable, or not as it was written.
    pub fn load(&self) -> io::Result<Machine> {
        let mut reader = self.reader()?;
        let mut loader = Loader::new(read_header(&mut reader)?);
        while let Some(key) = read_record(&mut reader)? {
            let value = read_record(&mut reader)?.ok_or_else(|| damaged("a key without a value"))?;
            loader.entry(&key, &value).map_err(damaged)?;
        }
        let (machine, _) = loader.finish().map_err(damaged)?;
        Ok(machine)
    }
}

fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn read_header(reader: &mut impl Read) -> io::Result<Header> {
    let mut magic = [0; 8];
    reader.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(damaged("it does not begin as a snapshot does"));
    }
    let header = read_record(reader)?.ok_or_else(|| damaged("a snapshot without a header"))?;
    Ok(codec::decode(&header)?)
}

fn read_record(reader: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 8];
    reader.read_exact(&mut head)?;
    let [a, b, c, d, e, f, g, h] = head;
    let (len, crc) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    if len == 0 {
        return Ok(None);
    }
    if len > RECORD {
        return Err(damaged("a record of impossible length"));
    }
    let mut bytes = vec![0; len as usize];
    reader.read_exact(&mut bytes)?;
    if crc32fast::hash(&bytes) != crc {
        return Err(damaged("a record's checksum is wrong"));
    }
    Ok(Some(bytes))
}

fn write_record(writer: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(&(bytes.len() as u32).to_le_bytes())?;
    writer.write_all(&crc32fast::hash(bytes).to_le_bytes())?;
    writer.write_all(bytes)
}

/// Checkpoint and snapshot of a running store.
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Held for as long as either is being written: never wait for it where others are served.
    checkpoint: Mutex<Checkpoint>,
    /// What the checkpoint came to when it was last let go.
    saved: AtomicU64,
    checkpoint_bytes: AtomicU64,
    current: Mutex<Option<Arc<Image>>>,
    /// Made ahead, for Raft to take.
    ready: Mutex<Option<Arc<Image>>>,
}

fn failed(error: EngineError) -> io::Error {
    match error {
        EngineError::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl Snapshots {
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, checkpoint: Checkpoint, current: Option<Image>) -> Self {
        Self {
            disk,
            dir,
            saved: AtomicU64::new(checkpoint.next()),
            checkpoint_bytes: AtomicU64::new(checkpoint.bytes()),
            checkpoint: Mutex::new(checkpoint),
            current: Mutex::new(current.map(Arc::new)),
            ready: Mutex::default(),
        }
    }

    pub fn path(dir: &Path) -> PathBuf {
        dir.join(NAME)
    }

    /// Removes what is left of snapshots that were being written, or received, when the process ended.
    ///
    /// # Errors
    /// The disk's.
    pub fn discard_unfinished(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let unfinished = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.and_then(|name| name.strip_prefix(NAME)).is_some_and(|rest| rest.starts_with('.'))
        };
        disk.list(dir)?.iter().filter(|path| unfinished(path)).try_for_each(|path| disk.remove(path))
    }

    /// Works on the checkpoint, and takes note of what it comes to.
    fn at_checkpoint<T>(&self, work: impl FnOnce(&mut Checkpoint) -> T) -> T {
        let mut checkpoint = self.checkpoint.lock();
        let done = work(&mut checkpoint);
        self.saved.store(checkpoint.next(), Ordering::Relaxed);
        self.checkpoint_bytes.store(checkpoint.bytes(), Ordering::Relaxed);
        done
    }

    /// Brings the checkpoint up to what is applied.
    ///
    /// # Errors
    /// It could not be written; the log still has everything.
    pub fn save(&self, state: &State) -> Result<(), EngineError> {
        self.at_checkpoint(|checkpoint| checkpoint.save(state))
    }

    /// As `save`, for a snapshot: not much of it is what compaction has freed.
    fn save_compactly(&self, state: &State) -> Result<(), EngineError> {
        self.at_checkpoint(|checkpoint| {
            let held = state.read(|machine| machine.bytes());
            if checkpoint.content() > held + held / 2 + WASTE_BYTES {
                checkpoint.distrust();
            }
            checkpoint.save(state)
        })
    }

    /// Makes the checkpoint anew, which gives back what its engine has not.
    ///
    /// # Errors
    /// As `save`.
    pub fn rewrite(&self, state: &State) -> Result<(), EngineError> {
        self.at_checkpoint(|checkpoint| {
            checkpoint.distrust();
            checkpoint.save(state)
        })
    }

    /// Bytes of the checkpoint's files.
    pub fn checkpoint_bytes(&self) -> u64 {
        self.checkpoint_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the current snapshot.
    pub fn image_bytes(&self) -> u64 {
        self.current().and_then(|image| image.file().and_then(|file| file.size()).ok()).unwrap_or(0)
    }

    /// One past the last log index that the checkpoint has.
    pub fn saved(&self) -> u64 {
        self.saved.load(Ordering::Relaxed)
    }

    /// Writes a snapshot of what is applied now.
    ///
    /// # Errors
    /// It could not be written; the one before stands.
    pub fn build(&self, state: &State) -> io::Result<Arc<Image>> {
        self.save_compactly(state).map_err(failed)?;
        self.image(state)
    }

    /// As `build`, beside those who are being served: the checkpoint is saved first, which looks at the state and wants to
    /// be quick; the snapshot is written from that with what processors others leave.
    ///
    /// # Errors
    /// As `build`.
    pub async fn build_behind(self: Arc<Self>, state: Arc<State>) -> io::Result<Arc<Image>> {
        let (snapshots, saved) = (self.clone(), state.clone());
        blocking(move || snapshots.save_compactly(&saved)).await?.map_err(failed)?;
        background("snapshot", move || self.image(&state)).await?
    }

    /// Writes a snapshot of what the checkpoint has. If that turns out to be wrong, it is made anew from memory first.
    fn image(&self, state: &State) -> io::Result<Arc<Image>> {
        let header = self.at_checkpoint(|checkpoint| {
            if !checkpoint.stands() {
                checkpoint.save(state)?;
            }
            match self.write(checkpoint) {
                Err(EngineError::Damaged(what)) => {
                    tracing::error!(%what, "the checkpoint is damaged; making it anew from memory");
                    checkpoint.distrust();
                    checkpoint.save(state)?;
                    self.write(checkpoint)
                }
                written => written,
            }
        });
        let header = header.inspect_err(|_| self.discard()).map_err(failed)?;
        let image = Arc::new(Image { disk: self.disk.clone(), header, path: Self::path(&self.dir) });
        *self.current.lock() = Some(image.clone());
        Ok(image)
    }

    fn half(&self) -> PathBuf {
        self.dir.join("snapshot.new")
    }

    /// What there is of a snapshot that could not be finished only takes space.
    fn discard(&self) {
        if let Err(error) = remove_if_there(&*self.disk, &self.half()) {
            tracing::warn!(%error, "half a snapshot cannot be removed");
        }
    }

    fn write(&self, checkpoint: &mut Checkpoint) -> Result<Header, EngineError> {
        let half = self.half();
        let file = self.disk.open(&half, Open::Create)?;
        let mut writer = BufWriter::with_capacity(BUFFER, Stream::new(file.clone()));
        writer.write_all(MAGIC)?;
        write_record(&mut writer, &codec::encode(checkpoint.header())?)?;
        let mut unsynced = 0;
        let header = checkpoint.entries(&mut |key, value| {
            write_record(&mut writer, key)?;
            write_record(&mut writer, &value)?;
            unsynced += key.len() + value.len();
            if unsynced >= SYNC_BYTES {
                file.sync_all()?;
                unsynced = 0;
            }
            Ok(())
        })?;
        writer.write_all(&[0; 8])?;
        writer.into_inner().map_err(io::IntoInnerError::into_error)?.file.sync_all()?;
        self.disk.rename(&half, &Self::path(&self.dir))?;
        self.disk.sync_dir(&self.dir)?;
        Ok(header)
    }

    /// Makes a snapshot ahead of Raft's asking: there, a disk that is full would be the end of the replica.
    ///
    /// # Errors
    /// As `build`.
    pub async fn prepare(self: Arc<Self>, state: Arc<State>) -> io::Result<()> {
        let image = self.clone().build_behind(state).await?;
        *self.ready.lock() = Some(image);
        Ok(())
    }

    /// The snapshot made ahead, or one of now.
    ///
    /// # Errors
    /// As `build`.
    pub async fn provide(self: Arc<Self>, state: Arc<State>) -> io::Result<Arc<Image>> {
        let ready = self.ready.lock().take();
        match ready {
            Some(image) => Ok(image),
            None => self.build_behind(state).await,
        }
    }

    /// Lets the checkpoint's files go.
    pub fn close(&self) {
        self.checkpoint.lock().close();
    }

    pub fn current(&self) -> Option<Arc<Image>> {
        self.current.lock().clone()
    }

    /// Puts a received image in the place of this member's state.
    ///
    /// # Errors
    /// The image is not readable; the state is as before.
    pub fn install(&self, state: &State, image: &Image) -> io::Result<()> {
        let machine = image.load()?;
        let mut checkpoint = self.checkpoint.lock();
        let path = Self::path(&self.dir);
        if image.path != path {
            self.disk.rename(&image.path, &path)?;
            self.disk.sync_dir(&self.dir)?;
        }
        checkpoint.distrust();
        state.replace(machine, image.header.applied.clone());
        *self.current.lock() = Some(Arc::new(Image { disk: self.disk.clone(), header: image.header.clone(), path }));
        Ok(())
    }
}
