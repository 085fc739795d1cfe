//! A simulated disk in two halves: what is on it for good, and what was written and not synced. When the power fails, each
//! 512-byte sector that was not synced survives or does not, and of each directory's changes of names some first ones do.
//! Whoever used the disk before the failure, or before its process was killed, cannot use it any more.

use super::engine::{Rows, SimulatedPlace};
use super::trace::Trace;
use futures::FutureExt;
use futures::future::BoxFuture;
use orchd_store::disk::{Disk, File, Lock, Open};
use orchd_store::engine::Place;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

const SECTOR: usize = 512;
/// Bytes that are always free.
const FREE: u64 = 1 << 40;

/// What a file holds.
#[derive(Default)]
struct Content {
    id: u64,
    /// As it is read.
    seen: Vec<u8>,
    /// As it is for good.
    kept: Vec<u8>,
    /// Written and not synced: where, and what.
    pending: Vec<(usize, Vec<u8>)>,
    /// So many of them the disk has said to have synced, if it lies.
    promised: usize,
}

impl Content {
    fn write(target: &mut Vec<u8>, at: usize, bytes: &[u8]) {
        if target.len() < at + bytes.len() {
            target.resize(at + bytes.len(), 0);
        }
        target[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The first `count` writes come to stay.
    fn keep(&mut self, count: usize) {
        let count = count.min(self.pending.len());
        for (at, bytes) in self.pending.drain(..count) {
            Self::write(&mut self.kept, at, &bytes);
        }
        self.promised = self.promised.saturating_sub(count);
    }

    /// The power fails: all, none, or some sectors of what was not synced survive.
    fn fail(&mut self, rng: &mut StdRng) {
        let survives = [0.0, 0.0, 0.5, 0.9, 1.0][rng.random_range(0..5)];
        for (at, bytes) in std::mem::take(&mut self.pending) {
            let mut from = 0;
            while from < bytes.len() {
                let until = (((at + from) / SECTOR + 1) * SECTOR - at).min(bytes.len());
                if rng.random_bool(survives) {
                    Self::write(&mut self.kept, at + from, &bytes[from..until]);
                }
                from = until;
            }
        }
        (self.seen, self.promised) = (self.kept.clone(), 0);
    }
}

/// A file, for as long as it has a name, or may have one again, or is open.
type Held = Arc<Mutex<Content>>;

type Names = BTreeMap<PathBuf, Held>;

/// A change of names in a directory.
enum Naming {
    Add(PathBuf, Held),
    Remove(PathBuf),
}

fn rename(names: &mut Names, changes: &[Naming]) {
    for change in changes {
        match change {
            Naming::Add(path, file) => drop(names.insert(path.clone(), file.clone())),
            Naming::Remove(path) => drop(names.remove(path)),
        }
    }
}

#[derive(Default)]
struct Medium {
    /// How often it was taken away from whoever used it.
    life: u64,
    /// Nothing can be written to files.
    broken: bool,
    /// Files made up to now.
    made: u64,
    names: Names,
    kept_names: Names,
    /// Not synced, by directory. What changes together is one element.
    pending: BTreeMap<PathBuf, Vec<Vec<Naming>>>,
    engines: BTreeMap<PathBuf, Rows>,
    locks: BTreeMap<PathBuf, Weak<()>>,
}

/// A disk, which outlives whoever uses it.
#[derive(Clone)]
pub struct Drive(Arc<Shared>);

struct Shared {
    name: String,
    trace: Trace,
    medium: Mutex<Medium>,
    rng: Mutex<StdRng>,
    /// The longest that a sync takes, in microseconds.
    slow_us: Mutex<u64>,
    usual_us: u64,
    /// What it says to have synced is there for good only after the next time.
    lies: bool,
}

impl Drive {
    pub fn new(name: &str, trace: Trace, seed: u64, usual_us: u64, lies: bool) -> Self {
        let rng = Mutex::new(StdRng::seed_from_u64(seed));
        let (medium, slow_us) = (Mutex::default(), Mutex::new(usual_us));
        Self(Arc::new(Shared { name: name.into(), trace, medium, rng, slow_us, usual_us, lies }))
    }

    /// The disk as a process that starts now has it.
    pub fn mount(&self) -> Arc<Mounted> {
        let mut medium = self.0.medium.lock();
        medium.broken = false;
        Arc::new(Mounted { shared: self.0.clone(), life: medium.life })
    }

    /// Takes it away from whoever uses it; nothing is lost.
    pub fn take(&self) {
        let mut medium = self.0.medium.lock();
        medium.life += 1;
        medium.locks.clear();
    }

    /// Until it is mounted anew, whatever is written fails.
    pub fn break_down(&self) {
        self.0.medium.lock().broken = true;
    }

    pub fn is_broken(&self) -> bool {
        self.0.medium.lock().broken
    }

    /// As `take`; and what was not synced may be lost.
    pub fn fail(&self) {
        self.take();
        let (mut medium, mut rng) = (self.0.medium.lock(), self.0.rng.lock());
        let added = medium.pending.values().flatten().flatten().filter_map(|naming| match naming {
            Naming::Add(_, file) => Some(file),
            Naming::Remove(_) => None,
        });
        let all: Vec<Held> = medium.names.values().chain(medium.kept_names.values()).chain(added).cloned().collect();
        let files: BTreeMap<u64, Held> = all.into_iter().map(|file| (file.lock().id, file.clone())).collect();
        files.values().for_each(|file| file.lock().fail(&mut rng));
        let mut names = std::mem::take(&mut medium.kept_names);
        for (_, changes) in std::mem::take(&mut medium.pending) {
            let survive = rng.random_range(0..=changes.len());
            changes[..survive].iter().for_each(|together| rename(&mut names, together));
        }
        (medium.names, medium.kept_names) = (names.clone(), names);
        for rows in medium.engines.values() {
            rows.lock().fail(&mut rng);
        }
    }

    /// A new disk in place of this one.
    pub fn wipe(&self) {
        let mut medium = self.0.medium.lock();
        *medium = Medium { life: medium.life + 1, ..Medium::default() };
    }

    /// The files on it.
    pub fn files(&self) -> Vec<PathBuf> {
        self.0.medium.lock().names.keys().cloned().collect()
    }

    /// From now on a sync takes so long at most; None: as usual.
    pub fn slow(&self, us: Option<u64>) {
        *self.0.slow_us.lock() = us.unwrap_or(self.0.usual_us);
    }
}

/// A disk in use.
pub struct Mounted {
    shared: Arc<Shared>,
    life: u64,
}

impl Shared {
    fn with<T>(&self, life: u64, work: impl FnOnce(&mut Medium) -> io::Result<T>) -> io::Result<T> {
        let mut medium = self.medium.lock();
        if medium.life != life {
            return Err(io::Error::other("the disk is gone"));
        }
        work(&mut medium)
    }

    fn sync_delay(&self) -> Duration {
        let most = *self.slow_us.lock();
        Duration::from_micros(self.rng.lock().random_range(most / 8..=most))
    }
}

impl Medium {
    /// Changes names, in `dir`; together, where the disk does so.
    fn change(&mut self, dir: &Path, changes: Vec<Naming>) {
        rename(&mut self.names, &changes);
        self.pending.entry(dir.to_owned()).or_default().push(changes);
    }
}

fn dir(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

impl Disk for Mounted {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let file = self.shared.with(self.life, |medium| match (medium.names.get(path).cloned(), how) {
            (Some(file), Open::Read | Open::Write) => Ok(file),
            (None, Open::Read | Open::Write) => Err(io::ErrorKind::NotFound.into()),
            (_, Open::Create) => {
                medium.made += 1;
                let file = Held::new(Mutex::new(Content { id: medium.made, ..Content::default() }));
                medium.change(dir(path), vec![Naming::Add(path.to_owned(), file.clone())]);
                Ok(file)
            }
        })?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Arc::new(Opened { shared: self.shared.clone(), life: self.life, file, name }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.trace.note(format_args!("{}  {} becomes {}", self.shared.name, from.display(), to.display()));
        self.shared.with(self.life, |medium| {
            let file = medium.names.get(from).ok_or(io::ErrorKind::NotFound)?.clone();
            medium.change(dir(to), vec![Naming::Remove(from.to_owned()), Naming::Add(to.to_owned(), file)]);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.shared.with(self.life, |medium| {
            medium.names.get(path).ok_or(io::ErrorKind::NotFound)?;
            medium.change(dir(path), vec![Naming::Remove(path.to_owned())]);
            Ok(())
        })
    }

    fn make_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.shared.with(self.life, |_| Ok(vec![dir(path).to_owned()]))
    }

    fn list(&self, within: &Path) -> io::Result<Vec<PathBuf>> {
        self.shared.with(self.life, |medium| Ok(medium.names.keys().filter(|path| dir(path) == within).cloned().collect()))
    }

    fn sync_dir(&self, within: &Path) -> io::Result<()> {
        self.shared.with(self.life, |medium| {
            for together in medium.pending.remove(within).unwrap_or_default() {
                rename(&mut medium.kept_names, &together);
            }
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.shared.with(self.life, |medium| {
            if medium.locks.get(path).and_then(Weak::upgrade).is_some() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let lock = Arc::new(());
            medium.locks.insert(path.to_owned(), Arc::downgrade(&lock));
            Ok(Box::new(lock) as Lock)
        })
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(FREE)
    }

    fn used_bytes(&self, within: &Path) -> u64 {
        let medium = self.shared.medium.lock();
        medium.names.iter().filter(|(path, _)| path.starts_with(within)).map(|(_, file)| file.lock().seen.len() as u64).sum()
    }

    fn engine(&self, path: &Path) -> Box<dyn Place> {
        let rows = self.shared.medium.lock().engines.entry(path.to_owned()).or_default().clone();
        let (shared, life) = (self.shared.clone(), self.life);
        Box::new(SimulatedPlace { rows, mounted: Arc::new(move || shared.with(life, |_| Ok(()))) })
    }
}

struct Opened {
    shared: Arc<Shared>,
    life: u64,
    file: Held,
    name: String,
}

impl Opened {
    fn with<T>(&self, work: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        self.shared.with(self.life, |_| Ok(work(&mut self.file.lock())))
    }

    fn change<T>(&self, work: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        self.shared.with(self.life, |medium| {
            if medium.broken {
                return Err(io::Error::other("the disk is broken"));
            }
            Ok(work(&mut self.file.lock()))
        })
    }
}

impl File for Opened {
    fn size(&self) -> io::Result<u64> {
        self.with(|content| content.seen.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|content| {
            let from = content.seen.get(offset as usize..).unwrap_or_default();
            let len = bytes.len().min(from.len());
            bytes[..len].copy_from_slice(&from[..len]);
            len
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let crc = crc32fast::hash(bytes);
        self.shared.trace.note(format_args!("{}  {} at {offset}: {} bytes {crc:08x}", self.shared.name, self.name, bytes.len()));
        self.change(|content| {
            Content::write(&mut content.seen, offset as usize, bytes);
            content.pending.push((offset as usize, bytes.to_vec()));
        })
    }

    fn sync_all(&self) -> io::Result<()> {
        self.change(|content| content.keep(usize::MAX))
    }

    fn sync_data(&self) -> BoxFuture<'_, io::Result<()>> {
        async move {
            let written = self.with(|content| content.pending.len())?;
            tokio::time::sleep(self.shared.sync_delay()).await;
            self.shared.trace.note(format_args!("{}  {} synced", self.shared.name, self.name));
            let lies = self.shared.lies;
            self.change(|content| {
                if lies {
                    content.keep(content.promised);
                    content.promised = written.min(content.pending.len());
                } else {
                    content.keep(written);
                }
            })
        }
        .boxed()
    }
}
