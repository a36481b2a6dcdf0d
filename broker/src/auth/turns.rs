//! Whose password is checked next.
//! Always true: at most so many checks run at a time as there are turns; sources take turns one after the other, and
//! within one source it is first come, first served; who gives up waiting is forgotten at once; a source never holds more
//! of the queue than is left for all others.
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};
use tokio::sync::oneshot;

/// Logins that wait, from everywhere. One source may have half of it while nobody else waits.
const WAITING_MAX: usize = 65_536;

/// Where logins come from: an IPv4 address, the /64 network of an IPv6 address, or this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Address(IpAddr),
    /// A Unix socket, or an address that is none.
    Local,
}

impl Source {
    /// `address`: without the port, as connections are known by.
    #[must_use]
    pub fn of(address: &str) -> Self {
        match address.parse() {
            Ok(IpAddr::V6(v6)) => {
                let network = u128::from(v6) & !u128::from(u64::MAX);
                Self::Address(IpAddr::V6(network.into()))
            }
            Ok(v4) => Self::Address(v4),
            Err(_) => Self::Local,
        }
    }
}

/// Who waits of one source.
struct Line<T> {
    /// Where the source stands in the order of sources.
    place: u64,
    /// By the number that says who came first.
    waiting: BTreeMap<u64, T>,
}

/// The queue itself; no locks, no clock.
struct Queue<T> {
    free: usize,
    waiting: usize,
    waiting_max: usize,
    next: u64,
    lines: HashMap<Source, Line<T>>,
    /// Sources with somebody waiting, whose turn is next in front.
    order: BTreeMap<u64, Source>,
}

/// What comes of asking for a turn.
enum Asked {
    Now,
    Wait(u64),
    Full,
}

impl<T> Queue<T> {
    fn new(free: usize, waiting_max: usize) -> Self {
        Self { free, waiting: 0, waiting_max, next: 0, lines: HashMap::new(), order: BTreeMap::new() }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn ask(&mut self, source: Source, waiter: T) -> Asked {
        if self.free > 0 {
            self.free -= 1;
            return Asked::Now;
        }
        let in_line = self.lines.get(&source).map_or(0, |line| line.waiting.len());
        if in_line >= self.waiting_max - self.waiting {
            return Asked::Full;
        }
        let number = self.number();
        self.waiting += 1;
        let line = self.lines.entry(source).or_insert_with(|| {
            self.order.insert(number, source);
            Line { place: number, waiting: BTreeMap::new() }
        });
        line.waiting.insert(number, waiter);
        Asked::Wait(number)
    }

    /// A turn is over: who has the next one. It is free if nobody waits.
    fn next(&mut self) -> Option<T> {
        let place = self.number();
        while let Some((_, source)) = self.order.pop_first() {
            let Some(mut line) = self.lines.remove(&source) else { continue };
            let Some((_, waiter)) = line.waiting.pop_first() else { continue };
            self.waiting -= 1;
            if !line.waiting.is_empty() {
                self.order.insert(place, source);
                self.lines.insert(source, Line { place, ..line });
            }
            return Some(waiter);
        }
        self.free += 1;
        None
    }

    fn give_up(&mut self, source: Source, number: u64) {
        let Some(line) = self.lines.get_mut(&source) else { return };
        if line.waiting.remove(&number).is_none() {
            return;
        }
        self.waiting -= 1;
        if line.waiting.is_empty() {
            self.order.remove(&line.place);
            self.lines.remove(&source);
        }
    }
}

/// Turns at something of which only so much goes on at a time.
pub(super) struct Turns {
    queue: Arc<Mutex<Queue<oneshot::Sender<Turn>>>>,
}

/// One turn, over when dropped.
pub(super) struct Turn {
    queue: Option<Arc<Mutex<Queue<oneshot::Sender<Turn>>>>>,
}

/// The source has as many logins waiting as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

impl Turns {
    pub(super) fn new(parallel: usize) -> Self {
        Self::bounded(parallel, WAITING_MAX)
    }

    fn bounded(parallel: usize, waiting_max: usize) -> Self {
        Self { queue: Arc::new(Mutex::new(Queue::new(parallel.max(1), waiting_max))) }
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.queue.lock().waiting
    }

    /// Waits for a turn. Cancelling it leaves the queue.
    /// # Errors
    /// [`QueueFull`], at once.
    pub(super) async fn take(&self, source: Source) -> Result<Turn, QueueFull> {
        let (give, mut given) = oneshot::channel();
        let asked = self.queue.lock().ask(source, give);
        let number = match asked {
            Asked::Now => return Ok(Turn { queue: Some(self.queue.clone()) }),
            Asked::Full => return Err(QueueFull),
            Asked::Wait(number) => number,
        };
        let _place = Place { queue: &self.queue, source, number };
        // The sender is in the queue until it has given the turn.
        (&mut given).await.map_err(|_| QueueFull)
    }
}

/// A place in the queue, given up when dropped.
struct Place<'a> {
    queue: &'a Mutex<Queue<oneshot::Sender<Turn>>>,
    source: Source,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.lock().give_up(self.source, self.number);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        loop {
            let Some(waiter) = queue.lock().next() else { return };
            match waiter.send(Turn { queue: Some(queue.clone()) }) {
                Ok(()) => return,
                // It gave up in this instant: the turn is still ours to give.
                Err(mut turn) => turn.queue = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::Address(IpAddr::from([192, 0, 2, last]))
    }

    fn waits<T>(queue: &mut Queue<T>, from: u8, who: T) -> u64 {
        match queue.ask(source(from), who) {
            Asked::Wait(number) => number,
            _ => panic!("it does not wait"),
        }
    }

    #[test]
    fn one_login_from_elsewhere_waits_for_one_check_behind_a_storm_of_two_thousand() {
        let mut queue = Queue::new(1, WAITING_MAX);
        assert!(matches!(queue.ask(source(1), "storm"), Asked::Now));
        for _ in 0..2000 {
            waits(&mut queue, 1, "storm");
        }
        waits(&mut queue, 2, "real");
        assert_eq!([queue.next(), queue.next(), queue.next()], [Some("storm"), Some("real"), Some("storm")]);
    }

    #[test]
    fn within_a_source_the_first_to_come_is_first_and_who_gives_up_is_passed_over() {
        let mut queue = Queue::new(1, 100);
        assert!(matches!(queue.ask(source(1), 0), Asked::Now));
        let numbers: Vec<u64> = (1..=4).map(|who| waits(&mut queue, 1, who)).collect();
        queue.give_up(source(1), numbers[1]);
        queue.give_up(source(1), numbers[1]);
        assert_eq!([queue.next(), queue.next(), queue.next(), queue.next()], [Some(1), Some(3), Some(4), None]);
        assert_eq!((queue.free, queue.waiting, queue.lines.len(), queue.order.len()), (1, 0, 0, 0));
    }

    #[test]
    fn a_source_has_half_of_the_queue_alone_and_a_third_beside_another_one() {
        let mut queue = Queue::new(1, 90);
        assert!(matches!(queue.ask(source(1), ()), Asked::Now));
        let fill = |queue: &mut Queue<()>, from| {
            let mut taken = 0;
            while matches!(queue.ask(source(from), ()), Asked::Wait(_)) {
                taken += 1;
            }
            taken
        };
        assert_eq!(fill(&mut queue, 1), 45);
        assert_eq!(fill(&mut queue, 2), 23);
        assert!(matches!(queue.ask(source(3), ()), Asked::Wait(_)), "a third one finds room");
        assert!(matches!(queue.ask(source(1), ()), Asked::Full));
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_so_are_unix_sockets() {
        assert_eq!(Source::of("2001:db8::1"), Source::of("2001:db8:0:0:ffff::2"));
        assert_ne!(Source::of("2001:db8::1"), Source::of("2001:db8:0:1::1"));
        assert_ne!(Source::of("192.0.2.1"), Source::of("192.0.2.2"));
        assert_eq!(Source::of(""), Source::Local);
    }

    #[tokio::test]
    async fn a_turn_that_nobody_takes_any_more_goes_on_to_the_next() {
        let turns = Turns::bounded(1, 100);
        let first = turns.take(source(1)).await.unwrap();
        let mut abandoned = Box::pin(turns.take(source(1)));
        let mut next = Box::pin(turns.take(source(1)));
        for waiting in [&mut abandoned, &mut next] {
            assert!(futures_util::poll!(waiting).is_pending());
        }
        drop(first);
        // It was given to the one that goes now.
        drop(abandoned);
        drop(next.await.unwrap());
        let queue = turns.queue.lock();
        assert_eq!((queue.free, queue.waiting), (1, 0));
    }
}
