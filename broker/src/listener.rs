//! A listener and where its clients come from.
//! Always true: settings and rules of a listener are replaced whole, never changed in place.
//! Not here: its sockets (`accept`).
use crate::{
    auth::{Authentication, ClientAcl, Login, PasswordVerifier, Security, Source},
    carrier::{Acceptor, TlsAcceptorSlot},
    config::{ListenAddress, ListenerSettings},
    live::Clients,
};
use arc_swap::ArcSwap;
use mosquorum_cluster::state::Door;
use mosquorum_proto::mqtt::{Connect, QoS, Utf8};
use std::sync::{Arc, atomic::AtomicUsize};

/// Where a client comes from, for logs and rules.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Without the port; empty for a unix socket.
    pub address: String,
    pub port: u16,
}

/// One `listener` of the configuration, with the rules that hold for its clients.
pub struct Listener {
    settings: ArcSwap<ListenerSettings>,
    pub security: ArcSwap<Security>,
    pub tls: TlsAcceptorSlot,
    pub connections: AtomicUsize,
    pub clients: Clients,
    /// For connections of our own: no window holds them back.
    pub is_internal: bool,
}

impl Listener {
    pub fn new(settings: ListenerSettings, security: Arc<Security>, tls: Option<Arc<Acceptor>>) -> Self {
        Self {
            settings: ArcSwap::from_pointee(settings),
            security: ArcSwap::new(security),
            tls: TlsAcceptorSlot::new(tls),
            connections: AtomicUsize::new(0),
            clients: Clients::default(),
            is_internal: false,
        }
    }

    /// What bridges' sessions come through.
    pub fn internal(settings: ListenerSettings, security: Arc<Security>) -> Self {
        Self { is_internal: true, ..Self::new(settings, security, None) }
    }

    pub fn replace(&self, settings: ListenerSettings, security: Arc<Security>, tls: Option<Arc<Acceptor>>) {
        self.settings.store(Arc::new(settings));
        self.security.store(security);
        self.tls.replace(tls);
    }

    pub fn settings(&self) -> Arc<ListenerSettings> {
        self.settings.load_full()
    }

    /// What clients' sessions know it by. Nodes of a cluster name the same port or socket alike.
    pub fn door(&self) -> Door {
        if self.is_internal {
            return Door::INTERNAL;
        }
        match &self.settings.load().address {
            ListenAddress::Tcp { port, .. } => Door(u32::from(*port)),
            ListenAddress::Unix(path) => {
                let hash = ring::digest::digest(&ring::digest::SHA256, path.as_os_str().as_encoded_bytes());
                let bytes = hash.as_ref();
                // Above all ports.
                Door(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) | 1 << 31)
            }
        }
    }

    pub fn max_qos(&self) -> QoS {
        match self.settings.load().max_qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    pub fn access(&self, client_id: &str, username: Option<&Utf8>) -> ClientAcl {
        self.security.load().rights(client_id, username.map(|name| name.as_str()))
    }

    /// What of user name and password lets the client in.
    /// # Errors
    /// The answer it gets instead.
    pub async fn lets_in(
        &self,
        verifier: &PasswordVerifier,
        connect: &Connect,
        source: Source,
    ) -> Result<Login, Authentication> {
        let security = self.security.load_full();
        let username = connect.user_name.as_deref();
        match security.authenticate(verifier, username, connect.password.as_deref(), source).await {
            Authentication::Granted => Ok(security.login(username)),
            refused => Err(refused),
        }
    }
}
