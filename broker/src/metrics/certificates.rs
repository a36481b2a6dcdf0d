//! When certificates end.
//! Always true: of each chain the certificate that ends first counts; a file that cannot be read has no sample.
use super::model::Reading;
use crate::{broker::Broker, carrier::tls};
use std::path::Path;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

pub(super) fn read(broker: &Broker, r: &mut Reading) {
    let settings = broker.settings.load();
    let help = "When a certificate of this node ends, in seconds since 1970.";
    let family = r.gauge("mosquorum_certificate_expiry_timestamp_seconds", help);
    let mut add = |use_of: &str, end: Option<u64>| {
        if let Some(end) = end {
            family.with([("use", use_of)], end);
        }
    };
    for listener in broker.listeners.load().iter() {
        // What is served, which a reload may not have taken from the file yet.
        add(&format!("listener {}", super::name(&listener.settings().address)), listener.tls.expires());
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

/// The earliest end in a PEM file.
pub(crate) fn expiry(path: &Path) -> Option<u64> {
    let ends = tls::certificates(path).ok()?.into_iter().filter_map(|certificate| {
        let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
        u64::try_from(parsed.validity().not_after.timestamp()).ok()
    });
    ends.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_of_a_chain_that_ends_first_counts() {
        let certificate = |year: i32| {
            let mut params = rcgen::CertificateParams::new(vec!["node".to_owned()]).expect("a name");
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().expect("a key");
            params.self_signed(&key).expect("a certificate").pem()
        };
        let path = std::env::temp_dir().join(format!("mosquorum-expiry-{}.pem", std::process::id()));
        std::fs::write(&path, certificate(2040) + &certificate(2031)).expect("a temporary file");
        assert_eq!(expiry(&path), Some(1_924_992_000));
        std::fs::write(&path, "no certificate").expect("a temporary file");
        assert_eq!(expiry(&path), None);
        let _ = std::fs::remove_file(&path);
    }
}
