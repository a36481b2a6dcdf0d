//! The structure of a bridge section. Not here: the types of its values, which the bridge makes from the text.
use super::ConfigError;
use super::lines::Directive;
use super::options::{OptionSpec, Repeat};
use super::section::BridgeSection;

/// Adds one line below `connection`.
pub(super) fn add(bridge: &mut BridgeSection, spec: &OptionSpec, line: &Directive) -> Result<(), ConfigError> {
    let name = spec.canonical();
    let before = has(bridge, name);
    if before && name == "address" {
        return Err(ConfigError::new("Error: Invalid bridge configuration, 'address' only allowed once."));
    }
    if before && spec.repeat == Repeat::Error {
        return Err(ConfigError::duplicate(&line.key));
    }
    if name == "topic" {
        check_topic_quotes(&line.rest)?;
    }
    bridge.directives.push((name.to_owned(), line.rest.clone(), line.origin.clone()));
    Ok(())
}

/// What must be there once the section is complete.
pub(super) fn check(bridge: &BridgeSection) -> Result<(), ConfigError> {
    let missing = if !has(bridge, "address") {
        "no remote addresses defined"
    } else if !has(bridge, "topic") {
        "no topics defined"
    } else if has(bridge, "bridge_psk") && !has(bridge, "bridge_identity") {
        "missing bridge_identity"
    } else if has(bridge, "bridge_identity") && !has(bridge, "bridge_psk") {
        "missing bridge_psk"
    } else {
        return Ok(());
    };
    let error = ConfigError::new(format!("Error: Invalid bridge configuration: {missing}."));
    Err(error.at(&bridge.origin))
}

fn has(bridge: &BridgeSection, name: &str) -> bool {
    bridge.directives.iter().any(|(option, _, _)| option == name)
}

/// A topic with blanks stands between quotes; `""` is the empty topic.
fn check_topic_quotes(text: &str) -> Result<(), ConfigError> {
    let (first, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    if first.starts_with('"') && !first[1..].contains('"') && !rest.contains('"') {
        return Err(ConfigError::new(format!("Error: Missing closing quote in topic value ({rest}).")));
    }
    Ok(())
}
