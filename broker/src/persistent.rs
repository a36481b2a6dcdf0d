//! From settings to the replicated state on disk and the links to other nodes.
//! Always true: a node alone keeps its checkpoint in `persistence_file`; log and state store lie beside it in
//! `<persistence_file>.d`; a failed fsync ends the process at once, with a line that says so.
use crate::{
    config::{Autosave, Settings},
    logging,
};
use mosquorum_cluster::{Consensus, Fatal, LiveSide, Peers, Persistence, RaftSettings, transport::PemPaths};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

/// After a failed fsync: the kernel has marked the pages clean, so nothing may be acknowledged any more.
const EXIT_STORAGE: i32 = 1;

/// Opens storage and starts the consensus; it goes on joining its cluster in the background.
pub async fn join(
    settings: &Settings,
    live: Arc<dyn LiveSide>,
) -> Result<(Arc<dyn Consensus>, Arc<dyn Peers>), String> {
    let fatal: Fatal = Arc::new(|reason| {
        crate::error!("Error: {reason}. The node stops, so that nothing is acknowledged that is not on disk.");
        logging::flush();
        std::process::exit(EXIT_STORAGE);
    });
    let raft = raft_settings(settings);
    let (consensus, peers) =
        mosquorum_cluster::live::start(raft, live, fatal).await.map_err(|error| format!("Error: {error}"))?;
    Ok((consensus, peers))
}

pub(crate) fn raft_settings(settings: &Settings) -> RaftSettings {
    let file = settings.persistence.path();
    let mut data_dir = file.clone().into_os_string();
    data_dir.push(".d");
    let mut raft = RaftSettings::alone(PathBuf::from(data_dir), &settings.cluster.name);
    raft.persistence = Persistence::Disk;
    raft.commit_timeout = settings.cluster.commit_timeout;
    match settings.persistence.autosave {
        Autosave::Every(interval) => raft.autosave_interval = Some(interval),
        // An entry of the log holds one change or, under load, many that came together.
        Autosave::AfterChanges(changes) => raft.autosave_entries = Some(u64::from(changes.get())),
        Autosave::Never => {}
    }
    match &settings.cluster.links {
        None => raft.snapshot_path = Some(file),
        Some(links) => {
            raft.advertise = links.advertise.to_string();
            raft.client_listeners = crate::drain::state::listeners_for_others(settings);
            raft.listen = Some(SocketAddr::new(links.bind.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), links.port));
            raft.peers = links.peers.iter().map(ToString::to_string).collect();
            raft.allow = links.allow.clone();
            raft.found_alone = links.new;
            raft.tls = links.tls.as_ref().map(|tls| PemPaths {
                ca: tls.cafile.clone(),
                certificate: tls.certfile.clone(),
                key: tls.keyfile.clone(),
                revoked: tls.crlfile.clone(),
            });
        }
    }
    raft
}
