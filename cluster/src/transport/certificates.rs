//! What a certificate between nodes has to be, besides being of the cluster's authority.
//! Always true: one that is not for servers *and* clients is no node's, at either end; one on a revocation list is
//! refused, and its standing connections end when the list is read. A list says nothing about authorities other than its
//! own, and one past its next update goes on saying what it said: it must not stop a cluster.
use parking_lot::RwLock;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, revocation_list::CertificateRevocationList,
};

/// Names of a certificate that a log line shows.
const NAMES_SHOWN: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("its certificate cannot be read")]
    Unreadable,
    #[error("its certificate is not for both ends (extendedKeyUsage serverAuth and clientAuth)")]
    Usage,
}

/// Whether the certificate is for servers and for clients.
pub(super) fn check_usage(certificate: &CertificateDer<'_>) -> Result<(), Unfit> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| Unfit::Unreadable)?;
    match parsed.extended_key_usage() {
        Ok(Some(usage)) if usage.value.server_auth && usage.value.client_auth => Ok(()),
        _ => Err(Unfit::Usage),
    }
}

/// The names in a certificate, for a log line.
pub(super) fn names(certificate: &CertificateDer<'_>) -> String {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return "unreadable".into() };
    let alternative = parsed.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).ok().map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
            _ => <[u8; 16]>::try_from(*octets).ok().map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
        },
        _ => None,
    });
    let mut names: Vec<String> = names.take(NAMES_SHOWN).collect();
    if names.is_empty() {
        names.push("nobody".into());
    }
    names.join(", ").escape_default().to_string()
}

/// What the lists of `cluster_crlfile` say.
#[derive(Debug, Default)]
pub(super) struct Revocations {
    /// Issuer and serial number.
    revoked: RwLock<HashSet<(Vec<u8>, Vec<u8>)>>,
    /// Grows when other lists are read.
    version: AtomicU64,
}

impl Revocations {
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// # Errors
    /// When one of the lists is none; nothing changes then.
    pub(super) fn replace(&self, lists: &[CertificateRevocationListDer<'static>]) -> Result<(), String> {
        let mut revoked = HashSet::new();
        for list in lists {
            let (_, list) = CertificateRevocationList::from_der(list).map_err(|e| e.to_string())?;
            let issuer = list.issuer().as_raw();
            revoked.extend(list.iter_revoked_certificates().map(|one| (issuer.to_vec(), one.raw_serial().to_vec())));
        }
        *self.revoked.write() = revoked;
        self.version.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    pub(super) fn lists(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
        let key = (parsed.issuer().as_raw().to_vec(), parsed.raw_serial().to_vec());
        self.revoked.read().contains(&key)
    }
}

/// Asks more than the library's verifier, at either end.
#[derive(Debug)]
pub(super) struct Strict<V: ?Sized> {
    pub(super) verifier: Arc<V>,
    pub(super) revocations: Arc<Revocations>,
}

impl<V: ?Sized> Strict<V> {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        check_usage(certificate).map_err(|unfit| CertificateError::Other(OtherError(Arc::new(unfit))))?;
        if self.revocations.lists(certificate) {
            return Err(CertificateError::Revoked.into());
        }
        Ok(())
    }
}

impl ServerCertVerifier for Strict<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        self.check(end_entity).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Strict<dyn ClientCertVerifier> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier.verify_client_cert(end_entity, intermediates, now)?;
        self.check(end_entity).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};

    fn certificate(usages: &[ExtendedKeyUsagePurpose], names: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = usages.to_vec();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_between_nodes_is_for_servers_and_clients() {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        assert_eq!(check_usage(&certificate(&[ServerAuth, ClientAuth], &["a"])), Ok(()));
        for usages in [&[ClientAuth][..], &[ServerAuth], &[]] {
            assert_eq!(check_usage(&certificate(usages, &["a"])), Err(Unfit::Usage), "{usages:?}");
        }
        assert_eq!(check_usage(&CertificateDer::from_slice(&[1, 2, 3])), Err(Unfit::Unreadable));
    }

    #[test]
    fn a_log_line_names_whom_a_certificate_is_for() {
        assert_eq!(names(&certificate(&[], &["a.example", "10.0.0.1"])), "a.example, 10.0.0.1");
        assert_eq!(names(&certificate(&[], &[])), "nobody");
    }
}
