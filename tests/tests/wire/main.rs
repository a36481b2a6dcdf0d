//! Behaviour over the wire, with real processes: what users, operators and other programs see. One program, so that it is
//! linked once and tests of all kinds run beside each other.
#![allow(clippy::disallowed_methods)] // threads of tests may wait
mod acl_matrix;
mod as_one;
mod bench;
mod bounded;
mod bridge_life;
mod bridge_mosquitto;
mod bridge_remote;
mod bridge_settings;
mod bridges;
mod containers;
mod damage;
mod drain;
mod everyday;
mod large;
mod libraries;
mod listeners;
mod membership;
mod observing;
mod operating;
mod operators_rules;
mod packaging;
mod persistence_file;
mod pods;
mod power_usage;
mod process;
mod rights;
mod strangers;
mod system_tree;
mod telemetry;
mod waiting;
