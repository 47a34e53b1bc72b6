//! Somebody changes what hangs on the table between the moment the swap's statements are rendered and
//! the moment they run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::scene::{Held, SOON, Shop, exec, shop, wait_for};

const TABLES: &str = "
    CREATE ROLE reader; CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 50);
    CREATE TABLE t (id int PRIMARY KEY, p int CONSTRAINT p_fk REFERENCES parent, v text);
    INSERT INTO t SELECT g, 1 + g % 50, 'v' FROM generate_series(1, 500) g;
    CREATE VIEW seen AS SELECT id, v FROM t; CREATE TABLE child (t int CONSTRAINT t_fk REFERENCES t);
    CREATE FUNCTION counted() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t; END;";

/// A run whose attempts all come too late for the lock of `parent`, until the lock is given back.
async fn between_attempts(shop: &Shop) -> (Held, tokio_postgres::Client) {
    shop.exec(TABLES).await;
    let mut held = shop.held("cutover", "t", &["--rebuild"]).await;
    let theirs = shop.session().await;
    exec(&theirs, "BEGIN; LOCK TABLE parent IN ACCESS SHARE MODE").await;
    held.release().await;
    held.run.wait_for_saying("the cutover waits: ").await;
    (held, theirs)
}

async fn swapped_whole(shop: &Shop, held: Held) {
    let output = held.run.finish(SOON).await.expect_code(0);
    assert_eq!(output.json()["outcome"], "swapped", "{output}");
    shop.exec("DROP TABLE t_old").await;
    let proven = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated";
    assert_eq!(shop.value::<i64>(proven).await, 2, "{output}");
    assert_eq!(shop.value::<i64>("SELECT counted()").await, 500);
}

#[tokio::test]
async fn what_is_renamed_between_two_attempts_is_found_again() {
    let shop = shop().await;
    let (held, theirs) = between_attempts(&shop).await;
    shop.exec("ALTER VIEW seen RENAME TO looked_at; ALTER TABLE child RENAME TO infant").await;
    exec(&theirs, "COMMIT").await;
    swapped_whole(&shop, held).await;
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM looked_at").await, 500);
}

#[tokio::test]
async fn what_comes_and_goes_between_two_attempts_is_carried() {
    let shop = shop().await;
    let (held, theirs) = between_attempts(&shop).await;
    shop.exec("DROP VIEW seen; CREATE VIEW later AS SELECT max(id) AS m FROM t; DROP TABLE child")
        .await;
    shop.exec("CREATE OR REPLACE FUNCTION counted() RETURNS bigint BEGIN ATOMIC SELECT count(v) FROM t; END").await;
    shop.exec("CREATE TABLE infant (p int CONSTRAINT infant_fk REFERENCES parent)").await;
    exec(&theirs, "COMMIT").await;
    swapped_whole(&shop, held).await;
    assert_eq!(shop.value::<i32>("SELECT m FROM later").await, 500);
}

/// GRANT takes no lock: one whose transaction is open is met by the swap at the catalog's row.
#[tokio::test]
async fn a_grant_that_is_not_committed_yet_is_not_lost() {
    for (what, object) in [("SELECT", "t"), ("SELECT", "seen"), ("SELECT (v)", "t")] {
        let shop = shop().await;
        shop.exec(TABLES).await;
        let mut held = shop.held("cutover", "t", &["--rebuild"]).await;
        let theirs = shop.session().await;
        exec(&theirs, &format!("BEGIN; GRANT {what} ON {object} TO reader")).await;
        held.release().await;
        held.run.wait_for_saying("the cutover waits: ").await;
        exec(&theirs, "COMMIT").await;
        swapped_whole(&shop, held).await;
        let may = format!("SELECT has_column_privilege('reader', '{object}', 'v', 'select')");
        assert!(shop.value::<bool>(&may).await, "{what} on {object}");
    }
}

/// What a definition mentions is known by its name alone until it is read again.
#[tokio::test]
async fn what_a_view_mentions_is_what_it_was() {
    let shop = shop().await;
    shop.exec("CREATE TABLE other (a int, b int); INSERT INTO other VALUES (1, 2)").await;
    shop.exec(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
    )
    .await;
    shop.exec(TABLES).await;
    shop.exec("CREATE VIEW both_of AS SELECT t.id, o.a FROM t, other o; CREATE TRIGGER tr BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()").await;
    let mut held = shop.held("cutover", "t", &["--rebuild"]).await;
    let theirs = shop.session().await;
    exec(&theirs, "BEGIN; LOCK TABLE parent IN ACCESS SHARE MODE").await;
    held.release().await;
    held.run.wait_for_saying("the cutover waits: ").await;
    shop.exec("BEGIN; ALTER TABLE other RENAME TO elder; CREATE TABLE other (a int); ALTER TABLE elder RENAME a TO x; ALTER TABLE elder RENAME b TO a; COMMIT").await;
    shop.exec("BEGIN; ALTER FUNCTION f() RENAME TO g; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; COMMIT").await;
    exec(&theirs, "COMMIT").await;
    swapped_whole(&shop, held).await;
    assert_eq!(shop.value::<i32>("SELECT a FROM both_of WHERE id = 1").await, 1);
    let fires: String =
        shop.value("SELECT tgfoid::regproc::text FROM pg_trigger WHERE tgname = 'tr'").await;
    assert_eq!(fires, "g");
}

/// Whoever calls a sequence holds it until his transaction ends, and may want the table then.
#[tokio::test]
async fn whoever_called_the_sequence_before_is_not_in_the_way() {
    let shop = shop().await;
    shop.exec("CREATE TABLE t (id bigserial PRIMARY KEY, v text); INSERT INTO t (v) VALUES ('v')")
        .await;
    let held = shop.held("cutover", "t", &["--rebuild"]).await;
    let theirs = shop.session().await;
    exec(&theirs, "BEGIN; SELECT nextval('t_id_seq')").await;
    held.release().await;
    let swapped = "SELECT outcome IS NOT DISTINCT FROM 'swapped' FROM pgwraith.migration";
    crate::harness::wait_for_sql(&shop.client, "it is swapped", swapped).await;
    exec(&theirs, "INSERT INTO t VALUES (2, 'theirs'); COMMIT").await;
    held.run.finish(SOON).await.expect_code(0);
    shop.exec("DROP TABLE t_old; INSERT INTO t (v) VALUES ('w')").await;
    assert_eq!(shop.rows("t").await, ["(1,v)", "(2,theirs)", "(3,w)"]);
}

/// Waits in the final sync of the first attempt, where it writes the row `gate` to the new table.
const GATE: &str = "
    CREATE SEQUENCE syncs; CREATE FUNCTION slow(v text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
      IF v = 'gate' AND EXISTS (SELECT 1 FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'public.t'::regclass
          AND mode = 'AccessExclusiveLock') THEN
        IF nextval('public.syncs') = 1 THEN PERFORM pg_sleep(1); END IF;
      END IF; RETURN true; END $$;
    CREATE INDEX by_v ON t (v) WITH (fillfactor = 70); CREATE STATISTICS st ON p, v FROM t;
    ALTER TABLE t ADD n int GENERATED ALWAYS AS IDENTITY, ADD CONSTRAINT gated CHECK (slow(v))";

/// What is granted or commented on between the look under the lock and the renames.
#[tokio::test]
async fn what_is_changed_during_the_final_sync_is_not_lost() {
    let shop = shop().await;
    shop.exec(TABLES).await;
    shop.exec(GATE).await;
    shop.exec("UPDATE t SET v = 'gate' WHERE id = 1").await;
    let mut held = shop.held("cutover", "t", &["--rebuild", "--max-lock-hold", "5s"]).await;
    let (writer, stop) = (shop.session().await, Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let writes = tokio::spawn(async move {
        while !stopped.load(Ordering::SeqCst) {
            exec(&writer, "UPDATE t SET p = 1 + (p + 1) % 50 WHERE id = 1").await;
        }
    });
    held.release().await;
    let asleep = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity \
        WHERE application_name LIKE 'pgwraith/%/cutover' AND wait_event = 'PgSleep')";
    wait_for(&shop.client, &mut held.run, "the final sync waits", asleep).await;
    let mut changes = Vec::new();
    for sql in [
        "GRANT SELECT (v) ON t TO reader",
        "COMMENT ON INDEX by_v IS 'commented'",
        "ALTER INDEX by_v SET (fillfactor = 60)",
        "COMMENT ON STATISTICS st IS 'counted'",
        "COMMENT ON SEQUENCE t_n_seq IS 'numbered'",
    ] {
        let session = shop.session().await;
        changes.push(tokio::spawn(async move { exec(&session, sql).await }));
    }
    for change in changes {
        change.await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    writes.await.unwrap();
    let output = held.run.finish(SOON).await.expect_code(0);
    if shop.cluster.major() < 18 {
        // On 18 the GRANT was seen to wait for the attempt's end.
        assert!(output.json()["cutover"]["attempts"].as_u64() >= Some(2), "{output}");
    }
    shop.exec("DROP TABLE t_old").await;
    let kept = "SELECT concat_ws(' ', obj_description('by_v'::regclass), (SELECT reloptions FROM pg_class WHERE oid = 'by_v'::regclass), \
        (SELECT obj_description(oid, 'pg_statistic_ext') FROM pg_statistic_ext), obj_description('t_n_seq'::regclass), \
        has_column_privilege('reader', 't', 'v', 'select'))";
    let kept: String = shop.value(kept).await;
    assert_eq!(kept, "commented {fillfactor=60} counted numbered t", "{output}");
}

/// A run that has swapped, and waits for somebody's transaction to move the sequence.
async fn swapped_while_the_sequence_is_held(shop: &Shop) -> (Held, tokio_postgres::Client) {
    shop.exec("CREATE TABLE t (id bigserial PRIMARY KEY, v text); INSERT INTO t (v) VALUES ('v')")
        .await;
    let mut held = shop.held("cutover", "t", &["--rebuild"]).await;
    let theirs = shop.session().await;
    exec(&theirs, "BEGIN; SELECT nextval('t_id_seq')").await;
    held.release().await;
    held.run.wait_for_saying("waits for its locks").await;
    (held, theirs)
}

/// The sequence of a serial is moved after the swap, and called by everybody: whoever calls it while
/// somebody holds it must not wait for us behind him.
#[tokio::test]
async fn nobody_queues_behind_the_move_of_a_sequence() {
    let shop = shop().await;
    let (held, theirs) = swapped_while_the_sequence_is_held(&shop).await;
    let (mut longest, began) = (Duration::ZERO, Instant::now());
    while began.elapsed() < Duration::from_secs(3) {
        let called = Instant::now();
        shop.exec("INSERT INTO t (v) VALUES ('w')").await;
        longest = longest.max(called.elapsed());
    }
    assert!(longest < Duration::from_millis(500), "waited for {longest:?}");
    exec(&theirs, "COMMIT").await;
    held.run.finish(SOON).await.expect_code(0);
}

/// An abort takes over what is left after the swap; the run that it cuts off says what it has done.
#[tokio::test]
async fn a_run_that_is_cut_off_after_the_swap_says_that_it_swapped() {
    let shop = shop().await;
    let (held, theirs) = swapped_while_the_sequence_is_held(&shop).await;
    let abort = crate::harness::run(["abort", "t", "-d", &shop.dsn]).await.expect_code(0);
    let left = "left to run:\n  ALTER SEQUENCE \"public\".\"t_id_seq\" OWNED BY";
    assert!(abort.stdout.contains(left), "{abort}");
    let output = held.run.finish(SOON).await.expect_code(6);
    assert!(output.stderr.contains("The names were swapped before that: t has"), "{output}");
    exec(&theirs, "COMMIT").await;
}
