//! Asking for a password: twice, without showing it on a terminal; from a pipe as it comes.
use super::Failed;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{self, BufRead, Write};

/// The terminal shows what is typed again when this is gone.
struct Hidden(Option<Termios>);

impl Hidden {
    fn new() -> Self {
        let Ok(shown) = tcgetattr(io::stdin()) else { return Self(None) };
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &hidden);
        Self(Some(shown))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(shown) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, shown);
        }
    }
}

pub(super) fn password_twice() -> Result<String, Failed> {
    let _hidden = Hidden::new();
    let mut lines = io::stdin().lock();
    let first = ask(&mut lines, "Password: ")?;
    let second = ask(&mut lines, "Reenter password: ")?;
    if first != second {
        return Err(Failed { text: "Error: Passwords do not match.".to_owned(), code: 2 });
    }
    Ok(first)
}

fn ask(lines: &mut impl BufRead, prompt: &str) -> Result<String, Failed> {
    print!("{prompt}");
    let _ = io::stdout().flush();
    let mut line = String::new();
    let read = lines.read_line(&mut line);
    println!();
    let password = line.trim_end_matches(['\n', '\r']);
    if read.is_err() || password.is_empty() {
        return Err(Failed::new("Error: Empty password."));
    }
    Ok(password.to_owned())
}
