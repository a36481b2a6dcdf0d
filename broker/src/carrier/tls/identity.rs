//! The user name in a client's certificate, written as OpenSSL writes it, so that existing ACL files go on matching.
//! Always true: a name that is not well-formed text, or holds control characters, is no name.
use crate::config::TlsSettings;
use mosquorum_proto::mqtt::Utf8;
use rustls::pki_types::CertificateDer;
use std::fmt::Write as _;
use x509_parser::{
    asn1_rs::{Oid, Tag, ToDer, oid},
    certificate::X509Certificate,
    prelude::FromDer,
    x509::{AttributeTypeAndValue, X509Name},
};

/// User name of a client on a listener that takes it from certificates; `None` refuses the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateIdentity(pub Option<Utf8>);

impl CertificateIdentity {
    /// `None` when the listener asks for user names in the usual way.
    pub(super) fn of(settings: &TlsSettings, certificates: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        let name: fn(&X509Name<'_>) -> Option<String> =
            match (settings.use_identity_as_username, settings.use_subject_as_username) {
                (true, _) => common_name,
                (false, true) => |subject| Some(rfc2253(subject)),
                (false, false) => return None,
            };
        let subject = |certificate: &CertificateDer<'_>| {
            let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
            name(certificate.subject())
        };
        let name = certificates.and_then(|all| all.first()).and_then(subject);
        Some(Self(name.filter(|name| is_user_name(name)).map(Utf8::from)))
    }
}

fn is_user_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= usize::from(u16::MAX) && !name.chars().any(char::is_control)
}

/// The first common name, as it stands there.
fn common_name(subject: &X509Name<'_>) -> Option<String> {
    let name = subject.iter_common_name().next()?;
    std::str::from_utf8(name.as_slice()).ok().map(str::to_owned)
}

/// The subject as a string (RFC 2253): last attribute first, ASCII only.
fn rfc2253(subject: &X509Name<'_>) -> String {
    let mut text = String::new();
    for set in subject.iter_rdn().collect::<Vec<_>>().into_iter().rev() {
        let attributes: Vec<_> = set.iter().collect();
        for (n, attribute) in attributes.into_iter().rev().enumerate() {
            if !text.is_empty() {
                text.push(if n == 0 { ',' } else { '+' });
            }
            write_attribute(attribute, &mut text);
        }
    }
    text
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>, text: &mut String) {
    let known = NAMES.iter().find(|(oid, _)| oid == attribute.attr_type());
    let value = match known {
        Some((_, name)) => {
            text.push_str(name);
            characters(attribute)
        }
        None => {
            text.push_str(&attribute.attr_type().to_id_string());
            None
        }
    };
    text.push('=');
    match value {
        Some(value) => escape(&value, text),
        None => {
            text.push('#');
            for byte in attribute.attr_value().to_der_vec().unwrap_or_default() {
                let _ = write!(text, "{byte:02X}");
            }
        }
    }
}

/// The value's characters; `None` for what is not text.
fn characters(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let bytes = attribute.as_slice();
    match attribute.attr_value().tag() {
        Tag::Utf8String => std::str::from_utf8(bytes).ok().map(str::to_owned),
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString | Tag::T61String => {
            Some(bytes.iter().map(|byte| char::from(*byte)).collect())
        }
        Tag::BmpString => {
            let units = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        Tag::UniversalString => {
            let points = bytes.chunks_exact(4).map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]));
            points.map(char::from_u32).collect()
        }
        _ => None,
    }
}

fn escape(value: &str, text: &mut String) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}

/// Attributes that have a short name.
static NAMES: [(Oid<'static>, &str); 30] = [
    (oid!(2.5.4.3), "CN"),
    (oid!(2.5.4.4), "SN"),
    (oid!(2.5.4.5), "serialNumber"),
    (oid!(2.5.4.6), "C"),
    (oid!(2.5.4.7), "L"),
    (oid!(2.5.4.8), "ST"),
    (oid!(2.5.4.9), "street"),
    (oid!(2.5.4.10), "O"),
    (oid!(2.5.4.11), "OU"),
    (oid!(2.5.4.12), "title"),
    (oid!(2.5.4.13), "description"),
    (oid!(2.5.4.15), "businessCategory"),
    (oid!(2.5.4.16), "postalAddress"),
    (oid!(2.5.4.17), "postalCode"),
    (oid!(2.5.4.18), "postOfficeBox"),
    (oid!(2.5.4.20), "telephoneNumber"),
    (oid!(2.5.4.41), "name"),
    (oid!(2.5.4.42), "GN"),
    (oid!(2.5.4.43), "initials"),
    (oid!(2.5.4.44), "generationQualifier"),
    (oid!(2.5.4.45), "x500UniqueIdentifier"),
    (oid!(2.5.4.46), "dnQualifier"),
    (oid!(2.5.4.65), "pseudonym"),
    (oid!(2.5.4.72), "role"),
    (oid!(2.5.4.97), "organizationIdentifier"),
    (oid!(0.9.2342.19200300.100.1.1), "UID"),
    (oid!(0.9.2342.19200300.100.1.25), "DC"),
    (oid!(1.2.840.113549.1.9.1), "emailAddress"),
    (oid!(1.2.840.113549.1.9.2), "unstructuredName"),
    (oid!(1.2.840.113549.1.9.8), "unstructuredAddress"),
];
