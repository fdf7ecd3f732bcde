//! The log over a file system that fails, thousands of times, each run told by its seed.
//!
//! Owns a folder in memory that forgets what was not synced, and a model of what must be there. Seeds:
//! `WIREFALL_SEEDS` (a number) runs more of them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use super::folder::{File, Folder};
use super::log::{Entry, Log, Rules};
use super::recovery::{Known, RecoveryError, recover};
use crate::checkpoint::{Checkpoint, Delta};
use crate::journal::{Chunk, Frame, Position};
use crate::record::Partition;

/// What a disk writes at once.
const SECTOR_BYTES: usize = 512;

type Content = Arc<Mutex<Inode>>;

/// A file: what the process sees, and what a crash of the machine leaves.
#[derive(Clone, Default)]
struct Inode {
    seen: Vec<u8>,
    kept: Vec<u8>,
    /// Sectors that were written since the last sync.
    dirty: std::collections::BTreeSet<usize>,
}

/// A folder of a disk that fails as its dice say.
#[derive(Clone)]
pub(super) struct FakeDisk(Arc<Mutex<State>>);

pub(super) struct State {
    random: fastrand::Rng,
    seen: BTreeMap<String, Content>,
    kept: BTreeMap<String, Content>,
    /// One in so many operations fails; 0: none.
    pub(super) fails_one_in: u32,
    pub(super) bytes_max: usize,
}

impl State {
    fn fails(&mut self) -> bool {
        self.fails_one_in > 0 && self.random.u32(..self.fails_one_in) == 0
    }

    fn used(&self) -> usize {
        let used = |file: &Content| file.lock().unwrap().seen.len();
        self.seen.values().map(used).sum()
    }
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl FakeDisk {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: fastrand::Rng::with_seed(seed),
            seen: BTreeMap::new(),
            kept: BTreeMap::new(),
            fails_one_in: 0,
            bytes_max: usize::MAX,
        })))
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    /// The process dies. With the machine, what was not synced is kept, lost or torn as the dice fall,
    /// name by name and sector by sector.
    fn crash(&self, machine: bool) {
        let mut state = self.0.lock().unwrap();
        if !machine {
            return;
        }
        let mut random = state.random.fork();
        let names: std::collections::BTreeSet<String> = state
            .seen
            .keys()
            .chain(state.kept.keys())
            .cloned()
            .collect();
        for name in names {
            let from = if random.bool() {
                &state.seen
            } else {
                &state.kept
            };
            match from.get(&name).cloned() {
                Some(file) => drop(state.kept.insert(name, file)),
                None => drop(state.kept.remove(&name)),
            }
        }
        for file in state.kept.values() {
            let mut file = file.lock().unwrap();
            let all = random.bool();
            let dirty = std::mem::take(&mut file.dirty);
            let written: Vec<usize> = dirty.into_iter().filter(|_| all || random.bool()).collect();
            if all || random.bool() {
                let length = file.seen.len();
                file.kept.resize(length, 0);
            }
            for sector in written {
                file.write_back(sector);
            }
            file.seen = file.kept.clone();
        }
        state.seen = state.kept.clone();
    }

    /// Flips a bit somewhere in a segment.
    fn flip(&self) -> Option<String> {
        let mut state = self.0.lock().unwrap();
        let count = state.seen.len();
        let index = state.random.usize(..count.max(1));
        let (name, file) = state.seen.iter().nth(index)?;
        let (name, file) = (name.clone(), Arc::clone(file));
        let mut file = file.lock().unwrap();
        let length = file.seen.len();
        if length == 0 {
            return None;
        }
        let bit = state.random.usize(..length * 8);
        file.seen[bit / 8] ^= 1 << (bit % 8);
        file.kept = file.seen.clone();
        Some(name)
    }
}

impl Inode {
    fn write_back(&mut self, sector: usize) {
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(self.seen.len());
        if from >= to {
            return;
        }
        if self.kept.len() < to {
            self.kept.resize(to, 0);
        }
        self.kept[from..to].copy_from_slice(&self.seen[from..to]);
    }
}

impl Folder for FakeDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().seen.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.lock().unwrap();
        if state.fails() {
            return Err(broken());
        }
        let file = Content::default();
        state.seen.insert(name.to_owned(), Arc::clone(&file));
        Ok(Arc::new(FakeFile(self.clone(), file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let state = self.0.lock().unwrap();
        let file = state.seen.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(FakeFile(self.clone(), Arc::clone(file))))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.fails() {
            return Err(broken());
        }
        state.seen.remove(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let file = state.seen.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.seen.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.fails() {
            return Err(broken());
        }
        state.kept = state.seen.clone();
        Ok(())
    }
}

struct FakeFile(FakeDisk, Content);

impl File for FakeFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.1.lock().unwrap().seen.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let file = self.1.lock().unwrap();
        let rest = file.seen.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    /// Writes all, a part, or a part and then an error; a full disk takes what there is room for.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.0.0.lock().unwrap();
        let fails = state.fails();
        let used = state.used();
        let mut file = self.1.lock().unwrap();
        let room = (state.bytes_max.saturating_sub(used) + file.seen.len())
            .saturating_sub(offset as usize);
        let mut count = bytes.len().min(room);
        if fails {
            count = state.random.usize(..=count);
        } else if state.fails_one_in > 0 && count > 1 && state.random.u8(..4) == 0 {
            count = state.random.usize(1..=count);
        }
        let (from, to) = (offset as usize, offset as usize + count);
        if file.seen.len() < to {
            file.seen.resize(to, 0);
        }
        file.seen[from..to].copy_from_slice(&bytes[..count]);
        if count > 0 {
            let sectors = from / SECTOR_BYTES..=(to - 1) / SECTOR_BYTES;
            file.dirty.extend(sectors);
        }
        match count {
            _ if fails => Err(broken()),
            0 => Err(io::ErrorKind::StorageFull.into()),
            count => Ok(count),
        }
    }

    /// A sync that fails has written some sectors, and forgets that the others were not.
    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.0.lock().unwrap();
        let fails = state.fails();
        let mut file = self.1.lock().unwrap();
        let dirty = std::mem::take(&mut file.dirty);
        for sector in dirty {
            if !fails || state.random.bool() {
                file.write_back(sector);
            }
        }
        if fails {
            return Err(broken());
        }
        let length = file.seen.len();
        file.kept.resize(length, 0);
        Ok(())
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        if self.0.0.lock().unwrap().fails() {
            return Err(broken());
        }
        self.1.lock().unwrap().seen.truncate(bytes as usize);
        Ok(())
    }
}

/// What was appended, and what of it must be there.
#[derive(Default)]
struct Model {
    /// The bytes of each record by position.
    records: BTreeMap<u64, Vec<u8>>,
    /// After which position how much of the source is settled.
    settled_at: BTreeMap<u64, u64>,
    head: u64,
    source: u64,
    /// All below was safe once.
    safe: u64,
    /// The source position that was settled when all below `safe` was.
    safe_source: u64,
    /// The oldest that was not dropped.
    tail: u64,
}

fn partition() -> Partition {
    Partition::new("p")
}

fn entry(model: &mut Model, random: &mut fastrand::Rng) -> Entry {
    let first = model.head;
    let count = random.u64(0..4);
    let mut wire = Vec::new();
    let (mut frames, mut records) = (Vec::new(), Vec::new());
    for index in 0..count {
        let start = wire.len() as u32;
        let bytes: Vec<u8> = (0..random.usize(1..600)).map(|_| random.u8(..)).collect();
        wire.extend_from_slice(&bytes);
        let end = wire.len() as u32;
        records.push((start, end));
        frames.push(Frame {
            wire_end: end,
            payload_start: start,
            records_end: index as u32 + 1,
        });
        model.records.insert(first + index, bytes);
    }
    model.head += count;
    let from = model.source;
    let settles = count == 0 || random.bool();
    model.source += if settles { random.u64(1..9) } else { 0 };
    model.settled_at.insert(model.head, model.source);
    let delta = Delta {
        partition: partition(),
        from,
        to: model.source,
    };
    Entry {
        chunk: Chunk {
            first: Position(first),
            wire: wire.into(),
            frames: frames.into(),
            records: records.into(),
            ..Chunk::default()
        },
        settled: if settles { vec![delta] } else { vec![] },
        made_at_ms: 1,
    }
}

fn rules(synced: bool) -> Rules {
    Rules {
        segment_bytes: 3000,
        synced,
    }
}

fn source_of(checkpoint: &Checkpoint) -> u64 {
    checkpoint.position(&partition()).unwrap_or(0)
}

/// Reads everything that is kept, and compares it.
fn read_all(log: &Log, model: &Model) -> Result<(), String> {
    let mut at = log.segments()[0].first.0;
    for segment in log.segments() {
        assert_eq!(segment.first.0, at, "no gap between segments");
        while at < segment.extent().end.0 {
            let chunks = segment
                .read(Position(at))
                .map_err(|why| format!("{why:?}"))?;
            assert!(chunks[0].first.0 <= at && at < chunks[0].end().0);
            for chunk in chunks {
                for index in 0..chunk.records.len() {
                    let position = chunk.first.0 + index as u64;
                    assert_eq!(chunk.record(index), model.records[&position], "{position}");
                }
                at = at.max(chunk.end().0);
            }
        }
    }
    Ok(())
}

/// One life after another: appends under failures, drops, a crash, recovery.
fn live_and_die(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let synced = random.u8(..4) > 0;
    let disk = FakeDisk::new(random.u64(..));
    let mut model = Model::default();
    for life in 0..5 {
        disk.set(|state| state.fails_one_in = 0);
        let known = Known {
            exists: life > 0,
            safe: Position(if synced { model.safe } else { 0 }),
        };
        let recovered = recover(Arc::new(disk.clone()), rules(synced), known, 1);
        let mut log = recovered
            .unwrap_or_else(|error| panic!("life {life}: {error}"))
            .log;
        let head = log.safe().0;
        assert!(head >= model.safe, "what was safe is there");
        assert!(head <= model.head, "nothing that was not written");
        assert!(
            log.segments()[0].first.0 <= model.tail,
            "nothing dropped but on demand"
        );
        // Frames and the checkpoint that they complete, together. Steps without frames may follow.
        let source = source_of(log.checkpoint());
        assert!(source >= model.safe_source, "what was safe is settled");
        let before = model
            .settled_at
            .range(..head)
            .next_back()
            .map_or(0, |(_, s)| *s);
        assert!(
            (before..=model.settled_at.get(&head).copied().unwrap_or(before)).contains(&source)
        );
        read_all(&log, &model).unwrap();
        // What was not safe and is gone never was.
        model.records.split_off(&head);
        model.settled_at.split_off(&head);
        model.settled_at.insert(head, source);
        model.head = head;
        model.source = source;
        model.safe = head;
        model.safe_source = source;

        let fails_one_in = [0, 5, 20, 100][random.usize(..4)];
        let bytes_max = if random.bool() { usize::MAX } else { 9_000 };
        disk.set(|state| (state.fails_one_in, state.bytes_max) = (fails_one_in, bytes_max));
        for _ in 0..random.u32(1..40) {
            let entries: Vec<Entry> = (0..random.u8(..4))
                .map(|_| entry(&mut model, &mut random))
                .collect();
            log.give(entries);
            if log.write().is_ok() && random.u8(..3) > 0 {
                let _ = log.sync();
            }
            let safe = log.safe().0;
            assert!(safe >= model.safe);
            model.safe = safe;
            model.safe_source = source_of(log.checkpoint());
            if random.u8(..4) == 0 {
                read_all(&log, &model).unwrap();
            }
            if log.segments().len() > 1 && random.u8(..3) == 0 && log.drop_oldest().is_ok() {
                model.tail = log.segments()[0].first.0;
            }
        }
        // In time, and with room, everything is safe.
        if random.u8(..3) == 0 {
            disk.set(|state| (state.fails_one_in, state.bytes_max) = (0, usize::MAX));
            log.write().unwrap();
            log.sync().unwrap();
            assert!(log.is_safe() && log.safe().0 == model.head);
            model.safe = model.head;
            model.safe_source = source_of(log.checkpoint());
        }
        drop(log);
        // What the kernel alone has outlives the process only.
        let machine = synced && random.bool();
        disk.crash(machine);
    }
}

/// A journal that was closed, then altered: every record is there as it was, or its place is told.
fn live_and_rot(seed: u64) -> bool {
    let mut random = fastrand::Rng::with_seed(seed);
    let disk = FakeDisk::new(random.u64(..));
    let mut model = Model::default();
    let known = |exists, safe| Known {
        exists,
        safe: Position(safe),
    };
    let folder: Arc<dyn Folder> = Arc::new(disk.clone());
    let mut log = recover(Arc::clone(&folder), rules(true), known(false, 0), 1)
        .unwrap()
        .log;
    for _ in 0..random.u32(1..30) {
        let entries: Vec<Entry> = (0..3).map(|_| entry(&mut model, &mut random)).collect();
        log.give(entries);
        log.write().unwrap();
        log.sync().unwrap();
    }
    drop(log);
    let Some(file) = disk.flip() else {
        return false;
    };
    match recover(folder, rules(true), known(true, model.head), 1) {
        Err(RecoveryError::Damaged { file: told, .. }) => {
            // A segment is also told by the one that leads to it, and one that is last by its end.
            assert!(told.ends_with(".segment"), "{told}");
            true
        }
        Err(RecoveryError::Version { file: told, .. }) => {
            assert_eq!(told, file);
            true
        }
        Err(error) => panic!("{error}"),
        Ok(recovered) => {
            assert_eq!(recovered.log.safe().0, model.head);
            read_all(&recovered.log, &model).is_err()
        }
    }
}

fn seeds(at_least: u64) -> u64 {
    let more = std::env::var("WIREFALL_SEEDS").ok();
    more.and_then(|more| more.parse().ok()).unwrap_or(at_least)
}

fn for_seeds(count: u64, run: impl Fn(u64) + std::panic::RefUnwindSafe) {
    for seed in 0..count {
        let ran = std::panic::catch_unwind(|| run(seed));
        assert!(ran.is_ok(), "seed {seed}");
    }
}

#[test]
fn i1_after_any_crash_what_was_safe_is_there_with_its_checkpoint_and_nothing_else() {
    for_seeds(seeds(3000), live_and_die);
}

#[test]
fn no_altered_bit_is_passed_on_or_passed_over() {
    for_seeds(seeds(2000), |seed| {
        // Most bits are noticed by the checksums of what they are in; none may be by nobody.
        live_and_rot(seed);
    });
}
