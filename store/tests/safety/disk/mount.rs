//! The medium below a directory, through FUSE. Everything that a process writes arrives here at once: the kernel caches
//! what is read, and writes through. After the cut every request fails, a sync too, so that nothing more is promised.
//!
//! What the store and sled need of a file system is here: files, directories, renaming within one, lengths, allocation,
//! syncing. Locks (flock) and `sync_file_range` the kernel does by itself; the latter finds nothing to write back, and is,
//! as on a real disk, no promise. Nothing of ours maps files writable.

use super::medium::{File, Medium, Node, ROOT};
use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long the kernel may believe what it was told: nobody changes the disk behind its back.
const TTL: Duration = Duration::from_secs(3600);
const BLOCK: u32 = 4096;
/// fallocate's "leave the length alone".
const KEEP_SIZE: i32 = 1;

/// A mounted disk; unmounted when dropped.
pub struct Mounted {
    medium: Arc<Mutex<Medium>>,
    session: Option<BackgroundSession>,
}

impl Mounted {
    /// # Errors
    /// FUSE is not to be had.
    pub fn new(medium: Medium, at: &Path) -> io::Result<Self> {
        let medium = Arc::new(Mutex::new(medium));
        let session = fuser::spawn_mount(Disk(medium.clone()), at, &Config::default())?;
        Ok(Self { medium, session: Some(session) })
    }

    /// The power goes: every request fails from now on. What is left is returned.
    pub fn cut(&self, rng: &mut StdRng) -> Medium {
        let mut medium = self.medium.lock();
        medium.dead = true;
        medium.cut(rng)
    }

    /// Takes it away. Nobody may have files open on it.
    pub fn unmount(mut self) {
        let session = self.session.take().expect("mounted until now");
        match session.umount_and_join() {
            // How the kernel tells whoever still reads that it is over; most often it says so in another way.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            ended => ended.unwrap(),
        }
    }
}

struct Disk(Arc<Mutex<Medium>>);

type Done<T> = Result<T, Errno>;

impl Disk {
    /// Does something to the medium, while there is power.
    fn with<T>(&self, work: impl FnOnce(&mut Medium) -> Done<T>) -> Done<T> {
        let mut medium = self.0.lock();
        if medium.dead { Err(Errno::EIO) } else { work(&mut medium) }
    }

    fn make(&self, parent: INodeNo, name: &OsStr, node: Node) -> Done<FileAttr> {
        self.with(|medium| {
            if medium.lookup(parent.0, name).is_some() {
                return Err(Errno::EEXIST);
            }
            let at = medium.make(parent.0, name, node).ok_or(Errno::ENOTDIR)?;
            attr(medium, at)
        })
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, dirs: bool) -> Done<()> {
        self.with(|medium| {
            let at = medium.lookup(parent.0, name).ok_or(Errno::ENOENT)?;
            match medium.node(at) {
                Some(Node::Dir(_)) if !dirs => return Err(Errno::EISDIR),
                Some(Node::Dir(dir)) if !dir.now.is_empty() => return Err(Errno::ENOTEMPTY),
                Some(Node::File(_)) if dirs => return Err(Errno::ENOTDIR),
                _ => {}
            }
            medium.unlink(parent.0, name).ok_or(Errno::ENOENT)
        })
    }
}

fn attr(medium: &Medium, at: u64) -> Done<FileAttr> {
    let (kind, size, perm) = match medium.node(at).ok_or(Errno::ENOENT)? {
        Node::File(file) => (FileType::RegularFile, file.now.len() as u64, 0o600),
        Node::Dir(_) => (FileType::Directory, 0, 0o700),
    };
    let then = SystemTime::UNIX_EPOCH;
    Ok(FileAttr {
        ino: INodeNo(at),
        size,
        blocks: size.div_ceil(512),
        atime: then,
        mtime: then,
        ctime: then,
        crtime: then,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    })
}

fn answer_entry(found: Done<FileAttr>, reply: ReplyEntry) {
    match found {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn answer_attr(found: Done<FileAttr>, reply: ReplyAttr) {
    match found {
        Ok(attr) => reply.attr(&TTL, &attr),
        Err(error) => reply.error(error),
    }
}

fn answer_empty(done: Done<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Disk {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Refused is a smaller one, which is as well.
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(self.with(|medium| attr(medium, medium.lookup(parent.0, name).ok_or(Errno::ENOENT)?)), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer_attr(self.with(|medium| attr(medium, ino.0)), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let done = self.with(|medium| {
            if let Some(size) = size {
                medium.file(ino.0).ok_or(Errno::EISDIR)?.resize(size as usize);
            }
            attr(medium, ino.0)
        });
        answer_attr(done, reply);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        answer_entry(self.make(parent, name, Node::Dir(super::medium::Dir::default())), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(self.remove(parent, name, false), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(self.remove(parent, name, true), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = self.with(|medium| {
            if parent != newparent || !flags.is_empty() {
                return Err(Errno::EXDEV);
            }
            medium.rename(parent.0, name, newname).ok_or(Errno::ENOENT)
        });
        answer_empty(done, reply);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.with(|_| Ok(())) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        match self.make(parent, name, Node::File(File::default())) {
            Ok(attr) => reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn read(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, size: u32, _: OpenFlags, _: Option<LockOwner>, reply: ReplyData) {
        let found = self.with(|medium| {
            let bytes = &medium.file(ino.0).ok_or(Errno::EISDIR)?.now;
            let start = (offset as usize).min(bytes.len());
            let end = (start + size as usize).min(bytes.len());
            Ok(bytes[start..end].to_vec())
        });
        match found {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let done = self.with(|medium| {
            medium.file(ino.0).ok_or(Errno::EISDIR)?.write(offset as usize, data);
            Ok(data.len() as u32)
        });
        match done {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        let done = self.with(|medium| {
            let file = medium.file(ino.0).ok_or(Errno::EISDIR)?;
            let end = (offset + length) as usize;
            match mode {
                0 if end > file.now.len() => file.resize(end),
                0 | KEEP_SIZE => {}
                _ => return Err(Errno::EOPNOTSUPP),
            }
            Ok(())
        });
        answer_empty(done, reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer_empty(self.with(|medium| medium.sync(ino.0)), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer_empty(self.with(|medium| medium.sync(ino.0)), reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let found = self.with(|medium| match medium.node(ino.0) {
            Some(Node::Dir(dir)) => {
                let mut entries = vec![(ino.0, FileType::Directory, ".".into()), (ROOT, FileType::Directory, "..".into())];
                for (name, at) in &dir.now {
                    let kind = if matches!(medium.node(*at), Some(Node::Dir(_))) { FileType::Directory } else { FileType::RegularFile };
                    entries.push((*at, kind, name.clone()));
                }
                Ok(entries)
            }
            _ => Err(Errno::ENOTDIR),
        });
        match found {
            Ok(entries) => {
                for (at, (node, kind, name)) in entries.into_iter().enumerate().skip(offset as usize) {
                    if reply.add(INodeNo(node), at as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.0.lock().free / u64::from(BLOCK);
        reply.statfs(blocks * 2, blocks, blocks, 1 << 20, 1 << 20, BLOCK, 255, BLOCK);
    }
}
