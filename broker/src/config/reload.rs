//! SIGHUP: read everything again, apply what may change while running.
//! Always true: on error nothing changes; an option that is fixed at start keeps its old text, so settings are always
//! made of one consistent set of values.
use super::raw::Raw;
use super::section::{Section, Text};
use super::settings::ANY_ADDRESS;
use super::{ConfigError, Settings, build, lines, options};

/// What a reload changed and what it could not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// Options with a new value, each name once, sorted.
    pub changed: Vec<String>,
    /// Changes in the file that need a restart, each as `option` or `listener PORT`; the old values stay.
    pub needs_restart: Vec<String>,
}

impl Settings {
    /// Reads the same sources again. Listeners keep their order and number, so that the n-th one before is the n-th
    /// one after.
    /// # Errors
    /// What is wrong in the file; `self` stays what it is.
    pub fn reload(&self) -> Result<(Self, ReloadReport), ConfigError> {
        let mut report = ReloadReport::default();
        let written = Raw::read(&self.sources)?;
        build::build(written.clone(), &self.sources)?; // also what is not applied must be valid
        let raw = merge(&self.raw, written, &mut report);
        let settings = build::build(raw, &self.sources)?;
        report.changed.sort();
        report.changed.dedup();
        report.needs_restart.sort();
        report.needs_restart.dedup();
        Ok((settings, report))
    }
}

fn merge(old: &Raw, new: Raw, report: &mut ReloadReport) -> Raw {
    let globals = merge_section(&old.globals, new.globals, report);
    let mut left: Vec<Option<Section>> = new.listeners.into_iter().map(Some).collect();
    let mut listeners = Vec::with_capacity(old.listeners.len());
    for section in &old.listeners {
        let place = identity(section);
        let found = left
            .iter_mut()
            .find(|candidate| candidate.as_ref().is_some_and(|new| identity(new) == place))
            .and_then(Option::take);
        listeners.push(match found {
            Some(found) => merge_section(section, found, report),
            None => {
                report.needs_restart.push(format!("listener {} (removed)", place.join(" ")));
                section.clone()
            }
        });
    }
    for section in left.into_iter().flatten() {
        let place = identity(&section).join(" ");
        report.needs_restart.push(format!("listener {place} (added)"));
    }
    if old.bridges != new.bridges {
        report.changed.push("connection".to_owned());
    }
    Raw { globals, listeners, bridges: new.bridges, notes: new.notes }
}

/// What makes a listener the same one: its port and address, or its path.
fn identity(section: &Section) -> Vec<&str> {
    ["listener", "port", "bind_address"]
        .iter()
        .filter_map(|name| section.get(*name)?.last())
        .flat_map(|text| lines::words(&text.text))
        .filter(|word| *word != ANY_ADDRESS)
        .collect()
}

fn merge_section(old: &Section, new: Section, report: &mut ReloadReport) -> Section {
    let mut merged = Section::new();
    let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
    for name in names {
        let (before, after) = (old.get(name), new.get(name));
        let reloads = options::find(name).is_some_and(|spec| spec.reload);
        if words(before) != words(after) {
            let names = if reloads { &mut report.changed } else { &mut report.needs_restart };
            names.push(name.clone());
        }
        if let Some(texts) = if reloads { after } else { before } {
            merged.insert(name.clone(), texts.clone());
        }
    }
    merged
}

/// Where a value stands does not matter.
fn words(texts: Option<&Vec<Text>>) -> Vec<&str> {
    texts.into_iter().flatten().map(|text| text.text.as_str()).collect()
}
