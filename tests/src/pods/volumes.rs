//! What a pod's volumes are on this machine: folders, in the shape in which a kubelet makes them.
//! Always true: the files of a Secret or ConfigMap are links through `..data`, which is exchanged as a whole.
use super::{container::Mount, manifests::Manifests};
use serde_json::Value;
use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

/// Group that volumes belong to (`fsGroup`).
const GROUP: u32 = 1883;

/// Mounts of a container, with every volume made below `folder` (claims: below `claims`).
pub(super) fn mounts(
    pod: &str,
    template: &Value,
    container: &Value,
    objects: &Manifests,
    folder: &Path,
    claims: &Path,
) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let name = mount["name"].as_str().unwrap_or_default();
        let volume = template["volumes"].as_array().into_iter().flatten().find(|volume| volume["name"] == name);
        let from = match volume {
            // The others come from volumeClaimTemplates.
            None => claims.join(format!("{name}-{pod}")),
            Some(_) => folder.join(name),
        };
        make(volume, &from, objects).map_err(|error| format!("volume {name} of {pod}: {error}"))?;
        mounts.push(Mount {
            from,
            to: mount["mountPath"].as_str().unwrap_or_default().to_owned(),
            read_only: mount["readOnly"].as_bool().unwrap_or(false),
        });
    }
    Ok(mounts)
}

fn make(volume: Option<&Value>, folder: &Path, objects: &Manifests) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let from = |key: &str, name: &str| volume.and_then(|volume| volume[key][name].as_str());
    if let Some(name) = from("configMap", "name") {
        return project(folder, &objects.files("ConfigMap", name)?, 0o644).map_err(text);
    }
    if let Some(name) = from("secret", "secretName") {
        return project(folder, &objects.files("Secret", name)?, 0o440).map_err(text);
    }
    fs::create_dir_all(folder).map_err(text)?;
    chown(folder, Some(0), Some(GROUP)).map_err(text)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o2775)).map_err(text)
}

/// Puts the files there at one instant, instead of those that were there.
pub(super) fn project(folder: &Path, files: &[(String, Vec<u8>)], mode: u32) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let number = fs::read_dir(folder)?.count();
    let name = format!("..version-{number}");
    let version = folder.join(&name);
    fs::create_dir_all(&version)?;
    for (file, bytes) in files {
        let path = version.join(file);
        fs::write(&path, bytes)?;
        chown(&path, Some(0), Some(GROUP))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        let link = folder.join(file);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(file), link)?;
        }
    }
    let fresh = folder.join("..data_tmp");
    symlink(&name, &fresh)?;
    fs::rename(fresh, folder.join("..data"))
}
