//! `mosquorum completions`: what a shell can offer while a command line is typed.
use super::description;
use clap::ValueEnum;
use clap_complete::{generate, shells};

/// Where shells look for them.
pub(super) const PLACES: &str = "\
The packages bring them along. For one user:
  bash  mosquorum completions bash >~/.local/share/bash-completion/completions/mosquorum
  zsh   mosquorum completions zsh >FOLDER/_mosquorum, a folder of $fpath
  fish  mosquorum completions fish >~/.config/fish/completions/mosquorum.fish";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Program {
    Mosquorum,
    #[value(name = "mosquorum_passwd")]
    Passwd,
}

/// The script that a shell reads.
pub(super) fn script(shell: Shell, program: Program) -> String {
    let (mut of, name) = match program {
        Program::Mosquorum => (description::mosquorum(), "mosquorum"),
        Program::Passwd => (description::mosquorum_passwd(), "mosquorum_passwd"),
    };
    let mut bytes = Vec::new();
    match shell {
        Shell::Bash => generate(shells::Bash, &mut of, name, &mut bytes),
        Shell::Zsh => generate(shells::Zsh, &mut of, name, &mut bytes),
        Shell::Fish => generate(shells::Fish, &mut of, name, &mut bytes),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
