//! Somebody changes what a run relies on while it runs: noticed before the swap, the source stays
//! in use, nothing holds WAL back.

use std::time::Duration;

use crate::harness::{self, Output};
use crate::scene::{SOON, Shop, exec, shop, wait_for};

const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 1);
    INSERT INTO t SELECT g, 'Row ' || g FROM generate_series(1, 1000) g;";

/// Writes of the application that the sabotage must not stop.
const WRITES: &str = "INSERT INTO t VALUES (5000, 'New'); UPDATE t SET v = 'Upd' WHERE id = 1; \
                      UPDATE t SET id = 6000 WHERE id = 2; DELETE FROM t WHERE id = 3";

/// Stands for the name of our publication, which is known only when the run has begun.
const PUBLICATION: &str = "our_publication";

/// Runs `sql` in the middle of a run that is held where it enters `phase`; what came of it.
async fn sabotaged(shop: &Shop, phase: &str, sql: &str) -> Output {
    shop.exec(TABLE).await;
    let oid: u32 = shop.value("SELECT 't'::regclass::oid").await;
    let held = shop.held(phase, "t", &["--rebuild"]).await;
    let publication: String = shop.value("SELECT publication FROM pgwraith.flow").await;
    let is_ours = sql.contains(PUBLICATION);
    let sql = &sql.replace(PUBLICATION, &publication);
    shop.exec(sql).await;
    application_goes_on(shop).await;
    let wanted = shop.rows("t").await;
    let output = held.finish().await;

    assert_eq!(output.code, Some(if is_ours { 1 } else { 6 }), "{sql}: {output}");
    let now: u32 = shop.value("SELECT 't'::regclass::oid").await;
    assert_eq!(now, oid, "{sql}: the source was swapped away: {output}");
    assert_eq!(shop.rows("t").await, wanted, "{sql}");
    assert_eq!(shop.held_back().await, [""; 0], "{sql}: {output}");
    if is_ours {
        recovered(shop, sql, &output).await;
        assert_eq!(shop.rows("t").await, wanted, "{sql}");
    }
    output
}

/// What the source became meanwhile is found by comparing.
async fn recovered(shop: &Shop, sql: &str, output: &Output) {
    assert!(output.stderr.contains("`pgwraith resume t --recover`"), "{sql}: {output}");
    shop.exec("DROP FUNCTION gate() CASCADE").await;
    harness::run(["resume", "t", "-d", &shop.dsn, "--recover"]).await.expect_code(0);
    assert_eq!(shop.held_back().await, [""; 0], "{sql}");
}

/// Our publication stands in the way of updates where it no longer fits the replica identity: it
/// must go at once, while the run is still held.
async fn application_goes_on(shop: &Shop) {
    let writes = async || shop.client.batch_execute(WRITES).await.is_ok();
    harness::wait_until("the application's writes go on", Duration::from_secs(10), writes).await;
}

/// Sabotage before the cutover, each on a database of its own in one cluster.
async fn each_is_noticed(cases: &[(&str, &[&str])]) {
    for phase in ["verify", "cutover"] {
        each_is_noticed_in(phase, cases).await;
    }
}

async fn each_is_noticed_in(phase: &str, cases: &[(&str, &[&str])]) {
    let mut shop = shop().await;
    for (n, (sql, told)) in cases.iter().enumerate() {
        shop.move_to(&format!("{phase}{n}")).await;
        let output = sabotaged(&shop, phase, sql).await;
        for text in *told {
            assert!(output.stderr.contains(text), "{sql}: {text:?} is not told: {output}");
        }
        let table = "\"public\".\"t\" is untouched and in use";
        assert!(output.stderr.contains(table), "{sql}: {output}");
    }
}

#[tokio::test]
async fn our_publication_altered() {
    let set = format!("ALTER PUBLICATION {PUBLICATION} SET TABLE t (id) WHERE (id > 5000)");
    let columns = format!("ALTER PUBLICATION {PUBLICATION} SET TABLE t (id, v)");
    let dropped_from = format!("ALTER PUBLICATION {PUBLICATION} DROP TABLE t");
    let dropped = format!("DROP PUBLICATION {PUBLICATION}");
    let quiet = format!("ALTER PUBLICATION {PUBLICATION} SET (publish = 'insert')");
    let again = format!(
        "ALTER PUBLICATION {PUBLICATION} DROP TABLE t; ALTER PUBLICATION {PUBLICATION} ADD TABLE t (id)"
    );
    each_is_noticed(&[
        (&set, &["publication"]),
        (&columns, &["publication"]),
        (&dropped_from, &["publication"]),
        (&dropped, &["publication"]),
        (&quiet, &["publication"]),
        // Everything reads as before, but changes in between were not told.
        (&again, &["publication"]),
    ])
    .await;
}

#[tokio::test]
async fn the_source_altered() {
    each_is_noticed(&[
        // The same catalog text afterwards, and not a word in the stream.
        ("ALTER TABLE t ALTER COLUMN v TYPE text USING upper(v)", &["column, v"]),
        ("ALTER TABLE t ADD COLUMN more int", &["column, more appeared"]),
        ("ALTER TABLE t DROP COLUMN n", &["column, n is gone"]),
        (
            "ALTER TABLE t ADD CONSTRAINT positive CHECK (id > 0)",
            &["constraint, positive appeared"],
        ),
        ("CREATE INDEX by_v ON t (v)", &["index, by_v appeared"]),
        ("ALTER TABLE t ALTER COLUMN n SET DEFAULT 2", &["default of column"]),
    ])
    .await;
}

/// What would have been refused, had it been there before.
#[tokio::test]
async fn something_bound_to_the_source() {
    each_is_noticed(&[
        (
            "CREATE FUNCTION f(t) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            &["use of the row type", "function public.f(public.t)"],
        ),
        ("CREATE TABLE lists (rows t[])", &["use of the row type", "column rows"]),
        ("CREATE MATERIALIZED VIEW kept AS SELECT count(*) AS n FROM t", &["kept"]),
        ("CREATE TABLE below () INHERITS (t)", &["below"]),
    ])
    .await;
}

/// With an identity that the publication's columns do not cover, the application's own updates and
/// deletes fail until the publication is gone: the run must not wait for its next phase.
#[tokio::test]
async fn the_replica_identity_changed() {
    each_is_noticed(&[
        ("ALTER TABLE t REPLICA IDENTITY FULL", &["table, replica identity"]),
        ("ALTER TABLE t REPLICA IDENTITY NOTHING", &["table, replica identity"]),
    ])
    .await;
}

#[tokio::test]
async fn the_source_truncated() {
    for phase in ["index", "verify", "cutover"] {
        let shop = shop().await;
        shop.exec(TABLE).await;
        let held = shop.held(phase, "t", &["--rebuild"]).await;
        shop.exec("UPDATE t SET v = 'before'; TRUNCATE t; INSERT INTO t VALUES (7, 'after'), (8, 'after')")
            .await;
        shop.exec("UPDATE t SET v = 'later' WHERE id = 8").await;
        let output = held.finish().await.expect_code(0);
        assert_eq!(shop.rows("t").await, ["(7,after,1)", "(8,later,1)"], "{phase}: {output}");
        assert_eq!(shop.rows("t_old").await, ["(7,after,1)", "(8,later,1)"], "{phase}");
    }
}

#[tokio::test]
async fn the_source_dropped() {
    for phase in ["copy", "cutover"] {
        let shop = shop().await;
        shop.exec(TABLE).await;
        let held = shop.held(phase, "t", &["--rebuild"]).await;
        shop.exec("DROP TABLE t").await;
        let output = held.finish().await;
        let output = output.expect_code(6);
        assert!(output.stderr.contains("was dropped"), "{phase}: {output}");
        assert!(!output.stderr.contains("untouched"), "{phase}: {output}");
        assert_eq!(shop.held_back().await, [""; 0], "{phase}: {output}");
        harness::run(["abort", "t", "-d", &shop.dsn]).await.expect_code(0);
        let gone = async || harness::leftovers(&shop.client).await.is_empty();
        harness::wait_until("nothing is left", SOON, gone).await;
    }
}

#[tokio::test]
async fn a_grant_is_carried() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    shop.exec("CREATE ROLE reader; CREATE ROLE writer; GRANT INSERT ON t TO writer").await;
    let held = shop.held("cutover", "t", &["--rebuild"]).await;
    shop.exec("GRANT SELECT ON t TO reader; REVOKE INSERT ON t FROM writer").await;
    held.finish().await.expect_code(0);
    let may = "SELECT array[has_table_privilege('reader', 't', 'select'), has_table_privilege('writer', 't', 'insert')]";
    assert_eq!(shop.value::<Vec<bool>>(may).await, [true, false]);
    assert_ne!(
        shop.value::<u32>("SELECT 't'::regclass::oid").await,
        shop.value::<u32>("SELECT 't_old'::regclass::oid").await
    );
}

/// The publication is dropped by whoever notices; a held run notices by itself.
#[tokio::test]
async fn a_change_is_noticed_without_the_run_going_on() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let held = shop.held("verify", "t", &["--rebuild"]).await;
    shop.exec("ALTER TABLE t ADD COLUMN more int").await;
    let output = held.run.finish(SOON).await.expect_code(6);
    assert!(output.stderr.contains("column, more appeared"), "{output}");
    assert_eq!(shop.held_back().await, [""; 0], "{output}");
}

/// Maintenance writes the table's files anew and changes nothing.
#[tokio::test]
async fn maintenance_of_the_source_disturbs_nobody() {
    let mut shop = shop().await;
    for (n, sql) in ["VACUUM FULL t", "CLUSTER t USING t_pkey", "REINDEX TABLE t", "ANALYZE t"]
        .into_iter()
        .enumerate()
    {
        for phase in ["copy", "cutover"] {
            shop.move_to(&format!("{phase}{n}")).await;
            shop.exec(TABLE).await;
            let held = shop.held(phase, "t", &["--rebuild"]).await;
            shop.exec(sql).await;
            let rows = shop.rows("t").await;
            let output = held.finish().await;
            assert_eq!(output.code, Some(0), "{phase}: {sql}: {output}");
            assert_eq!(shop.rows("t").await, rows, "{phase}: {sql}");
        }
    }
}

/// What is harmless at one look and at the next is no change; of both at once nobody knows.
#[tokio::test]
async fn a_grant_and_a_file_written_anew_are_told_from_a_change() {
    let mut shop = shop().await;
    let granting = "GRANT SELECT (v) ON t TO PUBLIC";
    for (n, sql) in ["VACUUM FULL t", "TRUNCATE t"].into_iter().enumerate() {
        shop.move_to(&format!("one{n}")).await;
        shop.exec(TABLE).await;
        let mut held = shop.held("verify", "t", &["--rebuild"]).await;
        shop.exec("CREATE TABLE was AS SELECT fingerprint FROM pgwraith.flow").await;
        shop.exec(granting).await;
        let seen = "SELECT f.fingerprint <> w.fingerprint FROM pgwraith.flow f, was w";
        wait_for(&shop.client, &mut held.run, "the privilege is seen", seen).await;
        shop.exec(sql).await;
        let rows = shop.rows("t").await;
        let output = held.finish().await;
        assert_eq!(output.code, Some(0), "{sql}: {output}");
        assert_eq!(shop.rows("t").await, rows, "{sql}");
    }
    shop.move_to("both").await;
    shop.exec(TABLE).await;
    let held = shop.held("verify", "t", &["--rebuild"]).await;
    shop.exec(&format!("BEGIN; {granting}; TRUNCATE t; COMMIT")).await;
    let output = held.run.finish(SOON).await.expect_code(6);
    let told = "column, v was altered, and the table written anew (that may have been ALTER COLUMN";
    assert!(output.stderr.contains(told), "{output}");
    assert!(output.stderr.contains("or a GRANT or SET STATISTICS"), "{output}");
}

/// It waits for older snapshots, and the swap for it.
#[tokio::test]
async fn a_reindex_that_is_under_way_is_waited_for() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let mut held = shop.held("cutover", "t", &["--rebuild"]).await;
    let reader = shop.session().await;
    exec(&reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class").await;
    let builder = shop.session().await;
    let building =
        tokio::spawn(async move { exec(&builder, "REINDEX INDEX CONCURRENTLY t_pkey").await });
    let invalid =
        "SELECT EXISTS (SELECT 1 FROM pg_index WHERE indrelid = 't'::regclass AND NOT indisvalid)";
    harness::wait_for_sql(&shop.client, "the index is being built", invalid).await;
    held.release().await;
    held.run.wait_for_saying("the cutover waits").await;
    exec(&reader, "COMMIT").await;
    building.await.unwrap();
    held.run.finish(SOON).await.expect_code(0);
}

#[tokio::test]
async fn an_index_whose_build_failed_is_told_and_waited_for() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let mut held = shop.held("cutover", "t", &["--rebuild"]).await;
    let failing = "CREATE UNIQUE INDEX CONCURRENTLY broken ON t ((v IS NULL))";
    assert!(shop.client.batch_execute(failing).await.is_err());
    held.release().await;
    held.run.wait_for_saying("invalid index public.broken").await;
    shop.exec("DROP INDEX broken").await;
    held.run.finish(SOON).await.expect_code(0);
}

/// Its shadow is not made yet.
#[tokio::test]
async fn the_source_truncated_before_there_is_a_shadow() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let other = shop.session().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let truncating = tokio::spawn(async move {
        while stopped.try_recv().is_err() {
            exec(&other, "TRUNCATE t; INSERT INTO t VALUES (7, 'after')").await;
        }
    });
    let mut held = shop.held("copy", "t", &["--rebuild"]).await;
    held.run.expect_running();
    stop.send(()).unwrap();
    truncating.await.unwrap();
    held.finish().await.expect_code(0);
    assert_eq!(shop.rows("t").await, ["(7,after,1)"]);
}
