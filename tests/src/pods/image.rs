//! An image without an engine: the last stage of a Dockerfile, carried out in a folder.
//! Always true: the base image is this machine's own `/usr`, read-only, with an `/etc` and a `/usr/sbin` of the image's
//! own; whatever the Dockerfile does in its last stage (COPY, RUN, ENV, USER ...) is done, and an instruction that is not
//! known here is an error, not ignored.
use crate::cluster::folder::workspace;
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Folders of `/usr` that an image shares with this machine.
pub(super) const SHARED: [&str; 6] = ["bin", "lib", "lib32", "lib64", "libx32", "share"];

/// An image, ready to be run from its folder.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pub root: PathBuf,
    pub environment: BTreeMap<String, String>,
    /// uid:gid
    pub user: String,
    pub working_folder: String,
    pub command: Vec<String>,
    pub entry_point: Vec<String>,
    pub health_check: Vec<String>,
    pub volumes: Vec<String>,
    pub ports: Vec<u16>,
    pub stop_signal: String,
}

/// An instruction and the rest of its line, continuation lines joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) name: String,
    pub(super) rest: String,
}

pub(super) fn instructions(text: &str) -> Vec<Instruction> {
    let mut all = Vec::new();
    let mut line = String::new();
    for part in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        match part.trim_end().strip_suffix('\\') {
            Some(begun) => line.push_str(begun),
            None => {
                line.push_str(part);
                if let Some((name, rest)) = line.trim().split_once(' ') {
                    all.push(Instruction { name: name.to_uppercase(), rest: rest.trim().to_owned() });
                }
                line.clear();
            }
        }
    }
    all
}

/// The words of a JSON list, or a shell that runs the text.
fn words(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|_| vec!["/bin/sh".into(), "-c".into(), text.to_owned()])
}

/// `--flag=value` words in front, and the rest.
pub(super) fn flags(text: &str) -> (BTreeMap<&str, &str>, &str) {
    let (mut flags, mut rest) = (BTreeMap::new(), text);
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(' ').unwrap_or((flag, ""));
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        flags.insert(name, value);
        rest = after.trim_start();
    }
    (flags, rest)
}

impl Image {
    /// Carries out the last stage of the Dockerfile in `root`. `binary` is what the build stage would have made.
    /// # Errors
    /// When a step fails or is not known.
    pub fn build(dockerfile: &Path, root: &Path, binary: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(dockerfile)?;
        let all = instructions(&text);
        let last = all.iter().rposition(|instruction| instruction.name == "FROM").unwrap_or(0);
        let mut image = Self { root: root.to_path_buf(), user: "0:0".into(), ..Self::default() };
        image.environment.insert("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
        image.base()?;
        for instruction in &all[last + 1..] {
            image.step(instruction, binary).map_err(|error| {
                io::Error::other(format!(
                    "{}: {} {}: {error}",
                    dockerfile.display(),
                    instruction.name,
                    instruction.rest
                ))
            })?;
        }
        Ok(image)
    }

    fn base(&self) -> io::Result<()> {
        let root = &self.root;
        for folder in ["etc/ssl/certs", "proc", "dev", "tmp", "run", "usr/sbin", "usr/host-sbin", "var/lib", "root"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        for folder in SHARED.into_iter().filter(|folder| Path::new("/usr").join(folder).is_dir()) {
            fs::create_dir_all(root.join("usr").join(folder))?;
            if folder != "share" {
                symlink(format!("usr/{folder}"), root.join(folder))?;
            }
        }
        symlink("usr/sbin", root.join("sbin"))?;
        for entry in fs::read_dir("/usr/sbin")? {
            let name = entry?.file_name();
            // A broker of this machine, and its programs, are not in the image.
            if !["mosquitto", "mosquorum", "mosquitto_passwd", "mosquorum_passwd"].iter().any(|broker| name == *broker)
            {
                symlink(Path::new("../host-sbin").join(&name), root.join("usr/sbin").join(&name))?;
            }
        }
        let etc = |name: &str, text: &str| fs::write(root.join("etc").join(name), text);
        etc("passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
        etc("group", "root:x:0:\n")?;
        etc("shadow", "root:*:19000:0:99999:7:::\n")?;
        etc("gshadow", "root:*::\n")?;
        etc("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")?;
        etc("hosts", "127.0.0.1 localhost\n")?;
        etc("resolv.conf", "")?;
        for name in ["ld.so.cache", "login.defs", "ssl/openssl.cnf"] {
            if let Ok(bytes) = fs::read(Path::new("/etc").join(name)) {
                fs::write(root.join("etc").join(name), bytes)?;
            }
        }
        if let Ok(target) = fs::read_link("/etc/alternatives/awk") {
            fs::create_dir_all(root.join("etc/alternatives"))?;
            symlink(target, root.join("etc/alternatives/awk"))?;
        }
        Ok(())
    }

    fn step(&mut self, instruction: &Instruction, binary: &Path) -> io::Result<()> {
        let rest = instruction.rest.as_str();
        match instruction.name.as_str() {
            "COPY" => self.copy(rest, binary)?,
            "RUN" => self.run(rest)?,
            "ENV" => {
                let (name, value) = rest.split_once('=').ok_or_else(|| io::Error::other("expected NAME=VALUE"))?;
                self.environment.insert(name.to_owned(), value.trim_matches('"').to_owned());
            }
            "EXPOSE" => self.ports = rest.split(' ').filter_map(|port| port.parse().ok()).collect(),
            "VOLUME" => self.volumes = words(rest),
            "WORKDIR" => rest.clone_into(&mut self.working_folder),
            "USER" => rest.clone_into(&mut self.user),
            "STOPSIGNAL" => rest.clone_into(&mut self.stop_signal),
            "HEALTHCHECK" => {
                let (_, rest) = flags(rest);
                self.health_check = words(rest.strip_prefix("CMD").unwrap_or(rest).trim_start());
            }
            "ENTRYPOINT" => self.entry_point = words(rest),
            "CMD" => self.command = words(rest),
            other => return Err(io::Error::other(format!("{other} is not known"))),
        }
        Ok(())
    }

    fn copy(&self, rest: &str, binary: &Path) -> io::Result<()> {
        let (flags, rest) = flags(rest);
        let (source, target) = rest.split_once(' ').ok_or_else(|| io::Error::other("expected SOURCE TARGET"))?;
        let source = match flags.get("from") {
            Some(_) if source.ends_with("/mosquorum") => binary.to_path_buf(),
            // The other programs lie beside it.
            Some(_) if source.ends_with("/mosquorum_passwd") => binary.with_file_name("mosquorum_passwd"),
            Some(_) => PathBuf::from(source),
            None => workspace().join(source),
        };
        let target = self.root.join(target.trim_start_matches('/'));
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        // A machine without the authorities of the web has none in the image either.
        if !source.exists() && flags.contains_key("from") {
            return Ok(());
        }
        // The program is large and every test has an image of its own: the same file under a second name, if it can be.
        if fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target)?;
        }
        if let Some(mode) = flags.get("chmod") {
            let mode = u32::from_str_radix(mode, 8).map_err(io::Error::other)?;
            if source.parent() != binary.parent() {
                fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
            }
        }
        Ok(())
    }

    fn run(&self, command: &str) -> io::Result<()> {
        let script = format!("{}exec chroot \"$root\" /bin/sh -ec \"$1\"\n", self.mounts());
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "/bin/sh", "-ec", &script, "image", command])
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    /// Shell lines that put this machine's parts below the image's root, in a mount namespace of their own.
    pub(super) fn mounts(&self) -> String {
        let mut text = format!("root='{}'\nmount --bind \"$root\" \"$root\"\n", self.root.display());
        let shared = SHARED.into_iter().filter(|folder| Path::new("/usr").join(folder).is_dir());
        for (from, to) in shared.map(|folder| (folder, folder)).chain([("sbin", "host-sbin")]) {
            text.push_str(&format!(
                "mount --bind /usr/{from} \"$root/usr/{to}\"\nmount -o remount,bind,ro \"$root/usr/{to}\"\n"
            ));
        }
        text.push_str("mount -t proc proc \"$root/proc\"\nmount -t tmpfs -o mode=755 tmpfs \"$root/dev\"\n");
        text.push_str("for name in null zero full random urandom; do\n");
        text.push_str("  : >\"$root/dev/$name\"\n  mount --bind \"/dev/$name\" \"$root/dev/$name\"\ndone\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_joined_and_comments_left_out() {
        let text = "# a\nFROM x AS y\nRUN a \\\n # between\n && b\nCMD [\"c\", \"-d\"]\n";
        let all = instructions(text);
        let names: Vec<&str> = all.iter().map(|instruction| instruction.name.as_str()).collect();
        assert_eq!(names, ["FROM", "RUN", "CMD"]);
        assert_eq!(all[1].rest, "a  && b");
        assert_eq!(words(&all[2].rest), ["c", "-d"]);
        assert_eq!(words("a b"), ["/bin/sh", "-c", "a b"]);
        assert_eq!(
            flags("--chmod=755 --from=build a b"),
            (BTreeMap::from([("chmod", "755"), ("from", "build")]), "a b")
        );
    }
}
