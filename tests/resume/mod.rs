//! Whatever stops a run, another goes on with it, from any host: nothing is copied twice, nothing is lost,
//! nothing is left over.

#[cfg(feature = "failpoints")]
mod by_hand;
mod cleanup;
#[cfg(feature = "failpoints")]
mod killed;
mod network;
#[cfg(feature = "failpoints")]
mod parts;
mod recover;
mod stalled;

use pgwraith::demo::orders::create_orders;
use pgwraith::demo::traffic::{Mix, Traffic};

use crate::harness::{self, Background, Failpoint, Output};
use crate::scene::{Held, SOON, Shop, shop};

/// The phases that a run can be held in where it enters them.
const PHASES: [&str; 5] = ["copy", "index", "catch up", "verify", "cutover"];
const CHANGE: [&str; 4] = [
    "--alter",
    "ALTER COLUMN id TYPE bigint",
    "--alter",
    "ADD COLUMN at timestamptz NOT NULL DEFAULT now()",
];
const TABLE: &str = "public.orders";

/// Orders under live traffic, and a run over them that is held where it enters `phase`.
async fn under_traffic(shop: &Shop, phase: &str, more: &[&str]) -> (Held, Traffic) {
    create_orders(&shop.client, 3_000).await.unwrap();
    let change: Vec<&str> = CHANGE.iter().chain(more).copied().collect();
    let held = shop.held(phase, "orders", &change).await;
    let mix = Mix { sessions: 3, rate: Some(60.0), ..Mix::default() };
    (held, Traffic::start(&shop.dsn, TABLE, mix).await.unwrap())
}

async fn resume(shop: &Shop, more: &[&str]) -> Output {
    let given = ["resume", "orders", "-d", &shop.dsn, "--json"];
    harness::run(given.iter().chain(more)).await
}

/// The traffic's own book: every acknowledged write is there, once; and nothing of ours is left.
async fn nothing_is_lost(shop: &Shop, traffic: Traffic) {
    let report = traffic.stop().await.unwrap();
    let oracle = report.verify(&shop.client, TABLE).await.unwrap();
    assert!(oracle.is_ok() && report.anomaly_count == 0, "{oracle:?} {:?}", report.anomalies);
    let kept = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'id'";
    assert_eq!(shop.value::<String>(kept).await, "bigint");
    // One moment for all rows, that of the run that began.
    assert_eq!(
        shop.value::<i64>(
            "SELECT count(DISTINCT at) FROM orders WHERE at < now() - interval '10 years'"
        )
        .await,
        0
    );
    assert_eq!(shop.held_back().await, [""; 0]);
    // The server notices a moment later that a session is over.
    let gone = async || harness::leftovers(&shop.client).await == ["schema pgwraith"];
    harness::wait_until("nothing is left", SOON, gone).await;
    shop.exec("DROP TABLE orders_old").await;
}

/// Verification would mend what a run that goes on had forgotten: it found nothing to mend.
fn nothing_was_forgotten(output: &Output) {
    assert_eq!(output.json()["verify"]["mismatches"], 0, "{output}");
}

async fn kill(held: Held) {
    held.run.signal(libc::SIGKILL);
    let output = held.run.finish(SOON).await;
    assert_eq!(output.signal, Some(libc::SIGKILL), "{output}");
}

#[tokio::test]
async fn a_run_that_is_killed_in_any_phase_is_resumed() {
    let mut shop = shop().await;
    for (n, phase) in PHASES.into_iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        let (held, traffic) = under_traffic(&shop, phase, &[]).await;
        kill(held).await;
        shop.exec("DROP FUNCTION gate() CASCADE").await;
        let output = resume(&shop, &["--take-over"]).await;
        assert_eq!(output.code, Some(0), "{phase}: {output}");
        let copied = output.json()["rows_copied"].as_u64().unwrap();
        assert_eq!(copied > 0, phase == "copy", "{phase}: {output}");
        nothing_was_forgotten(&output);
        nothing_is_lost(&shop, traffic).await;
    }
}

/// A run over 2000 orders that is held in its fourth chunk of 100, before COMMIT.
async fn in_the_fourth_chunk() -> (Shop, Failpoint, Background) {
    let shop = shop().await;
    create_orders(&shop.client, 2_000).await.unwrap();
    harness::make_state(&shop.dsn, &shop.client).await;
    let point = Failpoint::at_chunk(&shop.client, shop.session().await, 3).await;
    let change = ["--chunk-rows", "100", "--chunk-time", "1ms", "--workers", "1"];
    let arguments: Vec<&str> = CHANGE.iter().chain(&change).copied().collect();
    let run = Background::start(shop.arguments("orders", &arguments));
    point.wait_for_somebody().await;
    (shop, point, run)
}

/// Ranges that are done stay done; the one in flight is copied by whoever goes on, once.
#[tokio::test]
async fn a_run_that_is_killed_in_a_chunk_copies_the_rest() {
    let (shop, point, run) = in_the_fourth_chunk().await;
    run.signal(libc::SIGKILL);
    run.finish(SOON).await;
    shop.exec("DELETE FROM orders WHERE id = 7; UPDATE orders SET note = 'meanwhile' WHERE id = 8")
        .await;

    // Its backend notices that its client is gone.
    let quiet = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
    harness::wait_for_sql(&shop.client, "the sessions end", quiet).await;
    point.open().await;
    let settled: i64 = shop.value("SELECT sum(rows)::int8 FROM pgwraith.chunk WHERE done").await;
    let output = resume(&shop, &[]).await.expect_code(0);
    let copied = output.json()["rows_copied"].as_i64().unwrap();
    assert!((1990..=2000).contains(&(copied + settled)), "{settled} before: {output}");
    let chunks = "SELECT count(*) FROM pgwraith.chunk WHERE kind = 'copy' AND NOT done";
    assert_eq!(shop.value::<i64>(chunks).await, 0);
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM orders").await, 1999);
    assert_eq!(shop.value::<String>("SELECT note FROM orders WHERE id = 8").await, "meanwhile");
    assert_eq!(shop.held_back().await, [""; 0]);
}

#[tokio::test]
async fn a_run_goes_on_by_itself_when_the_server_crashes_in_any_phase() {
    let mut shop = shop().await;
    for (n, phase) in PHASES.into_iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        let (held, traffic) = under_traffic(&shop, phase, &[]).await;
        shop.cluster.crash().await.unwrap();
        shop.cluster.restart().await.unwrap();
        shop.client = shop.session().await;
        let output = held.run.finish(SOON).await;
        assert_eq!(output.code, Some(0), "{phase}: {output}");
        assert!(output.stderr.contains("going on from the state"), "{phase}: {output}");
        nothing_was_forgotten(&output);
        nothing_is_lost(&shop, traffic).await;
    }
}

#[tokio::test]
async fn a_frozen_run_is_taken_over_and_writes_nothing_when_it_wakes_up() {
    let shop = shop().await;
    let (held, traffic) = under_traffic(&shop, "verify", &[]).await;
    held.run.signal(libc::SIGSTOP);
    held.release().await;
    shop.exec("DROP FUNCTION gate() CASCADE").await;
    resume(&shop, &[]).await.expect_code(3);
    resume(&shop, &["--take-over"]).await.expect_code(0);
    held.run.signal(libc::SIGCONT);
    let output = held.run.finish(SOON).await.expect_code(6);
    assert!(output.stderr.contains("taken this migration over"), "{output}");
    nothing_is_lost(&shop, traffic).await;
}

/// One that waits for its server has no sessions, and goes on in a moment.
#[tokio::test]
async fn a_run_that_has_lost_its_sessions_is_alive_until_its_process_is_gone() {
    let shop = shop().await;
    create_orders(&shop.client, 1_000).await.unwrap();
    let held = shop.held("verify", "orders", &CHANGE).await;
    held.run.signal(libc::SIGSTOP);
    let ours = "pg_stat_activity WHERE application_name LIKE 'pgwraith/%'";
    shop.exec(&format!("SELECT pg_terminate_backend(pid) FROM {ours}")).await;
    let quiet = format!("SELECT NOT EXISTS (SELECT 1 FROM {ours})");
    harness::wait_for_sql(&shop.client, "the sessions end", &quiet).await;
    shop.exec("DROP FUNCTION gate() CASCADE").await;
    let alive = resume(&shop, &[]).await.expect_code(3);
    for told in ["is being run by process", "--take-over"] {
        assert!(alive.stderr.contains(told), "{alive}");
    }
    let cleanup = harness::run(["cleanup", "-d", &shop.dsn, "--yes"]).await.expect_code(0);
    assert!(cleanup.stdout.contains("a run is alive: process"), "{cleanup}");
    kill(held).await;
    // From another host nobody sees the process: only that it was there shortly before.
    shop.exec("UPDATE pgwraith.migration SET host = 'another'").await;
    let silent = resume(&shop, &[]).await.expect_code(3);
    assert!(silent.stderr.contains("on another, which was there"), "{silent}");
    shop.exec("UPDATE pgwraith.progress SET at = at - interval '61 s'").await;
    // Nor did the server come back only now.
    let started = "SELECT pg_postmaster_start_time() < clock_timestamp() - interval '61 s'";
    if !shop.value::<bool>(started).await {
        shop.exec("UPDATE pgwraith.progress SET at = at - interval '1 hour'").await;
    }
    resume(&shop, &[]).await.expect_code(0);
}

#[tokio::test]
async fn run_says_that_it_is_unfinished_and_a_scheduler_goes_on() {
    let shop = shop().await;
    create_orders(&shop.client, 1_000).await.unwrap();
    let held = shop.held("verify", "orders", &[CHANGE[0], CHANGE[1], "--workers", "3"]).await;
    kill(held).await;
    shop.exec("DROP FUNCTION gate() CASCADE").await;
    let quiet = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
    harness::wait_for_sql(&shop.client, "the sessions end", quiet).await;
    let output = shop.run("orders", &["--rebuild"]).await.expect_code(3);
    for text in ["pgwraith resume", "pgwraith abort"] {
        assert!(output.stderr.contains(text), "{output}");
    }
    let output = shop.run("orders", &["--rebuild", "--or-resume"]).await.expect_code(3);
    assert!(
        output.stderr.contains("to another change: --alter \"ALTER COLUMN id TYPE bigint\""),
        "{output}"
    );
    shop.run("orders", &[CHANGE[0], CHANGE[1], "--or-resume"]).await.expect_code(0);
    let workers = "SELECT options->>'workers' FROM pgwraith.migration";
    assert_eq!(shop.value::<String>(workers).await, "3", "its flags are those it was begun with");
    // Nothing is left: then it is a new one.
    shop.exec("DROP TABLE orders_old").await;
    shop.run("orders", &["--rebuild", "--or-resume"]).await.expect_code(0);
    let none = resume(&shop, &[]).await.expect_code(2);
    assert!(none.stderr.contains("has no unfinished migration"), "{none}");
}

#[tokio::test]
async fn two_runs_at_once_over_one_table_and_over_two() {
    let shop = shop().await;
    shop.exec("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 500); INSERT INTO b SELECT * FROM a").await;
    let start = |table: &str| Background::start(shop.arguments(table, &["--rebuild"]));
    let (one, same, other) = (start("a"), start("a"), start("b"));
    let (one, same, other) =
        (one.finish(SOON).await, same.finish(SOON).await, other.finish(SOON).await);
    assert_eq!(other.code, Some(0), "{other}");
    let mut codes = [one.code, same.code];
    codes.sort();
    // The second comes while the first is under way, or after it, when the old table is in the way.
    assert_eq!(codes, [Some(0), Some(3)], "{one}\n{same}");
    assert_eq!(shop.held_back().await, [""; 0]);
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM a").await, 500);
}

#[tokio::test]
async fn a_change_of_the_table_meanwhile_is_told_and_ends_it() {
    let shop = shop().await;
    create_orders(&shop.client, 1_000).await.unwrap();
    let held = shop.held("verify", "orders", &CHANGE).await;
    kill(held).await;
    shop.exec("DROP FUNCTION gate() CASCADE; ALTER TABLE orders ADD COLUMN more int").await;
    let output = resume(&shop, &["--take-over"]).await.expect_code(6);
    assert!(output.stderr.contains("more") && output.stderr.contains("pgwraith abort"), "{output}");
    assert_eq!(shop.held_back().await, [""; 0], "nobody can go on");
    harness::run(["abort", "orders", "-d", &shop.dsn]).await.expect_code(0);
    assert_eq!(harness::leftovers(&shop.client).await, [""; 0]);
}

/// Of what was left to do after the swap, too.
#[tokio::test]
async fn a_run_that_is_killed_after_the_swap_is_resumed() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1); \
         CREATE TABLE orders (id int PRIMARY KEY, p int REFERENCES parent); INSERT INTO orders VALUES (1, 1)",
    )
    .await;
    harness::make_state(&shop.dsn, &shop.client).await;
    shop.exec(
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(99); RETURN NEW; END $$; \
         CREATE TRIGGER stop BEFORE INSERT ON pgwraith.event FOR EACH ROW WHEN (NEW.what = 'done') EXECUTE FUNCTION stop()",
    )
    .await;
    let point = Failpoint::closed(shop.session().await, 99).await;
    let run = Background::start(shop.arguments("orders", &["--rebuild"]));
    point.wait_for_somebody().await;
    run.signal(libc::SIGKILL);
    run.finish(SOON).await;
    point.open().await;
    shop.exec(
        "DROP FUNCTION stop() CASCADE; \
         INSERT INTO pgwraith.event (migration_id, what, detail) SELECT id, 'to do', 'ANALYZE public.orders' FROM pgwraith.migration",
    )
    .await;
    let output = resume(&shop, &["--take-over"]).await.expect_code(0);
    assert!(output.json()["cutover"].is_null(), "{output}");
    let done = "SELECT count(*) FROM pgwraith.event WHERE what = 'done' AND detail = 'ANALYZE public.orders'";
    assert_eq!(shop.value::<i64>(done).await, 1);
    resume(&shop, &[]).await.expect_code(2);
}

/// A change of a row that was copied already is known to memory alone, and dies with the process: the slot
/// must not have been told that it arrived (**Invariant 5**).
#[tokio::test]
async fn what_only_memory_knew_is_told_again() {
    let (shop, point, run) = in_the_fourth_chunk().await;
    shop.exec(
        "DELETE FROM orders WHERE id = 7; UPDATE orders SET note = 'copied before' WHERE id = 8",
    )
    .await;
    // Enough log for the position to be worth storing, and time for it.
    shop.exec("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))").await;
    let later: String = shop.value("SELECT (now() + interval '3 s')::text").await;
    let heard = format!("SELECT bool_and(reply_time > '{later}') FROM pg_stat_replication");
    harness::wait_for_sql(&shop.client, "the position was confirmed a few times", &heard).await;
    run.signal(libc::SIGKILL);
    run.finish(SOON).await;
    point.open().await;
    let output = resume(&shop, &["--take-over"]).await.expect_code(0);
    nothing_was_forgotten(&output);
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM orders WHERE id = 7").await, 0);
    let note = "SELECT note FROM orders WHERE id = 8";
    assert_eq!(shop.value::<String>(note).await, "copied before");
}
