//! Deliveries that wait in the session: QoS 0 for a slow reader, all of them while retained messages are replayed.
//! Always true: at the bounds the new message is dropped and counted.
use crate::live::Delivery;
use crate::session::{Env, SessionOptions};
use mosquorum_proto::mqtt::QoS;
use std::collections::VecDeque;

/// QoS 0 deliveries that found the socket full.
#[derive(Default)]
pub(super) struct LiveQueue {
    pub(super) waiting: VecDeque<Delivery>,
    bytes: usize,
}

/// QoS 0 bytes that wait for a slow reader; further ones are dropped and counted.
const LIVE_BYTES_MAX: usize = 4 << 20;

impl LiveQueue {
    pub(super) fn hold(&mut self, delivery: Delivery, replayed: bool, env: &mut impl Env) {
        let size = delivery.message.size_bytes() + 64;
        if self.bytes + size > LIVE_BYTES_MAX && !self.waiting.is_empty() && !replayed {
            env.count().dropped_slow_reader += 1;
            return;
        }
        self.bytes += size;
        self.waiting.push_back(delivery);
    }

    pub(super) fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.waiting.pop_front()?;
        self.bytes -= delivery.message.size_bytes() + 64;
        Some(delivery)
    }
}

/// Live messages that came while retained ones are replayed: they follow when the replay is through.
#[derive(Default)]
pub(in crate::session) struct Held {
    waiting: VecDeque<Delivery>,
    bytes: usize,
}

impl Held {
    /// At the bounds of the queue that it will join, the new message is dropped and counted.
    pub(in crate::session) fn hold(&mut self, delivery: Delivery, options: &SessionOptions, env: &mut impl Env) {
        let (size, limits) = (delivery.message.size_bytes() + 64, &options.limits);
        let qos0 = delivery.options.qos == QoS::AtMostOnce;
        if qos0 && self.bytes + size > LIVE_BYTES_MAX && !self.waiting.is_empty() {
            env.count().dropped_slow_reader += 1;
        } else if !qos0 && limits.messages != 0 && self.waiting.len() >= limits.messages as usize {
            env.count().dropped_queue_full += 1;
        } else if !qos0 && limits.bytes != 0 && (self.bytes + size) as u64 > limits.bytes {
            env.count().dropped_queue_bytes += 1;
        } else {
            self.bytes += size;
            self.waiting.push_back(delivery);
        }
    }

    pub(in crate::session) fn take(&mut self) -> VecDeque<Delivery> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting)
    }
}
