//! Mutual TLS between nodes from three PEM files, exchangeable while running.
//! Always true: a reload that fails changes nothing; a swap touches new connections only.
use super::{
    certificates::{Revocations, Strict, check_usage},
    peer_stream::PeerStream,
};
use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use std::{io, path::PathBuf, sync::Arc};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// `cluster_cafile`, `cluster_certfile`, `cluster_keyfile`, `cluster_crlfile`.
#[derive(Debug, Clone)]
pub struct PemPaths {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Certificates of these lists are nobody's.
    pub revoked: Option<PathBuf>,
}

/// Why the cluster's certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {source}", path.display())]
    Pem { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("{} holds no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds no revocation list", path.display())]
    NoList { path: PathBuf },
    #[error("{}: {detail}", path.display())]
    Refused { path: PathBuf, detail: String },
}

#[derive(Clone)]
pub(crate) struct Tls {
    paths: Arc<PemPaths>,
    configs: Arc<ArcSwap<Configs>>,
    pub(super) revocations: Arc<Revocations>,
}

struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    pub(crate) fn load(paths: PemPaths) -> Result<Self, TlsError> {
        let revocations = Arc::new(Revocations::default());
        let configs = Configs::read(&paths, &revocations)?;
        read_lists(&paths, &revocations)?;
        Ok(Self { paths: Arc::new(paths), configs: Arc::new(ArcSwap::from_pointee(configs)), revocations })
    }

    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let configs = Configs::read(&self.paths, &self.revocations)?;
        read_lists(&self.paths, &self.revocations)?;
        self.configs.store(Arc::new(configs));
        Ok(())
    }

    pub(crate) async fn connect(&self, host: &str, road: PeerStream) -> io::Result<client::TlsStream<PeerStream>> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("`{host}` is not a host name")))?;
        let config = self.configs.load().client.clone();
        TlsConnector::from(config).connect(name, road).await
    }

    pub(crate) async fn accept(&self, road: PeerStream) -> io::Result<server::TlsStream<PeerStream>> {
        let config = self.configs.load().server.clone();
        TlsAcceptor::from(config).accept(road).await
    }
}

impl Configs {
    fn read(paths: &PemPaths, revocations: &Arc<Revocations>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for root in certificates(&paths.ca)? {
            roots.add(root).map_err(|e| refused(&paths.ca, &e))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&paths.certificate)?;
        check_usage(&chain[0]).map_err(|unfit| refused(&paths.certificate, &unfit))?;
        let key = PrivateKeyDer::from_pem_file(&paths.key)
            .map_err(|source| TlsError::Pem { path: paths.key.clone(), source })?;
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> =
            WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
                .build()
                .map_err(|e| refused(&paths.ca, &e))?;
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| refused(&paths.certificate, &e))?
            // It asks what the library's asks, and more.
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Strict { verifier, revocations: revocations.clone() }))
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|e| refused(&paths.certificate, &e))?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        let verifier: Arc<dyn ClientCertVerifier> =
            WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|e| refused(&paths.ca, &e))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| refused(&paths.certificate, &e))?
            .with_client_cert_verifier(Arc::new(Strict { verifier, revocations: revocations.clone() }))
            .with_single_cert(chain, key)
            .map_err(|e| refused(&paths.certificate, &e))?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { path: path.clone(), source };
    let all = CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<Vec<_>, _>>().map_err(pem)?;
    if all.is_empty() {
        return Err(TlsError::NoCertificate { path: path.clone() });
    }
    Ok(all)
}

fn read_lists(paths: &PemPaths, revocations: &Revocations) -> Result<(), TlsError> {
    let Some(path) = &paths.revoked else { return Ok(()) };
    let pem = |source| TlsError::Pem { path: path.clone(), source };
    let lists = CertificateRevocationListDer::pem_file_iter(path).map_err(pem)?;
    let lists = lists.collect::<Result<Vec<_>, _>>().map_err(pem)?;
    if lists.is_empty() {
        return Err(TlsError::NoList { path: path.clone() });
    }
    revocations.replace(&lists).map_err(|detail| refused(path, &detail))
}

fn refused(path: &std::path::Path, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::Refused { path: path.to_owned(), detail: error.to_string() }
}
