//! Whether a node hands its clients over, and where they can go.
use crate::config::{ListenAddress, ListenerProtocol, ListenerSettings, Settings};
use arc_swap::ArcSwap;
use mosquorum_cluster::{ClientListener, Neighbour, ids::NodeId};
use mosquorum_proto::mqtt::Utf8;
use std::{
    net::IpAddr,
    sync::atomic::{
        AtomicBool, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
};

/// Whether this node hands its clients over, and where to.
#[derive(Default)]
pub struct Drain {
    pub(super) on: AtomicBool,
    /// How often one was cancelled.
    pub(super) cancelled: AtomicUsize,
    /// Nodes that leave together with this one.
    pub(super) leaving: ArcSwap<Vec<NodeId>>,
    pub(super) others: ArcSwap<Vec<Neighbour>>,
    next: AtomicUsize,
}

impl Drain {
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Whether nobody has cancelled since.
    pub(super) fn still(&self, turn: usize) -> bool {
        self.cancelled.load(SeqCst) == turn
    }

    /// Where a client of this listener can go: to the other nodes in turn.
    pub fn reference(&self, listener: &ListenerSettings) -> Option<Utf8> {
        let others = self.others.load();
        let places: Vec<&str> = others.iter().filter_map(|other| fitting(&other.listeners, listener)).collect();
        let turn = self.next.fetch_add(1, Relaxed);
        places.get(turn % places.len().max(1)).map(|place| Utf8::from(*place))
    }
}

/// The listener that speaks as this one does: on the same port, or else the first.
fn fitting<'a>(theirs: &'a [ClientListener], ours: &ListenerSettings) -> Option<&'a str> {
    let websockets = ours.protocol == ListenerProtocol::Websockets;
    let alike = || theirs.iter().filter(|other| other.tls == ours.tls.is_some() && other.websockets == websockets);
    let same_port = alike().find(|other| other.port == ours.address.port());
    same_port.or_else(|| alike().next()).map(|other| other.reference.as_str())
}

/// What other nodes may send their clients about this one.
#[must_use]
pub fn listeners_for_others(settings: &Settings) -> Vec<ClientListener> {
    let Some(reference) = &settings.server_reference else { return Vec::new() };
    let of_this_machine = |host: &str| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let each = settings.listeners.iter().filter_map(|listener| {
        let ListenAddress::Tcp { port, host, .. } = &listener.address else { return None };
        if host.as_deref().is_some_and(of_this_machine) && !of_this_machine(reference) {
            return None;
        }
        let host = if reference.contains(':') { format!("[{reference}]") } else { reference.clone() };
        Some(ClientListener {
            reference: format!("{host}:{port}"),
            port: *port,
            tls: listener.tls.is_some(),
            websockets: listener.protocol == ListenerProtocol::Websockets,
        })
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use std::sync::Arc;

    fn settings(text: &str) -> Settings {
        let name = format!("mosquorum-drain-{}-{:?}.conf", std::process::id(), std::thread::current().id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, text).expect("a temporary file");
        let sources = Sources { file: Some(file.clone()), ..Sources::default() };
        let settings = Settings::load(&sources).expect("a good configuration");
        let _ = std::fs::remove_file(&file);
        settings
    }

    const CLUSTER: &str = "cluster_listener 7883\ncluster_insecure true\ncluster_advertise node-1.example:7883\n";

    #[test]
    fn others_get_the_listeners_that_their_clients_can_reach() {
        let references = |text: &str| -> Vec<String> {
            listeners_for_others(&settings(text)).into_iter().map(|listener| listener.reference).collect()
        };
        let listeners =
            "listener 1883\nlistener 1884 127.0.0.1\nlistener 0 /tmp/x.sock\nlistener 9001\nprotocol websockets\n";
        assert_eq!(references(&format!("{CLUSTER}{listeners}")), ["node-1.example:1883", "node-1.example:9001"]);
        let elsewhere = format!("{CLUSTER}server_reference ::1\n{listeners}");
        assert_eq!(references(&elsewhere), ["[::1]:1883", "[::1]:1884", "[::1]:9001"]);
        assert!(references(&format!("{CLUSTER}server_reference none\n{listeners}")).is_empty());
        assert!(references(listeners).is_empty());
    }

    #[test]
    fn clients_go_to_the_other_nodes_in_turn_and_stay_with_their_kind_of_listener() {
        let listener = |reference: &str, port, websockets| ClientListener {
            reference: reference.to_owned(),
            port,
            tls: false,
            websockets,
        };
        let drain = Drain::default();
        let ours = settings("listener 1883\nlistener 9001\nprotocol websockets\n").listeners;
        assert_eq!(drain.reference(&ours[0]), None);
        let neighbour = |listeners| Neighbour { listeners, ..Neighbour::default() };
        drain.others.store(Arc::new(vec![
            neighbour(vec![listener("b:1884", 1884, false), listener("b:1883", 1883, false)]),
            neighbour(vec![listener("c:9002", 9002, true), listener("c:1885", 1885, false)]),
            neighbour(Vec::new()),
        ]));
        let references: Vec<String> = (0..4).filter_map(|_| drain.reference(&ours[0])).map(|r| r.to_string()).collect();
        assert!(
            references == ["c:1885", "b:1883", "c:1885", "b:1883"]
                || references == ["b:1883", "c:1885", "b:1883", "c:1885"]
        );
        assert_eq!(drain.reference(&ours[1]).as_deref(), Some("c:9002"));
    }
}
