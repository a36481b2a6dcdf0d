pub mod checker;
pub mod client;
pub mod cluster;
pub mod history;
pub mod random;
pub mod skip;
