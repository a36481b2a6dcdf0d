//! What `deploy/` describes, run for real without an engine: images, pods and stateful sets as processes in namespaces.
mod container;
mod image;
pub mod tools;

pub use container::{Container, Mount, Running, why_no_containers};
pub use image::Image;
