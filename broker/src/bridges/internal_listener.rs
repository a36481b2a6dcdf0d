//! The listener of bridges' local sessions, which nobody else can connect to.
use crate::{
    auth::{Acl, Security},
    config::{ListenAddress, ListenerProtocol, ListenerSettings, ProtocolVersions, SecuritySettings},
    listener::Listener,
};
use std::sync::Arc;

/// What local sessions of bridges connect through: nothing is asked, everything is allowed.
pub(super) fn internal_listener() -> Arc<Listener> {
    let settings = ListenerSettings {
        address: ListenAddress::Unix("bridge".into()),
        protocol: ListenerProtocol::Mqtt,
        versions: ProtocolVersions { v3: false, v4: false, v5: true },
        max_connections: None,
        max_qos: 2,
        max_topic_alias: 0,
        max_topic_alias_broker: 0,
        mount_point: None,
        use_username_as_clientid: false,
        websockets_origins: Vec::new(),
        http_dir: None,
        proxy: None,
        tls: None,
        security: SecuritySettings {
            allow_anonymous: true,
            allow_zero_length_clientid: false,
            auto_id_prefix: String::new(),
            password_file: None,
            acl_file: None,
        },
    };
    let security = Security {
        allow_anonymous: true,
        allow_zero_length_clientid: false,
        auto_id_prefix: String::new(),
        clientid_prefixes: None,
        passwords: None,
        acl: Arc::new(Acl::open()),
    };
    Arc::new(Listener::internal(settings, Arc::new(security)))
}
