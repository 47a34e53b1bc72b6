//! Physical standbys of a private cluster, made without pg_basebackup: only the server's own
//! programs are needed.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::account::Account;
use super::folder::ClusterFolder;
use super::{Cluster, DEADLINE, POLL, conf_line};
use crate::error::{Error, Result};

/// Folders whose contents belong to the running server; a standby has to begin without.
const OF_THE_RUNNING_SERVER: &[&str] = &[
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal",
];
const CONTROL_FILE: &str = "pg_control";

impl Cluster {
    /// A streaming standby of this cluster that answers queries. `settings` come after those of this
    /// cluster's `postgresql.conf`, which the standby has too.
    ///
    /// No slot is made for it: this cluster is set (by ALTER SYSTEM) to keep 1 GB of WAL instead.
    pub async fn standby(&self, settings: &[(&str, &str)]) -> Result<Cluster> {
        self.standby_through(self.port, settings).await
    }

    /// The same, streaming from whoever listens on `port` of 127.0.0.1: a proxy before this cluster, or another
    /// standby of it.
    pub async fn standby_through(&self, port: u16, settings: &[(&str, &str)]) -> Result<Cluster> {
        let session = self.session().await?;
        session.batch_execute("ALTER SYSTEM SET wal_keep_size = '1GB'").await?;
        session.batch_execute("SELECT pg_reload_conf()").await?;
        let conninfo = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
        let conf: String = [("primary_conninfo", &*conninfo), ("hot_standby", "on")]
            .iter()
            .chain(settings)
            .map(conf_line)
            .collect();

        session.batch_execute("SELECT pg_backup_start('standby', true)").await?;
        let (account, from) = (self.account, self.folder.data());
        let copied = tokio::task::spawn_blocking(move || {
            let folder = ClusterFolder::create(account)?;
            copy_data(&from, &folder.data(), account)?;
            Ok::<_, Error>(folder)
        });
        let folder = copied
            .await
            .map_err(|e| Error::failed("the copy of the data folder was broken off").source(e))??;
        let stopped = session
            .query_one("SELECT labelfile, spcmapfile FROM pg_backup_stop(false)", &[])
            .await?;
        if stopped.get::<_, Option<&str>>(1).is_some_and(|map| !map.trim().is_empty()) {
            return Err(Error::failed("a standby of a cluster with tablespaces is not supported"));
        }
        write_file(&folder.data().join("backup_label"), stopped.get(0), account)?;
        write_file(&folder.data().join("standby.signal"), "", account)?;
        folder.append_to_conf(&conf)?;

        let binaries = self.binaries.clone();
        let mut standby = Cluster { server: None, folder, binaries, account, port: 0 };
        standby.launch_on_a_free_port().await?;
        Ok(standby)
    }

    /// Ends the recovery of a standby; its new timeline, once it takes writes.
    pub async fn promote(&self) -> Result<u32> {
        let session = self.session().await?;
        session.batch_execute("SELECT pg_promote(false)").await?;
        self.wait_for(&session, "SELECT NOT pg_is_in_recovery()", "the end of recovery").await?;
        self.timeline().await
    }

    /// The timeline this cluster, which is no standby, writes on.
    pub async fn timeline(&self) -> Result<u32> {
        let session = self.session().await?;
        // The control file tells it only after the next checkpoint.
        let row = session.query_one("SELECT pg_walfile_name(pg_current_wal_lsn())", &[]).await?;
        let name: &str = row.get(0);
        u32::from_str_radix(&name[..8], 16)
            .map_err(|e| Error::failed(format!("{name} is no name of a WAL segment")).source(e))
    }

    /// Waits until this standby shows everything that `primary` has acknowledged up to now.
    pub async fn caught_up_with(&self, primary: &Cluster) -> Result<()> {
        let row = primary.session().await?;
        let row = row.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?;
        let (session, lsn): (_, &str) = (self.session().await?, row.get(0));
        let there = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        self.wait_for(&session, &there, &format!("the standby at {lsn}")).await
    }

    async fn wait_for(&self, session: &Client, condition: &str, what: &str) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        while session.query_one(condition, &[]).await?.get::<_, Option<bool>>(0) != Some(true) {
            if Instant::now() > deadline {
                return Err(self.failed(format!("waited {DEADLINE:?} in vain for {what}")));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn session(&self) -> Result<Client> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user("postgres").dbname("postgres");
        config.connect_timeout(Duration::from_secs(5));
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move { connection.await.ok() });
        Ok(client)
    }
}

/// Copies the data folder of a running server into an empty one. The control file comes last, so
/// that it names no checkpoint younger than the files.
fn copy_data(from: &Path, to: &Path, account: Option<Account>) -> io::Result<()> {
    copy_folder(from, to, account)?;
    for folder in ["pg_wal", "pg_wal/archive_status", "pg_wal/summaries"] {
        if from.join(folder).is_dir() {
            make_folder(&to.join(folder), account)?;
        }
    }
    let control = Path::new("global").join(CONTROL_FILE);
    copy_file(&from.join(&control), &to.join(&control), account)
}

fn copy_folder(from: &Path, to: &Path, account: Option<Account>) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let (source, target) = (entry.path(), to.join(&*name));
        // What the server has removed meanwhile is not needed: the WAL knows of it.
        let Some(kind) = unless_gone(entry.file_type())? else { continue };
        let own = name.starts_with("pgsql_tmp") || name.starts_with("postmaster.");
        if own || name == CONTROL_FILE {
            continue;
        }
        if kind.is_dir() {
            make_folder(&target, account)?;
            if !OF_THE_RUNNING_SERVER.contains(&&*name) {
                unless_gone(copy_folder(&source, &target, account))?;
            }
        } else if kind.is_file() {
            unless_gone(copy_file(&source, &target, account))?;
        } else {
            let text = format!("{} is neither file nor folder", source.display());
            return Err(io::Error::other(text));
        }
    }
    Ok(())
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn make_folder(path: &PathBuf, account: Option<Account>) -> io::Result<()> {
    if !path.is_dir() {
        fs::DirBuilder::new().mode(0o700).create(path)?;
    }
    give_to(path, account)
}

fn copy_file(from: &Path, to: &Path, account: Option<Account>) -> io::Result<()> {
    fs::copy(from, to)?;
    give_to(to, account)
}

fn write_file(path: &Path, text: &str, account: Option<Account>) -> io::Result<()> {
    fs::File::create(path)?.write_all(text.as_bytes())?;
    give_to(path, account)
}

fn give_to(path: &Path, account: Option<Account>) -> io::Result<()> {
    match account {
        Some(Account { uid, gid }) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}
