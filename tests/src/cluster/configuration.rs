//! The mosquitto.conf of a node under test.
use super::{ClusterOptions, network::Place};
use std::{fmt::Write, path::Path};

/// `cluster_name` of a node.
pub(super) fn node_name(node: usize) -> String {
    format!("node-{node}")
}

/// The file for `node`.
pub(super) fn text(
    options: &ClusterOptions,
    node: usize,
    places: &[Place],
    data: &Path,
    shared: &Path,
    admin_socket: &Path,
    mosquitto: bool,
) -> String {
    let place = &places[node];
    let mut text = String::new();
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    line("allow_anonymous true".into());
    line("log_dest stderr".into());
    // Started as root a broker would become `mosquitto`, which may not read our folders.
    line("user root".into());
    if !mosquitto {
        // All but debug, which has a line for each packet.
        for kind in ["error", "warning", "notice", "information", "subscribe", "unsubscribe", "websockets"] {
            line(format!("log_type {kind}"));
        }
    }
    line(format!("persistence {}", options.persistence));
    if options.persistence {
        line(format!("persistence_location {}/", data.display()));
    }
    if !mosquitto {
        line(format!("health_listener {} {}", place.health_address.port(), place.health_address.ip()));
    }
    if places.len() > 1 {
        line(format!("cluster_name {}", node_name(node)));
        line(format!("cluster_listener {} {}", place.cluster_address.port(), place.cluster_address.ip()));
        line(format!("cluster_advertise {}", place.cluster_address));
        for peer in places {
            line(format!("cluster_peer {}", peer.cluster_address));
        }
        line(format!("cluster_cafile {}", shared.join("ca.pem").display()));
        line(format!("cluster_certfile {}", shared.join(format!("node-{node}.pem")).display()));
        line(format!("cluster_keyfile {}", shared.join(format!("node-{node}.key")).display()));
        line(format!("cluster_admin_socket {}", admin_socket.display()));
    }
    options.global_lines.iter().cloned().for_each(&mut line);
    line(format!("listener {} {}", place.client_address.port(), place.client_address.ip()));
    options.listener_lines.iter().cloned().for_each(&mut line);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_alone_has_no_cluster_options_and_three_name_each_other() {
        let places = super::super::network::places("127.9.8.7".parse().expect("an address"), 3);
        let folder = Path::new("/data");
        let alone = text(&ClusterOptions::new("x", 1), 0, &places[..1], folder, folder, folder, false);
        assert!(!alone.contains("cluster_"));
        assert!(alone.contains("persistence false"));
        let one_of_three =
            text(&ClusterOptions::new("x", 3).with("max_queued_messages 0"), 1, &places, folder, folder, folder, false);
        assert_eq!(one_of_three.matches("cluster_peer ").count(), 3);
        assert!(one_of_three.contains("cluster_name node-1"));
        assert!(one_of_three.contains("max_queued_messages 0"));
    }
}
