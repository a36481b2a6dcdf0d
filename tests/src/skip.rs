//! Tests that this machine cannot run: they say why, and fail where nothing may be skipped.

/// Prints why the test that calls it does nothing.
/// # Panics
/// When `MOSQUORUM_NO_SKIPS=1`: CI sets it, so that a missing tool cannot hide a test.
pub fn skip(reason: &str) {
    assert!(
        std::env::var("MOSQUORUM_NO_SKIPS").as_deref() != Ok("1"),
        "skipped although MOSQUORUM_NO_SKIPS=1: {reason}"
    );
    eprintln!("skipped: {reason}");
}

/// Whether `program` can be found in `PATH`.
#[must_use]
pub fn has_program(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}
