//! The broker as a library, so that `main` stays small and its parts can be tested alone.
//! The way of a publish: `accept` -> `connection` -> decoder -> `session` (decides) -> `live::router` -> mailboxes,
//! other nodes, or the cluster's log -> `session` -> `connection`.
pub mod accept;
pub mod admin;
pub mod allocator;
pub mod auth;
pub mod bench;
pub mod bridges;
pub mod broker;
pub mod carrier;
pub mod cli;
pub mod cluster_status;
pub mod config;
pub mod connect;
pub mod connection;
pub mod control;
pub mod daemon;
pub mod descriptors;
pub mod drain;
pub mod find_node;
pub mod health;
mod http;
pub mod http_api;
pub mod kernel;
pub mod listener;
pub mod live;
pub mod live_hub;
pub mod local_cluster;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod node;
pub mod offline;
pub mod operate;
pub mod persistent;
pub mod planted;
mod private_file;
pub mod process_user;
pub mod program;
pub mod random;
pub mod reading;
pub mod recover;
pub mod reloading;
pub mod session;
pub mod session_env;
pub mod stream;
pub mod supervision;
pub mod sys;
pub mod tcp_wrappers;
pub mod telemetry;
mod ticket;
pub mod topic_report;

// `mosquorum_passwd`, a program of its own.
pub mod passwd;
