//! Files below `http_dir`.
//! Always true: what is opened is a regular file whose real path lies below the real path of the folder.
use std::{
    fs::File,
    path::{Component, Path},
};

/// A file, its size in bytes and its kind; `None` if there is nothing to be shown.
pub(super) fn open(folder: &Path, path: &str) -> Option<(File, u64, &'static str)> {
    let relative = Path::new(path.strip_prefix('/')?);
    let is_plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if !is_plain || path.contains('\0') {
        return None;
    }
    let mut wanted = folder.join(relative);
    if path.ends_with('/') {
        wanted.push("index.html");
    }
    let real = wanted.canonicalize().ok()?;
    if !real.starts_with(folder.canonicalize().ok()?) {
        return None;
    }
    let file = File::open(&real).ok()?;
    let facts = file.metadata().ok()?;
    facts.is_file().then(|| (file, facts.len(), kind(&real)))
}

fn kind(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("html" | "htm") => "text/html",
        Some("css") => "text/css",
        Some("js" | "mjs") => "text/javascript",
        Some("json" | "map") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_below_the_folder_are_opened() {
        let base = std::env::temp_dir().join(format!("mosquorum-http-{}", std::process::id()));
        let folder = base.join("public");
        std::fs::create_dir_all(folder.join("sub")).expect("a folder");
        std::fs::write(base.join("secret"), "s").expect("a file");
        std::fs::write(folder.join("index.html"), "12345").expect("a file");
        std::os::unix::fs::symlink(base.join("secret"), folder.join("way-out")).expect("a link");
        let bytes = |path: &str| open(&folder, path).map(|(_, bytes, kind)| (bytes, kind));
        assert_eq!(bytes("/"), Some((5, "text/html")));
        assert_eq!(bytes("/index.html"), Some((5, "text/html")));
        for hidden in
            ["", "index.html", "/sub", "/sub/", "/../secret", "/sub/../../secret", "/way-out", "//etc/passwd", "/a\0"]
        {
            assert_eq!(bytes(hidden), None, "{hidden:?}");
        }
        std::fs::remove_dir_all(&base).expect("removed");
    }
}
