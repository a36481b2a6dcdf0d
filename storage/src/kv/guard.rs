//! Panics of an engine become errors: an index that can be rebuilt must not take the broker down.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::KvError;

/// An engine that has not opened by then hangs.
const OPEN_TIMEOUT: Duration = Duration::from_secs(300);

fn panicked(engine: &'static str, path: &Path, payload: &(dyn std::any::Any + Send)) -> KvError {
    let detail = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let detail = detail.or_else(|| payload.downcast_ref::<String>().cloned());
    KvError::Panicked { engine, path: path.to_owned(), detail: detail.unwrap_or_else(|| "unknown".into()) }
}

/// Runs one operation of an engine.
pub(super) fn guarded<T>(
    engine: &'static str,
    path: &Path,
    operation: impl FnOnce() -> Result<T, KvError>,
) -> Result<T, KvError> {
    // Unwind safe: after a panic the caller moves the store aside and never looks at it again.
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|payload| Err(panicked(engine, path, &*payload)))
}

/// Opens an engine on a thread of its own, so that neither a panic nor a hang is ours.
pub(super) fn open_guarded<T: Send + 'static>(
    engine: &'static str,
    path: &Path,
    open: impl FnOnce() -> Result<T, KvError> + Send + 'static,
) -> Result<T, KvError> {
    let (sender, opened) = sync_channel(1);
    let inside = path.to_owned();
    let work = move || drop(sender.send(guarded(engine, &inside, open)));
    let failed = |detail: String| KvError::Engine { engine, path: path.to_owned(), detail };
    std::thread::Builder::new()
        .name(format!("{engine}-open"))
        .spawn(work)
        .map_err(|error| failed(format!("no thread to open it: {error}")))?;
    match opened.recv_timeout(OPEN_TIMEOUT) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => Err(failed(format!("it did not open within {OPEN_TIMEOUT:?}"))),
        Err(RecvTimeoutError::Disconnected) => Err(failed("the opening thread ended without an answer".into())),
    }
}
