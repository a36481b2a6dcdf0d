//! TLS towards the remote of a bridge.
//! Always true: a chain that does not lead to one of the configured CAs is refused. A certificate without any Subject
//! Alternative Name is judged by its common name, as OpenSSL does; `bridge_insecure` skips the names alone.
use super::{ciphers, load};
use crate::config::{BridgeTls, TlsVersion};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// Where systems keep their CA certificates in one file.
const OS_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

fn os_bundle() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(Into::into);
    named.or_else(|| OS_BUNDLES.iter().map(Into::into).find(|path: &PathBuf| path.exists()))
}

/// The system's CA certificates, PEM.
pub fn os_authorities() -> Option<Vec<u8>> {
    std::fs::read(os_bundle()?).ok()
}

/// # Errors
/// One line that names the option and the file.
pub fn client_config(settings: &BridgeTls) -> Result<ClientConfig, String> {
    let provider = Arc::new(provider(settings)?);
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(settings)?), provider.clone())
        .build()
        .map_err(|error| format!("no usable CA certificates: {error}"))?;
    let versions: &[_] = match settings.min_version {
        TlsVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V13 => &[&rustls::version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { inner, insecure: settings.insecure }));
    let mut config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = load::certificates(certificate)
                .map_err(|why| format!("bridge_certfile \"{}\": {why}", certificate.display()))?;
            let key = load::key(key).map_err(|error| format!("bridge_keyfile: {error}"))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| format!("bridge_certfile: {error}"))?
        }
    };
    config.alpn_protocols.extend(settings.alpn.as_ref().map(|name| name.as_bytes().to_vec()));
    Ok(config)
}

fn provider(settings: &BridgeTls) -> Result<CryptoProvider, String> {
    let chosen = |option: &str, list: &Option<String>, selection: ciphers::Selection| match selection.suites.is_empty()
    {
        true => Err(format!("{option} \"{}\" names no supported cipher", list.as_deref().unwrap_or_default())),
        false => Ok(selection.suites),
    };
    let tls13 = ciphers::tls13(settings.ciphers_tls13.as_deref());
    let mut cipher_suites = chosen("bridge_ciphers_tls1.3", &settings.ciphers_tls13, tls13)?;
    let tls12 = ciphers::tls12(settings.ciphers.as_deref());
    cipher_suites.extend(chosen("bridge_ciphers", &settings.ciphers, tls12)?);
    Ok(CryptoProvider { cipher_suites, ..ring::default_provider() })
}

fn roots(settings: &BridgeTls) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let mut add = |option: &str, path: &Path| {
        let all = load::certificates(path).map_err(|why| format!("{option} \"{}\": {why}", path.display()))?;
        roots.add_parsable_certificates(all);
        Ok::<_, String>(())
    };
    if let Some(path) = &settings.cafile {
        add("bridge_cafile", path)?;
    }
    if let Some(folder) = &settings.capath {
        let files =
            load::hashed_files(folder).map_err(|error| format!("bridge_capath \"{}\": {error}", folder.display()))?;
        for file in files {
            add("bridge_capath", &file)?;
        }
    }
    if settings.os_certs {
        let bundle = os_bundle().ok_or("bridge_tls_use_os_certs: the system's CA file was not found")?;
        add("bridge_tls_use_os_certs", &bundle)?;
    }
    Ok(roots)
}

#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    insecure: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The chain is judged before the name is.
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.insecure || common_name_is(end_entity, &server_name.to_str()) => {
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Only where there is no Subject Alternative Name at all.
fn common_name_is(certificate: &CertificateDer<'_>, wanted: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    if !matches!(certificate.subject_alternative_name(), Ok(None)) {
        return false;
    }
    let mut names = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    names.any(|name| match name.strip_prefix("*.") {
        Some(domain) => wanted.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain)),
        None => name.eq_ignore_ascii_case(wanted),
    })
}
