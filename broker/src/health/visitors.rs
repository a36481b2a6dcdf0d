//! Who is served at one moment.
//! Always true: at most [`VISITORS_MAX`]; one more than that takes the place of the one that has been silent longest, else
//! of the oldest, so that nobody who asks waits for those who do not.
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::task::AbortHandle;

/// Connections at the same time.
pub(super) const VISITORS_MAX: usize = 64;

/// Raised once a whole request has come.
pub(super) type Heard = Arc<AtomicBool>;

struct Visitor {
    task: AbortHandle,
    heard: Heard,
}

/// Oldest first.
#[derive(Default)]
pub(super) struct Visitors(VecDeque<Visitor>);

impl Visitors {
    /// Makes room for one more; whether somebody had to go for it.
    pub(super) fn make_room(&mut self) -> bool {
        self.0.retain(|visitor| !visitor.task.is_finished());
        if self.0.len() < VISITORS_MAX {
            return false;
        }
        let heard = self.0.iter().map(|visitor| visitor.heard.load(Relaxed));
        if let Some(gone) = self.0.remove(leaves(heard)) {
            gone.task.abort();
        }
        true
    }

    pub(super) fn enter(&mut self, task: AbortHandle, heard: Heard) {
        self.0.push_back(Visitor { task, heard });
    }
}

/// Who goes, of those who were heard or not, oldest first.
fn leaves(mut heard: impl Iterator<Item = bool>) -> usize {
    heard.position(|heard| !heard).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_silent_one_goes_and_the_oldest_of_all_if_nobody_is_silent() {
        for (heard, expected) in
            [([false, false, false].as_slice(), 0), (&[true, false, true, false], 1), (&[true, true], 0)]
        {
            assert_eq!(leaves(heard.iter().copied()), expected, "{heard:?}");
        }
    }

    #[tokio::test]
    async fn there_are_never_more_than_the_bound_and_who_has_left_takes_no_place() {
        let (mut visitors, mut tasks) = (Visitors::default(), Vec::new());
        for number in 0..VISITORS_MAX + 10 {
            assert_eq!(visitors.make_room(), number >= VISITORS_MAX);
            let task = tokio::spawn(std::future::pending::<()>());
            visitors.enter(task.abort_handle(), Heard::default());
            tasks.push(task);
            assert!(visitors.0.len() <= VISITORS_MAX);
        }
        for task in tasks.drain(..10) {
            assert!(task.await.is_err_and(|error| error.is_cancelled()), "the oldest ones went");
        }
        let left = tasks.pop().expect("one of those that stay");
        left.abort();
        assert!(left.await.is_err());
        assert!(!visitors.make_room(), "a place is free again");
    }
}
