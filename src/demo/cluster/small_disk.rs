//! Clusters whose data folder is a small filesystem of its own, which a test can fill up.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::account::Account;
use super::folder::ClusterFolder;
use super::{Cluster, SETTINGS, ServerBinaries, conf_line, run_initdb};
use crate::error::{Error, Result};

impl Cluster {
    /// The same as [`Cluster::start`], with `bytes` of disk for the data folder, WAL included. `None`
    /// where we may not mount a filesystem. It is unmounted when the folder is removed.
    pub async fn start_on_small_disk(
        binaries: &ServerBinaries,
        settings: &[(&str, &str)],
        bytes: u64,
    ) -> Result<Option<Cluster>> {
        let account = Account::for_server()?;
        let conf: String = SETTINGS.iter().chain(settings).map(conf_line).collect();
        let programs = binaries.clone();
        let made = tokio::task::spawn_blocking(move || {
            let folder = ClusterFolder::create(account)?;
            if mount(&folder.data(), bytes, account).is_err() {
                return Ok(None);
            }
            run_initdb(&programs, account, &folder)?;
            folder.append_to_conf(&conf)?;
            Ok::<_, Error>(Some(folder))
        });
        let made = made
            .await
            .map_err(|e| Error::failed("making the private cluster was broken off").source(e))??;
        let Some(folder) = made else { return Ok(None) };
        let binaries = binaries.clone();
        let mut cluster = Cluster { server: None, folder, binaries, account, port: 0 };
        cluster.launch_on_a_free_port().await?;
        Ok(Some(cluster))
    }
}

#[cfg(target_os = "linux")]
fn mount(at: &Path, bytes: u64, account: Option<Account>) -> io::Result<()> {
    let owner = account.map(|Account { uid, gid }| format!(",uid={uid},gid={gid}"));
    let options = format!("size={bytes},mode=0700{}", owner.unwrap_or_default());
    let (at, options) = (c_path(at)?, CString::new(options)?);
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: all pointers are to strings that live until the call returns.
    let done = unsafe {
        let tmpfs = c"tmpfs".as_ptr();
        libc::mount(tmpfs, at.as_ptr(), tmpfs, flags, options.as_ptr().cast())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn mount(_: &Path, _: u64, _: Option<Account>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Takes the filesystem off a cluster's data folder, if there is one; also one that is still in use
/// by a backend on its way out.
#[cfg(target_os = "linux")]
pub(super) fn unmount(data: &Path) {
    let Ok(data) = c_path(data) else { return };
    // SAFETY: the pointer is to a string that lives until the call returns. Where nothing is
    // mounted, the call fails and does nothing.
    unsafe { libc::umount2(data.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) };
}

#[cfg(not(target_os = "linux"))]
pub(super) fn unmount(_: &Path) {}

#[cfg(target_os = "linux")]
fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
