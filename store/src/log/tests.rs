//! Torn tails are cut, damage is told, and what was acknowledged comes back.

use super::*;
use crate::tests::disk::Memory;
use crate::tests::fuzz::fuzz;
use proptest::prelude::*;
use std::time::Duration;

fn entry(index: u64, size: usize) -> Record {
    Record::Entry { index, payload: vec![(index % 250) as u8 + 1; size].into() }
}

fn open(dir: &Path) -> Result<Log, LogError> {
    Log::open(&World::default(), dir)
}

async fn write(log: &Log, records: Vec<Record>) {
    log.write(records).await.unwrap();
}

fn indexes(log: &Log) -> Vec<u64> {
    let Some((first, last)) = log.range() else { return vec![] };
    (first..=last).filter(|index| log.read(*index).unwrap().is_some()).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| segment::number(path).is_some()).collect();
    paths.sort();
    paths
}

/// Where each frame of a segment begins, and where the last one ends.
fn frames(path: &Path) -> Vec<usize> {
    let bytes = std::fs::read(path).unwrap();
    let mut starts = vec![0];
    while let frame::Found::Frame { len, .. } = frame::look(&bytes[starts[starts.len() - 1]..]) {
        starts.push(starts[starts.len() - 1] + len);
    }
    starts
}

fn patch(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// A log of five frames, one entry each.
async fn five(dir: &Path, size: usize) -> PathBuf {
    let log = open(dir).unwrap();
    for index in 0..5 {
        write(&log, vec![entry(index, size)]).await;
    }
    log.close().await;
    segments(dir).remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn everything_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    write(&log, vec![Record::Vote("vote 1".into()), entry(0, 10), entry(1, 100)]).await;
    write(&log, vec![entry(2, 0), entry(3, 70_000), Record::Vote("vote 2".into())]).await;
    write(&log, vec![Record::Truncate { last: Some(1) }, entry(2, 5)]).await;
    log.note_committed("two".into());
    assert_eq!(log.state().committed, Some("two".into()));
    log.close().await;
    assert!(log.append(vec![entry(3, 1)], Box::new(|_| {})).await.is_err());

    let log = open(dir.path()).unwrap();
    assert_eq!(log.range(), Some((0, 2)));
    assert_eq!(log.read(2).unwrap().unwrap().len(), 5);
    assert_eq!(log.read(1).unwrap().unwrap(), vec![2; 100]);
    assert_eq!(log.read(3).unwrap(), None);
    let state = State { vote: Some("vote 2".into()), committed: Some("two".into()), purged: None };
    assert_eq!(log.state(), state);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn segments_roll_and_purged_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    write(&log, vec![Record::Vote("vote".into())]).await;
    for index in 0..40 {
        write(&log, vec![entry(index, 700_000)]).await;
    }
    let before = segments(dir.path()).len();
    assert!(before >= 4, "{before} segments");
    write(&log, vec![Record::Purge { upto: 30, state: "at 30".into() }]).await;
    // One more write, so that the purge's own clean-up is behind us.
    write(&log, vec![entry(40, 10)]).await;
    assert!(segments(dir.path()).len() < before);
    assert_eq!(indexes(&log), (31..=40).collect::<Vec<_>>());
    log.close().await;
    let log = open(dir.path()).unwrap();
    assert_eq!(indexes(&log), (31..=40).collect::<Vec<_>>());
    assert_eq!(log.state().vote, Some("vote".into()));
    assert_eq!(log.state().purged, Some((30, "at 30".into())));
    write(&log, vec![Record::Purge { upto: 40, state: "at 40".into() }]).await;
    log.close().await;
    let log = open(dir.path()).unwrap();
    assert_eq!(log.range(), None);
    write(&log, vec![entry(41, 10)]).await;
    assert_eq!(log.range(), Some((41, 41)));
    log.close().await;
    std::fs::remove_file(&segments(dir.path())[0]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_missing_segment_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    for index in 0..30 {
        write(&log, vec![entry(index, 700_000)]).await;
    }
    log.close().await;
    let all = segments(dir.path());
    std::fs::remove_file(&all[1]).unwrap();
    assert!(matches!(open(dir.path()), Err(LogError::Damaged { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_write_that_was_torn_is_cut_off() {
    for size in [10, 3_000] {
        let dir = tempfile::tempdir().unwrap();
        let path = five(dir.path(), size).await;
        let starts = frames(&path);
        let (start, end) = (starts[4], starts[5]);
        // Whole sectors of the last frame never reached the disk.
        patch(&path, |bytes| {
            let cut = (start / frame::SECTOR + 1) * frame::SECTOR;
            bytes[cut.min(end).max(start)..end].fill(0);
            if cut >= end {
                bytes[start..end].fill(0);
            }
        });
        let log = open(dir.path()).unwrap();
        assert_eq!(indexes(&log), vec![0, 1, 2, 3], "size {size}");
        write(&log, vec![entry(4, size), entry(5, size)]).await;
        log.close().await;
        let log = open(dir.path()).unwrap();
        assert_eq!(indexes(&log), vec![0, 1, 2, 3, 4, 5], "size {size}");
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_flipped_bit_is_damage_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = five(dir.path(), 3_000).await;
    let whole = std::fs::read(&path).unwrap();
    let end = frames(&path)[5];
    for at in (0..end).step_by(131) {
        patch(&path, |bytes| {
            bytes.copy_from_slice(&whole);
            bytes[at] ^= 0x10;
        });
        let opened = open(dir.path());
        assert!(matches!(opened, Err(LogError::Damaged { .. })), "a flip at byte {at} of {end} went unnoticed");
    }
}

/// Entries of zeros are not taken for sectors that were never written, wherever the last frame lies in them.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_flipped_bit_among_zeros_is_damage_too() {
    for size in (0..30).map(|at| 400 + at * 37) {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).unwrap();
        for index in 0..3 {
            write(&log, vec![Record::Entry { index, payload: vec![0; size].into() }]).await;
        }
        assert_eq!(log.read(2).unwrap().unwrap(), vec![0; size]);
        log.close().await;
        let path = segments(dir.path()).remove(0);
        let (whole, starts) = (std::fs::read(&path).unwrap(), frames(&path));
        for at in (starts[2]..starts[3]).step_by(29).chain([starts[3] - 1]) {
            patch(&path, |bytes| {
                bytes.copy_from_slice(&whole);
                bytes[at] ^= 4;
            });
            let opened = open(dir.path());
            assert!(matches!(opened, Err(LogError::Damaged { .. })), "size {size}: a flip at byte {at} went unnoticed");
        }
    }
}

/// A segment of format 1 is read still, and written on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn frames_that_are_not_masked_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = five(dir.path(), 700).await;
    patch(&path, |bytes| {
        let mut at = 0;
        let mut plain = vec![0; bytes.len()];
        let mut to = 0;
        while let frame::Found::Frame { len, .. } = frame::look(&bytes[at..]) {
            frame::mask(&mut bytes[at + frame::HEADER..at + len], at + frame::HEADER);
            // Without the byte at the end, and with the magic of format 1.
            let frame = &mut plain[to..to + len - 1];
            frame.copy_from_slice(&bytes[at..at + len - 1]);
            let body = crc32fast::hash(&frame[frame::HEADER..]);
            frame[0] = b'1';
            frame[4..8].copy_from_slice(&((len - 1 - frame::HEADER) as u32).to_le_bytes());
            frame[16..20].copy_from_slice(&body.to_le_bytes());
            let header = crc32fast::hash(&frame[..20]);
            frame[20..24].copy_from_slice(&header.to_le_bytes());
            (at, to) = (at + len, to + len - 1);
        }
        *bytes = plain;
    });
    for _ in 0..2 {
        let log = open(dir.path()).unwrap();
        let next = log.range().unwrap().1 + 1;
        write(&log, vec![entry(next, 700)]).await;
        for index in 0..=next {
            assert_eq!(log.read(index).unwrap().unwrap(), vec![(index % 250) as u8 + 1; 700]);
        }
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_hole_before_good_frames_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = five(dir.path(), 3_000).await;
    let starts = frames(&path);
    patch(&path, |bytes| bytes[starts[2]..starts[3]].fill(0));
    assert!(matches!(open(dir.path()), Err(LogError::Damaged { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A log of random writes, reopened at random moments, holds what a simple list does.
    #[test]
    fn it_is_a_list(steps in prop::collection::vec((0..6_u8, 1..200_u64, 0..30_000_usize), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut log = open(dir.path()).unwrap();
            let (mut first, mut list): (u64, Vec<usize>) = (0, vec![]);
            for (kind, number, size) in steps {
                let next = first + list.len() as u64;
                match kind {
                    0..=2 => {
                        let count = number % 5 + 1;
                        log.write((next..next + count).map(|index| entry(index, size)).collect()).await.unwrap();
                        list.extend((0..count).map(|_| size));
                    }
                    3 if !list.is_empty() => {
                        let keep = number as usize % list.len();
                        list.truncate(keep);
                        log.write(vec![Record::Truncate { last: (first + keep as u64).checked_sub(1) }]).await.unwrap();
                    }
                    4 if !list.is_empty() => {
                        let gone = number as usize % list.len() + 1;
                        list.drain(..gone);
                        first += gone as u64;
                        log.write(vec![Record::Purge { upto: first - 1, state: first.to_string().into() }]).await.unwrap();
                    }
                    _ => {
                        log.close().await;
                        log = open(dir.path()).unwrap();
                    }
                }
                let held: Vec<usize> = indexes(&log).into_iter().map(|index| log.read(index).unwrap().unwrap().len()).collect();
                assert_eq!(held, list);
                if !list.is_empty() {
                    assert_eq!(log.range().unwrap().0, first);
                }
            }
            log.close().await;
        });
    }
}

/// Room is asked for all the time while one segment gives way to the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn room_is_promised_while_segments_change() {
    const ENTRIES: u64 = 160;
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open(dir.path()).unwrap());
    let done = Arc::new(AtomicBool::new(false));
    let askers: Vec<_> = (0..3)
        .map(|_| {
            let (log, done) = (log.clone(), done.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    // Often more than is left: the next segment is asked for as soon as it can be.
                    drop(log.room_for(Sizes::default().segment / 4, true).await.unwrap());
                }
            })
        })
        .collect();
    for index in 0..ENTRIES {
        let written = write(&log, vec![entry(index, 300_000)]);
        tokio::time::timeout(Duration::from_secs(60), written).await.expect("the log goes on");
    }
    done.store(true, Ordering::Relaxed);
    for asker in askers {
        asker.await.unwrap();
    }
    assert!(segments(dir.path()).len() > 5);
    log.close().await;
    drop(log);
    assert_eq!(indexes(&open(dir.path()).unwrap()), (0..ENTRIES).collect::<Vec<_>>());
}

/// What a log of one segment holds: the first index, the payloads, and the rest. None: it is damaged.
fn held(bytes: &[u8]) -> Option<(u64, Vec<Vec<u8>>, State)> {
    let (disk, dir) = (Memory::default(), Path::new("/log"));
    disk.put(&segment::path(dir, 1), bytes);
    let index = recover::recover(&disk, dir).ok()?.index;
    let payload = |at: &Position| {
        let place = at.offset as usize;
        let mut payload = bytes[place..place + at.len as usize].to_vec();
        if at.masked {
            frame::mask(&mut payload, place);
        }
        payload
    };
    Some((index.first, index.positions.iter().map(payload).collect(), index.state))
}

/// A segment of a dozen frames with records of every kind, most of which is full.
async fn of_every_kind() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let world = World { sizes: Sizes { first_segment: 8 << 10, ..Sizes::default() }, ..World::default() };
    let log = Log::open(&world, dir.path()).unwrap();
    for index in 0..8 {
        write(&log, vec![entry(index, 700), Record::Vote(format!("vote {index}").into())]).await;
    }
    write(&log, vec![Record::Purge { upto: 2, state: "two".into() }, Record::Committed("five".into())]).await;
    write(&log, vec![Record::Truncate { last: Some(5) }, entry(6, 30), entry(7, 0)]).await;
    write(&log, vec![entry(8, 600)]).await;
    log.close().await;
    std::fs::read(&segments(dir.path())[0]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_segment_of_any_bytes_is_what_was_written_or_damaged() {
    let whole = of_every_kind().await;
    let mut ends = vec![0];
    while let frame::Found::Frame { len, .. } = frame::look(&whole[ends[ends.len() - 1]..]) {
        ends.push(ends[ends.len() - 1] + len);
    }
    assert!(ends.len() > 10 && ends[ends.len() - 1] < whole.len(), "{ends:?}");
    let begun = |end: &usize| {
        let mut begun = whole.clone();
        begun[*end..].fill(0);
        held(&begun).unwrap()
    };
    let ever: Vec<_> = ends.iter().map(begun).collect();
    fuzz("log", std::slice::from_ref(&whole), |bytes| {
        let Some(held) = held(bytes) else { return false };
        assert!(ever.contains(&held), "it held this never: {held:?}");
        true
    });
}

/// As somebody makes it who knows the checksums.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_frame_of_any_records() {
    let whole = of_every_kind().await;
    let (mut seeds, mut at) = (Vec::new(), 0);
    while let frame::Found::Frame { len, .. } = frame::look(&whole[at..]) {
        let mut plain = whole[at..at + len].to_vec();
        frame::mask(&mut plain[frame::HEADER..], at + frame::HEADER);
        plain.pop();
        seeds.push(plain);
        at += len;
    }
    fuzz("frame", &seeds, |bytes| {
        let Some(records) = bytes.get(frame::HEADER..).and_then(|_| frame::records(bytes, 0, false)) else { return false };
        let mut index = Index::default();
        records.into_iter().all(|(record, payload)| {
            assert!(payload.offset + payload.len <= bytes.len());
            let position = Position { segment: 0, offset: payload.offset as u32, len: payload.len as u32, crc: payload.crc, masked: false };
            index.take(&record, position).is_ok()
        })
    });
}
