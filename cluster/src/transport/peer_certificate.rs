//! Who is at the other end of a connection.
use super::certificates;
use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName},
    server::ParsedCertificate,
};
use std::sync::Arc;

/// The other end of an accepted connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct PeerCertificate {
    /// `None`: the cluster runs without TLS.
    pub(super) certificate: Option<Arc<CertificateDer<'static>>>,
}

impl PeerCertificate {
    /// Whether the certificate is valid for the member of this name or address. Always, without TLS.
    pub(crate) fn is_valid_for(&self, name: &str, address: &str) -> bool {
        !self.proven([name, host_of(address)]).is_empty()
    }

    /// Those of the names for which the certificate is valid. All, without TLS.
    pub(crate) fn proven<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let names = names.into_iter().filter(|name| !name.is_empty());
        let Some(certificate) = &self.certificate else { return names.collect() };
        let Ok(parsed) = ParsedCertificate::try_from(certificate.as_ref()) else { return Vec::new() };
        let is_valid =
            |name: &&str| ServerName::try_from(*name).is_ok_and(|wanted| verify_server_name(&parsed, &wanted).is_ok());
        names.filter(is_valid).collect()
    }

    /// Who it is, for a log line.
    pub(crate) fn label(&self) -> String {
        match &self.certificate {
            Some(certificate) => format!("a certificate for {}", certificates::names(certificate)),
            None => "no certificate".into(),
        }
    }
}

/// The host part of `host:port`, without the brackets of an IPv6 address.
pub(crate) fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']'])
}
