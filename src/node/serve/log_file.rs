//! The CRI log format: `2026-01-02T03:04:05.678901234Z stdout F text`, one line each; `P` marks a part of a longer line.

use k8s_openapi::jiff::Timestamp;
use std::io::{self, SeekFrom};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

const BLOCK_BYTES: u64 = 16 << 10;

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub time: &'a str,
    pub stream: &'a str,
    /// The output's line goes on in the next one.
    pub partial: bool,
    pub text: &'a [u8],
}

/// Which lines a client wants, and how.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    pub since: Option<Timestamp>,
    pub tail_lines: Option<usize>,
    pub limit_bytes: Option<usize>,
    pub timestamps: bool,
    pub stream: Option<&'static str>,
}

impl Selection {
    pub fn takes(&self, line: &Line<'_>) -> bool {
        let in_time = self.since.is_none_or(|since| line.time.parse::<Timestamp>().is_ok_and(|t| t >= since));
        in_time && self.stream.is_none_or(|s| s == line.stream)
    }

    pub fn write(&self, line: &Line<'_>, out: &mut Vec<u8>) {
        if self.timestamps {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
    }
}

/// None for what is no log line.
pub(super) fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |b| *b == b' ');
    let mut word = || std::str::from_utf8(parts.next()?).ok();
    let (time, stream, tag) = (word()?, word()?, word()?);
    let partial = tag.split(':').any(|t| t == "P");
    Some(Line { time, stream, partial, text: parts.next().unwrap_or_default() })
}

/// Moves to where the last `lines` lines begin.
pub(super) async fn tail_start(mut file: File, lines: usize) -> io::Result<File> {
    let end = file.metadata().await?.len();
    if lines == 0 {
        file.seek(SeekFrom::Start(end)).await?;
        return Ok(file);
    }
    let (mut position, mut newlines, mut block) = (end, 0, Vec::new());
    while position > 0 {
        let start = position.saturating_sub(BLOCK_BYTES);
        file.seek(SeekFrom::Start(start)).await?;
        block.clear();
        (&mut file).take(position - start).read_to_end(&mut block).await?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            // The newline that ends the file ends the last line; it starts none.
            newlines += usize::from(start + at as u64 + 1 != end);
            if newlines == lines {
                file.seek(SeekFrom::Start(start + at as u64 + 1)).await?;
                return Ok(file);
            }
        }
        position = start;
    }
    file.seek(SeekFrom::Start(0)).await?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_parsed_and_written_back_as_asked() {
        let line = parse_line(b"2026-01-02T03:04:05.6Z stderr P a b \n").unwrap();
        assert_eq!(line, Line { time: "2026-01-02T03:04:05.6Z", stream: "stderr", partial: true, text: b"a b " });
        let mut out = Vec::new();
        Selection { timestamps: true, ..Selection::default() }.write(&line, &mut out);
        assert_eq!(out, b"2026-01-02T03:04:05.6Z a b ");
        assert!(!Selection { stream: Some("stdout"), ..Selection::default() }.takes(&line));
        let since = |t: &str| Selection { since: Some(t.parse().unwrap()), ..Selection::default() };
        assert!(since("2026-01-02T03:04:05Z").takes(&line) && !since("2026-01-02T03:04:06Z").takes(&line));
        assert_eq!(parse_line(b"2026-01-02T03:04:05Z stdout F\n").unwrap().text, b"");
        assert_eq!(parse_line(b"nonsense"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_tail_starts_where_its_lines_do(lengths in proptest::collection::vec(0usize..9000, 0..12), lines in 0usize..14) {
            let text: Vec<String> = lengths.iter().map(|n| "x".repeat(*n) + "\n").collect();
            let rest = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
                let named = tempfile::NamedTempFile::new().unwrap();
                std::fs::write(named.path(), text.concat()).unwrap();
                let mut file = tail_start(File::open(named.path()).await.unwrap(), lines).await.unwrap();
                let mut rest = String::new();
                file.read_to_string(&mut rest).await.unwrap();
                rest
            });
            prop_assert_eq!(rest, text[text.len().saturating_sub(lines)..].concat());
        }
    }
}
