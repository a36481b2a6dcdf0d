//! Plugin lines. Two libraries of Mosquitto are built in here and known by their file names; no other can be loaded.
//! Always true: a plugin's file goes before the `acl_file` or `password_file` of the same listener, and a global
//! plugin's before a listener's, since the first one that answers decides.
use super::ConfigError;
use super::lines::Directive;
use super::section::{Section, Text};

/// Where the files of plugins stand among the options; no option has these names.
pub(super) const ACL_FILE: &str = "plugin: acl_file";
pub(super) const PASSWORD_FILE: &str = "plugin: password_file";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    AclFile,
    PasswordFile,
    /// Refused; kept so that the lines below it have something to stand below.
    Other,
}

#[derive(Debug, Clone)]
struct Plugin {
    /// `plugin_load NAME`
    name: Option<String>,
    kind: Kind,
    origin: String,
    file: Option<Text>,
    /// Listeners; `None`: the whole broker.
    used_by: Vec<Option<usize>>,
}

/// All that the file loads.
#[derive(Debug, Clone, Default)]
pub(super) struct Plugins(Vec<Plugin>);

impl Plugins {
    /// Takes one plugin line. `listener`: whom a `plugin` or `plugin_use` serves; `current`: the one that options are
    /// for. Returns what is refused as a whole.
    pub(super) fn directive(
        &mut self,
        line: &Directive,
        listener: Option<usize>,
        current: &mut Option<usize>,
    ) -> Result<Option<ConfigError>, ConfigError> {
        let (key, rest) = (line.key.as_str(), line.rest.as_str());
        match key {
            "auth_plugin" | "plugin" | "global_plugin" => {
                let refused = self.load(None, rest, line)?;
                let index = self.0.len() - 1;
                *current = Some(index);
                self.0[index].used_by.push(listener);
                Ok(refused)
            }
            "plugin_load" => {
                if rest.is_empty() {
                    return Err(ConfigError::empty(key));
                }
                let (name, path) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
                let refused = self.load(Some(name), path.trim(), line)?;
                *current = Some(self.0.len() - 1);
                Ok(refused)
            }
            "plugin_use" => {
                if rest.is_empty() {
                    return Err(ConfigError::empty(key));
                }
                let found = self.0.iter().position(|plugin| plugin.name.as_deref() == Some(rest));
                let Some(index) = found else {
                    return Err(ConfigError::new(format!("Error: Plugin '{rest}' not previously loaded.")));
                };
                *current = Some(index);
                self.0[index].used_by.push(listener);
                Ok(None)
            }
            "auth_plugin_deny_special_chars" => match current {
                Some(_) => super::values::switch(key, rest).map(|_| None),
                None => Err(needs_plugin(key)),
            },
            _ => {
                let option = key.strip_prefix("plugin_opt_").or(key.strip_prefix("auth_opt_"));
                let index = current.ok_or_else(|| needs_plugin(key))?;
                self.option(index, option.unwrap_or_default(), line)
            }
        }
    }

    fn load(&mut self, name: Option<&str>, path: &str, line: &Directive) -> Result<Option<ConfigError>, ConfigError> {
        if let Some(name) = name
            && self.0.iter().any(|plugin| plugin.name.as_deref() == Some(name))
        {
            return Err(ConfigError::new(format!("Error: Duplicate plugin name '{name}'.")));
        }
        if path.is_empty() {
            let name = name.unwrap_or(&line.key);
            return Err(ConfigError::new(format!("Error: Missing plugin path for plugin name '{name}'.")));
        }
        let kind = match path.rsplit('/').next() {
            Some("mosquitto_acl_file.so") => Kind::AclFile,
            Some("mosquitto_password_file.so") => Kind::PasswordFile,
            _ => Kind::Other,
        };
        self.0.push(Plugin {
            name: name.map(str::to_owned),
            kind,
            origin: line.origin.clone(),
            file: None,
            used_by: Vec::new(),
        });
        let refused = || {
            ConfigError::new(format!(
                "Error: Plugin '{path}' cannot be loaded: only mosquitto_acl_file.so and mosquitto_password_file.so are built in, other plugins are not supported yet."
            ))
        };
        Ok((kind == Kind::Other).then(refused))
    }

    fn option(&mut self, index: usize, option: &str, line: &Directive) -> Result<Option<ConfigError>, ConfigError> {
        if option.is_empty() {
            return Err(ConfigError::new("Error: Invalid 'plugin_opt_' config option."));
        }
        if line.rest.is_empty() {
            return Err(ConfigError::empty(option));
        }
        let plugin = &mut self.0[index];
        let (name, expected) = match plugin.kind {
            Kind::AclFile => ("acl-file", "acl_file"),
            Kind::PasswordFile => ("password-file", "password_file"),
            Kind::Other => return Ok(None),
        };
        if option != expected {
            return Err(ConfigError::new(format!("{name}: Error: Unknown option '{option}'. Expected {expected}.")));
        }
        plugin.file = Some(Text { text: line.rest.clone(), origin: Some(line.origin.clone()) });
        Ok(None)
    }

    /// Puts the files where the listeners find them.
    pub(super) fn finish(&self, globals: &mut Section, listeners: &mut [Section]) -> Result<(), ConfigError> {
        for plugin in &self.0 {
            let (key, file) = match (plugin.kind, &plugin.file) {
                (Kind::AclFile, Some(file)) => (ACL_FILE, file),
                (Kind::PasswordFile, Some(file)) => (PASSWORD_FILE, file),
                (Kind::PasswordFile, None) => {
                    let error = "Error: mosquitto_password_file.so needs plugin_opt_password_file.";
                    return Err(ConfigError::new(error).at(&plugin.origin));
                }
                (Kind::AclFile, None) | (Kind::Other, _) => continue,
            };
            for user in &plugin.used_by {
                let section = match user {
                    Some(index) => &mut listeners[*index],
                    None => &mut *globals,
                };
                section.entry(key.to_owned()).or_default().push(file.clone());
            }
        }
        Ok(())
    }
}

fn needs_plugin(key: &str) -> ConfigError {
    ConfigError::new(format!(
        "Error: The '{key}' option requires plugin/global_plugin/plugin_load to be defined first."
    ))
}
