//! What `deploy/` describes, run for real without an engine: images, pods and stateful sets as processes in namespaces.
mod container;
pub mod dockerfile;
mod image;
mod kubelet;
mod manifests;
pub mod rounds;
mod service;
mod simulator;
pub mod tools;
mod volumes;

pub use container::{Container, Mount, Running, why_no_containers};
pub use image::Image;
pub use kubelet::Tally;
pub use simulator::Simulator;
