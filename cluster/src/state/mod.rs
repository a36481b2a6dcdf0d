//! The replicated state: durable sessions with their subscriptions and queues, retained messages, wills, serving nodes.
//! Always true: equal logs give equal states; nothing here reads a clock, a file or a random number, or waits.
//! Not here: who may do what (checked before a command is made), live connections, clean sessions.
mod command;
mod message;

pub use command::*;
pub use message::Message;

/// The state itself; see the module's description.
#[derive(Default)]
pub struct State {}
