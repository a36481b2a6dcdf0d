//! A cluster bridged to a hub while the link is cut, the bridging node is killed and the hub is restarted: what was
//! acknowledged on one side must come out on the other, in order, and exactly once with QoS 2.
//! Always true: a message whose acknowledgement was not seen may or may not arrive; every other one must.
mod link;
mod recorder;
mod run;
mod traffic;
mod verdict;

pub use run::{BridgedOptions, HubKind, OutageOptions, outage, run};
