//! Races, made on purpose: commits that are decoded and not visible, rows of a foreign origin, keys
//! that do not fit into memory.

use std::sync::Arc;
use std::time::Duration;

use pgwraith::catalog;
use pgwraith::change::{self, Request};
use pgwraith::conninfo::ConnInfo;
use pgwraith::demo::cluster::Cluster;
use pgwraith::flow::capture::{Fence, Tracker};
use pgwraith::flow::sync::Syncer;
use pgwraith::flow::write::{Door, Writer};
use pgwraith::flow::{Captured, Flow, Target};
use pgwraith::pg::{Connector, Lsn, QualifiedName};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::harness::{self, Background, Failpoint};

const LIMIT: Duration = Duration::from_secs(60);

/// A table of 1000 rows in a database that has the state's tables already. The client does not
/// wait for standbys.
async fn table(cluster: &Cluster) -> (String, Client) {
    let dsn = harness::database(cluster, "app").await;
    let client = harness::connect(&dsn).await;
    harness::make_state(&dsn, &client).await;
    let sql = "SET synchronous_commit = local; \
               CREATE TABLE t (id int PRIMARY KEY, v text); \
               INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 1000) i";
    client.batch_execute(sql).await.unwrap();
    (dsn, client)
}

fn run(dsn: &str, more: &[&str]) -> Background {
    let args = [
        "run",
        "t",
        "-d",
        dsn,
        "--rebuild",
        "--json",
        "--chunk-rows",
        "100",
        "--chunk-time",
        "1ms",
    ];
    Background::start(args.iter().chain(more))
}

/// Both tables hold the same rows, and these many.
async fn retired_is_new(client: &Client, rows: i64) {
    let sql = "SELECT count(*) FROM (SELECT record_send(o) FROM t_old o EXCEPT ALL \
                 SELECT record_send(n) FROM t n) a UNION ALL \
               SELECT count(*) FROM (SELECT record_send(n) FROM t n EXCEPT ALL \
                 SELECT record_send(o) FROM t_old o) b UNION ALL SELECT count(*) FROM t";
    let counts = client.query(sql, &[]).await.unwrap();
    let counts: Vec<i64> = counts.iter().map(|row| row.get(0)).collect();
    assert_eq!(counts, [0, 0, rows], "lost, unexpected, rows");
}

/// A synchronous standby that never answers: commits hang, decoded and not visible.
struct Standby<'a> {
    client: &'a Client,
}

impl<'a> Standby<'a> {
    async fn silent(dsn: &str, client: &'a Client) -> Standby<'a> {
        client
            .batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            .await
            .unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        // The server has noticed when a commit hangs.
        let standby = Standby { client };
        let probe = harness::connect(dsn).await;
        let cancel = probe.cancel_token();
        let pid: i32 = one(&probe, "SELECT pg_backend_pid()").await;
        let hangs = hangs(pid);
        let probing = tokio::spawn(async move {
            loop {
                let sql = "SELECT pg_logical_emit_message(true, 'probe', '')";
                if probe.batch_execute(sql).await.is_err() || probe.is_closed() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
        harness::wait_for_sql(client, "a commit hangs", &hangs).await;
        probing.abort();
        cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
        standby
    }

    /// Runs `sql` in a transaction whose commit hangs.
    async fn hang(&self, dsn: &str, sql: &str) -> JoinHandle<()> {
        let session = harness::connect(dsn).await;
        let pid: i32 = one(&session, "SELECT pg_backend_pid()").await;
        let sql = format!("BEGIN; {sql}; COMMIT");
        let task = tokio::spawn(async move { session.batch_execute(&sql).await.unwrap() });
        harness::wait_for_sql(self.client, "the commit hangs", &hangs(pid)).await;
        task
    }

    /// Everybody goes on.
    async fn gone(self) {
        self.client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = ''").await.unwrap();
        self.client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    }
}

fn hangs(pid: i32) -> String {
    format!(
        "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep')"
    )
}

async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> T {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// What the snapshot of a full sync sees and the stream has not brought yet is not marked dirty: until
/// its fence is back nobody may call the shadow equal.
#[tokio::test]
async fn a_full_sync_waits_for_its_fence() {
    let cluster = harness::cluster().await;
    let (dsn, client) = table(&cluster).await;
    let insert = "CREATE TABLE t_v2 (LIKE t INCLUDING ALL); \
                  INSERT INTO pgwraith.migration (source_schema, source_name, source_oid, shadow_name, \
                  retired_name, change, tool_version, epoch) VALUES ('public', 't', 't'::regclass, \
                  't_v2', 't_old', '{}', '0', 1)";
    client.batch_execute(insert).await.unwrap();
    let migration = one(&client, "SELECT id FROM pgwraith.migration").await;
    let connector = Connector::new(ConnInfo::resolve(Some(&dsn)).unwrap());
    let control = connector.session("control").await.unwrap();
    let oid = catalog::find(&control, "t").await.unwrap();
    let source = catalog::read(&control, oid).await.unwrap().unwrap();
    let request = Request::default();
    let plan = change::rehearse(&control, &source, &request).await.unwrap();
    let root = QualifiedName::new("public", "t_v2");
    let flow = Flow {
        migration,
        number: 1,
        captured: Captured {
            oid,
            name: source.qualified(),
            rows: source.qualified(),
            keys: source.qualified(),
            is_partitioned: false,
        },
        target: Target::ordinary(root, true),
        projection: plan.projection,
        key: plan.key,
        order: None,
        functions: Vec::new(),
        publication: String::new(),
        slot: String::new(),
    };
    let writer = Writer { migration, epoch: 1, owner: "postgres".into() };
    let session = connector.session("full sync").await.unwrap();
    let syncer = Syncer::new(session, Arc::new(flow), writer).await.unwrap();
    let tracker = Arc::new(Tracker::default());
    let session = connector.session("fence").await.unwrap();
    let fence = Fence::new(session, Arc::clone(&tracker), migration, |_| {});
    let full = tokio::spawn(async move {
        syncer.full(&tracker, &Door::default(), &fence).await.unwrap();
    });
    let written = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE state = 'idle' \
                   AND application_name = 'pgwraith/fence' AND query LIKE '%pg_logical_emit_message%')";
    harness::wait_for_sql(&client, "the fence is written", written).await;
    // Nobody reads the stream.
    assert!(!full.is_finished());
    full.abort();
}

/// Changes of every kind, to rows at both ends of the table; 1000 rows before and after.
const CHANGES: &str = "UPDATE t SET v = 'late' WHERE id IN (1, 990); DELETE FROM t WHERE id IN (2, 980); \
    INSERT INTO t VALUES (0, 'late'), (5000, 'late'); UPDATE t SET id = 5003 WHERE id = 3";

async fn changes_are_there(client: &Client) {
    let sql = "SELECT count(*) FROM t WHERE id IN (0, 1, 990, 5000) AND v = 'late' OR id = 5003";
    assert_eq!(one::<i64>(client, sql).await, 5);
    assert_eq!(one::<i64>(client, "SELECT count(*) FROM t WHERE id IN (2, 3, 980)").await, 0);
}

/// The commit that hung goes through, and the run to its end.
async fn nothing_is_lost(
    standby: Standby<'_>,
    writer: JoinHandle<()>,
    run: Background,
    client: &Client,
) {
    standby.gone().await;
    writer.await.unwrap();
    run.finish(LIMIT).await.expect_code(0);
    changes_are_there(client).await;
    retired_is_new(client, 1000).await;
}

#[tokio::test]
async fn a_commit_that_hangs_before_the_start_is_waited_for() {
    let cluster = harness::cluster().await;
    let (dsn, client) = table(&cluster).await;
    let standby = Standby::silent(&dsn, &client).await;
    let writer = standby.hang(&dsn, CHANGES).await;
    let mut run = run(&dsn, &[]);
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                 AND application_name LIKE 'pgwraith/%/stream')";
    harness::wait_for_sql(&client, "the slot waits for the transaction", waits).await;
    run.expect_running();
    assert_eq!(harness::phase(&client, "t").await.as_deref(), Some("prepare"));
    nothing_is_lost(standby, writer, run, &client).await;
}

/// The slot is there when the transaction begins, so only Invariant 1's own wait is left.
#[tokio::test]
async fn a_commit_that_hangs_between_slot_and_copy_is_waited_for() {
    let cluster = harness::cluster().await;
    let (dsn, client) = table(&cluster).await;
    let sql = "CREATE FUNCTION public.stop_at_shadow() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF EXISTS (SELECT 1 FROM pg_catalog.pg_event_trigger_ddl_commands() \
                   WHERE object_identity = 'public.t_v2') \
                 THEN PERFORM pg_catalog.pg_advisory_xact_lock_shared(7); END IF; END $$; \
               CREATE EVENT TRIGGER stop ON ddl_command_end WHEN TAG IN ('CREATE TABLE') \
                 EXECUTE FUNCTION public.stop_at_shadow()";
    client.batch_execute(sql).await.unwrap();
    let point = Failpoint::closed(harness::connect(&dsn).await, 7).await;
    let mut run = run(&dsn, &["--allow-event-triggers"]);
    point.wait_for_somebody().await;
    let slots: i64 = one(&client, "SELECT count(*) FROM pg_replication_slots").await;
    assert_eq!(slots, 1);
    let standby = Standby::silent(&dsn, &client).await;
    let writer = standby.hang(&dsn, CHANGES).await;
    point.open().await;

    let waits = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%/control' \
                   AND query LIKE '%virtualtransaction = ANY%') \
                 OR EXISTS (SELECT 1 FROM pgwraith.migration WHERE phase <> 'prepare' AND finished_at IS NULL)";
    harness::wait_for_sql(&client, "the run waits or goes on", waits).await;
    assert_eq!(harness::phase(&client, "t").await.as_deref(), Some("prepare"));
    run.expect_running();
    nothing_is_lost(standby, writer, run, &client).await;
}

#[tokio::test]
async fn a_commit_that_hangs_during_the_copy_is_not_lost() {
    let cluster = harness::cluster().await;
    let (dsn, client) = table(&cluster).await;
    let point = Failpoint::at_chunk(&client, harness::connect(&dsn).await, 4).await;
    let mut run = run(&dsn, &["--workers", "1"]);
    point.wait_for_somebody().await;
    let standby = Standby::silent(&dsn, &client).await;
    let writer = standby.hang(&dsn, CHANGES).await;
    point.open().await;

    // It is decoded, copied past, synced and verified, and never visible; then it holds the table.
    run.wait_for_saying("the cutover waits: ").await;
    assert!(!writer.is_finished());
    nothing_is_lost(standby, writer, run, &client).await;
}

#[tokio::test]
async fn rows_of_a_foreign_origin_are_captured() {
    let cluster = harness::cluster().await;
    let (dsn, client) = table(&cluster).await;
    let point = Failpoint::at_chunk(&client, harness::connect(&dsn).await, 4).await;
    let run = run(&dsn, &["--workers", "1"]);
    point.wait_for_somebody().await;
    let session = harness::connect(&dsn).await;
    let origin = "SELECT pg_replication_origin_create('elsewhere'); \
                  SELECT pg_replication_origin_session_setup('elsewhere')";
    session.batch_execute(origin).await.unwrap();
    let changes = format!(
        "BEGIN; SELECT pg_replication_origin_xact_setup('0/123', now()); {CHANGES}; COMMIT"
    );
    session.batch_execute(&changes).await.unwrap();
    point.open().await;
    let output = run.finish(LIMIT).await.expect_code(0);
    // Verification would repair what the stream hides, until it is too late for that.
    assert_eq!(output.json()["verify"]["mismatches"], 0, "{output}");
    changes_are_there(&client).await;
    retired_is_new(&client, 1000).await;
}

/// The slot's confirmed position, and then the state's: that order, since both move on.
async fn positions(client: &Client) -> (Lsn, Lsn) {
    let slot = "SELECT confirmed_flush_lsn FROM pg_replication_slots";
    let stored = "SELECT f.stored_lsn FROM pgwraith.flow f JOIN pgwraith.migration m \
                  ON m.id = f.migration_id WHERE m.finished_at IS NULL";
    let confirmed: Lsn = one(client, slot).await;
    let stored: Lsn = one(client, stored).await;
    assert!(confirmed <= stored, "the slot is at {confirmed}, beyond the stored {stored}");
    (confirmed, stored)
}

#[tokio::test]
async fn keys_go_to_the_database_and_come_back_and_the_slot_follows() {
    let cluster = harness::cluster().await;
    let (dsn, client) = table(&cluster).await;
    client.batch_execute("CREATE TABLE noise (x text)").await.unwrap();
    let point = Failpoint::at_chunk(&client, harness::connect(&dsn).await, 4).await;
    let reader = harness::connect(&dsn).await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM t").await.unwrap();
    let mut run = run(&dsn, &["--workers", "1", "--max-keys-in-memory", "10"]);
    point.wait_for_somebody().await;

    client.batch_execute("UPDATE t SET v = v || '!'").await.unwrap();
    let stored = "SELECT count(*) >= 900 FROM pgwraith.dirty WHERE kind = 'key'";
    harness::wait_for_sql(&client, "keys are stored", stored).await;
    positions(&client).await;
    point.open().await;
    harness::wait_for_phase(&client, &mut run, "t", "cutover").await;
    let back = "SELECT NOT EXISTS (SELECT 1 FROM pgwraith.dirty)";
    harness::wait_for_sql(&client, "the keys are back", back).await;

    // The table rests, the server does not.
    let before: Lsn = one(&client, "SELECT pg_current_wal_lsn()").await;
    let noise = "INSERT INTO noise SELECT repeat(md5(i::text), 10) FROM generate_series(1, 2000) i";
    client.batch_execute(noise).await.unwrap();
    let advanced = async || positions(&client).await.0 > before;
    harness::wait_until("the slot advances", LIMIT, advanced).await;

    run.expect_running();
    reader.batch_execute("COMMIT").await.unwrap();
    let output = run.finish(LIMIT).await.expect_code(0);
    assert!(output.json()["keys_synced"].as_u64() >= Some(900), "{output}");
    retired_is_new(&client, 1000).await;
}
