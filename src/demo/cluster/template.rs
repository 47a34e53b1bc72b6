//! A data folder that initdb made once, for the clusters of many processes: it takes as long as a short test.
//!
//! Only where `PGWRAITH_CLUSTER_TEMPLATES` names a folder that the servers' user may write to, as the suite's script does,
//! which removes it too.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::account::{self, Account};
use super::folder::ClusterFolder;
use super::{ServerBinaries, run_initdb};
use crate::error::Result;

const FOLDER_VARIABLE: &str = "PGWRAITH_CLUSTER_TEMPLATES";

/// Whether this process had a cluster already.
static HAD_ONE: AtomicBool = AtomicBool::new(false);

/// Makes the folder's data folder.
pub(super) fn initialize(
    binaries: &ServerBinaries,
    account: Option<Account>,
    folder: &ClusterFolder,
) -> Result<()> {
    // Copies have one system identifier, and two clusters of one process are to be told from each other.
    let templates = env::var_os(FOLDER_VARIABLE).filter(|_| !HAD_ONE.swap(true, Ordering::SeqCst));
    let Some(templates) = templates.map(PathBuf::from) else {
        return run_initdb(binaries, account, folder);
    };
    let template = templates.join(binaries.major().to_string());
    if template.is_dir() {
        let Err(e) = copy(&template, &folder.data(), account) else { return Ok(()) };
        tracing::debug!("the template in {} is of no use: {e}", templates.display());
        empty(&folder.data())?;
    }
    run_initdb(binaries, account, folder)?;
    // Others may be at the same; the first one stays. Whoever cannot make it does without.
    let new = templates.join(format!(".new-{:016x}", rand::random::<u64>()));
    let made = copy(&folder.data(), &new, account).and_then(|()| fs::rename(&new, &template));
    if let Err(e) = made {
        tracing::debug!("no template in {}: {e}", templates.display());
        fs::remove_dir_all(&new).ok();
    }
    Ok(())
}

/// Removes what half a copy left.
fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// What is in one folder to the other, with its owner.
fn copy(from: &Path, to: &Path, account: Option<Account>) -> io::Result<()> {
    let mut command = Command::new("cp");
    command.args(["-a", "-T"]).arg(from).arg(to).current_dir("/");
    account::run_as(&mut command, account);
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}
