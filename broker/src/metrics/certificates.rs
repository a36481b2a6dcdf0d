//! When certificates end.
//! Always true: of each chain the certificate that ends first counts; a file that cannot be read has no sample.
use super::{model::Reading, table};
use crate::{broker::Broker, carrier::tls::expiry};

pub(super) fn read(broker: &Broker, r: &mut Reading) {
    let settings = broker.settings.load();
    let family = r.family(&table::CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS);
    let mut add = |use_of: &str, end: Option<u64>| {
        if let Some(end) = end {
            family.with([("use", use_of)], end);
        }
    };
    for listener in broker.listeners.load().iter() {
        // What is served, which a reload may not have taken from the file yet.
        add(&format!("listener {}", listener.settings().address), listener.tls.expires());
    }
    if let Some(tls) = settings.cluster.links.as_ref().and_then(|links| links.tls.as_ref()) {
        add("cluster", expiry(&tls.certfile));
    }
    for bridge in &settings.bridges {
        if let Some((chain, _)) = bridge.tls.as_ref().and_then(|tls| tls.identity.as_ref()) {
            add(&format!("bridge {}", bridge.settings.name), expiry(chain));
        }
    }
}
