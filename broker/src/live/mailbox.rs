//! What other tasks leave for a connection: deliveries, answers, orders. One wake-up for everything that waits.
//! Always true: the connection task alone takes things out; whoever puts something in wakes it at most once until it has
//! looked again; deliveries beyond the bound are refused (and counted by the caller), those of QoS 1 and 2 only when the task
//! does not come to run for long, since the session bounds those.
use crate::{planted, ticket};
use mosquorum_cluster::{
    Answer, Completion,
    state::{DeliveryOptions, Message},
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::*},
    },
    task::{Context, Waker},
};

/// One message for one live subscription (or several of the same client, merged).
#[derive(Debug, Clone)]
pub struct Delivery {
    pub message: Arc<Message>,
    pub options: DeliveryOptions,
    /// The shared subscription that chose this client: if the session ends first, another member gets the message.
    pub group: Option<mosquorum_proto::mqtt::TopicFilter>,
}

/// QoS 1 and 2 may take so many times what QoS 0 may: the session bounds them as soon as it runs, this until then.
const ACKNOWLEDGED_SHARE: usize = 8;

/// A receiver for whom more waits is behind: what waits must not hold more memory than it counts for.
const BEHIND_BYTES: usize = 128 << 10;

/// Larger payloads have a buffer of their own ([`crate::connection`]); of these a copy would save at most half.
const SHARED_PAYLOAD_MAX: usize = 2 << 10;

/// The message for whoever keeps it longer than a round: with memory of its own if it may be a small part of what was read.
pub fn kept(message: &Arc<Message>) -> Arc<Message> {
    let shares = message.payload.len() <= SHARED_PAYLOAD_MAX && planted::copies_what_is_kept();
    if shares { Arc::new(message.detached()) } else { message.clone() }
}

impl Delivery {
    fn detached(self) -> Self {
        Self { message: kept(&self.message), ..self }
    }
}

/// An order to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Another connection took the client identifier: DISCONNECT 0x8E, no will.
    TakenOver,
    /// An operator ended the session: DISCONNECT 0x98.
    Administrative,
    /// The broker stops: DISCONNECT 0x8B, the will is sent as after a lost connection.
    ShuttingDown,
    /// The node hands its clients over: DISCONNECT 0x9C, with another node's address if one is known.
    Drained,
    /// This node may not serve any more: close at once, write nothing.
    LeaseLost,
    /// What waits for the client cannot be read now: close, its session goes on with the next connection.
    Unreadable,
    /// Options or access rules changed.
    Reloaded,
}

#[derive(Default)]
pub struct Inbox {
    pub deliveries: Vec<Delivery>,
    pub answers: Vec<(u64, Answer)>,
    pub order: Option<Order>,
    /// The durable session's queue in the state has new entries.
    pub queue_grew: bool,
    delivery_bytes: usize,
    waker: Option<Waker>,
    closed: bool,
    /// Of an incarnation that the log knows as over: nothing it wrote is taken any more, so nothing is waited for.
    given_up: bool,
    when_settled: Option<Box<dyn FnOnce() + Send>>,
}

impl Inbox {
    fn is_empty(&self) -> bool {
        self.deliveries.is_empty() && self.answers.is_empty() && self.order.is_none() && !self.queue_grew
    }
}

pub struct Mailbox {
    inbox: Mutex<Inbox>,
    /// QoS 0 messages beyond this many waiting bytes are dropped.
    bytes_max: usize,
    /// Messages of the client that were proposed, or are on their way to other nodes, and its CONNECT, as long as they have no
    /// answer: while there is one, the connection may still write.
    unanswered: AtomicU32,
}

/// Wake-ups collected while a batch is routed, given when it is done, so that receivers find all of it.
#[derive(Default)]
pub struct Wakeups(Vec<Waker>);

impl Wakeups {
    pub fn give(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}

impl Drop for Wakeups {
    fn drop(&mut self) {
        self.give();
    }
}

impl Mailbox {
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { inbox: Mutex::default(), bytes_max, unanswered: AtomicU32::new(0) })
    }

    /// A message of the client gets its answer here later.
    pub fn owe(&self) {
        self.unanswered.fetch_add(1, Relaxed);
    }

    /// One that was owed has come.
    pub fn answered(&self) {
        if self.unanswered.fetch_sub(1, AcqRel) == 1 {
            self.settle(false);
        }
    }

    /// The log knows the incarnation of this connection as over.
    pub fn give_up(&self) {
        self.settle(true);
    }

    /// Does something once, when nothing that the client wrote can take effect any more: at once, or with the last answer,
    /// or when the log knows this incarnation of the node as over. A lost lease alone is not enough: what was proposed before
    /// may still be on its way to the leader.
    pub fn when_settled(&self, work: impl FnOnce() + Send + 'static) {
        let mut inbox = self.inbox.lock();
        if inbox.given_up || self.unanswered.load(Acquire) == 0 || !planted::fences_proposals() {
            drop(inbox);
            return work();
        }
        inbox.when_settled = Some(Box::new(work));
    }

    fn settle(&self, give_up: bool) {
        let work = {
            let mut inbox = self.inbox.lock();
            inbox.given_up |= give_up;
            inbox.when_settled.take()
        };
        if let Some(work) = work {
            work();
        }
    }

    /// Leaves a delivery; `false` if it was refused (closed, or QoS 0 beyond the bound).
    pub fn deliver(&self, delivery: Delivery, wakeups: &mut Wakeups) -> bool {
        let mut inbox = self.inbox.lock();
        let qos0 = delivery.options.qos == mosquorum_proto::mqtt::QoS::AtMostOnce;
        let most = if qos0 { self.bytes_max } else { self.bytes_max.saturating_mul(ACKNOWLEDGED_SHARE) };
        if inbox.closed || inbox.delivery_bytes > most {
            return false;
        }
        let delivery = if inbox.delivery_bytes > BEHIND_BYTES { delivery.detached() } else { delivery };
        inbox.delivery_bytes += delivery.message.size_bytes() + 64;
        inbox.deliveries.push(delivery);
        wakeups.0.extend(inbox.waker.take());
        true
    }

    pub fn order(&self, order: Order) {
        self.put(|inbox| {
            // Every other order ends the connection, so what was reloaded does not matter to it any more.
            if order != Order::Reloaded || inbox.order.is_none() {
                inbox.order = Some(order);
            }
        });
    }

    pub fn queue_grew(&self) {
        self.put(|inbox| inbox.queue_grew = true);
    }

    fn put(&self, change: impl FnOnce(&mut Inbox)) {
        let mut inbox = self.inbox.lock();
        change(&mut inbox);
        let waker = inbox.waker.take();
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Deliveries that wait to be taken, and their bytes.
    pub fn queued(&self) -> (usize, usize) {
        let inbox = self.inbox.lock();
        (inbox.deliveries.len(), inbox.delivery_bytes)
    }

    /// Moves everything that waits into `into` (whose vectors are reused); `false` if there was nothing.
    pub fn take(&self, into: &mut Inbox) -> bool {
        let mut inbox = self.inbox.lock();
        if inbox.is_empty() {
            return false;
        }
        std::mem::swap(&mut inbox.deliveries, &mut into.deliveries);
        std::mem::swap(&mut inbox.answers, &mut into.answers);
        into.order = inbox.order.take();
        into.queue_grew = std::mem::take(&mut inbox.queue_grew);
        inbox.delivery_bytes = 0;
        true
    }

    /// Takes the deliveries that wait and nothing else.
    pub fn take_deliveries(&self) -> Vec<Delivery> {
        let mut inbox = self.inbox.lock();
        inbox.delivery_bytes = 0;
        std::mem::take(&mut inbox.deliveries)
    }

    /// `true` if something waits; otherwise the task is woken when something comes.
    pub fn poll(&self, cx: &mut Context<'_>) -> bool {
        let mut inbox = self.inbox.lock();
        if !inbox.is_empty() {
            return true;
        }
        match &mut inbox.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            slot => *slot = Some(cx.waker().clone()),
        }
        false
    }

    /// Nothing is accepted any more; what waited comes back, so that shared messages can go to somebody else.
    pub fn close(&self) -> Vec<Delivery> {
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        inbox.waker = None;
        std::mem::take(&mut inbox.deliveries)
    }
}

impl Completion for Mailbox {
    fn complete(&self, ticket: u64, answer: Answer) {
        self.put(|inbox| {
            if !inbox.closed {
                inbox.answers.push((ticket, answer));
            }
        });
        if ticket::is_of_message(ticket) {
            self.answered();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mosquorum_cluster::ids::Millis;
    use mosquorum_proto::mqtt::{QoS, TopicName};

    fn counting() -> (Arc<AtomicU32>, impl FnOnce() + Send + 'static) {
        let count = Arc::new(AtomicU32::new(0));
        let counted = count.clone();
        let work = move || {
            counted.fetch_add(1, Relaxed);
        };
        (count, work)
    }

    #[test]
    fn a_connection_is_settled_with_the_last_answer_to_what_it_wrote() {
        let mailbox = Mailbox::new(0);
        let (commit, forward) = (ticket::new(1, ticket::COMMIT), ticket::new(2, ticket::FORWARD));
        mailbox.owe();
        mailbox.owe();
        let (done, work) = counting();
        mailbox.close();
        mailbox.when_settled(work);
        mailbox.complete(ticket::new(9, ticket::REQUEST), Answer::RoutesKnown);
        mailbox.complete(commit, Answer::BarrierPassed);
        assert_eq!(done.load(Relaxed), 0);
        mailbox.complete(forward, Answer::Forwarded);
        assert_eq!(done.load(Relaxed), 1);
        let (at_once, work) = counting();
        mailbox.when_settled(work);
        assert_eq!(at_once.load(Relaxed), 1);
    }

    #[test]
    fn nothing_is_waited_for_once_the_log_knows_the_incarnation_as_over_and_a_lost_lease_is_not_enough() {
        let (before, after) = (Mailbox::new(0), Mailbox::new(0));
        before.owe();
        after.owe();
        let (first, work) = counting();
        before.when_settled(work);
        before.order(Order::LeaseLost);
        assert_eq!(first.load(Relaxed), 0, "what it wrote may still be on its way to the leader");
        before.give_up();
        let (second, work) = counting();
        after.order(Order::LeaseLost);
        after.give_up();
        after.when_settled(work);
        assert_eq!((first.load(Relaxed), second.load(Relaxed)), (1, 1));
    }

    #[test]
    fn a_mailbox_that_is_not_emptied_is_bounded_whatever_the_qos() {
        let mailbox = Mailbox::new(1000);
        let deliver = |qos| {
            let topic = TopicName::try_from("t").unwrap();
            let message = Arc::new(Message::new(topic, bytes::Bytes::from_static(&[0; 99]), qos, Millis(0)));
            let options = DeliveryOptions { qos, ..DeliveryOptions::default() };
            mailbox.deliver(Delivery { message, options, group: None }, &mut Wakeups::default())
        };
        assert!((1..100).any(|_| !deliver(QoS::AtMostOnce)));
        assert!(deliver(QoS::AtLeastOnce), "more is held of those that were acknowledged");
        assert!((1..1000).any(|_| !deliver(QoS::AtLeastOnce)));
        assert!(mailbox.queued().1 <= ACKNOWLEDGED_SHARE * 1000 + 1000);
    }

    #[test]
    fn a_reload_does_not_take_back_an_order_to_go() {
        for orders in [[Order::LeaseLost, Order::Reloaded], [Order::Reloaded, Order::LeaseLost]] {
            let (mailbox, mut inbox) = (Mailbox::new(0), Inbox::default());
            orders.into_iter().for_each(|order| mailbox.order(order));
            assert!(mailbox.take(&mut inbox));
            assert_eq!(inbox.order, Some(Order::LeaseLost));
        }
    }
}
