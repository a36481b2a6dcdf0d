//! What `helm template` makes of the chart, as objects that can be asked for.
use super::tools;
use crate::cluster::folder::workspace;
use serde_json::Value;
use std::collections::BTreeMap;

/// Names and contents.
pub(super) type Files = Vec<(String, Vec<u8>)>;

/// Objects by kind and name.
#[derive(Debug, Clone, Default)]
pub(super) struct Manifests {
    objects: BTreeMap<(String, String), Value>,
    /// Secrets that are no part of the chart.
    given: BTreeMap<String, Files>,
}

impl Manifests {
    /// Renders the chart with `--set` of each of `settings`.
    /// # Errors
    /// When helm refuses, with its words.
    pub(super) fn render(release: &str, settings: &[String], upgrade: bool) -> Result<Self, String> {
        let chart = workspace().join("deploy/helm/mosquorum").display().to_string();
        let mut words =
            ["template", release, &chart, "--namespace", "mqtt", "--kube-version", "1.30.0"].map(String::from);
        words[2].clone_from(&chart);
        let mut words = words.to_vec();
        if upgrade {
            words.push("--is-upgrade".into());
        }
        for setting in settings {
            words.extend(["--set".to_owned(), setting.clone()]);
        }
        let named = |object: Value| {
            let kind = object["kind"].as_str()?.to_owned();
            let name = object["metadata"]["name"].as_str()?.to_owned();
            Some(((kind, name), object))
        };
        let objects = tools::yaml(&tools::helm(&words)?)?.into_iter().filter_map(named).collect();
        Ok(Self { objects, given: BTreeMap::new() })
    }

    /// # Errors
    /// When there is none, by its name.
    pub(super) fn get(&self, kind: &str, name: &str) -> Result<&Value, String> {
        self.objects.get(&(kind.to_owned(), name.to_owned())).ok_or_else(|| format!("no {kind} is named {name}"))
    }

    /// The only one of its kind.
    /// # Errors
    /// When there is none, or more than one.
    pub(super) fn only(&self, kind: &str) -> Result<&Value, String> {
        let mut all = self.objects.iter().filter(|((known, _), _)| known == kind).map(|(_, object)| object);
        match (all.next(), all.next()) {
            (Some(object), None) => Ok(object),
            _ => Err(format!("expected one {kind}")),
        }
    }

    /// Takes over what was applied before where the chart would look it up in the cluster: Secrets that it made.
    pub(super) fn keep_secrets(&mut self, before: &Self) {
        for (key, object) in before.objects.iter().filter(|((kind, _), _)| kind == "Secret") {
            self.objects.insert(key.clone(), object.clone());
        }
        self.given.clone_from(&before.given);
    }

    /// Makes a Secret, or exchanges it.
    pub(super) fn give(&mut self, secret: &str, files: Files) {
        self.given.insert(secret.to_owned(), files);
    }

    /// The files of a ConfigMap or Secret.
    /// # Errors
    /// When it is not there or not as it should be.
    pub(super) fn files(&self, kind: &str, name: &str) -> Result<Files, String> {
        if let (Some(files), "Secret") = (self.given.get(name), kind) {
            return Ok(files.clone());
        }
        let data = self.get(kind, name)?["data"].as_object().ok_or_else(|| format!("{kind} {name} has no data"))?;
        let file = |(key, value): (&String, &Value)| {
            let text = value.as_str().ok_or_else(|| format!("{kind} {name}: {key} is no text"))?;
            let bytes = if kind == "Secret" { base64(text)? } else { text.as_bytes().to_vec() };
            Ok((key.clone(), bytes))
        };
        data.iter().map(file).collect()
    }
}

fn base64(text: &str) -> Result<Vec<u8>, String> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Ok(byte - b'A'),
        b'a'..=b'z' => Ok(byte - b'a' + 26),
        b'0'..=b'9' => Ok(byte - b'0' + 52),
        b'+' => Ok(62),
        b'/' => Ok(63),
        _ => Err(format!("byte {byte} in base64")),
    };
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=' && !byte.is_ascii_whitespace()) {
        bits = bits << 6 | u32::from(value(byte)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Ok(bytes)
}

/// A number at a path of an object, or `otherwise`.
pub(super) fn number(object: &Value, path: &str, otherwise: u64) -> u64 {
    object.pointer(path).and_then(Value::as_u64).unwrap_or(otherwise)
}

/// The words of a list of texts.
pub(super) fn words(object: &Value) -> Vec<String> {
    object.as_array().into_iter().flatten().filter_map(Value::as_str).map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        assert_eq!(base64("aGVsbG8="), Ok(b"hello".to_vec()));
        assert_eq!(base64("aGVs\nbG8h"), Ok(b"hello!".to_vec()));
        assert!(base64("a*").is_err());
    }
}
