//! The small disk of a test gets full, and is gone afterwards.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{self, SmallDisk};

const SIZE: u64 = 160 << 20;
const SOON: Duration = Duration::from_secs(20);
/// Set in the second process of `a_killed_owner_leaves_no_mount_to_the_next`.
const OWNER_VARIABLE: &str = "PGWRAITH_TEST_SMALL_DISK_OWNER";

fn is_mounted(folder: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.contains(&*folder.to_string_lossy())
}

#[tokio::test]
async fn a_full_disk_refuses_rows_until_there_is_space() {
    let Some(disk) = SmallDisk::start(SIZE, &[]).await else { return };
    let client = harness::connect(&disk.cluster.dsn("postgres")).await;
    client.batch_execute("CREATE TABLE t (v text); INSERT INTO t VALUES ('x')").await.unwrap();
    let more = "INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 1000)";

    disk.fill();
    let error = client.batch_execute(more).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "53100", "{error:?}");
    let count =
        async || -> i64 { client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0) };
    assert_eq!(count().await, 1);

    disk.free();
    client.batch_execute(more).await.unwrap();
    assert_eq!(count().await, 1001);
}

#[tokio::test]
async fn nothing_stays_mounted_even_by_a_panic() {
    let Some(disk) = SmallDisk::start(SIZE, &[]).await else { return };
    let folder: PathBuf = disk.cluster.folder();
    assert!(is_mounted(&folder));
    disk.fill();
    let panicked = tokio::spawn(async move {
        let _disk = disk;
        panic!("on purpose");
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert!(!is_mounted(&folder) && !folder.exists());
}

/// A mount would outlive its process, and hold memory: whoever makes the next cluster removes it.
#[tokio::test]
async fn a_killed_owner_leaves_no_mount_to_the_next() {
    let is_owner = std::env::var_os(OWNER_VARIABLE).is_some();
    let Some(disk) = SmallDisk::start(SIZE, &[]).await else { return };
    if is_owner {
        println!("\nfolder {}", disk.cluster.folder().display());
        return std::future::pending().await;
    }
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "small_disk::a_killed_owner_leaves_no_mount_to_the_next", "--nocapture"])
        .env(OWNER_VARIABLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines().map_while(Result::ok);
    let folder = lines
        .find_map(|line| line.strip_prefix("folder ").map(PathBuf::from))
        .expect("the owner says what it owns");
    assert!(is_mounted(&folder));
    owner.kill().unwrap();
    owner.wait().unwrap();

    // The server may take a moment to end; then its files are nobody's.
    let gone = async || {
        harness::cluster().await;
        !is_mounted(&folder) && !folder.exists()
    };
    harness::wait_until("the mount and the folder are removed", SOON, gone).await;
}
