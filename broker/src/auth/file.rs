//! Reading the small files that secrets and rules stand in.
use super::AuthFileError;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Bytes of a password or ACL file; a larger one is surely another file.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Windows editors put it before UTF-8; it would be a part of the first name.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Reads a file, without a byte order mark; `kind` is its option, for the error. Warns when everybody may read it.
/// Follows symbolic links, which Mosquitto 2.1 does only with MOSQUITTO_UNSAFE_ALLOW_SYMLINKS: mounted secrets are such links.
pub(super) fn read(path: &Path, kind: &str) -> Result<String, AuthFileError> {
    let name = path.display();
    let failed = |cause: &dyn std::fmt::Display| {
        AuthFileError::Unreadable(format!("Error: Unable to open {kind} \"{name}\": {cause}."))
    };
    let metadata = std::fs::metadata(path).map_err(|cause| failed(&cause))?;
    if !metadata.is_file() {
        return Err(failed(&"it is not a file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(failed(&"it is too large"));
    }
    if metadata.permissions().mode() & 0o007 != 0 {
        crate::warning!("Warning: File {name} has world readable permissions.");
    }
    let bytes = std::fs::read(path).map_err(|cause| failed(&cause))?;
    let mut text = String::from_utf8(bytes).map_err(|_| failed(&"it is not UTF-8"))?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(text)
}
