//! Which client certificates are accepted.
//! Always true: as in Mosquitto, revocation is asked about the client's own certificate only, one that no list speaks
//! for is refused, and a list past its next update is no list.
//!
//! Different from OpenSSL: certificates of X.509 version 1, with SHA-1 or MD5 signatures, or with CA rights used by a
//! client, are refused; a root's own dates are not looked at; intermediates from `cafile` are used as if sent.
use super::curves::is_p521;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime},
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use std::{sync::Arc, time::Duration};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList};

/// What client certificates are judged by.
pub(super) struct Authorities {
    /// `cafile` and `capath`
    pub certificates: Vec<CertificateDer<'static>>,
    /// `crlfile`
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// `disable_client_cert_date_checks`
    pub ignore_dates: bool,
}

#[derive(Debug)]
struct ClientVerifier {
    strict: Arc<dyn ClientCertVerifier>,
    /// Names of those of `cafile` whose signatures cannot be judged.
    unusable: Vec<Vec<u8>>,
    /// Certificates of `cafile` that lead to its roots.
    intermediates: Vec<CertificateDer<'static>>,
    dateless: Option<Dateless>,
}

/// A second look without dates: each certificate of `cafile` is an end of the chain, whose dates do not count, and the
/// client's own is judged at a moment when it was valid.
#[derive(Debug)]
struct Dateless {
    verifier: Arc<dyn ClientCertVerifier>,
    /// The earliest end of a revocation list still holds in the present.
    crls_end: Option<UnixTime>,
}

impl Authorities {
    /// A verifier that wants a certificate from every client.
    /// # Errors
    /// When there is no usable CA, or a list cannot be read.
    pub(super) fn verifier(
        self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError> {
        let build = |anchors: &[CertificateDer<'static>]| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(anchors.iter().cloned());
            let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            if !self.crls.is_empty() {
                builder = builder
                    .with_crls(self.crls.iter().cloned())
                    .only_check_end_entity_revocation()
                    .enforce_revocation_expiration();
            }
            builder.build()
        };
        let (mut anchors, mut intermediates): (Vec<_>, Vec<_>) =
            self.certificates.iter().cloned().partition(is_self_issued);
        if anchors.is_empty() {
            // Whoever lists only intermediates trusts them.
            anchors.append(&mut intermediates);
        }
        let unusable = self.certificates.iter().filter(|it| is_p521(it)).filter_map(subject).collect();
        let dateless = match self.ignore_dates {
            true => Some(Dateless {
                verifier: build(&self.certificates)?,
                crls_end: self.crls.iter().filter_map(next_update).min(),
            }),
            false => None,
        };
        Ok(Arc::new(ClientVerifier { strict: build(&anchors)?, unusable, intermediates, dateless }))
    }
}

/// The client has, or is signed by, a key that nothing here can verify with.
#[derive(Debug, thiserror::Error)]
#[error("a key on the curve P-521, which is not supported, {0}")]
struct Unverifiable(&'static str);

impl ClientVerifier {
    fn unverifiable(&self, end_entity: &CertificateDer<'_>, sent: &[CertificateDer<'_>]) -> Option<Unverifiable> {
        if is_p521(end_entity) {
            return Some(Unverifiable("is the client's"));
        }
        let of_ours = |certificate| issuer(certificate).is_some_and(|name| self.unusable.contains(&name));
        let signed = sent.iter().any(is_p521) || [end_entity].into_iter().chain(sent).any(of_ours);
        signed.then_some(Unverifiable("has signed the client's certificate"))
    }
}

fn subject(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.subject().as_raw().to_vec())
}

fn issuer(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.issuer().as_raw().to_vec())
}

fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, certificate)| certificate.subject().as_raw() == certificate.issuer().as_raw())
}

fn next_update(list: &CertificateRevocationListDer<'_>) -> Option<UnixTime> {
    let (_, list) = CertificateRevocationList::from_der(list).ok()?;
    let seconds = u64::try_from(list.next_update()?.timestamp()).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}

/// When a certificate that is not valid now was last, or will first be.
fn valid_moment(error: &Error) -> Option<UnixTime> {
    match error {
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => Some(*not_after),
        Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => Some(*not_before),
        _ => None,
    }
}

impl Dateless {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.crls_end.is_some_and(|end| end < now) {
            return Err(CertificateError::ExpiredRevocationList.into());
        }
        let result = self.verifier.verify_client_cert(end_entity, intermediates, now);
        match result.as_ref().err().and_then(valid_moment) {
            Some(then) => self.verifier.verify_client_cert(end_entity, intermediates, then),
            None => result,
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        match &self.dateless {
            Some(dateless) => dateless.verifier.root_hint_subjects(),
            None => self.strict.root_hint_subjects(),
        }
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let all: Vec<CertificateDer<'_>> = intermediates
            .iter()
            .chain(&self.intermediates)
            .map(|certificate| CertificateDer::from_slice(certificate))
            .collect();
        let result = self.strict.verify_client_cert(end_entity, &all, now);
        let result = match (&result, &self.dateless) {
            (Err(error), Some(dateless)) if valid_moment(error).is_some() => dateless.verify(end_entity, &all, now),
            _ => result,
        };
        if result.is_ok() && !is_p521(end_entity) {
            return result;
        }
        // What it would fail for says less.
        match self.unverifiable(end_entity, intermediates) {
            Some(why) => Err(CertificateError::Other(OtherError(Arc::new(why))).into()),
            None => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}
