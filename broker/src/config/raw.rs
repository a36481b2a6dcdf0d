//! Configuration as text with its origins, after the layers were put over each other and before types are made.
//! Always true: every option name in here is a canonical one of the option table; a repeated option has its values in
//! the order of the file.
use super::options::{self, OptionSpec};
use super::section::{BridgeSection, LISTENERS, Section, Text, to_layer};
use super::sections::FileSource;
use super::{ConfigError, Note, lines};
use config::{Config, ConfigError as LayerError, Map, Source, Value};
use std::path::PathBuf;

/// Where settings come from; kept, so that a reload reads the same places.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `-c FILE`
    pub file: Option<PathBuf>,
    /// Environment variables as (name, value): all of them, see [`Sources::with_process_environment`].
    pub environment: Vec<(String, String)>,
    /// `-p PORT`, in order. Only used when the file has no listener.
    pub ports: Vec<u16>,
    /// `-q` (`Some(false)`) or `-v` (`Some(true)`): no log type or all.
    pub log_all: Option<bool>,
}

impl Sources {
    /// Takes the environment of this process. Variables that are not UTF-8 are left out.
    #[must_use]
    pub fn with_process_environment(mut self) -> Self {
        self.environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        self
    }
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Raw {
    pub(super) globals: Section,
    pub(super) listeners: Vec<Section>,
    pub(super) bridges: Vec<BridgeSection>,
    pub(super) notes: Vec<Note>,
}

impl Raw {
    /// Puts defaults, file, environment and flags over each other.
    pub(super) fn read(sources: &Sources) -> Result<Self, ConfigError> {
        let mut notes = Vec::new();
        let file = match &sources.file {
            Some(path) => FileSource::read(path)?,
            None => FileSource::default(),
        };
        notes.extend(file.notes.iter().cloned());
        let bridges = file.bridges.clone();
        let environment = Environment::new(sources, file.per_listener_settings(), &mut notes)?;
        let layers = Config::builder()
            .add_source(Defaults)
            .add_source(file)
            .add_source(environment)
            .add_source(Flags { log_all: sources.log_all })
            .build()
            .and_then(|config| config.collect()) // deserialising would lose the origins
            .map_err(layer_error)?;
        let mut raw = Self { bridges, notes, ..Self::default() };
        for (name, value) in layers {
            if name == LISTENERS {
                raw.listeners = sections_of(value)?;
            } else {
                raw.globals.insert(name, texts_of(value)?);
            }
        }
        Ok(raw)
    }
}

fn texts_of(value: Value) -> Result<Vec<Text>, ConfigError> {
    let values = value.into_array().map_err(layer_error)?;
    values
        .into_iter()
        .map(|value| {
            let origin = value.origin().map(str::to_owned);
            let text = value.into_string().map_err(layer_error)?;
            Ok(Text { text, origin })
        })
        .collect()
}

fn sections_of(value: Value) -> Result<Vec<Section>, ConfigError> {
    let values = value.into_array().map_err(layer_error)?;
    values
        .into_iter()
        .map(|section| {
            let table = section.into_table().map_err(layer_error)?;
            table.into_iter().map(|(name, value)| Ok((name, texts_of(value)?))).collect()
        })
        .collect()
}

fn layer_error(cause: LayerError) -> ConfigError {
    ConfigError::new(format!("Error: Configuration: {cause}."))
}

/// The defaults of the option table.
#[derive(Debug, Clone)]
struct Defaults;

impl Source for Defaults {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }
    fn collect(&self) -> Result<Map<String, Value>, LayerError> {
        let globals: Section = options::all()
            .filter(|spec| spec.is_global() && !spec.default.is_empty())
            .map(|spec| {
                let values = if spec.is_list() {
                    spec.default.split(' ').map(Text::default_value).collect()
                } else {
                    vec![Text::default_value(spec.default)]
                };
                (spec.name.to_owned(), values)
            })
            .collect();
        Ok(to_layer(&globals, &[]))
    }
}

/// `MOSQUORUM_<OPTION>` for every option that is not bound to a listener or bridge, and Mosquitto's
/// `MOSQUITTO_PERSISTENCE_LOCATION`.
#[derive(Debug, Clone)]
struct Environment(Section);

impl Environment {
    fn new(sources: &Sources, per_listener: bool, notes: &mut Vec<Note>) -> Result<Self, ConfigError> {
        let mut globals = Section::new();
        for (name, value) in &sources.environment {
            if value.trim().is_empty() {
                continue; // as if unset: container files cannot leave a variable out
            }
            let option = match name.strip_prefix("MOSQUORUM_") {
                Some(option) => option.to_ascii_lowercase(),
                None if name == "MOSQUITTO_PERSISTENCE_LOCATION" => "persistence_location".to_owned(),
                None => continue,
            };
            let Some(spec) = options::find(&option).filter(|spec| spec.is_global()) else {
                if !is_service_variable(&option) {
                    notes.push(Note::warning(format!(
                        "Warning: Environment variable {name} names no global option and is ignored."
                    )));
                }
                continue;
            };
            if let Some(reason) = spec.refusal(&lines::value(spec.extent, value).0) {
                return Err(ConfigError::refused(spec.name, reason).at(name));
            }
            if per_listener && spec.is_security() {
                return Err(ConfigError::new(format!(
                    "Error: The '{option}' option belongs to a listener with per_listener_settings true, set it in the file."
                ))
                .at(name));
            }
            let theirs = globals.contains_key(spec.canonical()) && name.starts_with("MOSQUITTO_");
            if !theirs {
                globals.insert(spec.canonical().to_owned(), environment_values(spec, name, value, notes)?);
            }
        }
        Ok(Self(globals))
    }
}

impl Source for Environment {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }
    fn collect(&self) -> Result<Map<String, Value>, LayerError> {
        Ok(to_layer(&self.0, &[]))
    }
}

/// A list option takes several values separated by commas.
fn environment_values(
    spec: &OptionSpec,
    name: &str,
    value: &str,
    notes: &mut Vec<Note>,
) -> Result<Vec<Text>, ConfigError> {
    let mut text = |written: &str| {
        let (text, unread) = lines::value(spec.extent, written);
        if let Some(unread) = unread {
            notes.push(Note::warning(lines::unread_word(spec, name, &unread).map_err(|error| error.at(name))?));
        }
        Ok(Text { text, origin: Some(name.to_owned()) })
    };
    if spec.is_list() {
        value.split(',').filter(|part| !part.trim().is_empty()).map(text).collect()
    } else {
        Ok(vec![text(value)?])
    }
}

/// What processes of ours set for each other (`daemon`), and what Kubernetes gives every pod for a service named `mosquorum`.
fn is_service_variable(option: &str) -> bool {
    matches!(option, "parent" | "detached" | "port") || option.starts_with("port_") || option.contains("service_")
}

/// `-q` and `-v`.
#[derive(Debug, Clone)]
struct Flags {
    log_all: Option<bool>,
}

impl Source for Flags {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }
    fn collect(&self) -> Result<Map<String, Value>, LayerError> {
        let mut globals = Section::new();
        if let Some(all) = self.log_all {
            let (text, flag) = if all { ("all", "-v") } else { ("none", "-q") };
            let text = Text { text: text.to_owned(), origin: Some(flag.to_owned()) };
            globals.insert("log_type".to_owned(), vec![text]);
        }
        Ok(to_layer(&globals, &[]))
    }
}
