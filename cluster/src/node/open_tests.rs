use super::*;
use crate::{
    ids::LogIndex,
    raft::testing::{Nobody, blank, try_start},
    replica::{MEMBERSHIP_KEY, stateful},
};
use bytes::Bytes;
use mosquorum_storage::{kv::AppliedIndex, log::LogEntry};
use std::sync::atomic::{AtomicU64, Ordering};

struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("mosquorum-open-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term, node: 1, index }
}

/// A node of a cluster whose store holds the state after `applied`, with a log of term 1.
fn left_behind(dir: &Path, log_upto: u64, applied: LogId) -> RaftSettings {
    let mut directory = DataDirectory::open(Arc::new(RealFs), dir).unwrap();
    directory.initialise([7; 16], 1, "one", 1).unwrap();
    let (log, _) = Log::open(Arc::new(RealFs), &directory.log_dir(), LogOptions::default()).unwrap();
    log.save_vote(&vote_after_snapshot(id(2, 0))).unwrap();
    let entries = (1..=log_upto).map(|index| LogEntry { shard: SHARD, id: id(1, index), payload: blank() });
    log.append(entries.collect(), Box::new(|_| ()));
    log.flush().unwrap();
    log.shutdown();
    let engine = SledKv::open(&directory.state_dir()).unwrap();
    let (store, _) = StateStore::open(Arc::new(engine), SHARD).unwrap();
    let mut state = State::default();
    state.advance(LogIndex(applied.index));
    let own = (Bytes::from_static(MEMBERSHIP_KEY), Some(MembershipAt::default().to_bytes()));
    let ops = stateful::operations(state.take_changes()).chain([own]);
    store.write_checkpoint(AppliedIndex { shard: SHARD, last: Some(applied) }, ops).unwrap();
    RaftSettings { peers: vec!["other:1".into()], ..RaftSettings::alone(dir.to_owned(), "one") }
}

/// Raft can go on with it, and what the log no longer has is in a snapshot.
fn starts(settings: &RaftSettings, applied: LogId) {
    for _ in 0..2 {
        let mut disk = Disk::open(settings).unwrap();
        disk.mark_log_used().unwrap();
        let opened = disk.open_node(Arc::default(), Arc::new(Nobody)).unwrap();
        try_start(&opened.log, &opened.replica).unwrap();
        let bounds = opened.log.bounds();
        assert_eq!((opened.replica.applied().0, bounds.last), (Some(applied), Some(applied)));
        let snapshot = opened.replica.current_snapshot().and_then(|(last, _)| last).map(|id| id.index);
        assert!(snapshot >= bounds.purged.map(|id| id.index), "{snapshot:?} {:?}", bounds.purged);
        opened.log.shutdown();
    }
}

/// One test: the programs that sled starts would have the other's lock for a moment.
#[test]
fn a_log_that_ends_before_the_state_or_in_what_others_replaced_goes_on_behind_it() {
    for (log_upto, applied) in [(8, id(1, 10)), (10, id(2, 8))] {
        let dir = TempDir::new();
        let settings = left_behind(&dir.0, log_upto, applied);
        starts(&settings, applied);
    }
}

/// `cargo test --release -p mosquorum-cluster --lib -- --ignored --nocapture start_with_very_many_sessions`
#[test]
#[ignore = "measurement"]
fn start_with_very_many_sessions() {
    use crate::{replica::load_state, state::*};
    use std::time::Instant;
    let sessions: usize = std::env::var("SESSIONS").ok().and_then(|s| s.parse().ok()).unwrap_or(100_000);
    let dir = TempDir::new();
    let at = id(1, 8);
    let settings = left_behind(&dir.0, 8, at);
    let state_dir = DataDirectory::open(Arc::new(RealFs), &dir.0).unwrap().state_dir();
    {
        let (store, _) = StateStore::open(Arc::new(SledKv::open(&state_dir).unwrap()), SHARD).unwrap();
        let mut state = load_state(&store, NodeId(1)).unwrap();
        let origin = Origin { node: NodeId(1), incarnation: crate::ids::Incarnation(1) };
        let (mut sequence, mut index, mut out) = (0, 8, Applied::default());
        let mut apply = |state: &mut State, commands| {
            (sequence, index) = (sequence + 1, index + 1);
            let batch = Batch { origin, sequence, time: crate::ids::Millis(1_000_000), commands };
            state.apply(LogIndex(index), &batch, &mut out);
            out.outcomes.clone()
        };
        apply(&mut state, vec![Command::NodeUp { name: "one".into() }]);
        for chunk in (0..sessions).collect::<Vec<_>>().chunks(50_000) {
            for number in chunk {
                // Not in order, as clients come.
                let client_id: mosquorum_proto::mqtt::Utf8 = format!("client-{:08}", number * 7_919 % sessions).into();
                let owner = Owner { node: NodeId(1), incarnation: origin.incarnation, connection: Default::default() };
                let connect = ConnectCommand {
                    client_id: client_id.clone(),
                    username: None,
                    clean_start: false,
                    expiry_seconds: 86_400,
                    will: None,
                    owner,
                    limits: QueueLimits { messages: 1000, inflight: 20, ..QueueLimits::default() },
                    door: Door::default(),
                    same_user: false,
                };
                let outcomes = apply(&mut state, vec![Command::Connect(Box::new(connect))]);
                let Outcome::Connected { epoch, .. } = outcomes[0] else { panic!() };
                let filter = mosquorum_proto::mqtt::TopicFilter::try_from(format!("devices/{client_id}/cmd").as_str());
                let subscription =
                    mosquorum_proto::mqtt::Subscription::new(filter.unwrap(), mosquorum_proto::mqtt::QoS::AtLeastOnce);
                let subscriptions = vec![subscription];
                apply(
                    &mut state,
                    vec![
                        Command::Subscribe { client_id: client_id.clone(), epoch, subscriptions, identifier: None },
                        Command::Disconnect(DisconnectCommand {
                            client_id,
                            epoch,
                            discard_will: true,
                            expiry_seconds: None,
                            sent_before: 0,
                            unreadable: Arc::default(),
                        }),
                    ],
                );
            }
            let ops = stateful::operations(state.take_changes());
            store.write_checkpoint(AppliedIndex { shard: SHARD, last: Some(at) }, ops).unwrap();
        }
    }
    for _ in 0..2 {
        let start = Instant::now();
        let engine = Arc::new(SledKv::open(&state_dir).unwrap());
        let opened = start.elapsed();
        let (store, _) = StateStore::open(engine, SHARD).unwrap();
        let start = Instant::now();
        let entries: Vec<_> = store.load().unwrap().1.map(|entry| entry.unwrap()).collect();
        let scanned = start.elapsed();
        let start = Instant::now();
        let from_memory = State::load(
            LogIndex(8),
            entries.iter().map(|(key, value)| (key, value)).filter(|(k, _)| *k != MEMBERSHIP_KEY),
        )
        .unwrap();
        let made = start.elapsed();
        let start = Instant::now();
        drop(from_memory);
        let dropped = start.elapsed();
        let count = entries.len();
        drop(entries);
        let start = Instant::now();
        let loaded = load_state(&store, NodeId(1)).unwrap();
        let both = start.elapsed();
        println!(
            "{} sessions, {count} records: store opened {opened:?}, scanned {scanned:?}, state made {made:?} (dropped {dropped:?}), read and made {both:?}",
            loaded.session_count()
        );
    }
    let start = Instant::now();
    let mut disk = Disk::open(&settings).unwrap();
    let opened = disk.open_node(Arc::default(), Arc::new(Nobody)).unwrap();
    println!("a start: {:?}", start.elapsed());
    opened.log.shutdown();
}
