//! What decodes, fed with what was valid before a few changes: it must be refused or understood, never end the process, and
//! never pass for something else where a checksum says so. Targets stand beside what they ask; here are the driver and the
//! files.
//!
//! `FUZZ_INPUTS` says how many inputs a target gets, `FUZZ_FROM` which is the first. An input follows from its number.

use super::disk::Memory;
use super::recovery::{commands, state, write};
use super::{all, put};
use crate::checkpoint::Checkpoint;
use crate::codec;
use crate::command::{Command, Compare, KeyRange, Op, RangeRequest, Txn};
use crate::dir::Dir;
use crate::disk;
use crate::engine::memory::Memory as MemoryEngine;
use crate::rows::{self, Header, Loader};
use crate::snapshot::{Image, Snapshots};
use crate::state::State;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

/// Inputs of each target with each change (reliability.md). Of so many some must be taken and some refused: or it is not the
/// target that is asked.
const INPUTS: u64 = 100_000;
/// Changes of one input at most; every second input has but one, every second of the others two.
const CHANGES: u32 = 8;
/// Bytes that mean something to some decoder, or are a bound of something.
const BYTES: [u8; 14] = [0, 1, 2, 3, 8, 0x0a, 0x12, 0x7f, 0x80, 0xfa, 0xfb, 0xfc, 0xfd, 0xff];
/// So do these.
const WORDS: [u64; 10] = [0, 1, 0x7f, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, 1 << 63, u64::MAX];

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

/// Asks a target about inputs made of `seeds`; it says whether it took one.
pub fn fuzz(target: &str, seeds: &[Vec<u8>], mut takes: impl FnMut(&[u8]) -> bool) {
    let (from, inputs) = (setting("FUZZ_FROM").unwrap_or(0), setting("FUZZ_INPUTS").unwrap_or(INPUTS));
    let mut taken = 0;
    for number in from..from + inputs {
        let input = changed(&mut StdRng::seed_from_u64(number), seeds);
        match std::panic::catch_unwind(AssertUnwindSafe(|| takes(&input))) {
            Ok(took) => taken += u64::from(took),
            Err(_) => panic!("{target}: FUZZ_FROM={number} FUZZ_INPUTS=1 shows it again; the input: {input:02x?}"),
        }
    }
    println!("figure fuzz ({target}): {inputs} inputs, {taken} taken");
    assert!(inputs < INPUTS || (taken > 0 && taken < inputs), "{target}: {taken} of {inputs} were taken");
}

/// One of the seeds after some changes.
fn changed(random: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..=random.random::<u32>().trailing_ones().min(CHANGES - 1) {
        change(random, &mut bytes, seeds);
    }
    bytes
}

fn change(random: &mut StdRng, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = random.random_range(0..=bytes.len());
    let left = bytes.len() - at;
    let some = |random: &mut StdRng, most: usize| random.random_range(0..=most.min(left));
    match random.random_range(0..10) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..at + some(random, 16))),
        2 => {
            let again = bytes[at..at + some(random, 64)].to_vec();
            drop(bytes.splice(at..at, again));
        }
        3 => bytes.insert(at, BYTES[random.random_range(0..BYTES.len())]),
        4 => {
            // The rest of another, or of this one.
            let other = &seeds[random.random_range(0..seeds.len())];
            let from = random.random_range(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        5 | 6 => {
            let word = WORDS[random.random_range(0..WORDS.len())].wrapping_add_signed(random.random_range(-1..=1));
            let mut written = Vec::new();
            match random.random_range(0..4) {
                0 => written.extend_from_slice(&word.to_le_bytes()),
                1 => written.extend_from_slice(&(word as u32).to_le_bytes()),
                // As bincode, and as protobuf, writes it.
                2 => {
                    written.push(0xfd);
                    written.extend_from_slice(&word.to_le_bytes());
                }
                _ => prost::encoding::encode_varint(word, &mut written),
            }
            let over = some(random, written.len());
            drop(bytes.splice(at..at + over, written));
        }
        7 if at < bytes.len() => bytes[at] = random.random(),
        8 if at < bytes.len() => bytes[at] = BYTES[random.random_range(0..BYTES.len())],
        _ if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
        _ => bytes.push(random.random()),
    }
}

/// Commands of every kind.
pub fn samples() -> Vec<Command> {
    let nested = Txn { success: vec![Op::put("inner", "1")], failure: vec![Op::delete("inner")], ..Txn::default() };
    let update = Op::Update { key: "a".into(), value: None, lease: Some(7), prev_kv: true };
    let range = RangeRequest { limit: 3, revision: 2, ..RangeRequest::new(KeyRange::prefix("a")) };
    vec![
        Command::Txn(put("key", "value")),
        Command::Txn(Txn {
            compare: vec![Compare::mod_revision_is("a", 2)],
            success: vec![Op::Txn(nested.into()), update, Op::Range(range)],
            failure: vec![Op::Delete { range: KeyRange::prefix("a"), prev_kv: true }],
        }),
        Command::LeaseGrant { id: 7, ttl_s: 60 },
        Command::LeaseRevoke { id: 7 },
        Command::Compact { revision: 3 },
    ]
}

#[test]
fn a_command_of_any_bytes() {
    let seeds: Vec<_> = samples().iter().map(|command| codec::encode(command).unwrap().into()).collect();
    fuzz("command", &seeds, |bytes| {
        let Ok(command) = codec::decode::<Command>(bytes) else { return false };
        let again = codec::encode(&command).unwrap();
        assert_eq!(codec::decode::<Command>(&again).unwrap(), command);
        true
    });
}

/// A store with something of everything.
fn busy() -> State {
    let (state, mut index) = (state(), 0);
    commands(&state, &mut index, &[Command::LeaseGrant { id: 7, ttl_s: 60 }, Command::LeaseGrant { id: 8, ttl_s: 9 }]);
    for key in 0..12 {
        commands(&state, &mut index, &[write(key, 40), write(key / 2, 4000)]);
    }
    commands(&state, &mut index, &[Command::Txn(Txn { success: vec![Op::delete("key-3")], ..Txn::default() })]);
    commands(&state, &mut index, &[Command::Compact { revision: 5 }, write(1, 1)]);
    state
}

fn saved(state: &State) -> MemoryEngine {
    let engine = MemoryEngine::default();
    Checkpoint::new(Box::new(engine.clone())).save(state).unwrap();
    engine
}

fn same(one: &State, other: &State) -> bool {
    let leases = |state: &State| state.read(|machine| machine.leases().collect::<Vec<_>>());
    one.range(&all()) == other.range(&all()) && one.compacted() == other.compacted() && leases(one) == leases(other)
}

#[test]
fn a_snapshot_of_any_bytes() {
    let (disk, dir, state) = (Arc::new(Memory::default()), Path::new("/store"), busy());
    let checkpoint = Checkpoint::new(Box::new(saved(&state)));
    Snapshots::new(disk.clone(), dir.to_owned(), checkpoint, None).build(&state).unwrap();
    let path = Snapshots::path(dir);
    let seed = disk::read(&*disk, &path).unwrap();
    fuzz("snapshot", &[seed], |bytes| {
        disk.put(&path, bytes);
        let Ok(Some(image)) = Image::open(disk.clone(), &path) else { return false };
        let Ok(machine) = image.load() else { return false };
        let loaded = State::new(machine, image.applied().clone());
        assert!(same(&loaded, &state) && loaded.applied() == state.applied(), "it passes for another one");
        true
    });
}

/// One entry of the checkpoint is another, or has another name.
#[test]
fn a_checkpoint_with_an_entry_of_any_bytes() {
    let state = busy();
    let engine = saved(&state);
    let whole = engine.map.lock().clone();
    let seeds: Vec<Vec<u8>> = whole.iter().filter(|(key, _)| key[..] != *rows::HEADER).map(|(key, value)| named(key, value)).collect();
    let mut at = 0;
    fuzz("checkpoint", &seeds, |bytes| {
        let Some((key, value)) = parted(bytes) else { return false };
        let mut map = whole.clone();
        at = (at + 1) % seeds.len();
        map.remove(&parted(&seeds[at]).unwrap().0);
        map.insert(key, value);
        if map.get(rows::HEADER) != whole.get(rows::HEADER) {
            return false;
        }
        *engine.map.lock() = map;
        match Checkpoint::new(Box::new(engine.clone())).load() {
            Ok(loaded) => {
                let (machine, applied) = loaded.unwrap();
                assert!(same(&State::new(machine, applied), &state), "it passes for another one");
                true
            }
            Err(_) => false,
        }
    });
}

fn named(key: &[u8], value: &[u8]) -> Vec<u8> {
    [&[key.len() as u8], key, value].concat()
}

fn parted(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (len, rest) = bytes.split_first()?;
    let (key, value) = rest.split_at_checked((*len).into())?;
    Some((key.to_vec(), value.to_vec()))
}

/// As somebody makes them who knows the checksums.
#[test]
fn rows_of_any_bytes() {
    let state = busy();
    let entries: Vec<_> = saved(&state).map.lock().iter().map(|(key, value)| named(key, value)).collect();
    let header = Header { applied: state.applied(), revision: 60, compacted: 5, hash: 0 };
    fuzz("rows", &entries, |bytes| {
        let Some((key, value)) = parted(bytes) else { return false };
        let mut loader = Loader::new(Header { hash: rows::share(&key, &value), ..header.clone() });
        if key[..] == *rows::HEADER || loader.entry(&key, &value).is_err() {
            return false;
        }
        let (machine, applied) = loader.finish().unwrap();
        let state = State::new(machine, applied.applied);
        let (held, mut index) = (state.range(&all()).unwrap(), 0);
        commands(&state, &mut index, &[write(1, 10), Command::LeaseRevoke { id: 7 }, Command::Compact { revision: 60 }]);
        assert!(state.range(&all()).unwrap().count <= held.count + 1);
        true
    });
}

#[test]
fn a_directory_with_small_files_of_any_bytes() {
    let (disk, path) = (Memory::default(), Path::new("/store"));
    let open = || Dir::open(Arc::new(disk.clone()), path);
    let identity = open().unwrap().assign(0x1234_5678_9abc).unwrap();
    for name in ["FORMAT", "MEMBER", "INSTANCE"] {
        let file = path.join(name);
        let text = disk::read(&disk, &file).unwrap();
        fuzz(name, std::slice::from_ref(&text), |bytes| {
            disk.put(&file, bytes);
            let Ok(Some(found)) = open().and_then(|dir| dir.identity()) else { return false };
            // One without a checksum is an older orchd's.
            assert!(found == identity || !bytes.windows(7).any(|part| part == b" crc32 "), "it passes for {found:x?}");
            true
        });
        disk.put(&file, &text);
    }
}
