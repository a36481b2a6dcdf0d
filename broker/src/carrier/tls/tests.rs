use super::{
    testing::{P521_AUTHORITY, P521_SIGNED},
    *,
};
use crate::config::TlsVersion;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, DnValue, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// A folder with a root, an intermediate of it that signs everything else, and what they signed.
pub(super) struct Pki {
    folder: PathBuf,
    pub(super) root: String,
    intermediate: String,
    issuer: Issuer<'static, KeyPair>,
}

struct Pair {
    certificate: String,
    key: String,
}

fn ca(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(2025, 1, 1);
    params
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Pki {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("mosquorum-tls-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let root_key = KeyPair::generate().unwrap();
        let root = ca("root").self_signed(&root_key).unwrap().pem();
        let root_issuer = Issuer::new(ca("root"), root_key);
        let key = KeyPair::generate().unwrap();
        let intermediate = ca("intermediate").signed_by(&key, &root_issuer).unwrap().pem();
        Self { folder, root, intermediate, issuer: Issuer::new(ca("intermediate"), key) }
    }

    pub(super) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn issue(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        Pair { certificate: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    fn client(&self, serial: u64, expired: bool) -> Pair {
        let mut params = named("test client");
        params.serial_number = Some(SerialNumber::from(serial));
        if expired {
            params.not_before = date_time_ymd(2010, 1, 1);
            params.not_after = date_time_ymd(2012, 8, 21);
        }
        self.issue(&params)
    }

    /// A list on which 666 stands.
    fn crl(&self, next_update_year: i32) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(666_u64),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(next_update_year, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A listener whose `certfile` holds the leaf alone.
    pub(super) fn listener(&self) -> TlsSettings {
        let server = self.issue(&named("server"));
        TlsSettings {
            certfile: self.file("server.crt", &server.certificate),
            keyfile: self.file("server.key", &server.key),
            cafile: Some(self.file("all-ca.crt", &format!("{}{}", self.intermediate, self.root))),
            capath: None,
            crlfile: None,
            require_certificate: false,
            min_version: TlsVersion::V12,
            ciphers: None,
            ciphers_tls13: None,
            use_identity_as_username: false,
            use_subject_as_username: false,
            disable_client_cert_date_checks: false,
        }
    }

    /// A client that knows the root only.
    fn connector(&self, pair: Option<&Pair>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.root.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match pair {
            Some(Pair { certificate, key }) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
            None => builder.with_no_client_auth(),
        }
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

type Client = tokio_rustls::client::TlsStream<DuplexStream>;

async fn shake(settings: &TlsSettings, client: ClientConfig) -> (Result<Prepared, HandshakeError>, io::Result<Client>) {
    let acceptor = Acceptor::load(settings).unwrap();
    let (near, far) = duplex(1 << 16);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from("localhost").unwrap();
    tokio::join!(acceptor.accept(Stream::Other(Box::new(far))), connector.connect(name, near))
}

/// What the server says of a client with this certificate.
async fn judge(pki: &Pki, settings: &TlsSettings, pair: Option<&Pair>) -> Result<Prepared, String> {
    let (result, _client) = shake(settings, pki.connector(pair)).await;
    result.map_err(|error| format!("{:?}", error.why))
}

fn refusal(settings: &TlsSettings) -> String {
    Acceptor::load(settings).err().expect("it must not load").to_string()
}

#[tokio::test]
async fn a_leaf_alone_is_completed_from_cafile_up_to_the_root() {
    let pki = Pki::new();
    let (server, client) = shake(&pki.listener(), pki.connector(None)).await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    assert_eq!(client.get_ref().1.peer_certificates().unwrap().len(), 2, "leaf and intermediate, no root");
    let expected = Negotiated { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384" };
    assert_eq!(server.tls, Some(expected));
    assert_eq!(server.identity, None);
    client.write_all(b"to and").await.unwrap();
    let mut buffer = [0; 6];
    server.stream.read_exact(&mut buffer).await.unwrap();
    server.stream.write_all(b" fro").await.unwrap();
    server.stream.shut_down().await;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!((&buffer, answer.as_slice()), (b"to and", &b" fro"[..]));
    let without = TlsSettings { cafile: None, ..pki.listener() };
    assert!(shake(&without, pki.connector(None)).await.1.is_err(), "nothing to complete it with");
}

#[tokio::test]
async fn a_client_that_goes_without_a_word_has_closed() {
    let pki = Pki::new();
    let (server, client) = shake(&pki.listener(), pki.connector(None)).await;
    drop(client);
    assert_eq!(server.unwrap().stream.read(&mut [0; 6]).await.unwrap(), 0);
}

#[tokio::test]
async fn versions_and_ciphers_are_those_of_the_listener() {
    let pki = Pki::new();
    let settings = TlsSettings {
        ciphers: Some("ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305".to_owned()),
        ciphers_tls13: Some("TLS_AES_128_GCM_SHA256".to_owned()),
        ..pki.listener()
    };
    let (server, _client) = shake(&settings, pki.connector(None)).await;
    assert_eq!(server.unwrap().tls.unwrap().cipher, "TLS_AES_128_GCM_SHA256");
    let old_client = || {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pki.root.as_bytes()).unwrap()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    };
    let (server, _client) = shake(&settings, old_client()).await;
    let expected = Negotiated { version: "TLSv1.2", cipher: "ECDHE-ECDSA-CHACHA20-POLY1305" };
    assert_eq!(server.unwrap().tls, Some(expected));
    let newer = TlsSettings { min_version: TlsVersion::V13, ..settings };
    assert!(shake(&newer, old_client()).await.0.is_err());
}

#[tokio::test]
async fn a_required_certificate_must_come_from_the_authorities() {
    let (pki, other) = (Pki::new(), Pki::new());
    let settings = TlsSettings { require_certificate: true, ..pki.listener() };
    assert!(judge(&pki, &settings, Some(&pki.client(1, false))).await.is_ok());
    let none = judge(&pki, &settings, None).await.err().unwrap();
    assert!(none.contains("did not return a certificate"), "{none}");
    let unknown = judge(&pki, &settings, Some(&other.client(1, false))).await.err().unwrap();
    assert!(unknown.contains("certificate verify failed"), "{unknown}");
    let expired = judge(&pki, &settings, Some(&pki.client(1, true))).await.err().unwrap();
    assert!(expired.contains("certificate verify failed"), "{expired}");
}

#[tokio::test]
async fn dates_alone_can_be_ignored() {
    let (pki, other) = (Pki::new(), Pki::new());
    let settings = TlsSettings { require_certificate: true, disable_client_cert_date_checks: true, ..pki.listener() };
    // It ended before the certificate of its issuer began.
    assert!(judge(&pki, &settings, Some(&pki.client(1, true))).await.is_ok());
    assert!(judge(&pki, &settings, Some(&pki.client(1, false))).await.is_ok());
    assert!(judge(&pki, &settings, Some(&other.client(1, true))).await.is_err());
    let listed = TlsSettings { crlfile: Some(pki.file("crl.pem", &pki.crl(2100))), ..settings.clone() };
    assert!(judge(&pki, &listed, Some(&pki.client(1, true))).await.is_ok());
    assert!(judge(&pki, &listed, Some(&pki.client(666, true))).await.is_err());
    let stale = TlsSettings { crlfile: Some(pki.file("old.pem", &pki.crl(2025))), ..settings };
    assert!(judge(&pki, &stale, Some(&pki.client(1, true))).await.is_err());
}

#[tokio::test]
async fn revocation_is_asked_about_the_clients_own_certificate() {
    let pki = Pki::new();
    // Nothing speaks for the intermediate: that is not asked.
    let crlfile = Some(pki.file("crl.pem", &pki.crl(2100)));
    let settings = TlsSettings { require_certificate: true, crlfile, ..pki.listener() };
    assert!(judge(&pki, &settings, Some(&pki.client(665, false))).await.is_ok());
    let revoked = judge(&pki, &settings, Some(&pki.client(666, false))).await.err().unwrap();
    assert!(revoked.contains("certificate verify failed") && revoked.contains("evoked"), "{revoked}");
}

#[tokio::test]
async fn a_revocation_list_that_is_old_or_speaks_for_others_accepts_nobody() {
    let (pki, other) = (Pki::new(), Pki::new());
    let client = pki.client(1, false);
    for list in [pki.crl(2025), other.crl(2100)] {
        let crlfile = Some(pki.file("crl.pem", &list));
        let settings = TlsSettings { require_certificate: true, crlfile, ..pki.listener() };
        assert!(judge(&pki, &settings, Some(&client)).await.is_err());
    }
}

#[tokio::test]
async fn the_user_name_comes_from_the_certificate() {
    let pki = Pki::new();
    let identity = TlsSettings { require_certificate: true, use_identity_as_username: true, ..pki.listener() };
    let client = pki.client(1, false);
    let prepared = judge(&pki, &identity, Some(&client)).await.unwrap();
    assert_eq!(prepared.identity, Some(CertificateIdentity(Some("test client".into()))));
    let mut params = named("a");
    params.distinguished_name = DistinguishedName::new();
    let nobody = judge(&pki, &identity, Some(&pki.issue(&params))).await.unwrap();
    assert_eq!(nobody.identity, Some(CertificateIdentity(None)), "without a common name");
    let optional = TlsSettings { require_certificate: false, ..identity };
    let nobody = judge(&pki, &optional, Some(&client)).await.unwrap();
    assert_eq!(nobody.identity, Some(CertificateIdentity(None)), "nobody asked for the certificate");
}

/// The expected text is what `openssl x509 -nameopt RFC2253` prints for the same name.
#[tokio::test]
async fn a_subject_is_written_as_openssl_writes_it() {
    let pki = Pki::new();
    let settings = TlsSettings { require_certificate: true, use_subject_as_username: true, ..pki.listener() };
    let mut params = named("");
    let name = &mut params.distinguished_name;
    *name = DistinguishedName::new();
    name.push(DnType::CountryName, "GB");
    name.push(DnType::StateOrProvinceName, "Nottinghamshire");
    name.push(DnType::LocalityName, DnValue::BmpString("Köln".try_into().unwrap()));
    name.push(DnType::OrganizationName, " a,b+c\"d\\e<f>g;h=i ");
    name.push(DnType::OrganizationalUnitName, "#Größe\n");
    name.push(DnType::CustomDnType(vec![1, 2, 3, 4]), "own");
    name.push(DnType::CommonName, "test client");
    let prepared = judge(&pki, &settings, Some(&pki.issue(&params))).await.unwrap();
    let expected = "CN=test client,1.2.3.4=#0C036F776E,OU=\\#Gr\\C3\\B6\\C3\\9Fe\\0A,\
        O=\\ a\\,b\\+c\\\"d\\\\e\\<f\\>g\\;h=i\\ ,L=K\\C3\\B6ln,ST=Nottinghamshire,C=GB";
    assert_eq!(prepared.identity, Some(CertificateIdentity(Some(expected.into()))));
}

#[tokio::test]
async fn what_is_not_tls_is_recognised() {
    let acceptor = Acceptor::load(&Pki::new().listener()).unwrap();
    for first in [&b"\x10\x0e\0\x04MQTT\x04\x02\0\x3c\0\x02ab"[..], b"GET / HTTP/1.1\r\n\r\n"] {
        let (mut near, far) = duplex(1 << 12);
        near.write_all(first).await.unwrap();
        let error = acceptor.accept(Stream::Other(Box::new(far))).await.err().unwrap();
        assert!(error.is_plain, "{:?}", error.why);
    }
}

#[tokio::test]
async fn a_swap_is_for_new_connections_only() {
    let (before, after) = (Pki::new(), Pki::new());
    let slot = TlsAcceptorSlot::new(Some(Arc::new(Acceptor::load(&before.listener()).unwrap())));
    let connect = async |pki: &Pki| {
        let (near, far) = duplex(1 << 16);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(pki.connector(None)));
        let acceptor = slot.acceptor().unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        tokio::join!(acceptor.accept(Stream::Other(Box::new(far))), connector.connect(name, near))
    };
    let (server, mut client) = connect(&before).await;
    slot.replace(Some(Arc::new(Acceptor::load(&after.listener()).unwrap())));
    assert!(connect(&before).await.1.is_err() && connect(&after).await.1.is_ok());
    let mut server = server.unwrap().stream;
    server.write_all(b"still here").await.unwrap();
    server.flush().await.unwrap();
    let mut buffer = [0; 10];
    client.as_mut().unwrap().read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"still here");
}

#[test]
fn capath_is_read_by_its_hashed_names() {
    let pki = Pki::new();
    pki.file("0123abcd.0", &pki.root);
    pki.file("ca.crt", "not looked at");
    pki.file("0123abcd.r0", "not looked at");
    let capath = Some(pki.folder.clone());
    let settings = TlsSettings { cafile: None, capath, require_certificate: true, ..pki.listener() };
    assert!(Acceptor::load(&settings).is_ok());
    std::fs::remove_file(pki.folder.join("0123abcd.0")).unwrap();
    assert!(refusal(&settings).starts_with("require_certificate needs CA certificates"));
}

#[test]
fn a_byte_order_mark_hides_no_section() {
    let pki = Pki::new();
    let good = pki.listener();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let mark = |name: &str, text: &str| pki.file(name, &format!("\u{feff}{text}"));
    let both = format!("{}\u{feff}{}", pki.intermediate, pki.root);
    let settings = TlsSettings {
        certfile: mark("marked.crt", &read(&good.certfile)),
        keyfile: mark("marked.key", &read(&good.keyfile)),
        cafile: Some(mark("marked-ca.crt", &both)),
        crlfile: Some(mark("marked.crl", &pki.crl(2100))),
        require_certificate: true,
        ..good
    };
    assert!(Acceptor::load(&settings).is_ok());
    assert_eq!(load::certificates(settings.cafile.as_ref().unwrap()).unwrap().len(), 2, "the one within, too");
    let utf_16: Vec<u8> = "\u{feff}-----BEGIN".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let path = pki.folder.join("utf-16");
    std::fs::write(&path, utf_16).unwrap();
    assert_eq!(load::certificates(&path).unwrap_err(), "it is UTF-16, save it as ASCII");
}

#[test]
fn a_trusted_certificate_of_openssl_is_refused_with_what_to_do() {
    let pki = Pki::new();
    for label in ["TRUSTED CERTIFICATE", "X509 CERTIFICATE"] {
        // Behind a good one, where it would be left out in silence.
        let text = format!("{}{}", pki.intermediate, pki.root.replace("CERTIFICATE", label));
        let cafile = Some(pki.file("trusted.crt", &text));
        let error = refusal(&TlsSettings { cafile, require_certificate: true, ..pki.listener() });
        assert!(error.contains(&format!("holds a {label}")) && error.contains("openssl x509 -in"), "{error}");
    }
}

#[test]
fn a_file_that_may_not_be_read_says_why() {
    let pki = Pki::new();
    // A folder, since nothing is forbidden to root.
    let folder = pki.folder.clone();
    for settings in [
        TlsSettings { certfile: folder.clone(), ..pki.listener() },
        TlsSettings { keyfile: folder.clone(), ..pki.listener() },
        TlsSettings { cafile: Some(folder.clone()), ..pki.listener() },
        TlsSettings { crlfile: Some(folder.clone()), ..pki.listener() },
    ] {
        let error = refusal(&settings);
        assert!(error.contains("Is a directory"), "{error}");
    }
}

#[test]
fn each_error_is_one_line_that_names_the_file() {
    let pki = Pki::new();
    let good = || TlsSettings { require_certificate: true, ..pki.listener() };
    let (garbage, missing) = (pki.file("garbage", "nothing in PEM"), PathBuf::from("/nowhere"));
    let other_key = pki.file("other.key", &pki.client(1, false).key);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let encrypted = pki.file("encrypted", encrypted);
    let damaged = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let damaged = pki.file("damaged", damaged);
    let cases: Vec<(TlsSettings, &str, &Path)> = vec![
        (TlsSettings { certfile: missing.clone(), ..good() }, "Unable to load server certificate", &missing),
        (TlsSettings { certfile: garbage.clone(), ..good() }, "Unable to load server certificate", &garbage),
        (TlsSettings { keyfile: missing.clone(), ..good() }, "Unable to load server key file", &missing),
        (TlsSettings { keyfile: garbage.clone(), ..good() }, "holds no private key", &garbage),
        (TlsSettings { keyfile: encrypted.clone(), ..good() }, "it is encrypted", &encrypted),
        (TlsSettings { keyfile: other_key.clone(), ..good() }, "inconsistent", &other_key),
        (TlsSettings { cafile: Some(missing.clone()), ..good() }, "Check cafile", &missing),
        (TlsSettings { cafile: Some(garbage.clone()), ..good() }, "Check cafile", &garbage),
        (TlsSettings { capath: Some(missing.clone()), ..good() }, "Check capath", &missing),
        (TlsSettings { crlfile: Some(missing.clone()), ..good() }, "Check crlfile", &missing),
        (TlsSettings { crlfile: Some(damaged.clone()), ..good() }, "Check crlfile", &damaged),
        (TlsSettings { ciphers: Some("invalid".to_owned()), ..good() }, "Check ciphers", Path::new("invalid")),
        (TlsSettings { ciphers_tls13: Some("x".to_owned()), ..good() }, "Check ciphers_tls1.3", Path::new("x")),
    ];
    for (settings, text, path) in cases {
        let error = refusal(&settings);
        assert!(error.contains(text) && error.contains(path.to_str().unwrap()) && !error.contains('\n'), "{error}");
    }
}

/// What a client shows is judged before what it signs.
#[test]
fn a_client_of_whom_no_signature_can_be_checked_is_refused_with_the_reason() {
    let pki = Pki::new();
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let certificates = [&pki.intermediate, &pki.root, P521_AUTHORITY].map(der).to_vec();
    let authorities = verify::Authorities { certificates, crls: Vec::new(), ignore_dates: false };
    let verifier = authorities.verifier(&Arc::new(ring::default_provider())).unwrap();
    let judged = |pem: &str| {
        let result = verifier.verify_client_cert(&der(pem), &[], UnixTime::now());
        result.map(drop).map_err(|error| format!("{:?}", describe(&io::Error::other(error)).why))
    };
    assert_eq!(judged(&pki.client(1, false).certificate), Ok(()), "others are judged as always");
    let said = |whose: &str| {
        Err(format!("Io(\"TLS certificate verify failed: a key on the curve P-521, which is not supported, {whose}\")"))
    };
    assert_eq!(judged(P521_SIGNED), said("has signed the client's certificate"));
    assert_eq!(judged(P521_AUTHORITY), said("is the client's"));
}
