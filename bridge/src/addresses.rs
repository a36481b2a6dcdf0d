//! Which of the remote's addresses is tried next.
//! Always true: with `round_robin` all are equal and visited in turn; without it the first is the primary, a failure
//! moves on to the next one, and a connected secondary is left only after the primary has answered.

#[derive(Debug, Clone)]
pub struct Addresses {
    count: usize,
    round_robin: bool,
    current: usize,
}

impl Addresses {
    /// # Panics
    /// Without an address.
    #[must_use]
    pub fn new(count: usize, round_robin: bool) -> Self {
        assert!(count > 0, "a bridge has at least one address");
        Self { count, round_robin, current: 0 }
    }

    /// The one to try now.
    #[must_use]
    pub fn current(&self) -> usize {
        self.current
    }

    /// The attempt failed before the remote accepted it.
    pub fn failed(&mut self) {
        self.current = (self.current + 1) % self.count;
    }

    /// An accepted connection ended.
    pub fn lost(&mut self) {
        self.current = if self.round_robin { (self.current + 1) % self.count } else { 0 };
    }

    /// Whether the primary should be looked for while the connection stands.
    #[must_use]
    pub fn wants_primary(&self) -> bool {
        !self.round_robin && self.current != 0
    }

    /// The primary has answered: the next attempt goes there.
    pub fn primary_answers(&mut self) {
        self.current = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_visit_every_address_in_turn() {
        let mut addresses = Addresses::new(3, false);
        let visited: Vec<_> = (0..4).map(|_| (addresses.current(), addresses.failed()).0).collect();
        assert_eq!(visited, [0, 1, 2, 0]);
    }

    #[test]
    fn a_secondary_is_left_for_the_primary_only_without_round_robin() {
        let mut failover = Addresses::new(2, false);
        failover.failed();
        assert!(failover.wants_primary());
        failover.lost();
        assert_eq!(failover.current(), 0);
        let mut equals = Addresses::new(2, true);
        equals.failed();
        assert!(!equals.wants_primary());
        equals.lost();
        assert_eq!(equals.current(), 0);
        equals.lost();
        assert_eq!(equals.current(), 1);
    }
}
