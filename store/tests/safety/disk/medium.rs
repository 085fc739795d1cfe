//! Files and directories in memory, each as it looks now and as it is surely on the medium; what lies between, the changes
//! that were not synced, may or may not survive a cut.
//!
//! What a cut leaves, as POSIX allows and disks do it: of the writes to a file, any subset of their 512-byte sectors, on top
//! of what was synced; of its length, that after any of the changes, and zeros where no data came; of a directory, the
//! changes up to any one of them (a file system's journal keeps its order; but one directory may be ahead of another). A
//! file's sync brings its data and length, not its name; a directory's brings its names, not what is in the files.

use fuser::Errno;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};

/// What a disk writes whole.
const SECTOR: usize = 512;
pub const ROOT: u64 = 1;

#[derive(Clone)]
pub enum Node {
    File(File),
    Dir(Dir),
}

#[derive(Clone, Default)]
pub struct File {
    pub now: Vec<u8>,
    kept: Vec<u8>,
    pending: Vec<Change>,
    /// The name that it was last given, to know it by.
    name: OsString,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

type Names = BTreeMap<OsString, u64>;

#[derive(Clone, Default)]
pub struct Dir {
    pub now: Names,
    kept: Names,
    pending: Vec<Naming>,
}

#[derive(Clone)]
enum Naming {
    Link(OsString, u64),
    Unlink(OsString),
    Rename(OsString, OsString),
}

impl Naming {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Link(name, node) => {
                names.insert(name.clone(), *node);
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

impl Dir {
    fn change(&mut self, naming: Naming) {
        naming.apply(&mut self.now);
        self.pending.push(naming);
    }
}

impl File {
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        if self.now.len() < offset + data.len() {
            self.now.resize(offset + data.len(), 0);
        }
        self.now[offset..offset + data.len()].copy_from_slice(data);
        self.pending.push(Change::Write { offset, data: data.to_vec() });
    }

    pub fn resize(&mut self, length: usize) {
        self.now.resize(length, 0);
        self.pending.push(Change::Length(length));
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            match change {
                Change::Write { offset, data } => {
                    if self.kept.len() < offset + data.len() {
                        self.kept.resize(offset + data.len(), 0);
                    }
                    self.kept[offset..offset + data.len()].copy_from_slice(&data);
                }
                Change::Length(length) => self.kept.resize(length, 0),
            }
        }
    }

    /// What a cut leaves. `luck` is the share of sectors that reach the medium, in percent.
    fn cut(&self, luck: u32, rng: &mut StdRng) -> Vec<u8> {
        let mut left = self.kept.clone();
        // So many changes of the length have reached the medium.
        let lengths = if luck == 0 { 0 } else { rng.random_range(0..=self.pending.len()) };
        let mut length = left.len();
        for (at, change) in self.pending.iter().enumerate() {
            match change {
                Change::Length(new) if at < lengths => {
                    length = *new;
                    left.resize(length, 0);
                }
                Change::Length(_) => {}
                Change::Write { offset, data } => {
                    if at < lengths {
                        length = length.max(offset + data.len());
                    }
                    write_sectors(&mut left, *offset, data, &mut |_| rng.random_range(0..100) < luck);
                }
            }
        }
        left.resize(length, 0);
        left
    }
}

/// Writes those sectors of `data` that are chosen.
fn write_sectors(left: &mut Vec<u8>, offset: usize, data: &[u8], chosen: &mut impl FnMut(usize) -> bool) {
    let mut at = offset;
    while at < offset + data.len() {
        let next = ((at / SECTOR + 1) * SECTOR).min(offset + data.len());
        if chosen(at / SECTOR) {
            if left.len() < next {
                left.resize(next, 0);
            }
            left[at..next].copy_from_slice(&data[at - offset..next - offset]);
        }
        at = next;
    }
}

/// The disk.
pub struct Medium {
    nodes: HashMap<u64, Node>,
    next: u64,
    /// Files whose names end so are never really synced: a bug that the tests must catch.
    ignores_sync_of: Option<&'static str>,
    /// Bytes that it says are free.
    pub free: u64,
    /// The power is gone.
    pub dead: bool,
}

impl Medium {
    /// An empty disk that says that `free` bytes are free, whatever is written.
    pub fn new(free: u64, ignores_sync_of: Option<&'static str>) -> Self {
        Self { nodes: HashMap::from([(ROOT, Node::Dir(Dir::default()))]), next: ROOT + 1, ignores_sync_of, free, dead: false }
    }

    pub fn node(&self, at: u64) -> Option<&Node> {
        self.nodes.get(&at)
    }

    pub fn file(&mut self, at: u64) -> Option<&mut File> {
        match self.nodes.get_mut(&at)? {
            Node::File(file) => Some(file),
            Node::Dir(_) => None,
        }
    }

    fn dir(&mut self, at: u64) -> Option<&mut Dir> {
        match self.nodes.get_mut(&at)? {
            Node::Dir(dir) => Some(dir),
            Node::File(_) => None,
        }
    }

    pub fn lookup(&self, parent: u64, name: &OsStr) -> Option<u64> {
        match self.nodes.get(&parent)? {
            Node::Dir(dir) => dir.now.get(name).copied(),
            Node::File(_) => None,
        }
    }

    /// Makes a file or directory; None: the parent is no directory.
    pub fn make(&mut self, parent: u64, name: &OsStr, node: Node) -> Option<u64> {
        let at = self.next;
        self.dir(parent)?.change(Naming::Link(name.to_owned(), at));
        self.next += 1;
        self.nodes.insert(at, node);
        self.named(at, name);
        Some(at)
    }

    fn named(&mut self, at: u64, name: &OsStr) {
        if let Some(file) = self.file(at) {
            file.name = name.to_owned();
        }
    }

    /// Takes a name away; whoever has the file open keeps it.
    pub fn unlink(&mut self, parent: u64, name: &OsStr) -> Option<()> {
        self.lookup(parent, name)?;
        self.dir(parent)?.change(Naming::Unlink(name.to_owned()));
        Some(())
    }

    /// Within one directory.
    pub fn rename(&mut self, parent: u64, name: &OsStr, new: &OsStr) -> Option<()> {
        let at = self.lookup(parent, name)?;
        self.dir(parent)?.change(Naming::Rename(name.to_owned(), new.to_owned()));
        self.named(at, new);
        Some(())
    }

    /// # Errors
    /// There is no such file.
    pub fn sync(&mut self, at: u64) -> Result<(), Errno> {
        let ignored = self.ignores_sync_of;
        match self.nodes.get_mut(&at).ok_or(Errno::ENOENT)? {
            Node::File(file) if ignored.is_some_and(|end| file.name.to_string_lossy().ends_with(end)) => {}
            Node::File(file) => file.sync(),
            Node::Dir(dir) => {
                dir.kept = dir.now.clone();
                dir.pending.clear();
            }
        }
        Ok(())
    }

    /// Whether there is something at a path, by its last look.
    pub fn holds(&self, path: &[&str]) -> bool {
        path.iter().try_fold(ROOT, |at, name| self.lookup(at, name.as_ref())).is_some()
    }

    /// The disk as it is when the power comes back.
    pub fn cut(&self, rng: &mut StdRng) -> Self {
        let mut left = Self { nodes: HashMap::new(), next: self.next, ignores_sync_of: self.ignores_sync_of, free: self.free, dead: false };
        // Some cuts lose everything, some nearly nothing.
        let luck = [0, 0, 10, 50, 90, 99, 100][rng.random_range(0..7)];
        let mut todo = vec![ROOT];
        while let Some(at) = todo.pop() {
            let node = match &self.nodes[&at] {
                Node::File(file) => {
                    let bytes = file.cut(luck, rng);
                    Node::File(File { now: bytes.clone(), kept: bytes, pending: Vec::new(), name: file.name.clone() })
                }
                Node::Dir(dir) => {
                    let mut names = dir.kept.clone();
                    let survive = if luck == 0 { 0 } else { rng.random_range(0..=dir.pending.len()) };
                    dir.pending[..survive].iter().for_each(|naming| naming.apply(&mut names));
                    todo.extend(names.values());
                    Node::Dir(Dir { now: names.clone(), kept: names, pending: Vec::new() })
                }
            };
            left.nodes.insert(at, node);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn file(medium: &mut Medium, name: &str) -> u64 {
        medium.make(ROOT, name.as_ref(), Node::File(File::default())).unwrap()
    }

    fn bytes<'a>(medium: &'a mut Medium, name: &str) -> Option<&'a [u8]> {
        let at = medium.lookup(ROOT, name.as_ref())?;
        medium.file(at).map(|file| &file.now[..])
    }

    /// What is synced is there after every cut; what is not may be missing, torn at sectors, or there.
    #[test]
    fn only_what_is_synced_surely_survives() {
        let mut medium = Medium::new(1 << 30, None);
        let (synced, nameless, loose) = (file(&mut medium, "synced"), file(&mut medium, "nameless"), file(&mut medium, "loose"));
        medium.file(synced).unwrap().write(0, &[1; 2048]);
        medium.sync(synced).unwrap();
        medium.file(loose).unwrap().write(0, &[1; 2048]);
        medium.sync(ROOT).unwrap();
        medium.unlink(ROOT, "nameless".as_ref()).unwrap();
        medium.file(nameless).unwrap().write(0, b"x");
        medium.sync(nameless).unwrap();
        medium.file(synced).unwrap().write(512, &[2; 1024]);
        let (mut rng, mut seen) = (StdRng::seed_from_u64(1), std::collections::BTreeSet::new());
        for _ in 0..300 {
            let mut left = medium.cut(&mut rng);
            let found = bytes(&mut left, "synced").unwrap().to_vec();
            assert_eq!((&found[..512], &found[1536..]), (&[1; 512][..], &[1; 512][..]));
            for sector in found.chunks(SECTOR) {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is torn");
            }
            let loose = bytes(&mut left, "loose").unwrap().to_vec();
            assert!(loose.len() == 2048 || loose.is_empty());
            seen.insert((found[512], found[1024], loose.len(), left.lookup(ROOT, "nameless".as_ref()).is_some()));
        }
        for one in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            assert!(seen.iter().any(|(first, second, ..)| (*first, *second) == one), "never {one:?}");
        }
        assert!([0, 2048].iter().all(|length| seen.iter().any(|(.., found, _)| found == length)), "{seen:?}");
        assert!([false, true].iter().all(|named| seen.iter().any(|(.., found)| found == named)), "{seen:?}");
    }
}
