//! Exchanges of QoS 1 and 2 that the client has not completed.
//! Always true: packet identifiers of open exchanges are distinct (who adds one sees to it); count and bytes are those of
//! open exchanges; one message fits however large it is.
use crate::session::{SessionError, SessionOptions, WRONG_ACKNOWLEDGEMENT};
use std::collections::VecDeque;

/// What an exchange waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    PubAck,
    PubRec,
    /// PUBREC received, its commit awaited.
    Releasing,
    PubComp,
    Done,
}

pub(super) struct InFlight<T> {
    pub(super) packet_id: u16,
    phase: Phase,
    bytes: u64,
    pub(super) note: T,
}

/// `T`: what the owner notes of each exchange.
pub(super) struct Window<T> {
    /// Those that are done leave once they are at the front.
    exchanges: VecDeque<InFlight<T>>,
    open: usize,
    open_bytes: u64,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { exchanges: VecDeque::new(), open: 0, open_bytes: 0 }
    }
}

impl<T: Default> Window<T> {
    /// Exchanges that may be begun, bytes aside.
    pub(super) fn room(&self, options: &SessionOptions) -> usize {
        usize::from(options.send_window).saturating_sub(self.open)
    }

    /// Whether a message of so many bytes may be under way beside the others.
    pub(super) fn fits(&self, bytes: u64, options: &SessionOptions) -> bool {
        options.send_window_bytes == 0 || self.open == 0 || self.open_bytes + bytes <= options.send_window_bytes
    }

    pub(super) fn push(&mut self, packet_id: u16, phase: Phase, bytes: u64, note: T) {
        self.open += 1;
        self.open_bytes += bytes;
        self.exchanges.push_back(InFlight { packet_id, phase, bytes, note });
    }

    /// From the oldest open exchange to the newest, those between that are done included.
    pub(super) fn span(&self) -> usize {
        self.exchanges.len()
    }

    pub(super) fn front(&self) -> Option<&InFlight<T>> {
        self.exchanges.front()
    }

    pub(super) fn has(&self, packet_id: u16) -> bool {
        self.exchanges.iter().any(|exchange| exchange.packet_id == packet_id)
    }

    pub(super) fn phase(&self, packet_id: u16) -> Option<Phase> {
        let open = |it: &&InFlight<T>| it.packet_id == packet_id && it.phase != Phase::Done;
        self.exchanges.iter().find(open).map(|exchange| exchange.phase)
    }

    /// Moves an exchange on; `false` if there is none of this identifier.
    /// # Errors
    /// It waits for another packet.
    pub(super) fn step(&mut self, packet_id: u16, from: Phase, to: Phase) -> Result<bool, SessionError> {
        let open = |it: &&mut InFlight<T>| it.packet_id == packet_id && it.phase != Phase::Done;
        let Some(exchange) = self.exchanges.iter_mut().find(open) else { return Ok(false) };
        if exchange.phase != from {
            return Err(WRONG_ACKNOWLEDGEMENT);
        }
        exchange.phase = to;
        if to == Phase::Done {
            self.open -= 1;
            self.open_bytes -= exchange.bytes;
            exchange.note = T::default();
            while self.exchanges.front().is_some_and(|exchange| exchange.phase == Phase::Done) {
                self.exchanges.pop_front();
            }
        }
        Ok(true)
    }

    /// The notes of all, oldest first.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.open = 0;
        self.open_bytes = 0;
        self.exchanges.drain(..).map(|exchange| exchange.note)
    }
}
