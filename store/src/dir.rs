//! The data directory: whose it is, what format it has, and which member lives in it. May import: `disk`, `error`,
//! `random`.

use crate::disk::{self, Disk, Lock, Open};
use crate::error::OpenError;
use crate::random;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
pub struct Dir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    _lock: Lock,
}

impl Dir {
    /// Makes the directory if missing (readable by its owner alone), and locks it.
    ///
    /// # Errors
    /// `InUse`, `NewerFormat`, `Io`.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, OpenError> {
        let named = disk.make_dir(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        let lock = path.join(LOCK_FILE);
        let locked = disk.lock(&lock).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse { path: path.to_owned() },
            _ => OpenError::Io { path: lock, source },
        })?;
        let dir = Self { disk, path: path.to_owned(), _lock: locked };
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
        let Some(text) = self.read(&path)? else {
            for parent in named {
                self.disk.sync_dir(parent).map_err(|source| OpenError::Io { path: parent.clone(), source })?;
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
        let instance = random::id();
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

    /// Takes the directory away from its member.
    ///
    /// # Errors
    /// `Io`.
    pub fn unassign(&self) -> Result<(), OpenError> {
        let path = self.path.join(MEMBER_FILE);
        let removed = self.disk.remove(&path).and_then(|()| self.disk.sync_dir(&self.path));
        removed.map_err(|source| OpenError::Io { path, source })
    }

    /// What it lies on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    fn number(&self, name: &str) -> Result<Option<u64>, OpenError> {
        let path = self.path.join(name);
        let Some(text) = self.read(&path)? else { return Ok(None) };
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
            let file = self.disk.open(&half, Open::Create)?;
            file.write_at(text.as_bytes(), 0)?;
            file.sync_all()?;
            self.disk.rename(&half, &path)?;
            self.disk.sync_dir(&self.path)
        })();
        written.map_err(|source| OpenError::Io { path, source })
    }

    fn read(&self, path: &Path) -> Result<Option<String>, OpenError> {
        match disk::read(&*self.disk, path) {
            Ok(bytes) => {
                let text = String::from_utf8(bytes);
                text.map(Some).map_err(|_| OpenError::Damaged(format!("{} holds what is no text", path.display())))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(OpenError::Io { path: path.to_owned(), source }),
        }
    }
}

/// A number as it is written, with a checksum: another member's number is as good a number as any.
fn numbered(number: u64) -> String {
    format!("{number:x}{CHECKED}{:08x}\n", crc32fast::hash(&number.to_le_bytes()))
}
