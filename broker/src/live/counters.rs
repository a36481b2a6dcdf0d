//! Counters behind `$SYS` and the metrics: relaxed atomics, added to once per wake-up where traffic is high.
//! Always true: they only grow (gauges are computed where they are read).
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Default, Debug)]
        pub struct Counters { $($(#[$doc])* pub $name: AtomicU64),* }

        /// One reading of all counters.
        #[derive(Default, Debug, Clone, Copy)]
        pub struct CounterValues { $(pub $name: u64),* }

        impl Counters {
            pub fn read(&self) -> CounterValues {
                CounterValues { $($name: self.$name.load(Relaxed)),* }
            }

            /// Adds what a connection has counted for itself, and starts that anew.
            pub fn absorb(&self, local: &mut CounterValues) {
                $(add(&self.$name, std::mem::take(&mut local.$name));)*
            }
        }
    };
}

counters! {
    bytes_received, bytes_sent,
    messages_received, messages_sent,
    /// PUBLISH packets of any QoS.
    publish_received, publish_sent,
    publish_received_qos1, publish_received_qos2, publish_sent_qos1, publish_sent_qos2,
    publish_bytes_received, publish_bytes_sent,
    /// PUBLISH packets that were not passed on: no rights, too large, expired.
    publish_dropped,
    connects_received, connacks_sent,
    subscribes_received, subacks_sent, unsubscribes_received, unsubacks_sent,
    pubacks_received, pubacks_sent, pubrecs_received, pubrecs_sent,
    pubrels_received, pubrels_sent, pubcomps_received, pubcomps_sent,
    pings_received, pings_sent, disconnects_received, disconnects_sent, auths_received,
    sockets_opened, sockets_closed,
    clients_total, clients_expired, clients_refused,
    /// Messages for one client that were dropped, by reason.
    dropped_queue_full, dropped_queue_bytes, dropped_expired, dropped_session_ended, dropped_not_authorized,
    dropped_too_large, dropped_slow_reader, dropped_no_member,
}

/// Adds and forgets the order: these are statistics.
pub fn add(counter: &AtomicU64, value: u64) {
    if value != 0 {
        counter.fetch_add(value, Relaxed);
    }
}
