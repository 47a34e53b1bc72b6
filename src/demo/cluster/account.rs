//! The user the server runs as. PostgreSQL refuses to run as root.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::error::{Error, Result};

/// An unprivileged user of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Lets a command run as this user, where we are to become one.
pub(super) fn run_as(command: &mut Command, account: Option<Account>) {
    if let Some(Account { uid, gid }) = account {
        command.uid(uid).gid(gid);
    }
}

impl Account {
    /// Whom to become before starting PostgreSQL; `None` where we are no root and stay ourselves.
    pub(super) fn for_server() -> Result<Option<Account>> {
        // SAFETY: geteuid only reads the process's credentials.
        if unsafe { libc::geteuid() } != 0 {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd")?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| find_user(&passwd, name))
            .map(Some)
            .ok_or_else(|| {
                Error::failed(
                    "PostgreSQL refuses to run as root, and there is no user to run it as",
                )
                .next(
                    "Add a user named postgres (useradd --system postgres), or run as another user",
                )
            })
    }
}

fn find_user(passwd: &str, name: &str) -> Option<Account> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut ids = line.split(':').skip(2).map(str::parse);
    Some(Account { uid: ids.next()?.ok()?, gid: ids.next()?.ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres2:x:1:2::/:\npostgres:x:101:104::/:\n";
        assert_eq!(find_user(passwd, "postgres"), Some(Account { uid: 101, gid: 104 }));
        assert_eq!(find_user(passwd, "nobody"), None);
        assert_eq!(find_user("postgres:x:broken", "postgres"), None);
    }
}
