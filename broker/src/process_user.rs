//! `user`, PUID, PGID and UMASK_SET: with which rights the process serves.
//! Always true: rights are given up before anything is opened and before the first thread starts; a process that could
//! not give them up does not go on.
use crate::config::ProcessSettings;
use nix::unistd::{Gid, Uid, User, initgroups, setgid, setuid};
use std::{ffi::CString, fmt::Display};

/// Who is tried when `user` is not written and the account `mosquitto` does not exist.
const FALLBACK: &str = "nobody";

/// What the process will do about its rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// It was not started as root, or is to stay root.
    Stay,
    /// PUID and PGID; 0 and absent ones change nothing.
    Ids { user: Option<u32>, group: Option<u32> },
    /// To this account, with its groups.
    Account { name: String, uid: u32, gid: u32 },
}

/// What decides, beside the configuration.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    pub root: bool,
    pub puid: Option<String>,
    pub pgid: Option<String>,
}

impl Surroundings {
    #[must_use]
    pub fn of_this_process() -> Self {
        let text = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        Self { root: rustix::process::geteuid().is_root(), puid: text("PUID"), pgid: text("PGID") }
    }
}

/// An account of this machine: its ids.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<(u32, u32)>;

/// Decides; nothing is changed yet.
/// # Errors
/// One line: an id that is none, or an account that does not exist.
pub fn plan(process: &ProcessSettings, around: &Surroundings, lookup: Lookup<'_>) -> Result<Plan, String> {
    if !around.root {
        return Ok(Plan::Stay);
    }
    if around.puid.is_some() || around.pgid.is_some() {
        let group = id("PGID", around.pgid.as_deref())?;
        let user = id("PUID", around.puid.as_deref())?;
        return Ok(Plan::Ids { user, group });
    }
    if process.user == "root" {
        return Ok(Plan::Stay);
    }
    let account = |name: &str| lookup(name).map(|(uid, gid)| Plan::Account { name: name.to_owned(), uid, gid });
    match account(&process.user) {
        Some(plan) => Ok(plan),
        None if process.user_is_explicit && process.user != "mosquitto" => {
            Err(format!("Error: Unable to drop privileges to '{}' because this user does not exist.", process.user))
        }
        None => {
            eprintln!(
                "Warning: Unable to drop privileges to '{}' because this user does not exist. Trying '{FALLBACK}' instead.",
                process.user
            );
            account(FALLBACK).ok_or_else(|| format!("Error: Unable to drop privileges to '{FALLBACK}'."))
        }
    }
}

fn id(name: &str, text: Option<&str>) -> Result<Option<u32>, String> {
    let Some(text) = text else { return Ok(None) };
    match text.trim().parse::<i64>() {
        Ok(id) if id < 0 => Err(format!("Error: {name} must not be negative")),
        Ok(id) if id > i64::from(i32::MAX) => Err(format!("Error: {name} must not be more than {}", i32::MAX)),
        Ok(id) => Ok(u32::try_from(id).ok().filter(|id| *id != 0)),
        Err(_) => Err(format!("Error: {name} not a valid ID '{text}'")),
    }
}

/// The accounts that this machine knows.
#[must_use]
pub fn of_this_machine(name: &str) -> Option<(u32, u32)> {
    let user = User::from_name(name).ok()??;
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

/// Does it. Only while the process has one thread.
/// # Errors
/// One line; the process must end, since it may have given up some of its rights.
pub fn become_it(plan: &Plan) -> Result<(), String> {
    let failed = |what: &str, cause: &dyn Display| format!("Error setting {what} whilst dropping privileges: {cause}.");
    match plan {
        Plan::Stay => {}
        Plan::Ids { user, group } => {
            if let Some(group) = group {
                setgid(Gid::from_raw(*group)).map_err(|cause| failed("gid", &cause))?;
            }
            if let Some(user) = user {
                setuid(Uid::from_raw(*user)).map_err(|cause| failed("uid", &cause))?;
            }
        }
        Plan::Account { name, uid, gid } => {
            let name = CString::new(name.as_str()).map_err(|cause| failed("groups", &cause))?;
            initgroups(&name, Gid::from_raw(*gid)).map_err(|cause| failed("groups", &cause))?;
            setgid(Gid::from_raw(*gid)).map_err(|cause| failed("gid", &cause))?;
            setuid(Uid::from_raw(*uid)).map_err(|cause| failed("uid", &cause))?;
        }
    }
    Ok(())
}

/// UMASK_SET: the bits that new files do not get, in octal.
/// # Errors
/// One line: it is no octal number up to 777.
pub fn set_umask() -> Result<(), String> {
    let Some(text) = std::env::var_os("UMASK_SET") else { return Ok(()) };
    let text = text.to_string_lossy();
    match u32::from_str_radix(&text, 8) {
        Ok(mask) if mask <= 0o777 => {
            rustix::process::umask(rustix::fs::Mode::from_bits_truncate(mask));
            Ok(())
        }
        _ => Err(format!("Error: UMASK_SET not a valid octal number '{text}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(name: &str) -> Option<(u32, u32)> {
        match name {
            "somebody" => Some((7, 8)),
            "nobody" => Some((65534, 65534)),
            _ => None,
        }
    }

    fn planned(user: Option<&str>, around: &Surroundings) -> Result<Plan, String> {
        let process = ProcessSettings {
            user: user.unwrap_or("mosquitto").to_owned(),
            user_is_explicit: user.is_some(),
            pid_file: None,
        };
        plan(&process, around, &accounts)
    }

    #[test]
    fn root_becomes_the_user_that_is_named_else_mosquitto_else_nobody() {
        let root = Surroundings { root: true, ..Surroundings::default() };
        let account = |name: &str, uid, gid| Ok(Plan::Account { name: name.to_owned(), uid, gid });
        assert_eq!(planned(Some("somebody"), &root), account("somebody", 7, 8));
        assert_eq!(planned(None, &root), account("nobody", 65534, 65534));
        assert_eq!(planned(Some("root"), &root), Ok(Plan::Stay));
        assert!(planned(Some("stranger"), &root).is_err_and(|text| text.contains("'stranger'")));
        assert_eq!(planned(Some("stranger"), &Surroundings::default()), Ok(Plan::Stay));
    }

    #[test]
    fn puid_and_pgid_win_over_user_and_must_be_numbers() {
        let around = |puid: Option<&str>, pgid: Option<&str>| Surroundings {
            root: true,
            puid: puid.map(str::to_owned),
            pgid: pgid.map(str::to_owned),
        };
        let ids = |user, group| Ok(Plan::Ids { user, group });
        assert_eq!(planned(Some("somebody"), &around(Some("1883"), None)), ids(Some(1883), None));
        assert_eq!(planned(None, &around(Some("0"), Some("5"))), ids(None, Some(5)));
        for wrong in ["", "x", "-1", "2147483648", "1x"] {
            assert!(planned(None, &around(Some(wrong), None)).is_err(), "{wrong}");
        }
    }
}
