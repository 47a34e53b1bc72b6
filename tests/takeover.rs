//! A run that is killed, stopped, frozen or replaced: nobody writes who may not, and an abort leaves
//! nothing behind.

use std::time::Duration;

use pgwraith::conninfo::ConnInfo;
use pgwraith::demo::cluster::Cluster;
use pgwraith::error::Kind;
use pgwraith::flow::write::{Isolation, Writer};
use pgwraith::pg::Connector;
use tokio_postgres::Client;

use crate::harness::{self, Background, Failpoint};

const LIMIT: Duration = Duration::from_secs(60);

/// A table of 1000 rows in a database that has the state's tables already.
async fn table(cluster: &Cluster) -> (String, Client) {
    let dsn = harness::database(cluster, "app").await;
    let client = harness::connect(&dsn).await;
    harness::make_state(&dsn, &client).await;
    let sql = "CREATE TABLE t (id int PRIMARY KEY, v text); \
               INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 1000) i";
    client.batch_execute(sql).await.unwrap();
    (dsn, client)
}

fn run(dsn: &str) -> Background {
    Background::start([
        "run",
        "t",
        "-d",
        dsn,
        "--rebuild",
        "--chunk-rows",
        "100",
        "--chunk-time",
        "1ms",
    ])
}

async fn abort(dsn: &str) {
    harness::run(["abort", "t", "-d", dsn]).await.expect_code(0);
}

/// What the source is and holds.
async fn source(client: &Client) -> (u32, u32, i64, String) {
    let sql = "SELECT oid, relfilenode, (SELECT count(*) FROM t), \
               (SELECT sum(hashtextextended(t::text, 0))::text FROM t) \
               FROM pg_class WHERE oid = 't'::regclass";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

async fn nothing_is_left(client: &Client) {
    assert_eq!(harness::leftovers(client).await, Vec::<String>::new());
}

/// A transaction that keeps the cutover from its lock for as long as it is open.
async fn reader(dsn: &str) -> Client {
    let client = harness::connect(dsn).await;
    client.batch_execute("BEGIN; SELECT count(*) FROM t").await.unwrap();
    client
}

#[tokio::test]
async fn a_frozen_run_writes_nothing_after_its_abort_and_spares_its_successor() {
    let cluster = harness::cluster().await;
    let (dsn, client) = table(&cluster).await;
    let before = source(&client).await;
    let point = Failpoint::at_chunk(&client, harness::connect(&dsn).await, 3).await;
    let frozen = run(&dsn);
    point.wait_for_somebody().await;
    frozen.signal(libc::SIGSTOP);

    abort(&dsn).await;
    nothing_is_left(&client).await;
    assert_eq!(source(&client).await, before);
    point.open().await;

    // The successor is at work when the frozen run wakes up.
    let reader = reader(&dsn).await;
    let mut successor = run(&dsn);
    harness::wait_for_phase(&client, &mut successor, "t", "cutover").await;
    frozen.signal(libc::SIGCONT);
    let output = frozen.finish(LIMIT).await.expect_code(6);
    assert!(output.stderr.contains("has taken this migration over"), "{output}");
    successor.expect_running();
    reader.batch_execute("COMMIT").await.unwrap();
    successor.finish(LIMIT).await.expect_code(0);
    let (oid, _, rows, hash) = source(&client).await;
    assert!(oid != before.0 && (rows, hash) == (before.2, before.3));
}

/// The state of a migration of `t` that no run works on.
async fn abandoned_migration(dsn: &str, client: &Client) -> (Connector, Writer) {
    let sql = "INSERT INTO pgwraith.migration (source_schema, source_name, source_oid, shadow_name, \
               retired_name, change, tool_version, epoch) VALUES ('public', 't', 't'::regclass, \
               't_v2', 't_old', '{}', '0', 2) RETURNING id";
    let migration = client.query_one(sql, &[]).await.unwrap().get(0);
    let connector = Connector::new(ConnInfo::resolve(Some(dsn)).unwrap());
    (connector, Writer { migration, epoch: 2, owner: "postgres".into() })
}

#[tokio::test]
async fn only_the_present_epoch_may_begin() {
    let cluster = harness::cluster().await;
    let (dsn, client) = table(&cluster).await;
    let (connector, present) = abandoned_migration(&dsn, &client).await;
    let session = connector.session("worker").await.unwrap();
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead] {
        present.begin(&session, isolation).await.unwrap();
        session.batch("COMMIT").await.unwrap();
        for epoch in [1, 3] {
            let other = Writer { epoch, ..present.clone() };
            let error = other.begin(&session, isolation).await.unwrap_err();
            assert_eq!(error.kind(), Kind::NotResumable, "{error}");
        }
        let other = Writer { migration: present.migration + 1, ..present.clone() };
        assert!(other.begin(&session, isolation).await.is_err());
    }
}

#[tokio::test]
async fn an_abort_waits_for_a_transaction_of_the_run_that_it_cannot_end() {
    let cluster = harness::cluster().await;
    let (dsn, client) = table(&cluster).await;
    let (connector, writer) = abandoned_migration(&dsn, &client).await;
    // Not named like a session of the migration, so that it is not found and ended.
    let worker = connector.session("elsewhere").await.unwrap();
    writer.begin(&worker, Isolation::ReadCommitted).await.unwrap();

    let mut aborting = Background::start(["abort", "t", "-d", &dsn]);
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity \
                 WHERE application_name = 'pgwraith/abort' AND wait_event_type = 'Lock')";
    harness::wait_for_sql(&client, "the abort waits", waits).await;
    aborting.expect_running();
    worker.batch("COMMIT").await.unwrap();
    aborting.finish(LIMIT).await.expect_code(0);
    assert!(writer.begin(&worker, Isolation::ReadCommitted).await.is_err());
    drop(worker);
    let gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity \
                WHERE application_name LIKE 'pgwraith/%')";
    harness::wait_for_sql(&client, "the sessions end", gone).await;
    nothing_is_left(&client).await;
}

#[tokio::test]
async fn after_a_kill_in_the_copy_an_abort_leaves_nothing() {
    let cluster = harness::cluster().await;
    let (dsn, client) = table(&cluster).await;
    let before = source(&client).await;
    let point = Failpoint::at_chunk(&client, harness::connect(&dsn).await, 3).await;
    let killed = run(&dsn);
    point.wait_for_somebody().await;
    killed.signal(libc::SIGKILL);
    assert_eq!(killed.finish(LIMIT).await.signal, Some(libc::SIGKILL));
    assert!(harness::leftovers(&client).await.len() >= 4, "a crash cleans nothing");
    abort(&dsn).await;
    nothing_is_left(&client).await;
    assert_eq!(source(&client).await, before);
    let again = harness::run(["abort", "t", "-d", &dsn]).await.expect_code(2);
    assert!(again.stderr.contains("has no unfinished migration"), "{again}");
}

#[tokio::test]
async fn after_a_kill_in_the_cutover_an_abort_leaves_nothing() {
    let cluster = harness::cluster().await;
    let (dsn, client) = table(&cluster).await;
    let before = source(&client).await;
    let _reader = reader(&dsn).await;
    let mut killed = run(&dsn);
    harness::wait_for_phase(&client, &mut killed, "t", "cutover").await;
    killed.signal(libc::SIGKILL);
    killed.finish(LIMIT).await;
    abort(&dsn).await;
    nothing_is_left(&client).await;
    assert_eq!(source(&client).await, before);
}

async fn stopped_in_the_copy(signal: i32, name: &str) {
    let cluster = harness::cluster().await;
    let (dsn, client) = table(&cluster).await;
    let before = source(&client).await;
    let point = Failpoint::at_chunk(&client, harness::connect(&dsn).await, 3).await;
    let stopped = run(&dsn);
    point.wait_for_somebody().await;
    stopped.signal(signal);
    let output = stopped.finish(LIMIT).await.expect_code(5);
    assert!(output.stderr.contains(name), "{output}");
    for text in [
        "`pgwraith resume t` goes on",
        "`pgwraith abort t` undoes it",
        "MB of WAL now",
        "max_slot_wal_keep_size",
    ] {
        assert!(output.stderr.contains(text), "{text}: {output}");
    }
    let left = harness::leftovers(&client).await;
    assert!(left.iter().any(|l| l.starts_with("slot")), "{left:?}");
    assert!(!left.iter().any(|l| l.starts_with("session")), "{left:?}");
    abort(&dsn).await;
    nothing_is_left(&client).await;
    assert_eq!(source(&client).await, before);
}

#[tokio::test]
async fn ctrl_c_stops_in_good_order() {
    stopped_in_the_copy(libc::SIGINT, "Ctrl-C").await;
}

#[tokio::test]
async fn sigterm_stops_in_good_order() {
    stopped_in_the_copy(libc::SIGTERM, "SIGTERM").await;
}
