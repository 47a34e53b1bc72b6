//! What resolving reads from the machine, behind a trait so that every rule can be tested without
//! one: environment, files, the account the process runs as.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What `stat` says about a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileStatus {
    pub(super) regular: bool,
    pub(super) mode: u32,
}

/// The machine around the process.
pub(super) trait Surroundings {
    fn env(&self, name: &str) -> Option<String>;
    fn read(&self, path: &Path) -> io::Result<String>;
    fn status(&self, path: &Path) -> Option<FileStatus>;

    /// `$HOME`, else the account's home directory.
    fn home(&self) -> Option<PathBuf> {
        let home = self.env("HOME").filter(|home| !home.is_empty());
        home.or_else(|| self.account_field(5)).map(PathBuf::from)
    }

    /// The account's name; `$USER` only where the account is not in `/etc/passwd`, since libpq
    /// asks the system and `sudo` may leave the caller's variable in place.
    fn os_user(&self) -> Option<String> {
        self.account_field(0)
            .or_else(|| self.env("USER"))
            .or_else(|| self.env("LOGNAME"))
            .filter(|user| !user.is_empty())
    }

    /// One field of the effective user's line in `/etc/passwd`.
    fn account_field(&self, field: usize) -> Option<String> {
        let status = self.read(Path::new("/proc/self/status")).ok()?;
        let passwd = self.read(Path::new("/etc/passwd")).ok()?;
        let uid = effective_uid(&status)?;
        passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.get(2) == Some(&uid))
            .and_then(|fields| fields.get(field).map(|text| (*text).to_owned()))
    }
}

/// The second number of the line `Uid:\treal\teffective\tsaved\tfilesystem`.
fn effective_uid(status: &str) -> Option<&str> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)
}

/// The machine as it is.
pub(super) struct Machine;

impl Surroundings for Machine {
    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn status(&self, path: &Path) -> Option<FileStatus> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(FileStatus { regular: metadata.is_file(), mode: metadata.mode() })
    }
}

#[cfg(test)]
pub(super) mod fake {
    use std::collections::HashMap;

    use super::*;

    /// A machine made of two maps; the account is `os` with home `/home/os`.
    #[derive(Default)]
    pub(in super::super) struct Fake {
        env: HashMap<String, String>,
        files: HashMap<PathBuf, (String, FileStatus)>,
    }

    impl Fake {
        pub(in super::super) fn new() -> Self {
            Fake::default()
                .file("/proc/self/status", 0o444, "Name:\tx\nUid:\t0\t1000\t0\t0\n")
                .file("/etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\nos:x:1000:1::/home/os:sh\n")
                .directory("/var/run/postgresql")
        }

        pub(in super::super) fn var(mut self, name: &str, value: &str) -> Self {
            self.env.insert(name.to_owned(), value.to_owned());
            self
        }

        pub(in super::super) fn file(mut self, path: &str, mode: u32, text: &str) -> Self {
            let status = FileStatus { regular: true, mode: 0o100_000 | mode };
            self.files.insert(PathBuf::from(path), (text.to_owned(), status));
            self
        }

        pub(in super::super) fn directory(mut self, path: &str) -> Self {
            let status = FileStatus { regular: false, mode: 0o40_755 };
            self.files.insert(PathBuf::from(path), (String::new(), status));
            self
        }

        pub(in super::super) fn without(mut self, path: &str) -> Self {
            self.files.remove(Path::new(path));
            self
        }
    }

    impl Surroundings for Fake {
        fn env(&self, name: &str) -> Option<String> {
            self.env.get(name).cloned()
        }

        fn read(&self, path: &Path) -> io::Result<String> {
            let file = self.files.get(path).map(|(text, _)| text.clone());
            file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        }

        fn status(&self, path: &Path) -> Option<FileStatus> {
            self.files.get(path).map(|(_, status)| *status)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::Fake;
    use super::*;

    #[test]
    fn the_account_is_the_effective_one() {
        assert_eq!(Fake::new().var("USER", "other").os_user().as_deref(), Some("os"));
        assert_eq!(Fake::new().home(), Some(PathBuf::from("/home/os")));
        assert_eq!(Fake::new().var("HOME", "/h").home(), Some(PathBuf::from("/h")));
    }

    #[test]
    fn an_account_outside_of_passwd_is_taken_from_the_environment() {
        let machine = Fake::new().without("/etc/passwd");
        assert_eq!(machine.os_user(), None);
        assert_eq!(machine.var("LOGNAME", "ldap").os_user().as_deref(), Some("ldap"));
    }
}
