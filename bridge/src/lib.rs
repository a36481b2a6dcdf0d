//! The logic of a bridge: an MQTT client towards a remote broker, fed from a session of the local one.
//! Always true: no I/O, clock or randomness in here; time and random numbers come in, packets go out. Packet identifiers
//! towards the remote are a fixed function of those of the local session, so that whoever goes on with the local session
//! goes on with every handshake, and nothing of a bridge needs a place of its own on disk.
//! Not here: sockets, TLS, name resolution, placement in a cluster (`broker::bridges`).
mod addresses;
mod backoff;
mod relay;
mod settings;
mod topic_index;
mod topics;

/// User property of CONNECT (MQTT 5.0 section 3.1.2.11.8) of a bridge with `bridge_loop_mark`: it understands [`LOOP_ID_PROPERTY`].
pub const LOOP_IDS_PROPERTY: &str = "mosquorum-marks";
/// User property of a message between such a bridge and its brokers: what makes the message recognisable.
pub const LOOP_ID_PROPERTY: &str = "mosquorum-mark";

pub use addresses::Addresses;
pub use backoff::{Backoff, RestartTimeout};
pub use relay::{Beginning, Counts, KEPT, Limits, Relay, RelayEnd, Remote, SentRetained};
pub use settings::{BridgeSettings, ReloadType, StartType};
pub use topics::{Direction, Topic, TopicLineError, Topics};
