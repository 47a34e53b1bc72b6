//! The private cluster keeps its promises: it answers, survives a crash, and leaves nothing.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pgwraith::demo::cluster::Cluster;

use crate::harness;

const SOON: Duration = Duration::from_secs(20);
/// Set in the second process of `a_killed_owner_takes_its_server_along`.
const OWNER_VARIABLE: &str = "PGWRAITH_TEST_CLUSTER_OWNER";

#[tokio::test]
async fn answers_on_both_sockets_with_the_settings_asked_for() {
    let cluster = harness::cluster_with(&[("work_mem", "7MB"), ("fsync", "on")]).await;
    let dsn = harness::database(&cluster, "weird näme/?").await;
    for dsn in [&dsn, &cluster.socket_dsn("weird näme/?")] {
        let client = harness::connect(dsn).await;
        assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
        let name = client.query_one("SELECT current_database()", &[]).await.unwrap();
        assert_eq!(name.get::<_, &str>(0), "weird näme/?");
        for (setting, value) in [("work_mem", "7MB"), ("fsync", "on"), ("wal_level", "logical")] {
            let row = client.query_one("SELECT current_setting($1)", &[&setting]).await.unwrap();
            assert_eq!(row.get::<_, &str>(0), value, "{setting}");
        }
    }
}

#[tokio::test]
async fn survives_a_crash() {
    let mut cluster = harness::cluster().await;
    let (pid, port) = (cluster.pid().unwrap(), cluster.port());
    let client = harness::connect(&cluster.dsn("postgres")).await;
    client.batch_execute("CREATE TABLE t AS SELECT 42 AS n").await.unwrap();

    cluster.crash().await.unwrap();
    assert_eq!(cluster.pid(), None);
    assert!(client.query_one("SELECT 1", &[]).await.is_err());

    cluster.restart().await.unwrap();
    assert!(cluster.pid().unwrap() != pid && cluster.port() == port);
    assert!(cluster.log_tail().contains("not properly shut down"), "{}", cluster.log_tail());
    let client = harness::connect(&cluster.dsn("postgres")).await;
    assert_eq!(client.query_one("SELECT n FROM t", &[]).await.unwrap().get::<_, i32>(0), 42);
}

#[tokio::test]
async fn a_crash_undoes_what_was_not_committed() {
    let mut cluster = harness::cluster().await;
    let client = harness::connect(&cluster.dsn("postgres")).await;
    client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
    let open = harness::connect(&cluster.dsn("postgres")).await;
    open.batch_execute("BEGIN; INSERT INTO t VALUES (2)").await.unwrap();
    // Its row is in the WAL already: recovery brings it back, and does not show it.
    client.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();

    cluster.crash().await.unwrap();
    assert!(open.batch_execute("COMMIT").await.is_err());
    cluster.restart().await.unwrap();
    let client = harness::connect(&cluster.dsn("postgres")).await;
    let rows = client.query("SELECT n FROM t ORDER BY n", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), [1, 3]);
}

#[tokio::test]
async fn an_orderly_stop_needs_no_recovery() {
    let mut cluster = harness::cluster().await;
    cluster.stop_fast().await.unwrap();
    assert_eq!(cluster.pid(), None);
    cluster.restart().await.unwrap();
    assert!(!cluster.log_tail().contains("not properly shut down"), "{}", cluster.log_tail());
}

#[tokio::test]
async fn a_bad_setting_is_told_with_the_log() {
    let binaries = pgwraith::demo::cluster::ServerBinaries::find().unwrap();
    let error = Cluster::start(&binaries, &[("wal_level", "nonsense")]).await.err().unwrap();
    assert!(error.to_string().contains("invalid value for parameter \"wal_level\""), "{error}");
}

#[tokio::test]
async fn is_gone_after_drop_even_by_a_panic_or_when_stopped() {
    let cluster = harness::cluster().await;
    let (pid, folder) = (cluster.pid().unwrap(), cluster.folder());
    assert!(process_exists(pid) && folder.exists());
    let _session = harness::connect(&cluster.dsn("postgres")).await;
    // SAFETY: kill takes plain numbers. A stopped server notices no SIGQUIT until it goes on.
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    let panicked = tokio::spawn(async move {
        let _cluster = cluster;
        panic!("on purpose");
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert!(!process_exists(pid), "the server is still there");
    assert!(!folder.exists(), "{} is still there", folder.display());
}

/// The owner is this very test in a second process, which waits to be killed.
#[tokio::test]
async fn a_killed_owner_takes_its_server_along() {
    if std::env::var_os(OWNER_VARIABLE).is_some() {
        let cluster = harness::cluster().await;
        println!("\n{} {}", cluster.pid().unwrap(), cluster.folder().display());
        return std::future::pending().await;
    }
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cluster::a_killed_owner_takes_its_server_along", "--nocapture"])
        .env(OWNER_VARIABLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (pid, folder) = lines
        .filter_map(|line| line.split_once(' ').map(|(a, b)| (a.parse::<i32>(), b.to_owned())))
        .find_map(|(pid, folder)| Some((pid.ok()?, folder)))
        .expect("the owner says what it owns");
    assert!(process_exists(pid));

    owner.kill().unwrap();
    owner.wait().unwrap();
    harness::wait_until("the server ends", SOON, async || !process_exists(pid)).await;

    // Whoever makes the next cluster removes the folder; that may be a test beside this one.
    harness::cluster().await;
    let gone = async || !Path::new(&folder).exists();
    harness::wait_until("the folder is removed", SOON, gone).await;
}

/// Whether the process runs. In a container nobody may be there to bury an orphan: a zombie is
/// as gone as it gets.
fn process_exists(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
