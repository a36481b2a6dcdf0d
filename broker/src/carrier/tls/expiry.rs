//! When a chain of certificates ends.
use super::load::certificates;
use std::path::Path;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// The earliest end in a PEM file, in seconds since 1970; `None` if it cannot be read.
pub(crate) fn expiry(path: &Path) -> Option<u64> {
    let ends = certificates(path).ok()?.into_iter().filter_map(|certificate| {
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
