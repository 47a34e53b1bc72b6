//! `--index-build before`: the copy fills the indexes, and a value that wanders between rows meanwhile clashes
//! in one of them, which says nothing of the data.

use serde_json::Value;

use crate::definition::assert_same;
use crate::harness::{self, Background, Failpoint, Output, leftovers};
use crate::scene::{SOON, Shop, exec, shop};

/// Ten ranges of 100 rows, one after another: each takes its time in `table`, so that none grows.
const SLOW: [&str; 8] =
    ["--index-build", "before", "--chunk-rows", "100", "--chunk-time", "1ms", "--workers", "1"];
/// Ranges in which the copy stops, while the lock of their number is taken.
const FIFTH: i64 = 4;
const LAST: i64 = 9;

/// Rows 10, copied before the fifth range ends, and 850, copied afterwards, exchange their values.
const WANDERING: &str = "BEGIN; UPDATE t SET v = -1 WHERE id = 10; UPDATE t SET v = 10 WHERE id = 850; \
    UPDATE t SET v = 850 WHERE id = 10; COMMIT";

/// Every way in which a value may be forbidden to be there twice, and whether it can be skipped.
const KINDS: [(&str, bool); 6] = [
    ("ALTER TABLE t ADD CONSTRAINT one UNIQUE (v)", true),
    ("CREATE UNIQUE INDEX one ON t ((v + 0)) INCLUDE (w) WHERE v > 0", true),
    ("ALTER TABLE t ADD CONSTRAINT one EXCLUDE USING gist (int4range(v, v, '[]') WITH &&)", true),
    ("ALTER TABLE t ADD CONSTRAINT one UNIQUE (v) DEFERRABLE", false),
    ("ALTER TABLE t ADD CONSTRAINT one UNIQUE (v) DEFERRABLE INITIALLY DEFERRED", false),
    (
        "ALTER TABLE t ADD CONSTRAINT one EXCLUDE (v WITH =) DEFERRABLE INITIALLY DEFERRED; \
         ALTER TABLE t ADD CONSTRAINT another UNIQUE (v)",
        false,
    ),
];

/// 1000 rows, and ranges that can be held.
async fn table(shop: &Shop, kind: &str) {
    shop.exec(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v int, w text); CREATE INDEX plain ON t (w); {kind}; \
         INSERT INTO t SELECT i, i, 'w' || i FROM generate_series(1, 1000) i"
    ))
    .await;
    harness::make_state(&shop.dsn, &shop.client).await;
    shop.exec(
        "CREATE FUNCTION public.stop_at_chunk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           PERFORM pg_catalog.pg_sleep(0.002); \
           PERFORM pg_catalog.pg_advisory_xact_lock_shared(NEW.number); RETURN NEW; END $$; \
         CREATE TRIGGER stop BEFORE UPDATE ON pgwraith.chunk FOR EACH ROW \
           WHEN (NEW.kind = 'copy') EXECUTE FUNCTION public.stop_at_chunk()",
    )
    .await;
}

fn arguments(shop: &Shop, change: &[&str]) -> Vec<String> {
    let change: Vec<&str> = change.iter().chain(&SLOW).copied().collect();
    shop.arguments("t", &change)
}

/// Lets the values wander in the fifth range.
async fn wander(shop: &Shop, run: &mut Background, gate: Failpoint) {
    gate.wait_for_somebody().await;
    run.expect_running();
    exec(&shop.session().await, WANDERING).await;
    gate.open().await;
}

/// Both tables hold the same, and no range had to be repaired.
async fn nothing_is_lost(shop: &Shop, output: &Output) {
    assert_eq!(output.json()["verify"]["mismatches"], 0, "{output}");
    assert_eq!(shop.rows("t").await, shop.rows("t_old").await);
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM t").await, 1000);
    let swapped = "SELECT string_agg(id || '=' || v, ' ' ORDER BY id) FROM t WHERE v IN (10, 850)";
    assert_eq!(shop.value::<String>(swapped).await, "10=850 850=10");
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM pgwraith.dirty").await, 0);
}

#[tokio::test]
async fn a_value_that_wandered_between_two_ranges_is_no_duplicate() {
    let mut shop = shop().await;
    for (n, (kind, can_skip)) in KINDS.into_iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        table(&shop, kind).await;
        let before = shop.definition("t").await;
        let fifth = Failpoint::closed(shop.session().await, FIFTH).await;
        let last = Failpoint::closed(shop.session().await, LAST).await;
        let mut run = Background::start(arguments(&shop, &["--rebuild"]));
        wander(&shop, &mut run, fifth).await;
        last.wait_for_somebody().await;
        // The row that clashed is not there, and its key is put down; the rest of its range is there if it may.
        let left_out = "SELECT count(*) FROM pgwraith.dirty WHERE xid = '2'";
        let there = "SELECT count(*) FILTER (WHERE id = 850) || ' ' || count(*) FROM t_v2 WHERE id BETWEEN 801 AND 900";
        let expected = if can_skip { (1, "0 99") } else { (100, "0 0") };
        assert_eq!(shop.value::<i64>(left_out).await, expected.0, "{kind}");
        assert_eq!(shop.value::<String>(there).await, expected.1, "{kind}");
        last.open().await;
        let output = run.finish(SOON).await.expect_code(0);
        nothing_is_lost(&shop, &output).await;
        assert_same(&shop.definition("t").await, &before, kind);
    }
}

/// What the shadow has of indexes when the copy begins it has afterwards, and nothing else.
#[tokio::test]
async fn all_indexes_are_there_before_the_copy_and_stay() {
    let shop = shop().await;
    shop.exec(crate::objects::EVERYTHING).await;
    let before = shop.definition(crate::objects::NAME).await;
    let held = shop.held("copy", crate::objects::NAME, &["--rebuild", SLOW[0], SLOW[1]]).await;
    let all = "SELECT string_agg(i.indexrelid::text || i.indisvalid, ' ' ORDER BY 1) FROM pg_index i \
               JOIN pgwraith.migration m ON m.shadow_oid = i.indrelid";
    let built: String = shop.value(all).await;
    held.finish().await.expect_code(0);
    assert_eq!(shop.value::<String>(all).await, built);
    assert_same(&shop.definition(crate::objects::NAME).await, &before, "indexes before");
}

#[tokio::test]
async fn duplicates_of_the_data_are_told_with_constraint_and_key() {
    let mut shop = shop().await;
    for (n, (kind, _)) in KINDS.into_iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        shop.exec(
            "CREATE TABLE t (id int PRIMARY KEY, v int, w text); \
             INSERT INTO t SELECT i, i, 'w' || i FROM generate_series(1, 1000) i; \
             UPDATE t SET v = 7 WHERE id = 850",
        )
        .await;
        // What the source has it cannot violate.
        let Some(clause) = kind.split("; ").next().and_then(|k| k.strip_prefix("ALTER TABLE t "))
        else {
            continue;
        };
        let output = harness::run(arguments(&shop, &["--alter", clause])).await.expect_code(4);
        for told in ["one_v2", "by the row with key id = ", "the data violates"] {
            assert!(output.stderr.contains(told), "{kind}: {told}: {output}");
        }
        let named = ["id = 7.", "id = 850."].iter().any(|key| output.stderr.contains(key));
        assert!(named, "{kind}: {output}");
    }
}

/// More of them than a full sync is to be left with.
#[tokio::test]
async fn many_duplicates_are_not_waited_for() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int PRIMARY KEY, v int); \
         INSERT INTO t SELECT i, i % 6000 FROM generate_series(1, 12000) i",
    )
    .await;
    let change = ["--alter", "ADD CONSTRAINT one UNIQUE (v)", SLOW[0], SLOW[1]];
    let output = shop.run("t", &change).await.expect_code(4);
    assert!(output.stderr.contains("the data violates"), "{output}");
}

/// And more than memory holds, which no full sync gets to see.
#[tokio::test]
async fn duplicates_that_memory_does_not_hold_are_told_too() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int PRIMARY KEY, v int); \
         INSERT INTO t SELECT i, i % 300 FROM generate_series(1, 600) i",
    )
    .await;
    let change = ["--alter", "ADD CONSTRAINT one UNIQUE (v)", "--max-keys-in-memory", "10"];
    let change: Vec<&str> = change.iter().chain(&SLOW).copied().collect();
    let output = shop.run("t", &change).await.expect_code(4);
    assert!(output.stderr.contains("by the row with key id = "), "{output}");
}

#[tokio::test]
async fn a_row_that_does_not_fit_is_named_though_others_clash() {
    let mut shop = shop().await;
    for (n, kind) in [KINDS[0].0, KINDS[3].0].into_iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        table(&shop, kind).await;
        shop.exec("UPDATE t SET w = NULL WHERE id = 880").await;
        let fifth = Failpoint::closed(shop.session().await, FIFTH).await;
        let change = arguments(&shop, &["--alter", "ALTER COLUMN w SET NOT NULL"]);
        let mut run = Background::start(change);
        wander(&shop, &mut run, fifth).await;
        let output = run.finish(SOON).await.expect_code(4);
        assert!(
            output.stderr.contains("the row with key id = 880 does not fit"),
            "{kind}: {output}"
        );
    }
}

#[tokio::test]
async fn it_is_kept_by_whoever_goes_on_and_set_by_nobody() {
    let shop = shop().await;
    table(&shop, KINDS[0].0).await;
    let fifth = Failpoint::closed(shop.session().await, FIFTH).await;
    let run = Background::start(arguments(&shop, &["--rebuild"]));
    fifth.wait_for_somebody().await;
    let all = "SELECT string_agg(indexrelid::text, ' ' ORDER BY 1) FROM pg_index i \
               JOIN pgwraith.migration m ON m.shadow_oid = i.indrelid WHERE m.source_name = 't'";
    let built: String = shop.value(all).await;
    assert_eq!(built.split(' ').count(), 3);
    let set = harness::run(["set", "t", "-d", &shop.dsn, "index-build=after"]).await;
    assert!(set.expect_code(2).stderr.contains("--index-build"));
    run.signal(libc::SIGKILL);
    run.finish(SOON).await;
    let quiet = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
    harness::wait_for_sql(&shop.client, "the sessions end", quiet).await;
    fifth.open().await;
    exec(&shop.session().await, WANDERING).await;
    let other = ["--rebuild", "--or-resume", "--index-build", "after"];
    let refused = shop.run("t", &other).await.expect_code(3);
    assert!(refused.stderr.contains("--rebuild --index-build before"), "{refused}");
    let output = shop.run("t", &["--rebuild", "--or-resume"]).await.expect_code(0);
    assert_eq!(shop.value::<String>(all).await, built);
    nothing_is_lost(&shop, &output).await;
}

/// Killed wherever it changes the state in its own way, and where rows clashed.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn dying_and_going_on() {
    let mut shop = shop().await;
    for (n, point) in pgwraith::failpoint::OF_INDEXES_BEFORE.iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        table(&shop, KINDS[[0, 3][n % 2]].0).await;
        let fifth = Failpoint::closed(shop.session().await, FIFTH).await;
        let action = format!("{point}=return");
        let environment = [("FAILPOINTS", action.as_str())];
        let mut run = Background::start_with(&environment, arguments(&shop, &["--rebuild"]));
        let held = format!(
            "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = {FIFTH} AND NOT granted)"
        );
        while !shop.value::<bool>(&held).await && !run.has_ended() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        exec(&shop.session().await, WANDERING).await;
        fifth.open().await;
        let output = run.finish(SOON).await;
        assert_eq!(output.signal, Some(libc::SIGKILL), "{point} was never reached: {output}");
        let resume = ["resume", "t", "-d", &shop.dsn, "--json", "--take-over"];
        let output = harness::run(resume).await.expect_code(0);
        nothing_is_lost(&shop, &output).await;
        let indexes = "SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND indisvalid";
        assert_eq!(shop.value::<i64>(indexes).await, 3, "{point}");
    }
}

#[tokio::test]
async fn a_rehearsal_forecasts_a_copy_that_fills_the_indexes() {
    let shop = shop().await;
    table(&shop, KINDS[0].0).await;
    let given = ["dry-run", "t", "-d", &shop.dsn, "--json", "--rebuild", "--share", "30%"];
    let arguments: Vec<&str> = given.iter().chain(&SLOW).copied().collect();
    let output = harness::run(arguments).await.expect_code(0);
    let seen = &output.json()["seen"];
    let built = seen["index_seconds"].as_f64().unwrap() + seen["choice_seconds"].as_f64().unwrap();
    assert!(built < 0.5, "{output}");
    assert_eq!(seen["indexes"].as_array().unwrap().len(), 3, "{output}");
    assert!(output.json()["forecast"]["slot_bytes"].is_null(), "{output}");
    shop.exec("DROP SCHEMA IF EXISTS pgwraith CASCADE").await;
    assert_eq!(leftovers(&shop.client).await, [] as [&str; 0]);
}

/// What nothing slows down is told before it begins, and kept with the migration's events.
#[tokio::test]
async fn builds_and_vacuum_are_announced_with_time_and_log() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE INDEX plain ON t (v); \
         INSERT INTO t SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, 20000) i",
    )
    .await;
    let mut arguments = shop.arguments("t", &["--rebuild"]);
    arguments.extend(["--log-format", "json"].map(str::to_owned));
    let output = harness::run(arguments).await.expect_code(0);
    let lines = output.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let told: Vec<Value> = lines.filter(|line| line["event"] == "announced").collect();
    let what: Vec<&str> = told.iter().filter_map(|line| line["what"].as_str()).collect();
    assert_eq!(what, ["index plain", "index t_pkey", "VACUUM (ANALYZE) of \"public\".\"t_v2\""]);
    for line in &told {
        assert_eq!(line["phase"], "index", "{line}");
        assert!(line["seconds"].as_f64().is_some_and(|s| (0.0..60.0).contains(&s)), "{line}");
        assert!(line["wal_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{line}");
    }
    let size = "SELECT pg_relation_size('plain')";
    let about = told[0]["wal_bytes"].as_f64().unwrap() / shop.value::<i64>(size).await as f64;
    assert!((0.5..2.0).contains(&about), "{about}: {told:?}");
    let kept = "SELECT count(*) FROM pgwraith.event WHERE what = 'announced' AND detail LIKE '%it cannot be paused'";
    assert_eq!(shop.value::<i64>(kept).await, 3);
}

/// Whoever asks in the middle of the copy knows what comes; in the middle of a build, that a pause is of no use.
#[tokio::test]
async fn status_says_what_comes_and_that_a_build_goes_on() {
    let shop = shop().await;
    shop.exec(
        "CREATE FUNCTION public.gated(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN \
           PERFORM pg_catalog.pg_advisory_xact_lock_shared(77); RETURN n; END $$; \
         CREATE TABLE t (id int PRIMARY KEY, n int); CREATE INDEX gated ON t (public.gated(n)); \
         INSERT INTO t SELECT i, i FROM generate_series(1, 1000) i",
    )
    .await;
    harness::make_state(&shop.dsn, &shop.client).await;
    let chunk = Failpoint::at_chunk(&shop.client, shop.session().await, LAST).await;
    let gate = Failpoint::closed(shop.session().await, 77).await;
    let says = async |text: &str| {
        let said = std::cell::RefCell::new(String::new());
        let holds = async || {
            *said.borrow_mut() = harness::run(["status", "t", "-d", &shop.dsn]).await.stdout;
            said.borrow().contains(text)
        };
        harness::wait_until(text, SOON, holds).await;
        said.into_inner()
    };
    let change: Vec<&str> = ["--rebuild"].iter().chain(&SLOW[2..]).copied().collect();
    let run = Background::start(shop.arguments("t", &change));
    chunk.wait_for_somebody().await;
    let told = says("next: index about ").await;
    assert!(told.contains(" s (cannot pause, about ") && told.contains("verify about "), "{told}");
    chunk.open().await;
    gate.wait_for_somebody().await;
    harness::run(["set", "t", "-d", &shop.dsn, "pause=on"]).await.expect_code(0);
    says("paused by the operator; but what is being built goes on, and cannot be paused").await;
    harness::run(["set", "t", "-d", &shop.dsn, "pause=off"]).await.expect_code(0);
    gate.open().await;
    run.finish(SOON).await.expect_code(0);
}
