//! What the test build can be told to do wrong here, to show that the checkers see it; constants in every other build.

/// What a connection proposed is void once its client's next connection is let in.
#[inline]
pub fn fences_proposals() -> bool {
    !planted("no-proposal-fence")
}

/// What the log decides comes to live subscribers from there, on every node.
#[inline]
pub fn log_delivers() -> bool {
    !planted("origin-delivers")
}

#[inline]
fn planted(bug: &str) -> bool {
    #[cfg(feature = "test-faults")]
    return mosquorum_cluster::faults::planted(bug);
    #[cfg(not(feature = "test-faults"))]
    {
        let _ = bug;
        false
    }
}
