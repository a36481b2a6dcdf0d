//! All that the two programs understand, as clap describes it: for completions and manual pages.
//! Always true: nothing is parsed by it as a whole; flags are parsed by `flags` and `passwd`, commands by `commands`.
use super::{commands, flags};
use crate::passwd;
use clap::{Command, CommandFactory};

/// The broker, its flags and commands.
pub(super) fn mosquorum() -> Command {
    commands::Words::command().subcommand_required(false).args(flags::description())
}

/// The tool for password files.
pub(super) fn mosquorum_passwd() -> Command {
    passwd::description()
}
