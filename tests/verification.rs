//! What differs is found, told, repaired and compared again, whatever the difference is; what
//! cannot be repaired stops the run.

use std::time::Duration;

use crate::scene::{Held, Shop, exec, shop, wait_for};

const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, a text, b numeric, c int NOT NULL, d text);
    INSERT INTO t SELECT n, 'row ' || n, n + 0.0, n * 10, CASE WHEN n % 2 = 0 THEN NULL ELSE '' END
      FROM generate_series(1, 2000) n;";

/// A run over `t` that has everything but its verification behind it.
async fn before_verification(shop: &Shop) -> Held {
    shop.exec(TABLE).await;
    shop.held("verify", "t", &["--rebuild"]).await
}

/// Something else in the shadow than in the source; how many rows, and how they are named.
const PLANTED: [(&str, u64, &[&str]); 7] = [
    // Nothing differs.
    ("UPDATE t_v2 SET a = a WHERE id = 1", 0, &[]),
    ("UPDATE t_v2 SET a = 'Row 777' WHERE id = 777", 1, &["id = 777: differs in a"]),
    // Another scale of an equal number.
    ("UPDATE t_v2 SET b = 5.00 WHERE id = 5", 1, &["id = 5: differs in b"]),
    (
        "DELETE FROM t_v2 WHERE id = 2000; \
         INSERT INTO t_v2 VALUES (0, 'x', 1, 1, 'x'), (3000, 'y', 1, 1, 'y')",
        3,
        &["id = 2000: missing", "id = 0: only in the shadow", "id = 3000: only in the shadow"],
    ),
    // Two rows that exchanged a value.
    (
        "UPDATE t_v2 SET c = CASE id WHEN 10 THEN 110 ELSE 100 END WHERE id IN (10, 11)",
        2,
        &["id = 10: differs in c", "id = 11: differs in c"],
    ),
    (
        "UPDATE t_v2 SET d = '' WHERE id = 4; UPDATE t_v2 SET d = NULL WHERE id = 5",
        2,
        &["id = 4: differs in d", "id = 5: differs in d"],
    ),
    // More than one comparison names.
    ("DELETE FROM t_v2", 2000, &["id = 1: missing", "id = 2000: missing"]),
];

#[tokio::test]
async fn every_difference_is_found_named_and_repaired() {
    let mut shop = shop().await;
    for (n, (sql, mismatches, named)) in PLANTED.into_iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        let held = before_verification(&shop).await;
        shop.exec(sql).await;
        let wanted = shop.rows("t").await;
        assert_eq!(shop.rows("t_v2").await == wanted, mismatches == 0, "{sql}");

        let output = held.finish().await.expect_code(0);
        let verify = &output.json()["verify"];
        assert_eq!(verify["mismatches"], mismatches, "{sql}: {output}");
        assert_eq!(verify["rows"], 2000, "{sql}: {output}");
        assert_eq!(output.stderr.contains("differ"), mismatches > 0, "{sql}: {output}");
        for text in named {
            assert!(output.stderr.contains(text), "{sql}: {text:?} is not named: {output}");
        }
        assert_eq!(shop.rows("t").await, wanted, "{sql}");
        assert_eq!(shop.rows("t_old").await, wanted, "{sql}");
    }
}

#[tokio::test]
async fn what_repair_does_not_cure_stops_the_run() {
    let shop = shop().await;
    let held = before_verification(&shop).await;
    shop.exec(
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN NEW.a := NEW.a || '!'; RETURN NEW; END $$; \
         CREATE TRIGGER spoil BEFORE INSERT OR UPDATE ON t_v2 FOR EACH ROW EXECUTE FUNCTION spoil(); \
         UPDATE t_v2 SET c = -1 WHERE id = 42",
    )
    .await;
    let wanted = shop.rows("t").await;

    let output = held.finish().await.expect_code(4);
    assert!(output.stderr.contains("still differ after repair: id = 42"), "{output}");
    assert!(output.stderr.contains("is untouched and in use"), "{output}");
    assert_eq!(shop.rows("t").await, wanted);
    assert_eq!(shop.held_back().await.len(), 2, "the run may go on once the trigger is gone");
    shop.exec("UPDATE t SET a = 'goes on' WHERE id = 42; DROP FUNCTION spoil() CASCADE").await;
    let wanted = shop.rows("t").await;
    let output =
        crate::harness::run(["resume", "t", "-d", &shop.dsn, "--json"]).await.expect_code(0);
    assert_eq!(output.json()["rows_copied"], 0, "{output}");
    assert_eq!(shop.rows("t").await, wanted);
}

/// A truncated table looks empty to older snapshots too: what was there before must not count as a
/// difference, nor what came after.
#[tokio::test]
async fn a_truncate_in_the_first_read_is_no_difference() {
    let shop = shop().await;
    let mut held = before_verification(&shop).await;
    let theirs = shop.session().await;
    exec(&theirs, "BEGIN; LOCK TABLE t").await;
    held.release().await;
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid) \
                 WHERE relation = 't'::regclass AND NOT granted AND application_name LIKE '%/verify%')";
    wait_for(&shop.client, &mut held.run, "the verification waits for the table", waits).await;
    // The shadow cannot follow at once.
    let state = shop.session().await;
    exec(&state, "BEGIN; LOCK TABLE pgwraith.dirty IN SHARE MODE").await;
    // The moment is taken before COMMIT: until then the verification waits and passes no fence, and
    // right behind it the fence may be faster than whoever looks at the clock.
    exec(
        &theirs,
        "TRUNCATE t; INSERT INTO t VALUES (7, 'new', 1, 1, NULL); \
         CREATE TABLE truncated AS SELECT clock_timestamp() AS at; COMMIT",
    )
    .await;
    let fenced = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity, truncated WHERE query_start > at \
                  AND state = 'idle' AND application_name LIKE 'pgwraith/%/fence')";
    wait_for(&shop.client, &mut held.run, "a fence behind the TRUNCATE", fenced).await;
    exec(&state, "COMMIT").await;
    let output = held.finish().await.expect_code(0);
    assert_eq!(output.json()["verify"]["mismatches"], 0, "{output}");
    assert_eq!(shop.rows("t").await, ["(7,new,1,1,)"]);
}

/// Four sessions compare, each with locks of its own, and whoever wants the table for itself waits
/// for all of them: none of them may wait behind him.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_who_wants_the_table_for_himself_does_not_wait_long() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    shop.exec("INSERT INTO t SELECT n, '', 0, n FROM generate_series(2001, 20000) n").await;
    let args = ["--rebuild", "--workers", "4", "--chunk-rows", "100", "--chunk-time", "1ms"];
    let held = shop.held("verify", "t", &args).await;
    let run = tokio::spawn(held.finish());
    let sql = "SET lock_timeout = '5s'; BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; COMMIT";
    while !run.is_finished() {
        shop.exec(sql).await;
        // Somebody else's pace, not a wait for anything.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let output = run.await.unwrap().expect_code(0);
    assert_eq!(output.json()["verify"]["mismatches"], 0, "{output}");
}
