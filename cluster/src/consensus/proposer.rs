//! From commands submitted here to entries of the log, wherever the leader is.
//! Always true: batches of one incarnation have consecutive sequence numbers and are sent in that order; after any doubt
//! (leader change, refusal, silence) everything unanswered is sent again from the first on, which [`State::apply`]
//! makes harmless; an answer comes from this node's own apply, so it is never negative and never early; what was
//! submitted under an incarnation that ended is dropped without an answer, but for the DISCONNECTs of clients: they are proposed
//! again before the next incarnation says that it is up, since that ends the sessions of the one before.
//!
//! [`State::apply`]: crate::state::State::apply
use crate::{
    entry::encode_commands,
    facade::{Answer, Completion, Pressure, Submission},
    ids::{Incarnation, LogIndex},
    metrics::Histogram,
    state::{Command, Origin, Outcome},
};
use mosquorum_storage::log::Payload;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Batches on their way at the same time.
const BATCHES_IN_FLIGHT: usize = 4;
/// A batch takes no more commands once it has so many bytes or commands.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_COMMANDS: usize = 1024;
/// While others are on their way, a small batch waits for company.
const LINGER: Duration = Duration::from_millis(1);
const LINGER_COMMANDS: usize = 64;
const SETTLE_CHECK: Duration = Duration::from_millis(5);
/// DISCONNECTs that are kept from one incarnation to the next; wills of clients beyond it are published.
const GOODBYES_MAX: usize = 10_000;
/// Bytes that are not answered: above so many, connections that have a part in them are not read. What others send waits
/// behind them: that is a bound on its time, too.
const HIGH_BYTES: usize = 4 << 20;
/// Above so many none is.
const FULL_BYTES: usize = 32 << 20;

/// Submissions of this node on their way.
#[derive(Default)]
pub(crate) struct Proposer {
    inner: Mutex<ProposerState>,
    /// Something changed that the sender ([`super::sender`]) must look at.
    pub(super) wake: Notify,
    outstanding_bytes: AtomicUsize,
    /// From the forming of a batch to its apply here.
    pub(crate) latency: Histogram,
    resend: AtomicBool,
}

#[derive(Default)]
struct ProposerState {
    /// One more at each restart: what was sent before it says nothing about what to send now.
    generation: u64,
    /// `None`: this node serves under no incarnation (yet); nothing is sent.
    origin: Option<Origin>,
    waiting: VecDeque<Waiting>,
    waiting_since: Option<Instant>,
    next_sequence: u64,
    in_flight: VecDeque<InFlight>,
    /// Of clients that said DISCONNECT to an incarnation that is over; without an effect where they were applied in time.
    disconnects: Vec<Command>,
}

struct Waiting {
    command: Command,
    reply: Option<Reply>,
    bytes: usize,
    /// As in [`Submission`].
    incarnation: Option<Incarnation>,
}

type Reply = (Arc<dyn Completion>, u64);

struct InFlight {
    batch: OutgoingBatch,
    /// Until they are applied (afterwards the encoded form is enough to send them again).
    commands: Option<Vec<Command>>,
    /// Of these, for the next incarnation.
    disconnects: Vec<Command>,
    replies: Vec<Option<Reply>>,
    bytes: usize,
    since: Instant,
}

/// A batch as it is sent: to the log of this node if it leads, or to the leader.
#[derive(Debug, Clone)]
pub(super) struct OutgoingBatch {
    pub(super) origin: Origin,
    pub(super) sequence: u64,
    pub(super) count: u32,
    pub(super) commands: Payload,
}

/// What was sent last over a link to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    generation: u64,
    sequence: u64,
}

impl Cursor {
    pub(super) fn advance(&mut self, sent: &OutgoingBatch) {
        self.sequence = sent.sequence;
    }
}

/// What the sender may do next.
pub(super) enum Next {
    /// The proposer restarted since the cursor was made.
    Restart,
    Send(OutgoingBatch),
    /// A batch is forming; look again then.
    Linger(Duration),
    Nothing,
}

impl Proposer {
    pub(crate) fn submit(&self, submissions: Vec<Submission>) {
        let waiting = submissions.into_iter().map(|s| Waiting {
            bytes: size_estimate(&s.command),
            command: s.command,
            reply: Some((s.reply, s.ticket)),
            incarnation: s.incarnation,
        });
        self.enqueue(waiting);
    }

    /// Proposes a command whose outcome nobody waits for.
    pub(crate) fn propose(&self, command: Command) {
        self.enqueue(std::iter::once(Waiting {
            bytes: size_estimate(&command),
            command,
            reply: None,
            incarnation: None,
        }));
    }

    fn enqueue(&self, waiting: impl Iterator<Item = Waiting>) {
        let mut late = Vec::new();
        let mut inner = self.inner.lock();
        let present = inner.origin.map(|origin| origin.incarnation);
        let mut bytes = 0;
        for one in waiting {
            // Its connection does not know yet that its incarnation is over. What it said last counts, what it wrote does not.
            if one.incarnation.is_some() && one.incarnation != present && !is_disconnect(&one.command) {
                late.push(one);
                continue;
            }
            bytes += one.bytes;
            inner.waiting.push_back(one);
        }
        self.outstanding_bytes.fetch_add(bytes, Ordering::Relaxed);
        if inner.waiting_since.is_none() && !inner.waiting.is_empty() {
            inner.waiting_since = Some(Instant::now());
        }
        drop(inner);
        self.wake.notify_one();
    }

    pub(crate) fn pressure(&self) -> Pressure {
        match self.outstanding_bytes.load(Ordering::Relaxed) {
            0..=HIGH_BYTES => Pressure::Low,
            bytes if bytes <= FULL_BYTES => Pressure::High,
            _ => Pressure::Full,
        }
    }

    pub(crate) fn outstanding_bytes(&self) -> usize {
        self.outstanding_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn origin(&self) -> Option<Origin> {
        self.inner.lock().origin
    }

    /// Serves under another incarnation from now on, or under none: what the one before left is forgotten, but for
    /// disconnects. `first` is the end of the first batch of the new one, behind these.
    pub(crate) fn restart(&self, origin: Option<Origin>, first: Option<Command>) {
        let dropped = {
            let mut inner = self.inner.lock();
            let mut dropped = std::mem::take(&mut *inner);
            inner.disconnects = dropped.take_disconnects();
            inner.generation = dropped.generation + 1;
            inner.origin = origin;
            inner.next_sequence = 1;
            self.outstanding_bytes.store(0, Ordering::Relaxed);
            if let Some(first) = first {
                let commands = std::mem::take(&mut inner.disconnects).into_iter().chain([first]);
                let batch =
                    commands.map(|command| Waiting { command, reply: None, bytes: 0, incarnation: None }).collect();
                inner.close_batch(batch);
            }
            dropped
        };
        drop(dropped);
        self.wake.notify_one();
    }

    /// Before the first batch that is not answered.
    pub(super) fn start_cursor(&self) -> Cursor {
        Cursor { generation: self.inner.lock().generation, sequence: 0 }
    }

    /// The next batch to send after `cursor`.
    pub(super) fn next(&self, cursor: Cursor) -> Next {
        let mut inner = self.inner.lock();
        if inner.generation != cursor.generation {
            return Next::Restart;
        }
        if inner.origin.is_none() {
            return Next::Nothing;
        }
        if let Some(ready) = inner.in_flight.iter().find(|b| b.batch.sequence > cursor.sequence) {
            return Next::Send(ready.batch.clone());
        }
        if inner.waiting.is_empty() || inner.in_flight.len() >= BATCHES_IN_FLIGHT {
            return Next::Nothing;
        }
        if !inner.in_flight.is_empty() && inner.waiting.len() < LINGER_COMMANDS {
            let waited = inner.waiting_since.map_or(LINGER, |since| since.elapsed());
            if waited < LINGER {
                return Next::Linger(LINGER - waited);
            }
        }
        let commands = inner.take_waiting();
        Next::Send(inner.close_batch(commands))
    }

    /// A batch came out of the log and changed nothing. If one before it is not answered, that one was lost on its way:
    /// everything from there on is sent again. Otherwise it had been applied before.
    pub(crate) fn ignored(&self, origin: Origin, sequence: u64) {
        let inner = self.inner.lock();
        let first = inner.in_flight.front().map(|b| b.batch.sequence);
        if inner.origin == Some(origin) && first.is_some_and(|first| sequence > first) {
            drop(inner);
            self.resend.store(true, Ordering::Release);
            self.wake.notify_one();
        }
    }

    /// Waits until everything that was submitted is applied, at most so long; whether it is.
    pub(crate) async fn settle(&self, at_most: Duration) -> bool {
        let since = Instant::now();
        loop {
            {
                let inner = self.inner.lock();
                if inner.waiting.is_empty() && inner.in_flight.is_empty() {
                    return true;
                }
            }
            if since.elapsed() > at_most {
                return false;
            }
            tokio::time::sleep(SETTLE_CHECK).await;
        }
    }

    pub(super) fn must_resend(&self) -> bool {
        self.resend.swap(false, Ordering::AcqRel)
    }

    /// The first batch that is not answered, if any, and the bytes of all that are on their way.
    pub(super) fn unanswered(&self) -> Option<(u64, usize)> {
        let inner = self.inner.lock();
        let first = inner.in_flight.front()?.batch.sequence;
        Some((first, inner.in_flight.iter().map(|b| b.batch.commands.len()).sum()))
    }

    /// The commands of an own batch that is about to be applied, which saves decoding them; given out once.
    pub(crate) fn take_commands(&self, origin: Origin, sequence: u64) -> Option<Vec<Command>> {
        let mut inner = self.inner.lock();
        if inner.origin != Some(origin) {
            return None;
        }
        inner.in_flight.iter_mut().find(|b| b.batch.sequence == sequence)?.commands.take()
    }

    /// The commands of a batch that is not answered, as they were sent.
    pub(crate) fn encoded(&self, origin: Origin, sequence: u64) -> Option<Payload> {
        let inner = self.inner.lock();
        let found = inner.in_flight.iter().find(|b| b.batch.sequence == sequence && b.batch.origin == origin)?;
        Some(found.batch.commands.clone())
    }

    /// A planted bug: answers when the leader alone has taken the batch.
    #[cfg(feature = "test-faults")]
    pub(super) fn answer_before_commit(&self, sequence: u64) {
        let mut early = Vec::new();
        {
            let mut inner = self.inner.lock();
            let Some(batch) = inner.in_flight.iter_mut().find(|b| b.batch.sequence == sequence) else { return };
            let InFlight { commands: Some(commands), replies, .. } = batch else { return };
            for (command, reply) in commands.iter().zip(replies) {
                let outcome = match command {
                    Command::Publish(_) => Outcome::Published { matched: 1, duplicate: false },
                    Command::Acknowledge { .. } => Outcome::Done,
                    _ => continue,
                };
                early.extend(reply.take().map(|reply| (reply, outcome)));
            }
        }
        for ((reply, ticket), outcome) in early {
            reply.complete(ticket, Answer::Applied { outcome, index: LogIndex(0) });
        }
    }

    /// An own batch was applied: answers whoever waits, in order.
    pub(crate) fn applied(&self, origin: Origin, sequence: u64, outcomes: Vec<Outcome>, index: LogIndex) {
        let answered = {
            let mut inner = self.inner.lock();
            if inner.origin != Some(origin) || inner.in_flight.front().map(|b| b.batch.sequence) != Some(sequence) {
                return;
            }
            let Some(answered) = inner.in_flight.pop_front() else { return };
            self.outstanding_bytes.fetch_sub(answered.bytes, Ordering::Relaxed);
            answered
        };
        self.latency.observe(answered.since.elapsed());
        self.wake.notify_one();
        for (reply, outcome) in answered.replies.into_iter().zip(outcomes) {
            if let Some((reply, ticket)) = reply {
                reply.complete(ticket, Answer::Applied { outcome, index });
            }
        }
    }
}

impl ProposerState {
    /// The disconnects among what is not applied, in order.
    fn take_disconnects(&mut self) -> Vec<Command> {
        let sent = self.in_flight.iter_mut().flat_map(|batch| std::mem::take(&mut batch.disconnects));
        let waiting = self.waiting.drain(..).map(|waiting| waiting.command);
        let said = sent.chain(waiting.filter(is_disconnect));
        let mut all = std::mem::take(&mut self.disconnects);
        all.extend(said);
        all.truncate(GOODBYES_MAX);
        all
    }

    fn take_waiting(&mut self) -> Vec<Waiting> {
        let mut bytes = 0;
        let mut taken = Vec::new();
        while let Some(next) = self.waiting.front() {
            // A publish above the bound is an entry alone.
            if !taken.is_empty() && (bytes + next.bytes > BATCH_BYTES || taken.len() >= BATCH_COMMANDS) {
                break;
            }
            bytes += next.bytes;
            taken.extend(self.waiting.pop_front());
        }
        self.waiting_since = (!self.waiting.is_empty()).then(Instant::now);
        taken
    }

    fn close_batch(&mut self, waiting: Vec<Waiting>) -> OutgoingBatch {
        let origin = self.origin.expect("batches are closed under an origin only; the callers check");
        let mut commands = Vec::with_capacity(waiting.len());
        let mut replies = Vec::with_capacity(waiting.len());
        let mut bytes = 0;
        for one in waiting {
            commands.push(one.command);
            replies.push(one.reply);
            bytes += one.bytes;
        }
        let batch = OutgoingBatch {
            origin,
            sequence: self.next_sequence,
            count: commands.len() as u32,
            commands: encode_commands(&commands, bytes + 64 * commands.len()),
        };
        self.next_sequence += 1;
        self.in_flight.push_back(InFlight {
            batch: batch.clone(),
            disconnects: commands.iter().filter(|command| is_disconnect(command)).cloned().collect(),
            commands: Some(commands),
            replies,
            bytes,
            since: Instant::now(),
        });
        batch
    }
}

/// A DISCONNECT that takes the will back. It names the connection's epoch, so it concerns no later one.
fn is_disconnect(command: &Command) -> bool {
    matches!(command, Command::Disconnect(disconnect) if disconnect.discard_will)
}

/// About what a command takes in the log.
fn size_estimate(command: &Command) -> usize {
    match command {
        Command::Publish(publish) => 96 + publish.message.size_bytes(),
        Command::Connect(connect) => 128 + connect.will.as_ref().map_or(0, |will| will.payload.len()),
        Command::Subscribe { subscriptions, .. } => 64 * (1 + subscriptions.len()),
        Command::Unsubscribe { filters, .. } => 64 * (1 + filters.len()),
        Command::Acknowledge { acks, .. } => 48 + 4 * acks.len(),
        _ => 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;
    use std::sync::mpsc;

    const ORIGIN: Origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };

    struct Told(Mutex<mpsc::Sender<u64>>);

    impl Completion for Told {
        fn complete(&self, ticket: u64, _answer: Answer) {
            let _ = self.0.lock().send(ticket);
        }
    }

    fn submission(reply: &Arc<Told>, ticket: u64) -> Submission {
        Submission {
            command: Command::EndSession { client_id: "c".into() },
            reply: reply.clone(),
            ticket,
            incarnation: None,
        }
    }

    fn proposer() -> (Proposer, Arc<Told>, mpsc::Receiver<u64>) {
        let (sender, receiver) = mpsc::channel();
        let proposer = Proposer::default();
        proposer.restart(Some(ORIGIN), None);
        (proposer, Arc::new(Told(Mutex::new(sender))), receiver)
    }

    fn send(proposer: &Proposer, cursor: &mut Cursor) -> Option<OutgoingBatch> {
        match proposer.next(*cursor) {
            Next::Send(batch) => {
                cursor.advance(&batch);
                Some(batch)
            }
            _ => None,
        }
    }

    #[test]
    fn a_lone_command_goes_at_once_and_later_ones_wait_for_company() {
        let (proposer, reply, _answered) = proposer();
        let mut cursor = proposer.start_cursor();
        proposer.submit(vec![submission(&reply, 0)]);
        assert_eq!(send(&proposer, &mut cursor).map(|b| (b.sequence, b.count)), Some((1, 1)));
        proposer.submit(vec![submission(&reply, 1)]);
        assert!(matches!(proposer.next(cursor), Next::Linger(_)));
        proposer.submit((2..100).map(|ticket| submission(&reply, ticket)).collect());
        assert_eq!(send(&proposer, &mut cursor).map(|b| (b.sequence, b.count)), Some((2, 99)));
    }

    #[test]
    fn answers_come_in_order_and_only_for_the_next_batch() {
        let (proposer, reply, answered) = proposer();
        let mut cursor = proposer.start_cursor();
        proposer.submit(vec![submission(&reply, 0), submission(&reply, 1)]);
        send(&proposer, &mut cursor).unwrap();
        proposer.applied(ORIGIN, 2, vec![Outcome::Done], LogIndex(5));
        assert!(answered.try_recv().is_err());
        let other = Origin { incarnation: Incarnation(2), ..ORIGIN };
        proposer.applied(other, 1, vec![Outcome::Done; 2], LogIndex(5));
        assert!(answered.try_recv().is_err());
        proposer.applied(ORIGIN, 1, vec![Outcome::Done; 2], LogIndex(6));
        assert_eq!(answered.try_iter().collect::<Vec<_>>(), [0, 1]);
        proposer.applied(ORIGIN, 1, vec![Outcome::Done; 2], LogIndex(7));
        assert!(answered.try_recv().is_err());
    }

    #[test]
    fn a_lost_batch_brings_back_everything_from_it_on() {
        let (proposer, reply, _answered) = proposer();
        let mut cursor = proposer.start_cursor();
        for ticket in 0..3 {
            proposer.submit((0..LINGER_COMMANDS as u64).map(|i| submission(&reply, 100 * ticket + i)).collect());
            send(&proposer, &mut cursor).unwrap();
        }
        proposer.applied(ORIGIN, 1, Vec::new(), LogIndex(5));
        proposer.ignored(ORIGIN, 1);
        assert!(!proposer.must_resend());
        proposer.ignored(ORIGIN, 3);
        assert!(proposer.must_resend());
        let mut again = proposer.start_cursor();
        assert_eq!(send(&proposer, &mut again).map(|b| b.sequence), Some(2));
        assert_eq!(send(&proposer, &mut again).map(|b| b.sequence), Some(3));
    }

    #[test]
    fn another_incarnation_forgets_what_was_on_its_way() {
        let (proposer, reply, answered) = proposer();
        let mut cursor = proposer.start_cursor();
        proposer.submit(vec![submission(&reply, 0)]);
        send(&proposer, &mut cursor).unwrap();
        let next = Origin { incarnation: Incarnation(2), ..ORIGIN };
        proposer.restart(Some(next), Some(Command::Tick));
        assert!(matches!(proposer.next(cursor), Next::Restart));
        let mut cursor = proposer.start_cursor();
        assert_eq!(send(&proposer, &mut cursor).map(|b| (b.origin, b.sequence)), Some((next, 1)));
        proposer.applied(ORIGIN, 1, vec![Outcome::Done], LogIndex(5));
        assert!(answered.try_recv().is_err());
        assert_eq!(proposer.pressure(), Pressure::Low);
    }

    #[test]
    fn disconnects_go_before_the_command_that_the_next_incarnation_is_up() {
        let (proposer, reply, answered) = proposer();
        let disconnect = |client_id: &str, discard_will| {
            Command::Disconnect(crate::state::DisconnectCommand {
                client_id: client_id.into(),
                epoch: crate::ids::Epoch(7),
                discard_will,
                expiry_seconds: None,
                sent_before: 0,
                unreadable: Arc::default(),
            })
        };
        let submit =
            |command| proposer.submit(vec![Submission { command, reply: reply.clone(), ticket: 0, incarnation: None }]);
        let mut cursor = proposer.start_cursor();
        submit(disconnect("sent", true));
        send(&proposer, &mut cursor).unwrap();
        // It came out of the log and changed nothing: one before it was lost on its way.
        proposer.take_commands(ORIGIN, 1).unwrap();
        submit(disconnect("waits", true));
        submit(disconnect("with a will", false));
        proposer.restart(None, None);
        submit(disconnect("between", true));
        let next = Origin { incarnation: Incarnation(2), ..ORIGIN };
        proposer.restart(Some(next), Some(Command::NodeUp { name: "n".into() }));
        let commands = proposer.take_commands(next, 1).unwrap();
        let names: Vec<String> = commands
            .iter()
            .map(|command| match command {
                Command::Disconnect(disconnect) => disconnect.client_id.to_string(),
                other => format!("{other:?}").split(' ').next().unwrap_or_default().to_owned(),
            })
            .collect();
        assert_eq!(names, ["sent", "waits", "between", "NodeUp"]);
        // Once: a third incarnation has nothing to repeat.
        proposer.applied(next, 1, vec![Outcome::Done; 4], LogIndex(5));
        proposer.restart(Some(Origin { incarnation: Incarnation(3), ..ORIGIN }), Some(Command::Tick));
        assert_eq!(proposer.take_commands(Origin { incarnation: Incarnation(3), ..ORIGIN }, 1).unwrap().len(), 1);
        assert!(answered.try_recv().is_err());
    }

    #[test]
    fn what_connections_of_an_earlier_incarnation_still_submit_is_not_proposed_under_the_next() {
        let (proposer, reply, answered) = proposer();
        let of = |incarnation, ticket| Submission {
            incarnation: Some(Incarnation(incarnation)),
            ..submission(&reply, ticket)
        };
        proposer.submit(vec![of(1, 0)]);
        proposer.restart(None, None);
        proposer.submit(vec![of(1, 1)]);
        let next = Origin { incarnation: Incarnation(2), ..ORIGIN };
        proposer.restart(Some(next), Some(Command::Tick));
        // The task of a connection that was cut off a moment ago, woken late.
        proposer.submit(vec![of(1, 2), of(2, 3)]);
        let mut cursor = proposer.start_cursor();
        assert_eq!(send(&proposer, &mut cursor).map(|b| b.count), Some(1), "the first command of the new incarnation");
        proposer.applied(next, 1, vec![Outcome::Done], LogIndex(5));
        assert_eq!(send(&proposer, &mut cursor).map(|b| b.count), Some(1));
        proposer.applied(next, 2, vec![Outcome::Done; 2], LogIndex(6));
        assert_eq!(answered.try_iter().collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn no_more_than_a_few_batches_are_on_their_way() {
        let (proposer, reply, _answered) = proposer();
        let mut cursor = proposer.start_cursor();
        proposer.submit((0..10 * BATCH_COMMANDS as u64).map(|ticket| submission(&reply, ticket)).collect());
        let sent = std::iter::from_fn(|| send(&proposer, &mut cursor)).count();
        assert_eq!(sent, BATCHES_IN_FLIGHT);
    }
}
