//! Termination messages: the file that a container may write, or the end of its log.

use k8s_openapi::api::core::v1 as api;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// As much of the message file as is read.
const MAX_FILE: u64 = 4096;
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// Makes the file that is mounted at the container's terminationMessagePath; any user may write it. Blocks.
///
/// # Errors
/// IO.
pub fn prepare(path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    File::create(path)?.set_permissions(fs::Permissions::from_mode(0o666))
}

/// The message of a container that has ended. Blocks.
pub fn message(container: Option<&api::Container>, file: &Path, log: &Path, failed: bool) -> String {
    let mut text = Vec::new();
    // A file that cannot be read is a message that was not left.
    if let Ok(file) = File::open(file) {
        let _ = file.take(MAX_FILE).read_to_end(&mut text);
    }
    let fall_back = container.and_then(|c| c.termination_message_policy.as_deref()) == Some("FallbackToLogsOnError");
    if text.is_empty() && failed && fall_back {
        return tail(log).unwrap_or_else(|e| format!("Error reading termination message from logs: {e}"));
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The last lines of a CRI log, without their time, stream and tag.
fn tail(log: &Path) -> io::Result<String> {
    // Each line of output has a head of some 45 bytes.
    const LOOK_BACK: u64 = (MAX_LOG_BYTES + MAX_LOG_LINES * 64) as u64;
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOOK_BACK)))?;
    let mut text = Vec::new();
    file.take(LOOK_BACK).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    if length > LOOK_BACK && lines.len() > 1 {
        // The first may be cut.
        lines.remove(0);
    }
    let from = lines.len().saturating_sub(MAX_LOG_LINES);
    let out: String = lines[from..].iter().filter_map(|line| content(line)).collect();
    let mut start = out.len().saturating_sub(MAX_LOG_BYTES);
    while !out.is_char_boundary(start) {
        start += 1;
    }
    Ok(out[start..].to_owned())
}

/// `2024-01-01T00:00:00.0Z stdout F text\n`; a part of a line (`P`) goes without its end.
fn content(line: &str) -> Option<String> {
    let mut parts = line.splitn(4, ' ');
    let (_, _, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(if tag == "P" { text.trim_end_matches('\n').to_owned() } else { text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_wins_and_logs_are_read_only_after_failure() {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("sub/term"), dir.path().join("0.log"));
        prepare(&file).unwrap();
        let lines: String = (0..100).map(|i| format!("2024-01-01T00:00:00.000000000Z stderr F line {i}\n")).collect();
        fs::write(&log, lines + "2024-01-01T00:00:00Z stdout P DO\n2024-01-01T00:00:00Z stdout F NE").unwrap();
        let fall_back = api::Container { termination_message_policy: Some("FallbackToLogsOnError".into()), ..Default::default() };
        let plain = api::Container::default();
        let of = |c: &api::Container, failed| message(Some(c), &file, &log, failed);
        assert_eq!((of(&plain, true), of(&fall_back, false)), (String::new(), String::new()));
        let tail = of(&fall_back, true);
        assert!(tail.starts_with("line 22\n") && tail.ends_with("line 99\nDONE"), "{tail}");
        fs::write(&file, "x".repeat(5000)).unwrap();
        assert_eq!(of(&fall_back, true).len(), 4096);
        fs::write(&file, "OK").unwrap();
        assert_eq!(of(&fall_back, true), "OK");
    }

    #[test]
    fn a_long_log_gives_its_last_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        fs::write(&log, format!("2024-01-01T00:00:00Z stdout F {}\n", "ü".repeat(3000))).unwrap();
        let text = tail(&log).unwrap();
        assert!(text.len() <= MAX_LOG_BYTES && text.len() > 2000 && text.ends_with("ü\n"));
    }
}
