//! Log lines that unauthenticated peers can cause.
//! Always true: at most [`LINES_MAX`] in [`WITHIN`]; those left out are counted, and the next one says how many.
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

const LINES_MAX: u32 = 10;
const WITHIN: Duration = Duration::from_secs(60);
/// A text that was written is not written again for so long by [`Limited::once`], of so many different ones.
const ONCE_IN: Duration = Duration::from_secs(600);
const TEXTS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Limited(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
    texts: HashMap<String, Instant>,
}

impl Limited {
    /// As [`Limited::line`], for a text that comes again and again.
    pub(crate) fn once(&self, text: &str, write: impl FnOnce(&str)) {
        if self.0.lock().is_new(Instant::now(), text) {
            self.line(write);
        }
    }

    /// Writes the line if one may be written; `write` gets what is to be said at its end.
    pub(crate) fn line(&self, write: impl FnOnce(&str)) {
        match self.0.lock().pass(Instant::now()) {
            None => {}
            Some(0) => write(""),
            Some(left_out) => write(&format!(" (and {left_out} times more since then)")),
        }
    }
}

impl Window {
    fn is_new(&mut self, now: Instant, text: &str) -> bool {
        if self.texts.get(text).is_some_and(|at| now.saturating_duration_since(*at) < ONCE_IN) {
            return false;
        }
        if self.texts.len() >= TEXTS_MAX {
            self.texts.clear();
        }
        self.texts.insert(text.to_owned(), now);
        true
    }

    fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WITHIN) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines == LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_senders_cause_few_lines_and_the_rest_is_counted() {
        let (mut window, start) = (Window::default(), Instant::now());
        let written = (0..1000).filter(|millis| window.pass(start + Duration::from_millis(*millis)).is_some()).count();
        assert_eq!(written, LINES_MAX as usize);
        assert_eq!(window.pass(start + WITHIN), Some(1000 - u64::from(LINES_MAX)));
        assert_eq!(window.pass(start + WITHIN), Some(0));
    }

    #[test]
    fn a_text_that_comes_again_and_again_is_written_once() {
        let (mut window, start) = (Window::default(), Instant::now());
        assert!(window.is_new(start, "a") && window.is_new(start, "b"));
        assert!(!window.is_new(start + ONCE_IN - Duration::from_millis(1), "a"));
        assert!(window.is_new(start + ONCE_IN, "a"));
        assert_eq!((0..1000).filter(|number| window.is_new(start, &format!("{number}"))).count(), 1000);
        assert!(window.texts.len() <= TEXTS_MAX);
    }
}
