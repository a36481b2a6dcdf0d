//! What a request says of itself: its path, and who sends it.
//! Always true: pure.
use crate::http::{HeaderMap, header::AUTHORIZATION};
use base64::{Engine, engine::general_purpose::STANDARD};

/// A path as it stands in a request: percent signs and two hexadecimal digits become the byte that they mean. `None` if
/// that is no text.
pub(super) fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_first_chunk::<2>()?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

/// User name and password.
pub(super) fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let text = std::str::from_utf8(headers.get(AUTHORIZATION)?.as_bytes()).ok()?;
    let (scheme, encoded) = text.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_decoded_if_it_is_text() {
        assert_eq!(decoded("/a%20b%2Fc%c3%a4"), Some("/a b/cä".to_owned()));
        for broken in ["/%4", "/%", "/%+1", "/%ff"] {
            assert_eq!(decoded(broken), None, "{broken}");
        }
    }

    #[test]
    fn credentials_are_what_basic_authorization_says() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, text.parse().unwrap());
            credentials(&headers)
        };
        assert_eq!(of("basic  dXNlcjpwYTpzcw=="), Some(("user".to_owned(), "pa:ss".to_owned())));
        for text in ["", "Basic", "Basic %", "Bearer dXNlcjpwYQ==", "Basic dXNlcg=="] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(credentials(&HeaderMap::new()), None);
    }
}
