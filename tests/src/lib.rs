//! Behaviour over the wire, with real processes: an MQTT client under full control, a harness that runs brokers and
//! breaks them, a recorded history, and one checker per promise.
//! Always true: checkers are pure functions of a history; what a lost connection left open is unknown, never failed.
#![allow(clippy::disallowed_methods)] // threads of tests may wait
pub mod as_one;
pub mod backlog;
pub mod bridged;
pub mod chaos;
pub mod checker;
pub mod client;
pub mod cluster;
pub mod costs;
pub mod damage;
pub mod history;
pub mod http;
pub mod measure;
pub mod metrics;
pub mod otlp;
pub mod pods;
pub mod power;
pub mod programs;
pub mod random;
pub mod remote;
pub mod skip;
pub mod target;
