//! From the files of a listener to what rustls serves with.
//! Always true: everything that can be wrong with the files is found here, before anything is replaced; each error is one
//! line and names the file. A byte order mark before a section does not hide it.
use super::{
    ciphers::{self, Selection},
    keylog,
    verify::Authorities,
};
use crate::{
    config::{TlsSettings, TlsVersion},
    warning,
};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::WebPkiClientVerifier,
};
use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList, x509::X509Name,
};

/// A chain longer than that is a circle.
const CHAIN_MAX: usize = 10;

/// Why a TLS listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    #[error("Unable to load server certificate \"{}\". Check certfile: {why}.", path.display())]
    Certificate { path: PathBuf, why: String },
    #[error("Unable to load server key file \"{}\". Check keyfile: {why}.", path.display())]
    Key { path: PathBuf, why: String },
    #[error("Server certificate/key are inconsistent: \"{}\" and \"{}\".", certificate.display(), key.display())]
    Inconsistent { certificate: PathBuf, key: PathBuf },
    #[error("Unable to load CA certificates. Check {option} \"{}\": {why}.", path.display())]
    Authority { option: &'static str, path: PathBuf, why: String },
    #[error("require_certificate needs CA certificates in cafile or capath, but there are none for \"{}\".", certificate.display())]
    NoAuthority { certificate: PathBuf },
    #[error("Unable to load certificate revocation file \"{}\". Check crlfile: {why}.", path.display())]
    Revocation { path: PathBuf, why: String },
    #[error("Unable to set TLS ciphers. Check {option} \"{list}\": it names none of those supported.")]
    Ciphers { option: &'static str, list: String },
    #[error("Unable to create TLS context for \"{}\": {source}.", certificate.display())]
    Context { certificate: PathBuf, source: rustls::Error },
}

pub(super) fn server_config(settings: &TlsSettings) -> Result<ServerConfig, TlsFileError> {
    let context = |source| TlsFileError::Context { certificate: settings.certfile.clone(), source };
    let provider = Arc::new(provider(settings)?);
    let key = key(&settings.keyfile)?;
    let chain = certificates(&settings.certfile)
        .map_err(|why| TlsFileError::Certificate { path: settings.certfile.clone(), why })?;
    let authorities = Authorities {
        certificates: authorities(settings)?,
        crls: match &settings.crlfile {
            Some(path) => crls(path).map_err(|why| TlsFileError::Revocation { path: path.clone(), why })?,
            None => Vec::new(),
        },
        ignore_dates: settings.disable_client_cert_date_checks,
    };
    let chain = complete(chain, &authorities.certificates);
    let verifier = if settings.require_certificate {
        let certificate = || settings.certfile.clone();
        authorities.verifier(&provider).map_err(|error| match error {
            rustls::server::VerifierBuilderError::InvalidCrl(error) => TlsFileError::Revocation {
                path: settings.crlfile.clone().unwrap_or_default(),
                why: format!("{error:?}"),
            },
            _ => TlsFileError::NoAuthority { certificate: certificate() },
        })?
    } else {
        WebPkiClientVerifier::no_client_auth()
    };
    let versions: &[_] = match settings.min_version {
        TlsVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V13 => &[&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(context)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| describe_pair(settings, error))?;
    config.ignore_client_order = true;
    if let Some(log) = keylog::key_log() {
        config.key_log = log;
    }
    Ok(config)
}

fn describe_pair(settings: &TlsSettings, error: rustls::Error) -> TlsFileError {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsFileError::Inconsistent { certificate: settings.certfile.clone(), key: settings.keyfile.clone() }
        }
        rustls::Error::InvalidCertificate(why) => {
            TlsFileError::Certificate { path: settings.certfile.clone(), why: why.to_string() }
        }
        error => TlsFileError::Key { path: settings.keyfile.clone(), why: error.to_string() },
    }
}

fn provider(settings: &TlsSettings) -> Result<CryptoProvider, TlsFileError> {
    let chosen = |option: &'static str, list: &Option<String>, selection: Selection| {
        let list = list.as_deref().unwrap_or_default();
        for word in &selection.unknown {
            warning!("Warning: {option} of \"{}\": {word} is not supported.", settings.certfile.display());
        }
        if selection.suites.is_empty() {
            return Err(TlsFileError::Ciphers { option, list: list.to_owned() });
        }
        Ok(selection.suites)
    };
    let mut cipher_suites =
        chosen("ciphers_tls1.3", &settings.ciphers_tls13, ciphers::tls13(settings.ciphers_tls13.as_deref()))?;
    cipher_suites.extend(chosen("ciphers", &settings.ciphers, ciphers::tls12(settings.ciphers.as_deref()))?);
    Ok(CryptoProvider { cipher_suites, ..ring::default_provider() })
}

/// The certificates of a PEM file, at least one.
/// # Errors
/// Why they cannot be had.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path)?;
    // Under these labels OpenSSL reads certificates, too. One with trust of its own may be one that is *not* to be trusted
    // for something: it is not taken without.
    for label in ["TRUSTED CERTIFICATE", "X509 CERTIFICATE"] {
        if has_section(&pem, label) {
            return Err(format!(
                "it holds a {label}, which only OpenSSL reads; `openssl x509 -in OLD -out NEW` makes it a CERTIFICATE"
            ));
        }
    }
    all_of(&pem, "it holds no certificate")
}

fn all_of<T: PemObject>(pem: &[u8], none: &str) -> Result<Vec<T>, String> {
    let all: Vec<T> = T::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|cause| cause.to_string())?;
    if all.is_empty() { Err(none.to_owned()) } else { Ok(all) }
}

const SECTION_START: &[u8] = b"-----BEGIN ";
/// Windows editors put it before UTF-8, and files that were put together from such have it within.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
/// And these before UTF-16.
const UTF_16_MARKS: [&[u8]; 2] = [b"\xFF\xFE", b"\xFE\xFF"];

/// A PEM file without the byte order marks that would hide the section behind them.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = std::fs::read(path).map_err(|cause| cause.to_string())?;
    if UTF_16_MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        return Err("it is UTF-16, save it as ASCII".to_owned());
    }
    Ok(match without_byte_order_marks(&bytes) {
        Cow::Borrowed(_) => bytes,
        Cow::Owned(clean) => clean,
    })
}

fn without_byte_order_marks(bytes: &[u8]) -> Cow<'_, [u8]> {
    let marked = [BYTE_ORDER_MARK, SECTION_START].concat();
    let mut clean = Vec::new();
    let mut left = bytes;
    while let Some(at) = left.windows(marked.len()).position(|window| window == marked) {
        clean.extend_from_slice(&left[..at]);
        left = &left[at + BYTE_ORDER_MARK.len()..];
    }
    if left.len() == bytes.len() {
        return Cow::Borrowed(bytes);
    }
    clean.extend_from_slice(left);
    Cow::Owned(clean)
}

fn has_section(pem: &[u8], label: &str) -> bool {
    let rest = |line| <[u8]>::strip_prefix(line, SECTION_START).and_then(|rest| rest.strip_prefix(label.as_bytes()));
    pem.split(|byte| matches!(byte, b'\n' | b'\r')).filter_map(rest).any(|rest| rest.starts_with(b"-----"))
}

pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    let error = |why| TlsFileError::Key { path: path.to_owned(), why };
    let pem = read(path).map_err(error)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|cause| match cause {
        pem::Error::NoItemsFound if is_encrypted(&pem) => error("it is encrypted, which is not supported".to_owned()),
        pem::Error::NoItemsFound => error("it holds no private key".to_owned()),
        cause => error(cause.to_string()),
    })
}

fn is_encrypted(pem: &[u8]) -> bool {
    const WORD: &[u8] = b"ENCRYPTED";
    pem.windows(WORD.len()).any(|window| window == WORD)
}

fn authorities(settings: &TlsSettings) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let mut all = Vec::new();
    if let Some(path) = &settings.cafile {
        let error = |why| TlsFileError::Authority { option: "cafile", path: path.clone(), why };
        all = certificates(path).map_err(error)?;
    }
    if let Some(path) = &settings.capath {
        let error = |why| TlsFileError::Authority { option: "capath", path: path.clone(), why };
        for file in hashed_files(path).map_err(|cause| error(cause.to_string()))? {
            all.extend(certificates(&file).map_err(|why| error(format!("{}: {why}", file.display())))?);
        }
    }
    for certificate in &all {
        if X509Certificate::from_der(certificate).is_err() {
            let (option, path) = match (&settings.cafile, &settings.capath) {
                (Some(path), _) => ("cafile", path.clone()),
                (None, path) => ("capath", path.clone().unwrap_or_default()),
            };
            return Err(TlsFileError::Authority { option, path, why: "a certificate in it is damaged".to_owned() });
        }
    }
    all.dedup();
    Ok(all)
}

/// The names that `openssl rehash` makes, the only ones that OpenSSL looks at: eight hexadecimal digits, a dot, a number.
pub(super) fn hashed_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let is_hashed = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('.'));
        name.is_some_and(|(hash, number)| {
            hash.len() == 8
                && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
                && !number.is_empty()
                && number.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        files.push(entry?.path());
    }
    files.retain(is_hashed);
    files.sort();
    Ok(files)
}

fn crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let all: Vec<CertificateRevocationListDer<'static>> = all_of(&read(path)?, "it holds no revocation list")?;
    match all.iter().all(|list| CertificateRevocationList::from_der(list).is_ok()) {
        true => Ok(all),
        false => Err("a revocation list in it is damaged".to_owned()),
    }
}

/// A leaf alone gets its issuers from the CA certificates, up to the root, which clients must have themselves.
fn complete(
    mut chain: Vec<CertificateDer<'static>>,
    authorities: &[CertificateDer<'static>],
) -> Vec<CertificateDer<'static>> {
    if chain.len() != 1 {
        return chain;
    }
    while chain.len() < CHAIN_MAX {
        let Some(issuer) = chain.last().and_then(|last| issuer_of(last, authorities)) else { break };
        if chain.contains(&issuer) {
            break;
        }
        chain.push(issuer);
    }
    chain
}

/// `None` also when the issuer is a root.
fn issuer_of(
    certificate: &CertificateDer<'_>,
    authorities: &[CertificateDer<'static>],
) -> Option<CertificateDer<'static>> {
    let issuer =
        |certificate: &X509Certificate<'_>, name: &X509Name<'_>| certificate.issuer().as_raw() == name.as_raw();
    let (_, child) = X509Certificate::from_der(certificate).ok()?;
    let found = authorities.iter().find(|candidate| {
        X509Certificate::from_der(candidate)
            .is_ok_and(|(_, candidate)| issuer(&child, candidate.subject()) && !issuer(&candidate, candidate.subject()))
    });
    found.cloned()
}
