//! One message to many live subscribers: from the router into their mailboxes, and out of these again.
//! `cargo bench -p mosquorum`
use bytes::Bytes;
use divan::{Bencher, counter::ItemsCount};
use mosquorum::{
    live::{Counters, Inbox, Mailbox, Router, Wakeups, subscriptions::LiveSubscription},
    live_hub::LiveHub,
};
use mosquorum_cluster::{
    Alone,
    ids::{ConnectionId, Millis},
    memory::MemoryConsensus,
    state::Message,
};
use mosquorum_proto::mqtt::{QoS, Subscription, TopicFilter, TopicName, Utf8};
use std::sync::Arc;

const BATCH: usize = 100;

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 100, 1000])]
fn deliver(bencher: Bencher<'_, '_>, subscribers: u64) {
    let consensus = MemoryConsensus::new("bench", Arc::new(LiveHub::default()));
    let router = Router::new(consensus, Arc::new(Alone::new()), Arc::new(Counters::default()));
    let filter = TopicFilter::new(Utf8::from("site/+/power")).expect("a filter");
    let mailboxes: Vec<_> = (0..subscribers).map(|_| Mailbox::new(usize::MAX)).collect();
    for (number, mailbox) in mailboxes.iter().enumerate() {
        let live = LiveSubscription {
            mailbox: mailbox.clone(),
            client_id: Utf8::from(format!("subscriber-{number}")),
            qos: QoS::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            identifier: None,
            reader: None,
            may_merge: true,
        };
        router.subscribe(ConnectionId(number as u64), &Subscription::new(filter.clone(), QoS::AtMostOnce), live);
    }
    let topic = TopicName::new(Utf8::from("site/kitchen/power")).expect("a topic");
    let payload = Bytes::from_static(&[b'x'; 64]);
    let message =
        Message { publisher_id: Utf8::from("publisher"), ..Message::new(topic, payload, QoS::AtMostOnce, Millis(0)) };
    let message = Arc::new(message);
    let targets = router.targets("site/kitchen/power");
    let (mut wakeups, mut inbox) = (Wakeups::default(), Inbox::default());
    bencher.counter(ItemsCount::new(BATCH * subscribers as usize)).bench_local(|| {
        for _ in 0..BATCH {
            router.deliver(&message, &targets, Vec::new(), false, &mut wakeups);
        }
        for mailbox in &mailboxes {
            mailbox.take(&mut inbox);
            inbox.deliveries.clear();
        }
    });
}
