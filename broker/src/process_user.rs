//! `user`, PUID, PGID and UMASK_SET: with which rights the process serves.
//! Always true: rights are given up before anything is opened and before the first thread starts; a process that could
//! not give them up does not go on.
use crate::{config::ProcessSettings, private_file};
use nix::unistd::{Gid, Uid, User, initgroups, setgid, setgroups, setuid};
use std::{ffi::CString, fmt::Display};

/// Who is tried when `user` is not written and the account `mosquitto` does not exist.
const FALLBACK: &str = "nobody";

/// What the process will do about its rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// It was not started as root, or is to stay root.
    Stay,
    /// PGID without PUID: root, in this group.
    Group(u32),
    /// PUID, with a number that no account has: in this group and in no other.
    Id { uid: u32, gid: u32 },
    /// To this account, in this group and in the account's further ones.
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

/// An account of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// How accounts are found.
#[derive(Debug, Clone, Copy)]
pub enum Key<'a> {
    Name(&'a str),
    Uid(u32),
}

type Lookup<'a> = &'a dyn Fn(Key<'_>) -> Option<Account>;

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
        return Ok(by_ids(user.filter(|uid| *uid != 0), group, lookup));
    }
    if process.user == "root" {
        return Ok(Plan::Stay);
    }
    let account = |name| lookup(Key::Name(name)).map(|Account { name, uid, gid }| Plan::Account { name, uid, gid });
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

/// PUID and PGID; a PUID of 0 is none, and so is a PGID of 0 without a PUID. Without a PGID the group is the account's, else
/// the one of the same number: never the one that the process was started with, which is root's.
fn by_ids(user: Option<u32>, group: Option<u32>, lookup: Lookup<'_>) -> Plan {
    let Some(uid) = user else {
        return group.filter(|gid| *gid != 0).map_or(Plan::Stay, Plan::Group);
    };
    match lookup(Key::Uid(uid)) {
        Some(account) => Plan::Account { name: account.name, uid, gid: group.unwrap_or(account.gid) },
        None => Plan::Id { uid, gid: group.unwrap_or(uid) },
    }
}

fn id(name: &str, text: Option<&str>) -> Result<Option<u32>, String> {
    let Some(text) = text else { return Ok(None) };
    match text.trim().parse::<i64>() {
        Ok(id) if id < 0 => Err(format!("Error: {name} must not be negative")),
        Ok(id) if id > i64::from(i32::MAX) => Err(format!("Error: {name} must not be more than {}", i32::MAX)),
        Ok(id) => Ok(u32::try_from(id).ok()),
        Err(_) => Err(format!("Error: {name} not a valid ID '{text}'")),
    }
}

/// The accounts that this machine knows.
#[must_use]
pub fn of_this_machine(key: Key<'_>) -> Option<Account> {
    let user = match key {
        Key::Name(name) => User::from_name(name),
        Key::Uid(uid) => User::from_uid(Uid::from_raw(uid)),
    };
    let user = user.ok()??;
    Some(Account { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}

/// Does it. Only while the process has one thread.
/// # Errors
/// One line; the process must end, since it may have given up some of its rights.
pub fn become_it(plan: &Plan) -> Result<(), String> {
    let failed = |what: &str, cause: &dyn Display| format!("Error setting {what} whilst dropping privileges: {cause}.");
    match plan {
        Plan::Stay => {}
        Plan::Group(gid) => setgid(Gid::from_raw(*gid)).map_err(|cause| failed("gid", &cause))?,
        Plan::Id { uid, gid } => {
            setgroups(&[]).map_err(|cause| failed("groups", &cause))?;
            setgid(Gid::from_raw(*gid)).map_err(|cause| failed("gid", &cause))?;
            setuid(Uid::from_raw(*uid)).map_err(|cause| failed("uid", &cause))?;
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

/// UMASK_SET: the bits that new files do not get, in octal. Without it nobody but the owner gets any, beside what the
/// umask says already.
/// # Errors
/// One line: it is no octal number up to 777.
pub fn set_umask() -> Result<(), String> {
    let Some(text) = std::env::var_os("UMASK_SET") else {
        private_file::by_default();
        return Ok(());
    };
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

    fn accounts(key: Key<'_>) -> Option<Account> {
        let all = [("somebody", 7, 8), ("nobody", 65_534, 65_534)];
        let found = all.iter().find(|(name, uid, _)| match key {
            Key::Name(wanted) => *name == wanted,
            Key::Uid(wanted) => *uid == wanted,
        });
        found.map(|(name, uid, gid)| Account { name: (*name).to_owned(), uid: *uid, gid: *gid })
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
        assert_eq!(planned(Some("somebody"), &around(Some("1883"), Some("5"))), Ok(Plan::Id { uid: 1883, gid: 5 }));
        assert_eq!(planned(None, &around(Some("0"), Some("5"))), Ok(Plan::Group(5)));
        assert_eq!(planned(None, &around(Some("0"), Some("0"))), Ok(Plan::Stay));
        for wrong in ["", "x", "-1", "2147483648", "1x"] {
            assert!(planned(None, &around(Some(wrong), None)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn puid_alone_does_not_keep_the_group_of_root() {
        let around = |pgid: Option<&str>| Surroundings {
            root: true,
            puid: Some("1883".to_owned()),
            pgid: pgid.map(str::to_owned),
        };
        assert_eq!(planned(None, &around(None)), Ok(Plan::Id { uid: 1883, gid: 1883 }));
        assert_eq!(planned(None, &around(Some("0"))), Ok(Plan::Id { uid: 1883, gid: 0 }), "it is asked for");
        let known = Surroundings { puid: Some("7".to_owned()), ..around(None) };
        assert_eq!(planned(None, &known), Ok(Plan::Account { name: "somebody".to_owned(), uid: 7, gid: 8 }));
    }
}
