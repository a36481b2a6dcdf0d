//! Chaos runs: a cluster of processes (or one node) under load, broken again and again, then healed, drained and judged
//! by every checker.
//! Always true: a run is decided by its seed as far as processes and networks allow; a run that did not happen as it
//! should (too few acknowledgements, faults without effect) counts neither for nor against the broker.
pub mod actors;
pub mod contest;
pub mod nemesis;
pub mod report;
pub mod rest;
pub mod run;
pub mod table;
mod witness;
pub mod workload;

pub use nemesis::Nemesis;
pub use report::Outcome;
pub use run::{ChaosOptions, run};
