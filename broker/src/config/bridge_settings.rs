//! What a bridge runs with, beside what its logic needs (`mosquorum_bridge::BridgeSettings`): addresses, sockets, TLS.
//! Always true: two bridges with equal settings behave the same, so a reload touches only those that differ; a password
//! is never printed.
use super::TlsVersion;
use mosquorum_bridge::BridgeSettings;
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

/// One `connection` block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    pub settings: Arc<BridgeSettings>,
    /// `address`: at least one; the first is the primary unless `round_robin`.
    pub addresses: Vec<RemoteAddress>,
    /// `bridge_bind_address`
    pub bind_address: Option<String>,
    /// `bridge_tcp_keepalive`
    pub tcp_keepalive: Option<TcpKeepAlive>,
    /// `bridge_tcp_user_timeout`
    pub tcp_user_timeout: Option<Duration>,
    /// `bridge_cafile` and the options around it. `None`: no TLS.
    pub tls: Option<BridgeTls>,
    /// `remote_password`
    pub password: Option<Secret>,
    /// `remote_password_file`: read at each connect, without a line end.
    pub password_file: Option<PathBuf>,
}

/// Host or address, and port; resolved at each attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteAddress {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for RemoteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpKeepAlive {
    pub idle: Duration,
    pub interval: Duration,
    pub count: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeTls {
    pub cafile: Option<PathBuf>,
    pub capath: Option<PathBuf>,
    pub os_certs: bool,
    /// Certificate chain and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The certificate's names are not looked at.
    pub insecure: bool,
    pub alpn: Option<String>,
    pub min_version: TlsVersion,
    pub ciphers: Option<String>,
    pub ciphers_tls13: Option<String>,
}

/// Text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
