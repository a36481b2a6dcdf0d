//! What waits for an answer of the cluster by ticket, apart from messages (`inbound::pipeline`).
//! Always true: the counts are those of the requests that wait.
use super::subscriptions::{PendingSubscribe, PendingUnsubscribe};
use crate::ticket;
use mosquorum_cluster::ids::Millis;
use std::collections::BTreeMap;

/// SUBSCRIBE, UNSUBSCRIBE, PUBREL and acknowledgements waiting for the cluster; beyond it nothing more is read.
const REQUESTS_MAX: usize = 1000;

/// What a ticket stands for.
pub(super) enum Request {
    Subscribe(PendingSubscribe),
    Unsubscribe(PendingUnsubscribe),
    PubRel {
        packet_id: u16,
        since: Millis,
    },
    /// PUBREC of a durable subscriber is durable: PUBREL may be sent.
    Release(Vec<u16>),
    Ignored,
}

impl Request {
    fn since(&self) -> Option<Millis> {
        match self {
            Self::Subscribe(pending) => Some(pending.since()),
            Self::Unsubscribe(pending) => Some(pending.since()),
            Self::PubRel { since, .. } => Some(*since),
            Self::Release(_) | Self::Ignored => None,
        }
    }
}

#[derive(Default)]
pub(super) struct Requests {
    waiting: BTreeMap<u64, Request>,
    subscribing: u32,
    unsubscribing: u32,
    /// Number of the last one.
    last: u64,
}

impl Requests {
    /// Returns its ticket.
    pub(super) fn add(&mut self, request: Request) -> u64 {
        self.last += 1;
        self.insert(self.last, request);
        self.last_ticket()
    }

    /// More answers of its ticket are to come.
    pub(super) fn put_back(&mut self, number: u64, request: Request) {
        self.insert(number, request);
    }

    fn insert(&mut self, number: u64, request: Request) {
        if let Some(count) = self.count_of(&request) {
            *count += 1;
        }
        self.waiting.insert(number, request);
    }

    pub(super) fn take(&mut self, number: u64) -> Option<Request> {
        let request = self.waiting.remove(&number)?;
        if let Some(count) = self.count_of(&request) {
            *count -= 1;
        }
        Some(request)
    }

    fn count_of(&mut self, request: &Request) -> Option<&mut u32> {
        match request {
            Request::Subscribe(_) => Some(&mut self.subscribing),
            Request::Unsubscribe(_) => Some(&mut self.unsubscribing),
            Request::PubRel { .. } | Request::Release(_) | Request::Ignored => None,
        }
    }

    pub(super) fn last_ticket(&self) -> u64 {
        ticket::new(self.last, ticket::REQUEST)
    }

    /// SUBSCRIBEs up to this number, in their order.
    pub(super) fn subscribes_up_to(
        &mut self,
        number: u64,
    ) -> impl DoubleEndedIterator<Item = (u64, &mut PendingSubscribe)> {
        self.waiting.range_mut(..=number).filter_map(|(number, request)| match request {
            Request::Subscribe(pending) => Some((*number, pending)),
            _ => None,
        })
    }

    pub(super) fn is_subscribing(&self) -> bool {
        self.subscribing > 0
    }

    pub(super) fn is_unsubscribing(&self) -> bool {
        self.unsubscribing > 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= REQUESTS_MAX
    }

    /// Since when the oldest packet of the client among them waits.
    pub(super) fn waiting_since(&self) -> Option<Millis> {
        self.waiting.values().filter_map(Request::since).min()
    }
}
