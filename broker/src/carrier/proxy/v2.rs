//! Version 2: a fixed start, addresses, then fields of type, length and value.
//! Always true: every length is checked against what is there; fields that mean nothing here are passed over.
use super::{Corrupt, Header, TlsFacts};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes before the body.
pub(super) const START: usize = 16;
/// Bytes of the largest body.
pub(super) const BODY_MAX: usize = 500;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0;
const PROXY: u8 = 1;
const FIELD_TLS: u8 = 0x20;
const TLS_VERSION: u8 = 0x21;
const TLS_COMMON_NAME: u8 = 0x22;
const TLS_CIPHER: u8 = 0x23;
/// The client used TLS.
const CLIENT_TLS: u8 = 0x01;
/// It showed a certificate in this session.
const CLIENT_CERTIFICATE: u8 = 0x04;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Unspecified,
    Ipv4,
    Ipv6,
    Unix,
}

/// What stands before the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    family: Family,
    is_proxy: bool,
    body_bytes: usize,
}

impl Start {
    /// # Errors
    /// [`Corrupt`]: another signature, version, command, family or an impossible length.
    pub(super) fn parse(bytes: &[u8; START]) -> Result<Self, Corrupt> {
        let (signature, rest) = bytes.split_at(SIGNATURE.len());
        let [version_and_command, family, high, low] = *rest else { return Err(Corrupt) };
        if signature != SIGNATURE || version_and_command >> 4 != 2 {
            return Err(Corrupt);
        }
        let is_proxy = match version_and_command & 0x0F {
            LOCAL => false,
            PROXY => true,
            _ => return Err(Corrupt),
        };
        let (family, least) = match family {
            0x00 if !is_proxy => (Family::Unspecified, 0),
            0x11 => (Family::Ipv4, 12),
            0x21 => (Family::Ipv6, 36),
            0x31 => (Family::Unix, 1),
            _ => return Err(Corrupt),
        };
        let body_bytes = usize::from(u16::from_be_bytes([high, low]));
        let least = if is_proxy { least } else { 0 };
        if body_bytes < least || body_bytes > BODY_MAX {
            return Err(Corrupt);
        }
        Ok(Self { family, is_proxy, body_bytes })
    }

    /// Bytes that follow.
    #[must_use]
    pub(super) fn body_bytes(self) -> usize {
        self.body_bytes
    }

    /// The balancer speaks for itself, not for a client.
    #[must_use]
    pub(super) fn is_local(self) -> bool {
        !self.is_proxy
    }
}

/// Takes the body apart.
/// # Errors
/// The fields are corrupt; the client's address, as far as it is known.
pub(super) fn body(start: Start, body: &[u8]) -> Result<Header, Option<(String, u16)>> {
    let (client, fields) = addresses(start.family, body).ok_or(None)?;
    match tls_of(fields) {
        Ok(tls) => Ok(Header { client, tls }),
        Err(Corrupt) => Err(client),
    }
}

type Client = Option<(String, u16)>;

/// Who the client is, and the fields after the addresses.
fn addresses(family: Family, body: &[u8]) -> Option<(Client, &[u8])> {
    Some(match family {
        Family::Unspecified => (None, &[]),
        Family::Ipv4 => {
            let (addresses, fields) = body.split_first_chunk::<12>()?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *addresses;
            (Some((Ipv4Addr::new(a, b, c, d).to_string(), u16::from_be_bytes([high, low]))), fields)
        }
        Family::Ipv6 => {
            let (addresses, fields) = body.split_first_chunk::<36>()?;
            let client = Ipv6Addr::from(<[u8; 16]>::try_from(&addresses[..16]).ok()?);
            (Some((client.to_string(), u16::from_be_bytes([addresses[32], addresses[33]]))), fields)
        }
        Family::Unix => {
            // Two paths of 108 bytes each; shorter bodies hold the client's alone.
            let path = &body[..body.len().min(108)];
            let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
            (Some((String::from_utf8_lossy(path).into_owned(), 0)), body.get(216..).unwrap_or_default())
        }
    })
}

/// The next field and what is behind it.
fn field(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), Corrupt> {
    let (head, rest) = bytes.split_first_chunk::<3>().ok_or(Corrupt)?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([head[1], head[2]]))).ok_or(Corrupt)?;
    Ok((head[0], value, rest))
}

fn tls_of(mut fields: &[u8]) -> Result<Option<TlsFacts>, Corrupt> {
    let mut tls = None;
    while !fields.is_empty() {
        let (kind, value, rest) = field(fields)?;
        if kind == FIELD_TLS {
            tls = Some(tls_facts(value)?);
        }
        fields = rest;
    }
    // A header that says "no TLS" in so many words says nothing of TLS.
    Ok(tls.flatten())
}

fn tls_facts(value: &[u8]) -> Result<Option<TlsFacts>, Corrupt> {
    let ([client, verify @ ..], mut fields) = value.split_first_chunk::<5>().ok_or(Corrupt)?;
    let mut facts = TlsFacts {
        has_certificate: client & CLIENT_TLS != 0 && client & CLIENT_CERTIFICATE != 0 && *verify == [0; 4],
        ..TlsFacts::default()
    };
    while !fields.is_empty() {
        let (kind, value, rest) = field(fields)?;
        let text = || std::str::from_utf8(value).ok().map(str::to_owned);
        match kind {
            TLS_VERSION => facts.version = text(),
            TLS_COMMON_NAME => facts.common_name = text(),
            TLS_CIPHER => facts.cipher = text(),
            _ => {}
        }
        fields = rest;
    }
    Ok((client & CLIENT_TLS != 0).then_some(facts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(version_and_command: u8, family: u8, length: u16) -> Result<Start, Corrupt> {
        let mut bytes = [0; START];
        bytes[..12].copy_from_slice(SIGNATURE);
        bytes[12..14].copy_from_slice(&[version_and_command, family]);
        bytes[14..].copy_from_slice(&length.to_be_bytes());
        Start::parse(&bytes)
    }

    #[test]
    fn a_start_of_another_kind_is_corrupt() {
        assert!(start(0x21, 0x11, 12).is_ok());
        for (command, family, length) in [
            (0x31, 0x11, 12),
            (0x23, 0x11, 12),
            (0x21, 0x00, 12),
            (0x21, 0x12, 12),
            (0x21, 0x11, 11),
            (0x21, 0x21, 35),
            (0x21, 0x31, 0),
            (0x21, 0x11, 501),
        ] {
            assert_eq!(start(command, family, length), Err(Corrupt), "{command:x} {family:x} {length}");
        }
        assert_eq!(Start::parse(&[0; START]), Err(Corrupt));
        assert!(start(0x20, 0x00, 0).is_ok_and(Start::is_local));
    }

    #[test]
    fn fields_never_reach_beyond_what_is_there() {
        let from = [192, 0, 2, 5, 0, 0, 0, 0, 0, 7, 0, 0];
        let parsed = |fields: &[u8]| {
            let bytes = [&from, fields].concat();
            body(start(0x21, 0x11, bytes.len() as u16).expect("a start"), &bytes)
        };
        let client = Some(("192.0.2.5".to_owned(), 7));
        assert_eq!(parsed(&[2, 0, 1, 9]), Ok(Header { client: client.clone(), tls: None }));
        for corrupt in [
            &[2, 0][..],
            &[2, 0, 2, 9],
            &[0x20, 0, 1, 0],
            &[0x20, 0, 9, 5, 0, 0, 0, 0, 0x21, 0, 2, b'T'],
            &[0x20, 0, 7, 5, 0, 0, 0, 0, 0x21, 0],
        ] {
            assert_eq!(parsed(corrupt), Err(client.clone()), "{corrupt:x?}");
        }
        let tls = parsed(&[0x20, 0, 10, 5, 0, 0, 0, 0, 0x23, 0, 2, b'a', b'b']).expect("a header").tls;
        assert_eq!(tls.and_then(|tls| tls.cipher).as_deref(), Some("ab"));
    }

    #[test]
    fn a_short_unix_body_is_the_path_of_the_client() {
        let bytes = b"/path";
        let header = body(start(0x21, 0x31, 5).expect("a start"), bytes).expect("a header");
        assert_eq!(header.client, Some(("/path".to_owned(), 0)));
    }
}
