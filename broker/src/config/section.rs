//! Options as they were written, by the scope that they stand in.
use config::{Map, Value, ValueKind};
use std::collections::BTreeMap;

/// One written value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) text: String,
    /// `FILE:LINE`, or the name of the environment variable or flag; `None` for a default.
    pub(super) origin: Option<String>,
}

impl Text {
    pub(super) fn default_value(text: &str) -> Self {
        Self { text: text.to_owned(), origin: None }
    }
}

/// Options of one scope: canonical name to written values.
pub(super) type Section = BTreeMap<String, Vec<Text>>;

/// A `connection` section as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BridgeSection {
    pub name: String,
    /// `FILE:LINE` of its `connection` line.
    pub origin: String,
    /// (canonical option name, rest of the line, `FILE:LINE`), in order. Never empty values.
    pub directives: Vec<(String, String, String)>,
}

/// The key of the listeners among the layered values; no option has this name.
pub(super) const LISTENERS: &str = "listeners";

/// A section as a value of the `config` crate.
fn to_value(section: &Section) -> Value {
    let table: Map<String, Value> = section.iter().map(|(name, texts)| (name.clone(), list(texts))).collect();
    Value::new(None, ValueKind::Table(table))
}

/// Sections as the value that stands under [`LISTENERS`].
pub(super) fn to_layer(globals: &Section, listeners: &[Section]) -> Map<String, Value> {
    let mut layer: Map<String, Value> = globals.iter().map(|(name, texts)| (name.clone(), list(texts))).collect();
    if !listeners.is_empty() {
        let all = listeners.iter().map(to_value).collect();
        layer.insert(LISTENERS.to_owned(), Value::new(None, ValueKind::Array(all)));
    }
    layer
}

fn list(texts: &[Text]) -> Value {
    let values =
        texts.iter().map(|text| Value::new(text.origin.as_ref(), ValueKind::String(text.text.clone()))).collect();
    Value::new(None, ValueKind::Array(values))
}
