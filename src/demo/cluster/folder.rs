//! The temporary folder of a cluster, and the removal of those whose owner died.
//!
//! The owner holds a lock on a file in its folder for as long as it lives. The kernel lets go of
//! the lock when the process ends, however it ends; so a folder whose lock is free belongs to
//! nobody (an owner that was killed), and whoever makes the next cluster removes it.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::account::Account;
use super::small_disk;
use crate::error::{Error, Result};

const PREFIX: &str = "pgwraith-cluster-";
/// Until it is locked a folder has another name, so that nobody takes it for a dead one.
const NEW_PREFIX: &str = ".pgwraith-cluster-";
/// What fits into `sun_path` (108 bytes) with room for the socket's name.
const LONGEST_SOCKET_FOLDER: usize = 80;
const REMOVAL_DEADLINE: Duration = Duration::from_secs(5);
const REMOVAL_POLL: Duration = Duration::from_millis(20);

/// A cluster's folder; removed when dropped.
#[derive(Debug)]
pub(super) struct ClusterFolder {
    path: PathBuf,
    _lock: File,
}

impl ClusterFolder {
    /// A new folder, with inner folders for data and socket that belong to `account`.
    pub(super) fn create(account: Option<Account>) -> Result<ClusterFolder> {
        let parent = parent_folder();
        remove_orphans(&parent);
        Self::create_in(&parent, account).map_err(|e| {
            Error::failed(format!(
                "no folder for a cluster could be made in {}: {e}",
                parent.display()
            ))
            .next("Let TMPDIR name a folder that can be written to and that other users may enter")
            .source(e)
        })
    }

    fn create_in(parent: &Path, account: Option<Account>) -> io::Result<ClusterFolder> {
        let id: u64 = rand::random();
        let new = parent.join(format!("{NEW_PREFIX}{id:016x}"));
        let path = parent.join(format!("{PREFIX}{id:016x}"));
        DirBuilder::new().mode(0o755).create(&new)?;
        // The umask may have taken away what the server's user needs to enter.
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
        let lock = File::create(new.join("lock"))?;
        lock_now(&lock)?;
        for inner in ["data", "socket"] {
            let inner = new.join(inner);
            DirBuilder::new().mode(0o700).create(&inner)?;
            if let Some(Account { uid, gid }) = account {
                chown(&inner, Some(uid), Some(gid))?;
            }
        }
        fs::rename(&new, &path)?;
        Ok(ClusterFolder { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.path.join("socket")
    }

    /// The server's log from byte `start` on; empty where there is none yet.
    pub(super) fn log_since(&self, start: usize) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(log.get(start..).unwrap_or_default()).into_owned()
    }

    pub(super) fn append_to_log(&self) -> Result<File> {
        Ok(OpenOptions::new().create(true).append(true).open(self.log())?)
    }

    pub(super) fn append_to_conf(&self, text: &str) -> Result<()> {
        let conf = self.data().join("postgresql.conf");
        Ok(OpenOptions::new().append(true).open(conf)?.write_all(text.as_bytes())?)
    }

    fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }
}

impl Drop for ClusterFolder {
    fn drop(&mut self) {
        // A backend that outlived its server for a moment may still add files.
        let deadline = Instant::now() + REMOVAL_DEADLINE;
        while let Err(e) = remove(&self.path) {
            if !self.path.exists() {
                return;
            }
            if Instant::now() > deadline {
                tracing::warn!("{} could not be removed: {e}", self.path.display());
                return;
            }
            thread::sleep(REMOVAL_POLL);
        }
    }
}

/// The folder for temporary files, or /tmp where its name is too long for a unix socket.
fn parent_folder() -> PathBuf {
    // PostgreSQL names its folders by absolute paths, and is asked for them.
    let parent = env::temp_dir().canonicalize().unwrap_or_else(|_| PathBuf::from("/tmp"));
    let name = PREFIX.len() + 16 + "/socket".len() + 1;
    if parent.as_os_str().len() + name > LONGEST_SOCKET_FOLDER {
        return PathBuf::from("/tmp");
    }
    parent
}

/// Removes the folders in `parent` whose owners died. What cannot be removed is left to the next.
fn remove_orphans(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|m| m.is_dir() && m.uid() == own_uid());
        if !ours {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join("lock")) else { continue };
        if lock_now(&lock).is_ok() {
            remove(&entry.path()).ok();
        }
    }
}

/// Removes a cluster's folder, the lock last: what is left behind by a failure halfway, say because
/// the server is not quite gone, must still be known as an orphan.
fn remove(folder: &Path) -> io::Result<()> {
    small_disk::unmount(&folder.join("data"));
    for inner in ["data", "socket"] {
        match fs::remove_dir_all(folder.join(inner)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    fs::remove_dir_all(folder)
}

fn own_uid() -> u32 {
    // SAFETY: geteuid only reads the process's credentials.
    unsafe { libc::geteuid() }
}

fn lock_now(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_without_an_owner_are_orphans() {
        let parent = tempfile::tempdir().unwrap();
        let alive = ClusterFolder::create_in(parent.path(), None).unwrap();
        let dead = ClusterFolder::create_in(parent.path(), None).unwrap();
        let (dead_path, dead_lock) = (dead.path.clone(), dead._lock.try_clone().unwrap());
        std::mem::forget(dead);

        remove_orphans(parent.path());
        assert!(alive.path.exists() && dead_path.exists());

        // SAFETY: the descriptor is open. Unlocking stands for the owner's death.
        unsafe { libc::flock(dead_lock.as_raw_fd(), libc::LOCK_UN) };
        remove_orphans(parent.path());
        assert!(alive.path.exists() && !dead_path.exists());

        let path = alive.path.clone();
        drop(alive);
        assert!(!path.exists());
    }
}
