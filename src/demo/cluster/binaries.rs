//! Where PostgreSQL's server programs are.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::account::{self, Account};
use crate::error::{Error, Result};

const FOLDER_VARIABLE: &str = "PGWRAITH_PG_BIN";

/// A folder with `initdb` and `postgres`; nothing else is needed.
#[derive(Debug, Clone)]
pub struct ServerBinaries {
    folder: PathBuf,
    major: u32,
}

impl ServerBinaries {
    /// The folder `PGWRAITH_PG_BIN` names, else the newest version that a package installed, else
    /// what is in `PATH`.
    pub fn find() -> Result<ServerBinaries> {
        if let Some(folder) = env::var_os(FOLDER_VARIABLE).filter(|value| !value.is_empty()) {
            return Self::in_folder(Path::new(&folder));
        }
        let folder = newest(&packaged("/usr/lib/postgresql", ""))
            .or_else(|| newest(&packaged("/usr", "pgsql-")))
            .or_else(in_path)
            .ok_or_else(nothing_found)?;
        Self::in_folder(&folder)
    }

    /// The programs in `folder`.
    pub fn in_folder(folder: &Path) -> Result<ServerBinaries> {
        let folder = folder.canonicalize().map_err(|e| not_there(folder).source(e))?;
        if !has_programs(&folder) {
            return Err(not_there(&folder));
        }
        let output = Command::new(folder.join("postgres")).arg("--version").output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let major = major_in(&said).ok_or_else(|| {
            let program = folder.join("postgres");
            Error::failed(format!("{} --version says {said:?}", program.display()))
                .next("Check that the program runs on this machine")
        })?;
        Ok(ServerBinaries { folder, major })
    }

    /// The major version (15, 16, …).
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The folder the programs are in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A command for one of the programs, run as `account` in the folder `at`.
    pub(super) fn command(&self, program: &str, account: Option<Account>, at: &Path) -> Command {
        let mut command = Command::new(self.folder.join(program));
        // The caller's own folder may be closed to the account; libpq's variables are not for us.
        command.current_dir(at).stdin(Stdio::null()).stdout(Stdio::null()).env("LC_ALL", "C");
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG"))
        {
            command.env_remove(name);
        }
        account::run_as(&mut command, account);
        command
    }

    /// What to say when a program cannot even be started.
    pub(super) fn cannot_run(
        &self,
        program: &str,
        account: Option<Account>,
        e: io::Error,
    ) -> Error {
        let path = self.folder.join(program);
        let error = Error::failed(format!("{} cannot be run: {e}", path.display()));
        match account {
            Some(account) => error.next(format!(
                "It is started as user {} because PostgreSQL refuses to run as root: check that this \
                 user may enter every folder above it",
                account.uid
            )),
            None => error.next("Check that it is an executable for this machine"),
        }
        .source(e)
    }
}

/// The bin folders of every version under `root`, with the version.
fn packaged(root: &str, prefix: &str) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, folder)| has_programs(folder))
        .collect()
}

fn newest(found: &[(u32, PathBuf)]) -> Option<PathBuf> {
    found.iter().max_by_key(|(version, _)| *version).map(|(_, folder)| folder.clone())
}

fn in_path() -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).find(|folder| has_programs(folder))
}

fn has_programs(folder: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| folder.join(program).is_file())
}

/// The major version in `postgres (PostgreSQL) 15.13 (Debian 15.13-1)` or `… 19beta1`.
fn major_in(said: &str) -> Option<u32> {
    let version = said.split_once("(PostgreSQL) ")?.1;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn not_there(folder: &Path) -> Error {
    Error::failed(format!("there are no initdb and postgres in {}", folder.display())).next(
        format!("Let {FOLDER_VARIABLE} name a folder that holds PostgreSQL's server programs"),
    )
}

fn nothing_found() -> Error {
    Error::failed("no PostgreSQL server programs (initdb, postgres) were found on this machine")
        .next(format!(
            "Install them (Debian, Ubuntu: apt-get install postgresql-15, or a newer version), or \
             let {FOLDER_VARIABLE} name the folder they are in"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert_eq!(major_in("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n"), Some(15));
        assert_eq!(major_in("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(major_in("postgres (EnterpriseDB) x"), None);
        let found = [(9, PathBuf::from("9")), (15, PathBuf::from("15"))];
        assert_eq!(newest(&found), Some(PathBuf::from("15")));
    }

    #[test]
    fn a_folder_without_programs_is_named_with_the_variable() {
        let error = ServerBinaries::in_folder(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("/nowhere") && error.contains(FOLDER_VARIABLE), "{error}");
        let error = nothing_found().to_string();
        assert!(error.contains("apt-get install postgresql-15"), "{error}");
    }
}
