//! A throw-away certificate authority and one certificate per node, for mutual TLS between nodes.
use super::{configuration::node_name, network::Place};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use std::{io, path::Path};

/// Writes `ca.pem`, and `node-N.pem` and `node-N.key` for every place.
pub(super) fn write(folder: &Path, places: &[Place]) -> io::Result<()> {
    let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, "mosquorum tests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let authority = CertifiedIssuer::self_signed(params, key).map_err(io::Error::other)?;
    std::fs::write(folder.join("ca.pem"), authority.pem())?;
    for (node, place) in places.iter().enumerate() {
        let names = vec![place.cluster_address.ip().to_string(), node_name(node)];
        let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
        params.distinguished_name.push(DnType::CommonName, node_name(node));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.signed_by(&key, &authority).map_err(io::Error::other)?;
        std::fs::write(folder.join(format!("node-{node}.pem")), certificate.pem())?;
        std::fs::write(folder.join(format!("node-{node}.key")), key.serialize_pem())?;
    }
    Ok(())
}
