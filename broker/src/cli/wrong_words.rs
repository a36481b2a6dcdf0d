//! What clap has to say about wrong words, as one line in the form of all other errors.
//! Always true: the line begins with `Error: `, has no line break and says where to look.
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use std::error::Error as _;

/// `path`: the command that the words name.
pub(super) fn one_line(error: &Error, path: &str) -> String {
    let value = text(error, ContextKind::InvalidValue);
    let arg = text(error, ContextKind::InvalidArg);
    let option = arg.split(' ').next().unwrap_or_default();
    // A word that stands alone is named by the command that it belongs to.
    let place = if option.starts_with('-') { option } else { path };
    let what = match error.kind() {
        ErrorKind::UnknownArgument => format!("Unknown option '{arg}'"),
        ErrorKind::InvalidSubcommand => {
            format!("Unknown {path} command '{}'", text(error, ContextKind::InvalidSubcommand))
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            format!("{path} needs a command")
        }
        ErrorKind::MissingRequiredArgument => format!("{path} needs {arg}"),
        ErrorKind::ArgumentConflict => {
            format!("{option} and {} cannot be used together", text(error, ContextKind::PriorArg))
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            let name = arg.split_once(' ').map_or("value", |(_, name)| name);
            format!("{option} argument given, but no {name} specified")
        }
        ErrorKind::InvalidValue => {
            format!("{place}: '{value}' is none of {}", texts(error, ContextKind::ValidValue).join(", "))
        }
        ErrorKind::ValueValidation => match error.source() {
            Some(cause) => format!("{place}: {cause}"),
            None => format!("{place}: '{value}' is not possible"),
        },
        other => format!("{path}: {other}"),
    };
    format!("Error: {what}. Try {path} --help.").replace('\n', " ")
}

fn text(error: &Error, kind: ContextKind) -> String {
    texts(error, kind).join(" ")
}

/// Without the brackets around names of values.
fn texts(error: &Error, kind: ContextKind) -> Vec<String> {
    let all = match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    };
    all.iter().map(|text| text.replace(['<', '>'], "")).collect()
}
