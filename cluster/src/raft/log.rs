//! The Raft library's log on top of `storage::Log`.
//! Always true: completions are reported in the order of the appends (the writer thread does); reads are cut by bytes,
//! so that neither a follower that catches up nor apply holds more than a few MiB of entries.
use super::out_of_the_way;
use super::types::{
    Entry, LogId, Proposal, TypeConfig, Vote, log_id, membership, membership_record, stored_log_id, vote_from_bytes,
    vote_to_bytes,
};
use crate::entry::{BatchHeader, Content};
use crate::replica::clock::ClusterClock;
use futures_util::{Stream, stream};
use mosquorum_storage::log::{Log, LogEntry, LogError, Payload};
use openraft::{
    EntryPayload, LogState, RaftLogReader,
    entry::RaftEntry,
    errors::LeaderChanged,
    storage::{IOFlushed, LeaderBoundedStreamError, RaftLogStorage},
    type_config::alias::LeaderIdOf,
};
use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::Arc,
    time::Duration,
};

/// Payload bytes of one read (at least one entry comes).
pub(crate) const READ_BYTES: usize = 2 << 20;
/// Appends wait above this many bytes that are not durable yet.
const QUEUED_BYTES_MAX: usize = 64 << 20;
const SHARD: u32 = 0;

#[derive(Clone)]
pub(crate) struct LogStore {
    log: Log,
    /// Told the time of every batch that is appended, so that a new leader never stamps an earlier one.
    clock: Arc<ClusterClock>,
}

impl LogStore {
    pub(crate) fn new(log: Log, clock: Arc<ClusterClock>) -> Self {
        Self { log, clock }
    }

    fn read(&self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.log.read_by(start..end, READ_BYTES, |disk| out_of_the_way(disk)).map_err(io_error)?;
        entries.into_iter().map(decode).collect()
    }

    /// The range as `start..end`, cut to what the log has.
    fn clamp(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let bounds = self.log.bounds();
        let start = match range.start_bound() {
            Bound::Included(&index) => index,
            Bound::Excluded(&index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&index) => index.saturating_add(1),
            Bound::Excluded(&index) => index,
            Bound::Unbounded => u64::MAX,
        };
        let first = bounds.first.unwrap_or(u64::MAX);
        let last = bounds.last.map_or(0, |id| id.index + 1);
        (start.max(first), end.min(last))
    }

    /// Entries of a range, read piece by piece as they are taken.
    fn pieces(self, start: u64, end: u64) -> impl Stream<Item = Result<Vec<Entry>, io::Error>> + Send {
        stream::unfold((self, start), move |(this, at)| async move {
            if at >= end {
                return None;
            }
            let piece = this.read(at, end).and_then(|piece| match piece.last() {
                Some(last) => {
                    let next = last.index() + 1;
                    Ok((piece, next))
                }
                None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("entry {at} is not in the log"))),
            });
            match piece {
                Ok((piece, next)) => Some((Ok(piece), (this, next))),
                Err(error) => Some((Err(error), (this, u64::MAX))),
            }
        })
    }
}

pub(crate) fn decode(entry: LogEntry) -> Result<Entry, io::Error> {
    let invalid =
        |detail: String| io::Error::new(io::ErrorKind::InvalidData, format!("log entry {}: {detail}", entry.id.index));
    let payload = match Content::decode(entry.payload.clone()).map_err(|e| invalid(e.to_string()))? {
        Content::Blank => EntryPayload::Blank,
        Content::Batch(payload) => EntryPayload::Normal(Proposal(payload)),
        Content::Membership(record) => EntryPayload::Membership(membership(record).map_err(invalid)?),
    };
    Ok(Entry { log_id: log_id(entry.id), payload })
}

pub(crate) fn encode(entry: &Entry) -> Payload {
    match &entry.payload {
        EntryPayload::Blank => Content::Blank.encode(),
        EntryPayload::Normal(Proposal(payload)) => payload.clone(),
        EntryPayload::Membership(membership) => Content::Membership(membership_record(membership)).encode(),
    }
}

pub(crate) fn io_error(error: LogError) -> io::Error {
    io::Error::other(error)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderIdOf<TypeConfig>,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, LeaderBoundedStreamError<TypeConfig>>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let changed = move |this: &LogStore| {
            let vote = this.log.vote().and_then(|bytes| vote_from_bytes(&bytes));
            let holds = vote.is_some_and(|vote| vote.leader_id == leader && vote.committed);
            (!holds).then(|| LeaderBoundedStreamError::LeaderChanged(LeaderChanged::new(leader, vote)))
        };
        let (start, end) = self.clamp(&range);
        let this = self.clone();
        let pieces = Box::pin(self.clone().pieces(start, end));
        stream::unfold((pieces, Vec::new().into_iter(), false), move |(mut pieces, mut ready, ended)| {
            let changed = changed(&this);
            async move {
                use futures_util::StreamExt;
                if ended {
                    return None;
                }
                if let Some(error) = changed {
                    return Some((Err(error), (pieces, ready, true)));
                }
                loop {
                    if let Some(entry) = Iterator::next(&mut ready) {
                        return Some((Ok(entry), (pieces, ready, false)));
                    }
                    match pieces.next().await? {
                        Ok(piece) => ready = piece.into_iter(),
                        Err(error) => {
                            return Some((Err(LeaderBoundedStreamError::IoError(error)), (pieces, ready, true)));
                        }
                    }
                }
            }
        })
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        use futures_util::StreamExt;
        let (start, end) = self.clamp(&range);
        self.clone().pieces(start, end).flat_map(|piece| {
            stream::iter(match piece {
                Ok(piece) => piece.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            })
        })
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (mut start, end) = self.clamp(&range);
        let mut entries: Vec<Entry> = Vec::new();
        while start < end {
            let piece = self.read(start, end)?;
            let Some(last) = piece.last() else { break };
            start = last.index() + 1;
            entries.extend(piece);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        match self.log.vote() {
            None => Ok(None),
            Some(bytes) => vote_from_bytes(&bytes).map(Some).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "the vote in the log has a length it cannot have")
            }),
        }
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let bounds = self.log.bounds();
        Ok(LogState { last_purged_log_id: bounds.purged.map(log_id), last_log_id: bounds.last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, saved) = tokio::sync::oneshot::channel();
        self.log.save_vote_then(&vote_to_bytes(vote), Box::new(move |result| drop(done.send(result))));
        match saved.await {
            Ok(result) => result.map(|_durable| ()).map_err(io_error),
            Err(_) => Err(io_error(LogError::Closed)),
        }
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.log.save_committed(stored_log_id(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        // Best effort on disk, so it may name an entry that a crash took away again.
        let last = self.log.bounds().last;
        Ok(self.log.committed().filter(|id| last.is_some_and(|last| id.index <= last.index)).map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        while self.log.queued_bytes() > QUEUED_BYTES_MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let entries: Vec<LogEntry> = entries
            .into_iter()
            .map(|entry| {
                let payload = encode(&entry);
                if let Ok(header) = BatchHeader::read(payload.head()) {
                    self.clock.saw(header.time);
                }
                LogEntry { shard: SHARD, id: stored_log_id(&entry.log_id), payload }
            })
            .collect();
        self.log.append(entries, Box::new(move |r| callback.io_completed(r.map(|_durable| ()).map_err(io_error))));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.log.truncate_from(last.map_or(0, |id| id.index + 1)).map_err(io_error)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let id = stored_log_id(&upto);
        match self.log.bounds().last {
            Some(last) if last.index >= id.index => self.log.purge_to(id).map_err(io_error),
            _ => self.log.reset_to(id).map_err(io_error),
        }
    }
}
