//! What the test build can be made to do wrong here, to show that the checkers see it; constants in every other build.

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

/// Who waits for congestion to end is woken when it does.
#[inline]
pub fn congestion_wakes() -> bool {
    !planted("congestion-sleeps")
}

/// What is kept of a read does not keep the whole of it in memory.
#[inline]
pub fn copies_what_is_kept() -> bool {
    !planted("pinned-buffers")
}

/// A line that repeats is counted, not written (with the bug that repeats one without end, which is planted in `cluster`).
#[inline]
pub fn counts_repeated_lines() -> bool {
    !planted("reconnect-spin")
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
