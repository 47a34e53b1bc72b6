//! What is done to the partitions of the source while a run lasts.

use super::{TABLE, divided};
use crate::harness::{self, Background};
use crate::scene::{SOON, Shop, shop};

const NONE: [&str; 2] = ["--partition-by", "none"];

/// What is in the new table is what was in the old one.
async fn same_rows(shop: &Shop, rows: &[String], what: &str) {
    let now = shop.rows(TABLE).await;
    assert!(now == rows, "{what}: {} rows, not {}", now.len(), rows.len());
    assert_eq!(shop.held_back().await, [""; 0], "{what}");
}

/// A partition is truncated and filled again, another with the whole table, others are written anew, and each of it is
/// told or does not matter.
#[tokio::test]
async fn a_partition_may_be_truncated_or_written_anew() {
    let shop = shop().await;
    divided(&shop, "ours", 6_000, "").await;
    let mut run =
        Background::start(shop.arguments(TABLE, &[&NONE[..], &["--postpone-cutover"]].concat()));
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    // All was compared by now.
    shop.exec(
        "TRUNCATE ours.orders_p20240401;
         INSERT INTO ours.orders (id, customer_id, status, amount, created_at) SELECT 100000 + n, n, 'new', n,
           timestamptz '2024-05-01' + n * interval '1 minute' FROM generate_series(1, 50) n;
         INSERT INTO ours.orders_p20240701 (id, customer_id, status, amount, created_at)
           VALUES (200000, 1, 'direct', 1, '2024-08-01');
         REINDEX TABLE ours.orders_p20240101;
         CLUSTER ours.orders_p20240101 USING orders_p20240101_pkey",
    )
    .await;
    shop.exec("VACUUM FULL ours.orders_p20240701").await;
    shop.exec("REINDEX TABLE CONCURRENTLY ours.orders_p20241001").await;
    let rows = shop.rows(TABLE).await;
    harness::run(["cutover", TABLE, "-d", &shop.dsn]).await.expect_code(0);
    run.finish(SOON).await.expect_code(0);
    same_rows(&shop, &rows, "one").await;

    shop.exec("DROP SCHEMA ours CASCADE").await;
    divided(&shop, "ours", 3_000, "").await;
    // Nothing is indexed yet.
    let held = shop.held("index", TABLE, &NONE).await;
    shop.exec("TRUNCATE ours.orders; INSERT INTO ours.orders (customer_id, status, amount) VALUES (1, 'new', 1)").await;
    let rows = shop.rows(TABLE).await;
    held.finish().await.expect_code(0);
    same_rows(&shop, &rows, "all").await;
}

/// One that is made for the time to come, as partitions are, and one that brings rows.
#[tokio::test]
async fn partitions_may_come() {
    let shop = shop().await;
    divided(&shop, "ours", 3_000, "DROP TABLE orders_default").await;
    for phase in ["copy", "cutover"] {
        let held =
            shop.held(phase, TABLE, &["--partition-by", "HASH (id)", "--partitions", "2"]).await;
        shop.exec(
            "CREATE TABLE ours.late PARTITION OF ours.orders FOR VALUES FROM ('2027-01-01') TO ('2027-02-01');
             INSERT INTO ours.orders (customer_id, status, amount, created_at) VALUES (1, 'late', 1, '2027-01-05');
             CREATE TABLE ours.full (LIKE ours.orders INCLUDING ALL EXCLUDING IDENTITY,
               CONSTRAINT spares_the_scan CHECK (created_at >= '2028-01-01' AND created_at < '2028-02-01'));
             INSERT INTO ours.full (id, customer_id, status, amount, created_at)
               SELECT 100000 + n, n, 'attached', n, '2028-01-05' FROM generate_series(1, 500) n",
        )
        .await;
        shop.exec(
            "ALTER TABLE ours.orders ATTACH PARTITION ours.full FOR VALUES FROM ('2028-01-01') TO ('2028-02-01');
             ALTER TABLE ours.full DROP CONSTRAINT spares_the_scan;
             DELETE FROM ours.full WHERE id < 100100",
        )
        .await;
        let rows = shop.rows(TABLE).await;
        let output = held.finish().await.expect_code(0);
        assert_eq!(output.json()["verify"]["mismatches"], 0, "{output}");
        same_rows(&shop, &rows, phase).await;
        shop.exec("DROP SCHEMA ours CASCADE").await;
        divided(&shop, "ours", 3_000, "DROP TABLE orders_default").await;
    }
}

/// Between two looks: what was synced of it would stay.
#[tokio::test]
async fn a_partition_that_came_and_went_is_compared_for() {
    let shop = shop().await;
    divided(&shop, "ours", 1_000, "").await;
    let mut run =
        Background::start(shop.arguments(TABLE, &[&NONE[..], &["--postpone-cutover"]].concat()));
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    shop.exec(
        "BEGIN; CREATE TABLE ours.late PARTITION OF ours.orders FOR VALUES FROM ('2031-01-01') TO ('2032-01-01');
         INSERT INTO ours.orders (id, customer_id, status, amount, created_at) VALUES (9999, 1, 'x', 1, '2031-01-05');
         ALTER TABLE ours.orders DETACH PARTITION ours.late; COMMIT",
    )
    .await;
    let rows = shop.rows(TABLE).await;
    harness::run(["cutover", TABLE, "-d", &shop.dsn]).await.expect_code(0);
    let output = run.finish(SOON).await.expect_code(1);
    assert!(output.stderr.contains("came and went"), "{output}");
    harness::run(["resume", TABLE, "-d", &shop.dsn]).await.expect_code(0);
    same_rows(&shop, &rows, "came and went").await;
}

/// What goes with a partition, and what its rows could no longer be followed by.
#[tokio::test]
async fn what_is_not_told_ends_the_run() {
    let shop = shop().await;
    divided(&shop, "ours", 3_000, "").await;
    for (change, sql, told) in [
        (
            &NONE[..],
            "ALTER TABLE ours.orders DETACH PARTITION ours.orders_p20240401",
            "orders_p20240401",
        ),
        (&NONE, "DROP TABLE ours.orders_p20240701", "orders_p20240701"),
        (&NONE, "ALTER TABLE ours.orders_p20241001 REPLICA IDENTITY FULL", "orders_p20241001"),
        (
            &NONE,
            "CREATE VIEW ours.seen AS SELECT * FROM ours.orders_p20240101",
            "use of a partition by name",
        ),
        (&NONE, "ALTER TABLE ours.orders ALTER status TYPE text USING upper(status)", "status"),
        (
            &["--rebuild"],
            "CREATE TABLE ours.late PARTITION OF ours.orders FOR VALUES FROM ('2027-01-01') TO ('2027-02-01')",
            "has none like it",
        ),
    ] {
        let held = shop.held("verify", TABLE, change).await;
        shop.exec(sql).await;
        let output = held.finish().await.expect_code(6);
        assert!(output.stderr.contains(told), "{sql}: {output}");
        let again = harness::run(["resume", TABLE, "-d", &shop.dsn]).await;
        assert_eq!(again.code, Some(6), "{sql}: {again}");
        harness::run(["abort", TABLE, "-d", &shop.dsn]).await.expect_code(0);
        assert_eq!(shop.held_back().await, [""; 0], "{sql}");
        // Nothing of ours is in the application's way.
        shop.exec("UPDATE ours.orders SET note = 'x' WHERE id < 50").await;
        shop.exec("DROP VIEW IF EXISTS ours.seen; ALTER TABLE ours.orders_p20241001 REPLICA IDENTITY DEFAULT").await;
    }
}

/// Whatever was taken in or followed by then, and whichever partition has its name.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn dying_over_partitions_of_the_source_is_gone_on_from() {
    let shop = shop().await;
    let attach = "ALTER TABLE ours.orders ATTACH PARTITION ours.late FOR VALUES FROM ('2031-01-01') TO ('2032-01-01')";
    for (point, sql, change) in [
        (pgwraith::failpoint::OF_NEWCOMERS[0], attach, &NONE[..]),
        (pgwraith::failpoint::OF_NEWCOMERS[1], attach, &NONE),
        ("truncate ready", "TRUNCATE ours.orders_p20240401", &NONE),
        ("step done", "", &["--rebuild"]),
        ("step recorded", "", &["--rebuild"]),
    ] {
        let late = "ALTER TABLE orders DETACH PARTITION orders_default; DROP TABLE orders_default;
                    CREATE TABLE late (LIKE orders INCLUDING ALL EXCLUDING IDENTITY);
                    INSERT INTO late (id, customer_id, status, amount, created_at)
                      SELECT 10000 + n, n, 'late', n, '2031-01-05' FROM generate_series(1, 20) n";
        shop.exec("DROP SCHEMA IF EXISTS ours CASCADE").await;
        divided(&shop, "ours", 1_000, late).await;
        let more: &[&str] = if sql.is_empty() { &[] } else { &["--postpone-cutover"] };
        let action = format!("{point}=return");
        let arguments = shop.arguments(TABLE, &[change, more].concat());
        let mut run = Background::start_with(&[("FAILPOINTS", &action)], arguments);
        if !sql.is_empty() {
            run.wait_for_saying("postponed until `pgwraith cutover`").await;
            shop.exec(sql).await;
        }
        let dead = run.finish(SOON).await;
        assert_eq!(dead.signal, Some(libc::SIGKILL), "{point} was never reached: {dead}");
        let rows = shop.rows(TABLE).await;
        let resume = ["resume", TABLE, "-d", &shop.dsn, "--take-over"];
        let mut run = Background::start(resume);
        if !sql.is_empty() {
            run.wait_for_saying("postponed until `pgwraith cutover`").await;
            harness::run(["cutover", TABLE, "-d", &shop.dsn]).await.expect_code(0);
        }
        run.finish(SOON).await.expect_code(0);
        same_rows(&shop, &rows, point).await;
        let named =
            "SELECT count(*) FILTER (WHERE c.relname LIKE '%\\_v2%') = 0 AND count(*) FILTER (
                       WHERE c.relname = 'orders_p20240101_pkey') = 1 FROM pg_class c";
        assert!(shop.value::<bool>(named).await, "{point}");
    }
}
