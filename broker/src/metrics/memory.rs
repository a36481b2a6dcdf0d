//! Who holds the memory of the process, as far as it is counted anyway.
//! Always true: what is counted is messages that are in memory (not those that only the state store has), and bytes of
//! commands without what keeping them costs; that, connections, sessions, caches and buffers are the rest up to the
//! resident size.
use super::{model::Reading, table};
use crate::{broker::Broker, kernel::Status};

pub(super) fn read(broker: &Broker, r: &mut Reading) {
    let messages = broker.consensus.state().read().totals().message_memory;
    let commands = broker.consensus.metrics().proposed_bytes;
    let links = broker.peers.metrics().links.iter().map(|link| link.queued_bytes).sum();
    let resident = Status::of("self").and_then(|status| status.number("VmRSS")).unwrap_or(0);
    let family = r.family(&table::MEMORY_BYTES);
    for (owner, bytes) in owners(resident, [("messages", messages), ("commands", commands), ("peer_links", links)]) {
        family.with([("owner", owner)], bytes);
    }
}

fn owners<const N: usize>(resident: u64, counted: [(&'static str, u64); N]) -> Vec<(&'static str, u64)> {
    let rest = counted.iter().fold(resident, |rest, (_, bytes)| rest.saturating_sub(*bytes));
    counted.into_iter().chain([("rest", rest)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_the_rest_make_up_the_resident_size() {
        assert_eq!(owners(100, [("a", 30), ("b", 20)]), [("a", 30), ("b", 20), ("rest", 50)]);
        assert_eq!(owners(10, [("a", 30)]), [("a", 30), ("rest", 0)]);
    }
}
