//! A container's log: CRI's format, one line each, rotated by size.
//!
//! `2006-01-02T15:04:05.999999999Z stdout F line`; a line longer than 16 KiB, or one that never ended, is written in
//! parts marked P. A log that cannot be written loses lines and holds nobody up.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// containerd's longest line.
const MAX_LINE_BYTES: usize = 16 << 10;
/// The kubelet's containerLogMaxSize and containerLogMaxFiles.
const MAX_LOG_BYTES: u64 = 10 << 20;
const MAX_LOG_FILES: usize = 5;
/// The most that one look at a stream reads, so that a chatty container starves no other.
const READ_BYTES: usize = 64 << 10;

/// The output file of one container.
pub struct Log {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

/// One of its streams.
pub struct Stream {
    pub fd: OwnedFd,
    name: &'static str,
    line: Vec<u8>,
    /// Its other end is closed.
    pub ended: bool,
}

impl Stream {
    pub fn new(fd: OwnedFd, name: &'static str) -> Self {
        Self { fd, name, line: Vec::new(), ended: false }
    }

    /// Copies what has come into the log; false at its end.
    pub fn copy(&mut self, log: &mut Log) -> bool {
        let mut chunk = [0; READ_BYTES];
        let length = match nix::unistd::read(&self.fd, &mut chunk) {
            Ok(length) => length,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return true,
            // A terminal that nobody holds any more.
            Err(_) => 0,
        };
        let mut out = Vec::with_capacity(length + 64);
        if length == 0 {
            if !self.line.is_empty() {
                self.emit(&mut out, 'P');
            }
        } else {
            self.split(&chunk[..length], &mut out);
        }
        log.write(&out);
        length > 0
    }

    fn split(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = MAX_LINE_BYTES - self.line.len();
            match bytes.iter().take(room + 1).position(|b| *b == b'\n') {
                Some(end) => {
                    self.line.extend_from_slice(&bytes[..end]);
                    self.emit(out, 'F');
                    bytes = &bytes[end + 1..];
                }
                None => {
                    let part = room.min(bytes.len());
                    self.line.extend_from_slice(&bytes[..part]);
                    bytes = &bytes[part..];
                    if !bytes.is_empty() {
                        self.emit(out, 'P');
                    }
                }
            }
        }
    }

    fn emit(&mut self, out: &mut Vec<u8>, tag: char) {
        out.extend_from_slice(timestamp(crate::sandbox::place::now_ns()).as_bytes());
        out.extend_from_slice(format!(" {} {tag} ", self.name).as_bytes());
        out.append(&mut self.line);
        out.push(b'\n');
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Log {
    /// Opens (or goes on with) the log at `path`; an empty path is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut log = Self { path: path.to_owned(), file: None, bytes: 0 };
        if !path.as_os_str().is_empty() {
            log.reopen()?;
        }
        Ok(log)
    }

    fn reopen(&mut self) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = fs::OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?;
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if bytes.is_empty() {
            return;
        }
        if let Err(e) = file.write_all(bytes) {
            eprintln!("{}: {e}", self.path.display());
        }
        self.bytes += bytes.len() as u64;
        if self.bytes >= MAX_LOG_BYTES
            && let Err(e) = self.rotate()
        {
            eprintln!("rotating {}: {e}", self.path.display());
        }
    }

    /// `0.log` becomes `0.log.20060102-150405`, as with the kubelet; the oldest go.
    fn rotate(&mut self) -> io::Result<()> {
        let (seconds, nanos) = split_ns(crate::sandbox::place::now_ns());
        let date: String = date(seconds).chars().filter(|c| *c != '-' && *c != ':').map(|c| if c == 'T' { '-' } else { c }).collect();
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{date}"));
        if Path::new(&name).exists() {
            name.push(format!(".{nanos:09}"));
        }
        fs::rename(&self.path, &name)?;
        self.reopen()?;
        let mut old = self.rotated()?;
        old.sort();
        let keep = MAX_LOG_FILES - 1;
        let extra = old.len().saturating_sub(keep);
        old[..extra].iter().try_for_each(fs::remove_file)
    }

    fn rotated(&self) -> io::Result<Vec<PathBuf>> {
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name().and_then(|n| n.to_str())) else { return Ok(Vec::new()) };
        let ours = |path: &PathBuf| {
            path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(name)).is_some_and(|rest| rest.starts_with('.'))
        };
        fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).filter(|p| p.as_ref().map_or(true, ours)).collect()
    }
}

fn split_ns(ns: i64) -> (i64, u32) {
    (ns.div_euclid(1_000_000_000), u32::try_from(ns.rem_euclid(1_000_000_000)).unwrap_or(0))
}

fn timestamp(ns: i64) -> String {
    let (seconds, nanos) = split_ns(ns);
    format!("{}.{nanos:09}Z", date(seconds))
}

/// `2006-01-02T15:04:05`. The day count to date arithmetic is Howard Hinnant's civil_from_days.
fn date(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::fd::FromRawFd;
    use std::os::fd::IntoRawFd;

    fn tags(text: &str) -> Vec<(String, usize)> {
        text.lines().map(|l| (l.split(' ').nth(2).unwrap().to_owned(), l.splitn(4, ' ').nth(3).unwrap().len())).collect()
    }

    fn stream() -> (File, Stream) {
        let (read, write) = nix::unistd::pipe().unwrap();
        // SAFETY: the descriptor was just made and is given up here.
        (unsafe { File::from_raw_fd(write.into_raw_fd()) }, Stream::new(read, "stdout"))
    }

    #[test]
    fn long_and_unended_lines_are_partial() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path).unwrap();
        let (mut w, mut s) = stream();
        w.write_all(b"one\n\ntwo").unwrap();
        assert!(s.copy(&mut log));
        w.write_all(&vec![b'x'; MAX_LINE_BYTES]).unwrap();
        w.write_all(b"\nend").unwrap();
        drop(w);
        while s.copy(&mut log) {}
        let text = fs::read_to_string(path).unwrap();
        let p = |n| ("P".to_owned(), n);
        let f = |n| ("F".to_owned(), n);
        assert_eq!(tags(&text), [f(3), f(0), p(MAX_LINE_BYTES), f(3), p(3)]);
        assert!(text.starts_with("20") && text.contains("Z stdout F one\n"));
    }

    #[test]
    fn logs_rotate_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path).unwrap();
        let block = vec![b'y'; usize::try_from(MAX_LOG_BYTES).unwrap()];
        for _ in 0..7 {
            log.write(&block);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), MAX_LOG_FILES);
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(timestamp(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(timestamp(1_795_528_800_500_000_000), "2026-11-24T14:00:00.500000000Z");
    }

    proptest! {
        #[test]
        fn nothing_is_lost(parts in prop::collection::vec("[a\n]{0,9000}", 1..6)) {
            let (_, mut s) = stream();
            let mut out = Vec::new();
            parts.iter().for_each(|p| s.split(p.as_bytes(), &mut out));
            s.emit(&mut out, 'P');
            let text = String::from_utf8(out).unwrap();
            let back: String = text.lines().map(|l| {
                let mut f = l.splitn(4, ' ');
                let tag = f.nth(2).unwrap().to_owned();
                format!("{}{}", f.next().unwrap(), if tag == "F" { "\n" } else { "" })
            }).collect();
            prop_assert_eq!(back, parts.concat());
        }
    }
}
