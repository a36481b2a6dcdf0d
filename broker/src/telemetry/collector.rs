//! The way to the collector, as the standard `OTEL_EXPORTER_OTLP_*` variables name it.
//! Always true: a variable for one signal goes before the one for all; nothing is connected before the first export; with
//! `https` the collector has to prove its name, to `OTEL_EXPORTER_OTLP_CERTIFICATE` or else to the system's authorities.
use std::time::Duration;
use tonic::{
    metadata::{Ascii, MetadataKey, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// OpenTelemetry's default.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    /// As in names of variables.
    fn name(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        }
    }
}

/// Reads variables of the environment; an empty one is none.
pub(super) struct Variables<F>(pub(super) F);

impl<F: Fn(&str) -> Option<String>> Variables<F> {
    fn plain(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.trim().is_empty())
    }

    /// `OTEL_EXPORTER_OTLP_<SIGNAL>_<WHAT>`, else `OTEL_EXPORTER_OTLP_<WHAT>`.
    fn of(&self, signal: Signal, what: &str) -> Option<String> {
        let own = self.plain(&format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.name()));
        own.or_else(|| self.plain(&format!("OTEL_EXPORTER_OTLP_{what}")))
    }

    fn file(&self, signal: Signal, what: &str) -> Result<Option<Vec<u8>>, String> {
        let Some(path) = self.of(signal, what) else { return Ok(None) };
        std::fs::read(&path).map(Some).map_err(|error| format!("OTEL_EXPORTER_OTLP_{what} {path}: {error}"))
    }

    /// The address with its scheme: without one it is TLS unless `INSECURE` says otherwise.
    pub(super) fn endpoint(&self, signal: Signal) -> Option<String> {
        let endpoint = self.of(signal, "ENDPOINT")?;
        if endpoint.contains("://") {
            return Some(endpoint);
        }
        let insecure = self.of(signal, "INSECURE").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        Some(format!("{}://{endpoint}", if insecure { "http" } else { "https" }))
    }

    fn timeout(&self, signal: Signal) -> Duration {
        let millis = self.of(signal, "TIMEOUT").and_then(|text| text.trim().parse().ok());
        millis.map_or(TIMEOUT, Duration::from_millis)
    }

    /// A channel that connects at its first use. To be called on the runtime.
    pub(super) fn channel(&self, signal: Signal) -> Result<Channel, String> {
        let address = self.endpoint(signal).ok_or("no endpoint is named")?;
        let wrong = |error: &dyn std::fmt::Display| format!("endpoint {address}: {error}");
        let mut endpoint = Endpoint::from_shared(address.clone()).map_err(|error| wrong(&error))?;
        if endpoint.uri().scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(self.tls(signal)?).map_err(|error| wrong(&error))?;
        }
        Ok(endpoint.timeout(self.timeout(signal)).connect_timeout(self.timeout(signal)).connect_lazy())
    }

    fn tls(&self, signal: Signal) -> Result<ClientTlsConfig, String> {
        let authorities = match self.file(signal, "CERTIFICATE")? {
            Some(pem) => pem,
            None => crate::carrier::tls::os_authorities().ok_or("the system's CA file was not found")?,
        };
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities));
        match (self.file(signal, "CLIENT_CERTIFICATE")?, self.file(signal, "CLIENT_KEY")?) {
            (Some(certificate), Some(key)) => tls = tls.identity(Identity::from_pem(certificate, key)),
            (None, None) => {}
            _ => return Err("CLIENT_CERTIFICATE and CLIENT_KEY belong together".into()),
        }
        Ok(tls)
    }

    /// `HEADERS`: `name=value,name=value`, values percent-encoded. What is none is left out.
    pub(super) fn headers(&self, signal: Signal) -> Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)> {
        let text = self.of(signal, "HEADERS").unwrap_or_default();
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        let each = pairs.filter_map(|(name, value)| {
            let name = MetadataKey::from_bytes(name.trim().to_ascii_lowercase().as_bytes()).ok()?;
            Some((name, MetadataValue::try_from(percent_decoded(value.trim())).ok()?))
        });
        each.collect()
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        let byte = pair.filter(|_| bytes[at] == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(set: &'static [(&str, &str)]) -> Variables<impl Fn(&str) -> Option<String>> {
        Variables(|name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_signals_own_variable_goes_first_and_a_scheme_is_added() {
        let all = variables(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://other:4317"),
        ]);
        assert_eq!(all.endpoint(Signal::Traces).as_deref(), Some("https://collector:4317"));
        assert_eq!(all.endpoint(Signal::Metrics).as_deref(), Some("http://other:4317"));
        let insecure =
            variables(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"), ("OTEL_EXPORTER_OTLP_INSECURE", "TRUE")]);
        assert_eq!(insecure.endpoint(Signal::Traces).as_deref(), Some("http://collector:4317"));
        assert_eq!(variables(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).endpoint(Signal::Traces), None);
    }

    #[test]
    fn headers_are_decoded_and_what_is_none_is_left_out() {
        let all = variables(&[("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=a%20b%, x = y,nothing,bad name=1")]);
        let headers: Vec<_> = all.headers(Signal::Traces);
        let found: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
        assert_eq!(found, [("api-key", "a b%"), ("x", "y")]);
    }

    #[tokio::test]
    async fn a_certificate_that_is_not_there_is_named() {
        let all = variables(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
        ]);
        let error = all.channel(Signal::Traces).expect_err("no such file");
        assert!(error.contains("OTEL_EXPORTER_OTLP_CERTIFICATE /nowhere/ca.pem"), "{error}");
    }
}
