//! The data directory: whose it is, what format it has, and which member lives in it. May import: `error`.

use crate::error::OpenError;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The format that this orchd writes.
const FORMAT: u32 = 1;
const LOCK_FILE: &str = "LOCK";
const FORMAT_FILE: &str = "FORMAT";
const MEMBER_FILE: &str = "MEMBER";
const INSTANCE_FILE: &str = "INSTANCE";
/// Between a number and its checksum.
const CHECKED: &str = " crc32 ";

/// Who lives in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The member's id in its group.
    pub id: u64,
    /// The directory's own number: a member that comes back with another one has lost its data.
    pub instance: u64,
}

/// The directory, locked against other processes until this is dropped.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Dir {
    /// Makes the directory if missing (readable by its owner alone), and locks it.
    ///
    /// # Errors
    /// `InUse`, `NewerFormat`, `Io`.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |path: PathBuf| move |source| OpenError::Io { path, source };
        let named = make(path).map_err(failed(path.to_owned()))?;
        let lock = path.join(LOCK_FILE);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&lock).map_err(failed(lock.clone()))?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => OpenError::InUse { path: path.to_owned() },
            errno => OpenError::Io { path: lock.clone(), source: errno.into() },
        })?;
        let dir = Self { path: path.to_owned(), _lock: locked };
        dir.check_format(&named)?;
        Ok(dir)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of a new directory, `named` (where it, and those above it that were made too, have their names) is synced first: a
    /// directory whose name is lost to a power failure is lost with everything in it.
    fn check_format(&self, named: &[PathBuf]) -> Result<(), OpenError> {
        let path = self.path.join(FORMAT_FILE);
        let Some(text) = read(&path)? else {
            for parent in named {
                File::open(parent).and_then(|parent| parent.sync_all()).map_err(|source| OpenError::Io { path: parent.clone(), source })?;
            }
            return self.write(FORMAT_FILE, &format!("{FORMAT}\n"));
        };
        let found = text.trim().parse().ok().filter(|found| *found > 0);
        let found = found.ok_or_else(|| OpenError::Damaged(format!("{} holds {text:?}, not a format's number", path.display())))?;
        if found > FORMAT {
            return Err(OpenError::NewerFormat { path, found, known: FORMAT });
        }
        Ok(())
    }

    /// Which member lives here; None: it has no place in a group yet.
    ///
    /// # Errors
    /// `Io`, `Damaged`.
    pub fn identity(&self) -> Result<Option<Identity>, OpenError> {
        match self.number(MEMBER_FILE)? {
            Some(id) => Ok(Some(Identity { id, instance: self.instance()? })),
            None => Ok(None),
        }
    }

    /// Tells this directory from every other one; a new number the first time.
    ///
    /// # Errors
    /// `Io`, `Damaged`.
    pub fn instance(&self) -> Result<u64, OpenError> {
        if let Some(instance) = self.number(INSTANCE_FILE)? {
            return Ok(instance);
        }
        let instance = rand::random_range(1..=u64::MAX);
        self.write(INSTANCE_FILE, &numbered(instance))?;
        Ok(instance)
    }

    /// Gives the directory to a member.
    ///
    /// # Errors
    /// `Io`.
    pub fn assign(&self, id: u64) -> Result<Identity, OpenError> {
        let instance = self.instance()?;
        self.write(MEMBER_FILE, &numbered(id))?;
        Ok(Identity { id, instance })
    }

    fn number(&self, name: &str) -> Result<Option<u64>, OpenError> {
        let path = self.path.join(name);
        let Some(text) = read(&path)? else { return Ok(None) };
        let damaged = || OpenError::Damaged(format!("{} holds {text:?}, not a number in base 16 and its checksum", path.display()));
        let (number, checked) = text.trim().split_once(CHECKED).map_or((text.trim(), false), |(number, _)| (number, true));
        let number = u64::from_str_radix(number, 16).map_err(|_| damaged())?;
        // Those written before there was a checksum have none.
        if checked && text != numbered(number) { Err(damaged()) } else { Ok(Some(number)) }
    }

    /// Writes a small file so that it is there whole or not at all.
    fn write(&self, name: &str, text: &str) -> Result<(), OpenError> {
        let path = self.path.join(name);
        let half = self.path.join(format!("{name}.new"));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&half, &path)?;
            File::open(&self.path)?.sync_all()
        })();
        written.map_err(|source| OpenError::Io { path, source })
    }
}

/// Makes a directory if missing. Returns where it has its name, and where those above it have that had to be made.
fn make(path: &Path) -> io::Result<Vec<PathBuf>> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => path.to_owned(),
    };
    let missing = path.ancestors().skip(1).take_while(|above| !above.as_os_str().is_empty() && !above.exists());
    let named = std::iter::once(path).chain(missing).map(parent).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    Ok(named)
}

/// A number as it is written, with a checksum: another member's number is as good a number as any.
fn numbered(number: u64) -> String {
    format!("{number:x}{CHECKED}{:08x}\n", crc32fast::hash(&number.to_le_bytes()))
}

fn read(path: &Path) -> Result<Option<String>, OpenError> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8(bytes);
            text.map(Some).map_err(|_| OpenError::Damaged(format!("{} holds what is no text", path.display())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::Io { path: path.to_owned(), source }),
    }
}
