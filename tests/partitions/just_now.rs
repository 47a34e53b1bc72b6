//! Partitions of the source that come, or go, where somebody is just about to look at them.

use std::os::unix::fs::PermissionsExt;

use super::{TABLE, divided};
use crate::harness::{self, Background, leftovers};
use crate::scene::{SOON, Shop, shop, wait_for};

const NONE: [&str; 2] = ["--partition-by", "none"];
const LATE: &str = "PARTITION OF ours.orders FOR VALUES FROM ('2031-01-01') TO ('2032-01-01')";
const ROW: &str = "INSERT INTO ours.orders (id, customer_id, status, amount, created_at)
                     VALUES (9999, 1, 'late', 1, '2031-01-05')";

/// A run while whose hook of the start, that is after preflight and before there is a publication, `sql` is run.
async fn meanwhile(shop: &Shop, change: &[&str], sql: &str) -> Background {
    let folder = tempfile::tempdir().unwrap();
    let hook = folder.path().join("before-start");
    let (here, go) = (folder.path().join("here"), folder.path().join("go"));
    let script = format!(
        "#!/bin/sh\ntouch '{}'\nwhile ! test -e '{}'; do sleep 0.05; done\n",
        here.display(),
        go.display()
    );
    std::fs::write(&hook, script).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let hooks = ["--hooks", folder.path().to_str().unwrap()];
    let run = Background::start(shop.arguments(TABLE, &[change, &hooks].concat()));
    harness::wait_until("before-start", SOON, async || here.exists()).await;
    shop.exec(sql).await;
    std::fs::write(go, "").unwrap();
    // The folder goes once the hook is over, which is before anything is made.
    let begun = "SELECT to_regclass('pgwraith.migration') IS NOT NULL";
    harness::wait_for_sql(&shop.client, "it begins", begun).await;
    run
}

/// It is in the publication as part of the table, whatever it is.
#[tokio::test]
async fn a_partition_that_comes_behind_preflight_is_looked_at() {
    let shop = shop().await;
    let without = "DROP TABLE orders_default";
    divided(&shop, "ours", 1_000, without).await;
    let made = format!("CREATE TABLE ours.late {LATE}; {ROW}");
    let unlogged = format!("CREATE UNLOGGED TABLE ours.late {LATE}; {ROW}");
    let full = "ALTER TABLE ours.orders_p20240101 REPLICA IDENTITY FULL";
    for (change, sql, code, told) in [
        (&NONE[..], &unlogged[..], 6, "an unlogged table"),
        (&["--rebuild"], &made, 1, "a partition came to \"ours\".\"orders\" just now"),
        (
            &NONE,
            "DROP TABLE ours.orders_p20241001",
            1,
            "orders_p20241001\" of \"ours\".\"orders\" was dropped or detached just now",
        ),
        (
            &NONE,
            "ALTER TABLE ours.orders DETACH PARTITION ours.orders_p20241001",
            1,
            "orders_p20241001\" of \"ours\".\"orders\" was dropped or detached just now",
        ),
        (
            &NONE,
            "ALTER TABLE ours.orders_p20241001 RENAME TO another",
            1,
            "was renamed or dropped just now",
        ),
        (&NONE, full, 3, "the replica identity of partition \"ours\".\"orders_p20240101\" is FULL"),
    ] {
        let output = meanwhile(&shop, change, sql).await.finish(SOON).await.expect_code(code);
        assert!(output.stderr.contains(told), "{sql}: {output}");
        assert_eq!(shop.held_back().await, [""; 0], "{sql}");
        shop.exec("UPDATE ours.orders SET note = 'x' WHERE id < 50").await;
        if leftovers(&shop.client).await.iter().any(|left| left.contains("orders_v2")) {
            harness::run(["abort", TABLE, "-d", &shop.dsn]).await.expect_code(0);
        }
        shop.exec("DROP SCHEMA ours CASCADE; DROP SCHEMA IF EXISTS pgwraith CASCADE").await;
        divided(&shop, "ours", 1_000, without).await;
    }
    let mut run = meanwhile(&shop, &[&NONE[..], &["--postpone-cutover"]].concat(), &made).await;
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    shop.exec("UPDATE ours.orders SET note = 'changed' WHERE id = 9999").await;
    let rows = shop.rows(TABLE).await;
    harness::run(["cutover", TABLE, "-d", &shop.dsn]).await.expect_code(0);
    run.finish(SOON).await.expect_code(0);
    assert!(shop.rows(TABLE).await == rows);
}

/// The publication that is made for a new slot knows newcomers as the one before did.
#[tokio::test]
async fn newcomers_are_followed_by_a_new_slot() {
    let shop = shop().await;
    divided(&shop, "ours", 1_000, "DROP TABLE orders_default").await;
    let mut run =
        Background::start(shop.arguments(TABLE, &[&NONE[..], &["--postpone-cutover"]].concat()));
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    shop.exec(&format!(
        "CREATE TABLE ours.late {LATE}; ALTER TABLE ours.late REPLICA IDENTITY FULL; {ROW}"
    ))
    .await;
    let synced = "SELECT EXISTS (SELECT 1 FROM ours.orders_v2 WHERE id = 9999)";
    wait_for(&shop.client, &mut run, "it is taken in", synced).await;
    let lose = async |run: Background| {
        run.signal(libc::SIGKILL);
        run.finish(SOON).await;
        let gone = "SELECT bool_and(NOT active) FROM pg_replication_slots";
        harness::wait_for_sql(&shop.client, "the slot is free", gone).await;
        shop.exec("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").await;
    };
    let resume = ["resume", TABLE, "-d", &shop.dsn, "--take-over", "--recover"];
    lose(run).await;
    let mut run = Background::start(resume);
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    shop.exec("UPDATE ours.orders SET note = 'followed' WHERE id = 9999").await;
    let followed =
        "SELECT note IS NOT DISTINCT FROM 'followed' FROM ours.orders_v2 WHERE id = 9999";
    wait_for(&shop.client, &mut run, "it is followed", followed).await;

    // One that nobody can follow is named before anything of the old is dropped.
    lose(run).await;
    shop.exec(
        "CREATE UNLOGGED TABLE ours.later PARTITION OF ours.orders FOR VALUES FROM ('2032-01-01') TO ('2033-01-01')",
    )
    .await;
    let output = harness::run(resume).await.expect_code(6);
    assert!(output.stderr.contains("\"later\" came to"), "{output}");
    assert!(output.stderr.contains("an unlogged table"), "{output}");
    harness::run(["abort", TABLE, "-d", &shop.dsn]).await.expect_code(0);
    assert_eq!(shop.held_back().await, [""; 0]);
}

/// It is there when it is looked up, and gone once its rows can be read.
#[tokio::test]
async fn a_partition_that_goes_while_it_is_taken_in_is_none() {
    let shop = shop().await;
    divided(&shop, "ours", 500, "DROP TABLE orders_default").await;
    let mut run =
        Background::start(shop.arguments(TABLE, &[&NONE[..], &["--postpone-cutover"]].concat()));
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    let other = shop.session().await;
    let sql = format!("BEGIN; CREATE TABLE ours.late {LATE}; COMMIT; BEGIN; DROP TABLE ours.late");
    other.batch_execute(&sql).await.unwrap();
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                 WHERE a.application_name LIKE 'pgwraith/%/newcomers' AND NOT l.granted)";
    wait_for(&shop.client, &mut run, "it is about to be read", waits).await;
    other.batch_execute("COMMIT").await.unwrap();
    shop.exec("INSERT INTO ours.orders (id, customer_id, status, amount, created_at) VALUES (9999, 1, 'x', 1, '2024-05-01')").await;
    let rows = shop.rows(TABLE).await;
    harness::run(["cutover", TABLE, "-d", &shop.dsn]).await.expect_code(0);
    let output = run.finish(SOON).await.expect_code(0);
    assert!(!output.stderr.contains("late"), "{output}");
    assert!(shop.rows(TABLE).await == rows);
}

/// Said beforehand: whoever makes one does not see it.
#[tokio::test]
async fn what_a_later_partition_does_not_get_is_said() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE n (id int NOT NULL, note text) PARTITION BY RANGE (id);
         CREATE TABLE n_low PARTITION OF n FOR VALUES FROM (0) TO (1000);
         CREATE UNIQUE INDEX n_id ON n (id); ALTER TABLE n REPLICA IDENTITY USING INDEX n_id;
         ALTER TABLE n_low REPLICA IDENTITY USING INDEX n_low_id_idx; INSERT INTO n VALUES (1, 'x')",
    )
    .await;
    let output = shop.run("n", &NONE).await.expect_code(0);
    assert!(output.stderr.contains("does not give to new partitions"), "{output}");
}
