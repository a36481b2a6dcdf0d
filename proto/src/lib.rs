//! Everything on the wire as values: MQTT 3.1, 3.1.1 and 5.0, and the messages between nodes.
//! Always true: no I/O, no clock, no runtime; bytes from outside never panic.
pub mod mqtt;
pub mod peer;
