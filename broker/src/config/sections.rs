//! What a directive belongs to: the whole broker, the listener or bridge above it, a plugin.
//! Always true: order matters here and nowhere after; a directive is put into exactly one section or is an error;
//! an error in the structure of the file is reported before one in a value.
use super::lines::{self, Directive};
use super::options::{self, OptionSpec, Place, Repeat, Scope, Support};
use super::plugins::Plugins;
use super::section::{self, BridgeSection, Section, Text};
use super::{ConfigError, Note, bridges, values};
use config::{ConfigError as LayerError, Map, Source, Value};
use std::path::Path;

/// A read file with all that it includes: the second layer of the configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct FileSource {
    globals: Section,
    listeners: Vec<Section>,
    pub(super) bridges: Vec<BridgeSection>,
    pub(super) notes: Vec<Note>,
    /// The listener that options made by themselves.
    default_listener: Option<usize>,
    per_listener: bool,
    security_seen: bool,
    plugins: Plugins,
    /// What is refused as a whole; a mistake in a line goes before it.
    deferred: Option<ConfigError>,
}

impl Source for FileSource {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }
    fn collect(&self) -> Result<Map<String, Value>, LayerError> {
        Ok(section::to_layer(&self.globals, &self.listeners))
    }
}

/// What the lines of one file stand below.
#[derive(Default)]
struct Cursor {
    listener: Option<usize>,
    bridge: Option<usize>,
    plugin: Option<usize>,
    included: bool,
}

impl FileSource {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut source = Self::default();
        source.file(path, false)?;
        source.finish()?;
        Ok(source)
    }

    /// `per_listener_settings true`: security options belong to listeners.
    pub(super) fn per_listener_settings(&self) -> bool {
        self.per_listener
    }

    fn file(&mut self, path: &Path, included: bool) -> Result<(), ConfigError> {
        let mut cursor = Cursor { included, ..Cursor::default() };
        for directive in lines::read(path)? {
            self.directive(&directive, &mut cursor).map_err(|error| error.at(&directive.origin))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConfigError> {
        for bridge in &self.bridges {
            bridges::check(bridge)?;
        }
        let (plugins, listeners) = (&self.plugins, &mut self.listeners);
        plugins.finish(&mut self.globals, listeners)?;
        match self.deferred.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn directive(&mut self, line: &Directive, cursor: &mut Cursor) -> Result<(), ConfigError> {
        let key = line.key.as_str();
        let spec = options::find(key).ok_or_else(|| ConfigError::unknown(key))?;
        self.notes.extend(line.check_end(spec)?);
        match spec.scope {
            Scope::Plugin => return self.plugin(line, cursor),
            Scope::Bridge => return self.bridge(spec, line, cursor),
            Scope::Structure => return self.structure(spec, line, cursor),
            Scope::Global | Scope::Security | Scope::Listener(_) => {}
        }
        if let Scope::Listener(place) = spec.scope {
            self.require_listener(key, place, cursor)?;
        }
        if spec.is_security() && self.per_listener && cursor.listener.is_none() {
            return Err(needs_listener(key));
        }
        if line.rest.is_empty() && !matches!(spec.state, Support::Accepted(_)) {
            return Err(ConfigError::empty(key));
        }
        if let Some(reason) = spec.refusal(&line.rest) {
            return Err(ConfigError::refused(key, reason));
        }
        if key == "per_listener_settings" && !self.set_per_listener(line)? {
            return Ok(());
        }
        self.note(spec, key);
        let section = self.section(spec, cursor);
        // With per_listener_settings, the two names of these options mean the same.
        let name = match (section.is_some(), spec.canonical()) {
            (true, "allow_anonymous") => "listener_allow_anonymous",
            (true, "auto_id_prefix") => "listener_auto_id_prefix",
            (_, name) => name,
        };
        let section = match section {
            Some(index) => &mut self.listeners[index],
            None => &mut self.globals,
        };
        insert(section, name, spec, line)
    }

    /// The listener that the value belongs to; `None`: the whole broker.
    fn section(&mut self, spec: &OptionSpec, cursor: &Cursor) -> Option<usize> {
        match spec.scope {
            Scope::Security => {
                self.security_seen = true;
                cursor.listener.filter(|_| self.per_listener)
            }
            Scope::Listener(_) => cursor.listener,
            _ => None,
        }
    }

    fn require_listener(&mut self, key: &str, place: Place, cursor: &mut Cursor) -> Result<(), ConfigError> {
        match (place, cursor.listener) {
            (Place::OrDefault, None) => cursor.listener = Some(self.default_listener(key)),
            (Place::Any, None) | (Place::Explicit, None) => return Err(needs_listener(key)),
            (Place::Explicit, Some(_)) if cursor.listener == self.default_listener => {
                return Err(needs_listener(key));
            }
            _ => {}
        }
        Ok(())
    }

    fn default_listener(&mut self, key: &str) -> usize {
        if let Some(index) = self.default_listener {
            return index;
        }
        self.notes.push(Note::info(format!(
            "Creating default listener due to '{key}' option. Better define a 'listener' first."
        )));
        self.listeners.push(Section::new());
        *self.default_listener.insert(self.listeners.len() - 1)
    }

    /// Whether the line is to be kept.
    fn set_per_listener(&mut self, line: &Directive) -> Result<bool, ConfigError> {
        if self.per_listener {
            return Ok(false); // once on, it stays on
        }
        self.per_listener = values::switch(&line.key, &line.rest)?;
        if self.per_listener && self.security_seen {
            return Err(ConfigError::new(
                "Error: per_listener_settings must be set before any other security settings.",
            ));
        }
        Ok(true)
    }

    /// What an operator should know about the use of this option.
    fn note(&mut self, spec: &OptionSpec, key: &str) {
        let text = match key {
            "retry_interval" => "Warning: The 'retry_interval' option is no longer available.".to_owned(),
            "message_size_limit" => {
                "Note: It is recommended to replace 'message_size_limit' with 'max_packet_size'.".to_owned()
            }
            "auto_id_prefix" | "allow_anonymous" if self.per_listener => {
                format!("The '{key}' option stands below a listener, 'listener_{key}' says so more clearly.")
            }
            "allow_duplicate_messages" | "clientid_prefixes" | "per_listener_settings" => {
                format!("The '{key}' option is deprecated.")
            }
            _ => match spec.state {
                Support::Accepted(note) => format!("The '{key}' option is accepted, but {note}."),
                _ => return,
            },
        };
        let note = if text.starts_with("Warning") { Note::warning(text) } else { Note::notice(text) };
        self.notes.push(note);
    }

    fn structure(&mut self, spec: &OptionSpec, line: &Directive, cursor: &mut Cursor) -> Result<(), ConfigError> {
        let key = line.key.as_str();
        if line.rest.is_empty() {
            let name = if key == "listener" { "listener port" } else { key };
            return Err(ConfigError::empty(name));
        }
        match key {
            "include_dir" => return self.include(line, cursor),
            "listener" => {
                self.listeners.push(Section::new());
                cursor.listener = Some(self.listeners.len() - 1);
            }
            _ => {
                self.notes.push(Note::notice(format!("The '{key}' option is deprecated, use 'listener' instead.")));
                let index = self.default_listener(key);
                cursor.listener = Some(index);
                if key == "port" && self.listeners[index].contains_key("port") {
                    self.notes.push(Note::warning(
                        "Warning: Default listener port specified multiple times. Only the latest will be used.",
                    ));
                }
            }
        }
        let index = cursor.listener.expect("set in both arms above");
        insert(&mut self.listeners[index], key, spec, line)
    }

    fn include(&mut self, line: &Directive, cursor: &Cursor) -> Result<(), ConfigError> {
        if cursor.included {
            return Err(ConfigError::new(
                "Error: The include_dir option is only valid in the main configuration file.",
            ));
        }
        for file in lines::include_files(&line.rest)? {
            let name = file.display();
            self.notes.push(Note::info(format!("Loading config file '{name}'")));
            self.file(&file, true)?;
        }
        Ok(())
    }

    fn bridge(&mut self, spec: &'static OptionSpec, line: &Directive, cursor: &mut Cursor) -> Result<(), ConfigError> {
        let key = line.key.as_str();
        if key == "connection" {
            let name = values::word(key, &line.rest)?;
            if self.bridges.iter().any(|bridge| bridge.name == name) {
                return Err(ConfigError::new(format!("Error: Duplicate bridge name '{name}'.")));
            }
            self.bridges.push(BridgeSection {
                name: name.to_owned(),
                origin: line.origin.clone(),
                directives: Vec::new(),
            });
            cursor.bridge = Some(self.bridges.len() - 1);
            return Ok(());
        }
        let Some(index) = cursor.bridge else {
            return Err(ConfigError::new(format!("Error: The '{key}' option requires a bridge to be defined first.")));
        };
        if line.rest.is_empty() {
            return Err(ConfigError::empty(key));
        }
        self.note(spec, key);
        bridges::add(&mut self.bridges[index], spec, line)
    }

    fn plugin(&mut self, line: &Directive, cursor: &mut Cursor) -> Result<(), ConfigError> {
        let key = line.key.as_str();
        let mut listener = None;
        match key {
            "auth_plugin" | "plugin" => {
                if self.per_listener && cursor.listener.is_none() {
                    return Err(needs_listener(key));
                }
                self.security_seen = true;
                listener = cursor.listener.filter(|_| self.per_listener);
            }
            "plugin_use" => {
                self.require_listener(key, Place::Explicit, cursor)?;
                listener = cursor.listener;
            }
            _ => {}
        }
        let refused = self.plugins.directive(line, listener, &mut cursor.plugin)?;
        if let Some(error) = refused {
            self.deferred.get_or_insert(error.at(&line.origin));
        }
        Ok(())
    }
}

fn needs_listener(key: &str) -> ConfigError {
    ConfigError::new(format!("Error: The '{key}' option requires a listener to be defined first."))
}

fn insert(section: &mut Section, name: &str, spec: &OptionSpec, line: &Directive) -> Result<(), ConfigError> {
    let texts = section.entry(name.to_owned()).or_default();
    if spec.repeat == Repeat::Error && !texts.is_empty() {
        return Err(ConfigError::duplicate(&line.key));
    }
    texts.push(Text { text: line.rest.clone(), origin: Some(line.origin.clone()) });
    Ok(())
}
