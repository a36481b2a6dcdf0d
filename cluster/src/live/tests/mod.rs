//! Whole nodes' live sides in one process, over loopback: consensus is a stand-in that everybody shares.
#![allow(clippy::disallowed_methods)] // threads of tests may wait
#![allow(clippy::unwrap_used)] // what fails ends the test
mod claims;
mod leases;
mod messages;
mod proxy;
mod routes;
mod world;
