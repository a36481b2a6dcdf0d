//! What the TLS library has no arithmetic for: the curve P-521.
//! Always true: a file of the configuration that cannot be used for that reason is named before anything is served or
//! dialled, in one line that says what to do; a file that cannot be read at all is left to who needs it.
use super::load::{certificates, hashed_files, key};
use crate::config::{BridgeTls, ClusterTls, Settings, TlsSettings};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// secp521r1, 1.3.132.0.35, as DER.
const OBJECT: &[u8] = &[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x23];

/// Of a key: what follows its file's name.
const UNUSABLE: &str = "is on the curve P-521, which is not supported: use one on P-256 or P-384, Ed25519 or RSA";

/// Whether the certificate's own key is on the curve.
pub(super) fn is_p521(certificate: &CertificateDer<'_>) -> bool {
    // The curve is named within the algorithm, in front of the key.
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| {
        let key = parsed.public_key().raw;
        names_curve(&key[..key.len().min(32)])
    })
}

/// The key may be named before or behind its number: that 56 bits of a number are the same by chance does not happen.
fn is_p521_key(key: &PrivateKeyDer<'_>) -> bool {
    names_curve(key.secret_der())
}

fn names_curve(der: &[u8]) -> bool {
    der.windows(OBJECT.len()).any(|window| window == OBJECT)
}

/// The first file of the configuration that cannot be used; a warning for each that can in part.
/// # Errors
/// One line for the operator.
pub fn check(settings: &Settings) -> Result<(), String> {
    settings.listeners.iter().filter_map(|listener| listener.tls.as_ref()).try_for_each(check_listener)?;
    settings.bridges.iter().filter_map(|bridge| bridge.tls.as_ref()).try_for_each(check_bridge)?;
    let links = settings.cluster.links.as_ref().and_then(|links| links.tls.as_ref());
    links.map_or(Ok(()), check_cluster)
}

fn check_listener(tls: &TlsSettings) -> Result<(), String> {
    check_pair(("certfile", &tls.certfile), ("keyfile", &tls.keyfile))?;
    // Otherwise nobody is judged by them.
    match tls.require_certificate {
        true => check_authorities(("cafile", tls.cafile.as_deref()), ("capath", tls.capath.as_deref())),
        false => Ok(()),
    }
}

fn check_bridge(tls: &BridgeTls) -> Result<(), String> {
    if let Some((certificate, key)) = &tls.identity {
        check_pair(("bridge_certfile", certificate), ("bridge_keyfile", key))?;
    }
    check_authorities(("bridge_cafile", tls.cafile.as_deref()), ("bridge_capath", tls.capath.as_deref()))
}

fn check_cluster(tls: &ClusterTls) -> Result<(), String> {
    check_pair(("cluster_certfile", &tls.certfile), ("cluster_keyfile", &tls.keyfile))?;
    check_authorities(("cluster_cafile", Some(&tls.cafile)), ("", None))
}

type Named<'a> = (&'static str, &'a Path);

fn check_pair((certificate_option, certificate): Named<'_>, (key_option, key_file): Named<'_>) -> Result<(), String> {
    let unusable = |option, path: &Path| Err(format!("Error: {option} \"{}\" {UNUSABLE}.", path.display()));
    let of_chain = certificates(certificate).is_ok_and(|chain| chain.first().is_some_and(is_p521));
    if of_chain {
        return unusable(certificate_option, certificate);
    }
    match key(key_file).is_ok_and(|key| is_p521_key(&key)) {
        true => unusable(key_option, key_file),
        false => Ok(()),
    }
}

/// What is signed by such a one cannot be judged; others in the same place may be enough.
fn check_authorities(
    (file_option, file): (&'static str, Option<&Path>),
    (folder_option, folder): (&'static str, Option<&Path>),
) -> Result<(), String> {
    let hashed = folder.and_then(|folder| hashed_files(folder).ok()).unwrap_or_default();
    let files = file.map(|file| (file_option, file)).into_iter();
    let files = files.chain(hashed.iter().map(|file| (folder_option, file.as_path())));
    let (mut usable, mut lines) = (0, Vec::new());
    for (option, path) in files {
        let all = certificates(path).unwrap_or_default();
        let unusable = all.iter().filter(|certificate| is_p521(certificate)).count();
        usable += all.len() - unusable;
        if unusable > 0 {
            lines.push(format!(
                "{option} \"{}\": a CA certificate in it {UNUSABLE}; whoever has a certificate that it signed is refused.",
                path.display()
            ));
        }
    }
    match (lines.first(), usable) {
        (Some(line), 0) => Err(format!("Error: {line}")),
        _ => {
            lines.iter().for_each(|line| crate::warning!("Warning: {line}"));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            testing::{P521_AUTHORITY, P521_KEY, P521_KEY_SEC1, P521_SIGNED},
            tests::Pki,
        },
        *,
    };
    use rustls::pki_types::pem::PemObject;

    #[test]
    fn the_curve_is_found_in_certificates_and_in_keys_of_both_forms_and_nowhere_else() {
        let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let key = |pem: &str| PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert!(is_p521(&certificate(P521_AUTHORITY)));
        assert!(!is_p521(&certificate(P521_SIGNED)), "its own key is on another one");
        assert!(is_p521_key(&key(P521_KEY)) && is_p521_key(&key(P521_KEY_SEC1)));
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
            assert!(!is_p521_key(&key(&pair.serialize_pem())));
            let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            assert!(!is_p521(params.self_signed(&pair).unwrap().der()));
        }
    }

    #[test]
    fn one_line_says_which_file_is_on_the_curve_and_what_to_do() {
        let pki = Pki::new();
        let (key, authority) = (pki.file("p521.key", P521_KEY), pki.file("p521.crt", P521_AUTHORITY));
        let usual = pki.listener();
        let both = pki.file("both.crt", &format!("{}{P521_AUTHORITY}", pki.root));
        let said = |tls: TlsSettings| check_listener(&tls).unwrap_err();
        let line = |option: &str, path: &Path| format!("Error: {option} \"{}\" {UNUSABLE}.", path.display());
        assert_eq!(said(TlsSettings { keyfile: key.clone(), ..usual.clone() }), line("keyfile", &key));
        assert_eq!(said(TlsSettings { certfile: authority.clone(), ..usual.clone() }), line("certfile", &authority));
        let asking = TlsSettings { require_certificate: true, cafile: Some(authority.clone()), ..usual.clone() };
        assert!(said(asking.clone()).starts_with(&format!("Error: cafile \"{}\": a CA", authority.display())));
        for fine in [
            usual.clone(),
            TlsSettings { require_certificate: false, ..asking.clone() },
            TlsSettings { cafile: Some(both), ..asking },
            TlsSettings { keyfile: "/nonexistent".into(), ..usual.clone() },
        ] {
            assert_eq!(check_listener(&fine), Ok(()));
        }
        let cluster =
            ClusterTls { cafile: authority.clone(), certfile: usual.certfile, keyfile: usual.keyfile, crlfile: None };
        assert!(check_cluster(&cluster).unwrap_err().contains("cluster_cafile"));
        let bridge = BridgeTls {
            cafile: Some(authority),
            capath: None,
            os_certs: false,
            identity: Some((cluster.certfile, key.clone())),
            insecure: false,
            alpn: None,
            min_version: crate::config::TlsVersion::V12,
            ciphers: None,
            ciphers_tls13: None,
        };
        assert_eq!(check_bridge(&bridge).unwrap_err(), line("bridge_keyfile", &key));
        let error = check_bridge(&BridgeTls { identity: None, ..bridge }).unwrap_err();
        assert!(error.contains("bridge_cafile"), "{error}");
    }
}
