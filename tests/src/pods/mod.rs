//! What `deploy/` describes, run for real without an engine: images, pods and stateful sets as processes in namespaces.
pub mod tools;
