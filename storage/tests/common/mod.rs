//! The log's model: what a log must hold after a crash, given what was asked of it and what it acknowledged.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use mosquorum_storage::fs::MemoryFs;
use mosquorum_storage::log::{Log, LogEntry, LogError, LogId, LogOptions, Recovered, WriterMode};

pub(crate) const DIR: &str = "log";

/// splitmix64: a run follows from its seed.
#[derive(Clone)]
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

pub(crate) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 4096,
        cache_bytes: 2000,
        spare_segments: 1,
        group_bytes: 4000,
        writer: WriterMode::Manual,
        log_id: Some([7; 16]),
    }
}

pub(crate) fn open(fs: &MemoryFs) -> Result<(Log, Recovered), LogError> {
    Log::open(Arc::new(fs.clone()), Path::new(DIR), options())
}

/// What a log holds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Content {
    pub entries: BTreeMap<u64, LogEntry>,
    pub last: Option<LogId>,
    pub purged: Option<LogId>,
    pub vote: Option<Bytes>,
}

/// One record's worth of change.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Entry(LogEntry),
    Truncate(u64),
    Purge(LogId),
    Reset(LogId),
    Vote(Bytes),
}

impl Content {
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Entry(entry) => {
                self.entries.insert(entry.id.index, entry.clone());
                self.last = Some(entry.id);
            }
            Change::Truncate(from) => {
                drop(self.entries.split_off(from));
                self.last = self.entries.values().next_back().map(|e| e.id).or(self.purged);
            }
            Change::Purge(id) => {
                self.entries = self.entries.split_off(&(id.index + 1));
                self.purged = Some(*id);
                if self.entries.is_empty() {
                    self.last = Some(*id);
                }
            }
            Change::Reset(id) => {
                self.entries.clear();
                (self.last, self.purged) = (Some(*id), Some(*id));
            }
            Change::Vote(vote) => self.vote = Some(vote.clone()),
        }
    }

    /// Reads everything out of a log, in small pieces.
    pub(crate) fn of(log: &Log) -> Result<Content, LogError> {
        let bounds = log.bounds();
        let mut entries = BTreeMap::new();
        if let Some(first) = bounds.first {
            let end = bounds.last.expect("entries are present").index + 1;
            let mut at = first;
            while at < end {
                let read = log.read(at..end, 700)?;
                assert!(!read.is_empty(), "entry {at} of {first}..{end} cannot be read");
                for entry in read {
                    assert_eq!(entry.id.index, at);
                    entries.insert(at, entry);
                    at += 1;
                }
            }
        }
        Ok(Content { entries, last: bounds.last, purged: bounds.purged, vote: log.vote() })
    }
}

/// What was asked of a log, and how much of it was acknowledged.
pub(crate) struct Model {
    /// The content when the log was opened.
    base: Content,
    changes: Vec<Change>,
    /// How many of `changes` are acknowledged.
    acknowledged: Arc<AtomicUsize>,
    pub now: Content,
    pub committed: Vec<LogId>,
    pub term: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Model {
            base: Content::default(),
            changes: Vec::new(),
            acknowledged: Arc::default(),
            now: Content::default(),
            committed: Vec::new(),
            term: 1,
        }
    }

    fn note(&mut self, change: Change) {
        self.now.apply(&change);
        self.changes.push(change);
    }

    fn acknowledge_now(&self) -> impl FnOnce(bool) + Send + 'static {
        let (acknowledged, upto) = (self.acknowledged.clone(), self.changes.len());
        move |ok| {
            if ok {
                let before = acknowledged.fetch_max(upto, Ordering::SeqCst);
                assert!(before <= upto, "acknowledged out of order");
            }
        }
    }

    /// One random operation, on the log and on the model.
    pub(crate) fn step(&mut self, log: &Log, random: &mut Random) {
        let last = self.now.last.map_or(0, |last| last.index);
        match random.below(20) {
            0 if !self.now.entries.is_empty() => {
                let back = random.below(self.now.entries.len() as u64).min(6);
                self.term += 1;
                if log.truncate_from(last - back).is_ok() {
                    self.note(Change::Truncate(last - back));
                }
            }
            1 | 2 if self.now.entries.len() > 4 => {
                let keep = random.below(8) as usize;
                let skip = self.now.entries.len().saturating_sub(keep + 1);
                let id = self.now.entries.values().nth(skip).expect("in range").id;
                if log.purge_to(id).is_ok() {
                    self.note(Change::Purge(id));
                }
            }
            3 if random.below(6) == 0 => {
                let id = LogId { term: self.term, node: 1, index: last + random.below(5) };
                if log.reset_to(id).is_ok() {
                    self.note(Change::Reset(id));
                }
            }
            4 | 5 => {
                self.term += 1;
                let vote = Bytes::from(format!("vote {}", self.term));
                self.note(Change::Vote(vote.clone()));
                let acknowledge = self.acknowledge_now();
                log.save_vote_then(&vote, Box::new(move |result| acknowledge(result.is_ok())));
            }
            6 => {
                if let Some(id) = self.now.last {
                    log.save_committed(id);
                    self.committed.push(id);
                }
            }
            7..=9 => {
                log.run_pending();
            }
            _ => self.append(log, random),
        }
    }

    fn append(&mut self, log: &Log, random: &mut Random) {
        let next = self.now.last.map_or(1, |last| last.index + 1);
        let entries: Vec<LogEntry> = (0..=random.below(4))
            .map(|i| {
                let len = match random.below(12) {
                    0 => 0,
                    1 => random.below(9000),
                    _ => random.below(400),
                };
                let id = LogId { term: self.term, node: random.below(3), index: next + i };
                let payload: Bytes = (0..len).map(|at| (at ^ id.index ^ self.term) as u8).collect();
                LogEntry { shard: 0, id, payload: payload.into() }
            })
            .collect();
        entries.iter().for_each(|entry| self.note(Change::Entry(entry.clone())));
        let acknowledge = self.acknowledge_now();
        log.append(entries, Box::new(move |result| acknowledge(result.is_ok())));
    }

    /// Checks a reopened log: it holds what some prefix of the changes gives, at least all acknowledged ones. Goes on
    /// from there.
    pub(crate) fn check(&mut self, log: &Log) -> Result<(), String> {
        let found = Content::of(log).map_err(|error| error.to_string())?;
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        let mut content = self.base.clone();
        let mut matched = (acknowledged == 0 && content == found).then_some(0);
        for (i, change) in self.changes.iter().enumerate() {
            content.apply(change);
            if i + 1 >= acknowledged && content == found {
                matched = Some(i + 1);
            }
        }
        if matched.is_none() {
            return Err(format!(
                "found last {:?} purged {:?} vote {:?}, {} entries: not the state after any prefix of the {} changes that \
                 has the {acknowledged} acknowledged ones",
                found.last,
                found.purged,
                found.vote,
                found.entries.len(),
                self.changes.len()
            ));
        }
        if let Some(committed) = log.committed()
            && !self.committed.contains(&committed)
        {
            return Err(format!("committed {committed:?} was never saved"));
        }
        self.base = found.clone();
        self.now = found;
        self.changes.clear();
        self.acknowledged = Arc::default();
        self.term += 10;
        Ok(())
    }
}
