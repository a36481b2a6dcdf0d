//! Configuration: mosquitto.conf, environment and flags become validated types, once, at start or reload.
//! Always true: no option is ignored. Each option of Mosquitto 2.1 is in one table ([`options`]) as supported,
//! accepted with a note, or refused with a reason; an unknown one, or a bad value, is one line that says where.
//! Layers: defaults < file (with `include_dir`) < environment `MOSQUORUM_<OPTION>` < flags.
//! Not here: the files that options name (passwords, ACL: `auth`; certificates: the TLS loader).
mod bridge_settings;
mod bridges;
mod build;
mod error;
mod lines;
pub mod options;
mod plugins;
mod raw;
mod reload;
mod section;
mod sections;
mod settings;
mod values;

#[cfg(test)]
mod tests;

pub use crate::logging::Level;
pub use bridge_settings::{BridgeConfig, BridgeTls, RemoteAddress, Secret, TcpKeepAlive};
pub use error::{ConfigError, EXIT_INVALID, EXIT_START, Note};
pub use raw::Sources;
pub use reload::ReloadReport;
pub use settings::*;

impl Settings {
    /// Reads everything and checks it.
    /// # Errors
    /// The first thing that is wrong, see [`ConfigError`].
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        build::build(raw::Raw::read(sources)?, sources)
    }
}
