//! Whole nodes' live sides in one process, over loopback: consensus is a stand-in that everybody shares.
mod claims;
mod leases;
mod messages;
mod proxy;
mod routes;
mod world;
