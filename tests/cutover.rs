//! The cutover under load, and with somebody in its way.

use std::cell::Cell;
use std::time::{Duration, Instant};

use pgwraith::demo::orders::create_orders;
use pgwraith::demo::traffic::{Mix, Traffic};
use tokio_postgres::Client;

use crate::harness::{self, Background};
use crate::scene::{Held, SOON, Shop, exec, shop, shop_with, value};

const CHANGE: [&str; 2] = ["--alter", "ALTER COLUMN id TYPE bigint"];

async fn orders(shop: &Shop, rows: u64) {
    create_orders(&shop.client, rows).await.unwrap();
}

async fn traffic(shop: &Shop) -> Traffic {
    let mix = Mix { sessions: 4, rate: Some(100.0), ..Mix::default() };
    Traffic::start(&shop.dsn, "public.orders", mix).await.unwrap()
}

/// No writer saw an error but the one that a changed result type means, and nothing is lost.
async fn judge(shop: &Shop, traffic: Traffic) -> Duration {
    let report = traffic.stop().await.unwrap();
    let errors: Vec<_> = report.errors.iter().map(|e| &e.message).collect();
    assert_eq!(report.error_count, 0, "{errors:?}");
    assert_eq!(report.anomaly_count, 0, "{:?}", report.anomalies);
    let oracle = report.verify(&shop.client, "public.orders").await.unwrap();
    assert!(oracle.is_ok(), "lost {:?}, unexpected {:?}", oracle.lost, oracle.unexpected);
    report.longest_stall.duration
}

fn start(shop: &Shop, more: &[&str]) -> Background {
    let change: Vec<&str> = CHANGE.iter().chain(more).copied().collect();
    Background::start(shop.arguments("orders", &change))
}

#[tokio::test]
async fn writers_go_on_into_the_new_table() {
    let shop = shop().await;
    orders(&shop, 20_000).await;
    let traffic = traffic(&shop).await;
    let output = harness::run(shop.arguments("orders", &CHANGE)).await.expect_code(0);
    let held = output.json()["cutover"]["lock_held_ms"].as_f64().unwrap();
    assert!(held > 0.0 && held <= 500.0, "{held} ms");
    judge(&shop, traffic).await;
}

#[tokio::test]
async fn a_long_transaction_is_not_queued_behind() {
    let shop = shop().await;
    orders(&shop, 5_000).await;
    let traffic = traffic(&shop).await;
    let reader = shop.session().await;
    exec(&reader, "BEGIN; SELECT /* the long one */ count(*) FROM orders").await;
    let pid: i32 = value(&reader, "SELECT pg_backend_pid()").await;
    let mut run = start(&shop, &[]);
    run.wait_for_saying(&format!("pid {pid} ")).await;
    assert!(run.said().contains("the cutover waits"), "{}", run.said());
    exec(&reader, "COMMIT").await;
    run.finish(SOON).await.expect_code(0);
    let stall = judge(&shop, traffic).await;
    assert!(stall < Duration::from_secs(2), "the application waited {stall:?} behind us");
}

#[tokio::test]
async fn an_old_snapshot_is_waited_for_and_named() {
    let shop = shop().await;
    orders(&shop, 2_000).await;
    let reader = shop.session().await;
    // Its snapshot is older than the shadow, and it holds no lock on the table.
    exec(&reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await;
    let mut run = start(&shop, &[]);
    run.wait_for_saying("older snapshots").await;
    // Nothing is held meanwhile: DDL that waited for us would have the application behind it.
    shop.exec("SET lock_timeout = '1s'; CREATE TABLE child (id int PRIMARY KEY, o bigint)").await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        shop.exec(
            "ALTER TABLE child ADD CONSTRAINT late FOREIGN KEY (o) REFERENCES orders NOT VALID; \
             ALTER TABLE child DROP CONSTRAINT late",
        )
        .await;
    }
    run.expect_running();
    let rows: i64 = value(&reader, "SELECT count(*) FROM orders").await;
    assert_eq!(rows, 2_000);
    exec(&reader, "COMMIT").await;
    run.finish(SOON).await.expect_code(0);
}

/// The transaction that keeps the first lock between attempts holds back every new snapshot's xmin:
/// that must not make them look old.
#[tokio::test]
async fn a_later_attempt_swaps_under_traffic_without_pause() {
    let shop = shop().await;
    orders(&shop, 2_000).await;
    let mut held = shop.held("cutover", "orders", &["--rebuild"]).await;
    let mix = Mix { sessions: 6, ..Mix::default() };
    let traffic = Traffic::start(&shop.dsn, "public.orders", mix).await.unwrap();
    // The table is always in use, by transactions too young not to be queued behind.
    let (mut theirs, mut next) = (shop.session().await, shop.session().await);
    let young = "BEGIN; SELECT note FROM orders WHERE id = 8";
    exec(&theirs, young).await;
    held.release().await;
    let began = Instant::now();
    while !held.run.said().contains("the table's lock is held by pid") {
        held.run.expect_running();
        assert!(began.elapsed() < SOON, "{}", held.run.said());
        tokio::time::sleep(Duration::from_millis(200)).await;
        exec(&next, young).await;
        exec(&theirs, "COMMIT").await;
        std::mem::swap(&mut theirs, &mut next);
    }
    exec(&theirs, "COMMIT").await;
    let free = Instant::now();
    let output = held.run.finish(SOON).await.expect_code(0);
    assert!(output.json()["cutover"]["attempts"].as_u64() >= Some(2), "{output}");
    assert!(!output.stderr.contains("older snapshots"), "{output}");
    assert!(free.elapsed() < Duration::from_secs(8), "{:?}", free.elapsed());
    judge(&shop, traffic).await;
}

#[tokio::test]
async fn a_tool_that_is_stopped_with_the_lock_held_holds_it_no_longer_than_the_deadline() {
    let shop = shop().await;
    orders(&shop, 2_000).await;
    in_attempt(&shop, "IF attempt = 1 THEN PERFORM pg_sleep(0.5); END IF").await;
    let change = [CHANGE[0], CHANGE[1], "--max-lock-hold", "1s", "--allow-event-triggers"];
    let held = shop.held("cutover", "orders", &change).await;
    let walsender: i32 = shop
        .value("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%/stream'")
        .await;
    held.release().await;
    let run = held.run;
    let asleep = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity \
        WHERE application_name LIKE 'pgwraith/%/cutover' AND wait_event = 'PgSleep')";
    harness::wait_for_sql(&shop.client, "the lock is held", asleep).await;
    run.signal(libc::SIGSTOP);
    signal(walsender, libc::SIGSTOP);
    assert!(shop.value::<bool>(asleep).await, "the lock was gone before the stop");
    let writer = shop.session().await;
    let started = Instant::now();
    exec(&writer, "UPDATE orders SET note = 'written' WHERE id = 1").await;
    let waited = started.elapsed();
    run.signal(libc::SIGCONT);
    signal(walsender, libc::SIGCONT);
    assert!(waited < Duration::from_secs(2), "the application waited {waited:?}");
    run.finish(SOON).await.expect_code(0);
    let note: String = shop.value("SELECT note FROM orders WHERE id = 1").await;
    assert_eq!(note, "written");
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: kill takes plain numbers.
    unsafe { libc::kill(pid, signal) };
}

/// Runs PL/pgSQL in the middle of each attempt's renames; `attempt` counts them. The run must allow
/// event triggers.
async fn in_attempt(shop: &Shop, body: &str) {
    shop.exec(&format!(
        "CREATE SEQUENCE public.attempts; \
         CREATE FUNCTION public.in_attempt() RETURNS event_trigger LANGUAGE plpgsql AS $$ \
           DECLARE attempt bigint; BEGIN \
             IF current_setting('application_name') LIKE 'pgwraith/%/cutover' THEN \
               attempt := nextval('public.attempts'); {body}; END IF; END $$; \
         CREATE EVENT TRIGGER in_attempt ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER') \
           EXECUTE FUNCTION public.in_attempt()"
    ))
    .await;
}

/// The limits of an attempt that was given up end with it, although its transaction goes on.
#[tokio::test]
async fn an_attempt_that_was_given_up_takes_no_time_from_the_next() {
    let shop = shop_with(&[("deadlock_timeout", "10s")]).await;
    orders(&shop, 2_000).await;
    in_attempt(&shop, "PERFORM pg_sleep(2)").await;
    let change =
        ["--rebuild", "--max-lock-hold", "3s", "--lock-timeout", "3s", "--allow-event-triggers"];
    let held = shop.held("cutover", "orders", &change).await;
    let holders = [shop.session().await, shop.session().await];
    let turn = Cell::new(0);
    let lock = "BEGIN; LOCK TABLE orders_v2 IN ACCESS SHARE MODE NOWAIT";
    exec(&holders[1], lock).await;
    held.release().await;
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity \
        WHERE application_name LIKE 'pgwraith/%/cutover' AND wait_event_type = 'Lock')";
    // No attempt is made behind a transaction of more than a second: a younger one until one waits. In between nobody
    // finds the table free.
    let waiting = async || {
        let (next, present) = (&holders[turn.get() % 2], &holders[(turn.get() + 1) % 2]);
        if next.batch_execute(lock).await.is_err() {
            exec(next, "ROLLBACK").await;
            return true;
        }
        exec(present, "ROLLBACK").await;
        turn.set(turn.get() + 1);
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(700) {
            if shop.value::<bool>(waits).await {
                return true;
            }
        }
        false
    };
    harness::wait_until("the attempt waits for its lock", SOON, waiting).await;
    // Seen under the lock: no statement fails, the tool itself gives up.
    shop.exec("GRANT SELECT ON orders TO PUBLIC").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    exec(&holders[(turn.get() + 1) % 2], "COMMIT").await;
    let output = held.run.finish(SOON).await.expect_code(0);
    assert!(output.stderr.contains("privileges were changed just now"), "{output}");
    assert_eq!(output.json()["cutover"]["attempts"], 2, "{output}");
}

/// Between attempts we hold what blocks DDL. Somebody who is in our way and then wants DDL must not
/// wait for us, nor whoever queues behind him.
#[tokio::test]
async fn whoever_waits_for_us_between_attempts_goes_first() {
    let shop = shop().await;
    orders(&shop, 2_000).await;
    let mut held = shop.held("cutover", "orders", &["--rebuild"]).await;
    let theirs = shop.session().await;
    exec(&theirs, "BEGIN; SELECT note FROM orders WHERE id = 8").await;
    held.release().await;
    held.run.wait_for_saying("the cutover waits: ").await;
    let began = Instant::now();
    exec(&theirs, "ALTER TABLE orders ADD COLUMN more int; COMMIT").await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let output = held.run.finish(SOON).await.expect_code(6);
    assert!(output.stderr.contains("column, more appeared"), "{output}");
    assert_eq!(shop.held_back().await, [""; 0]);
}

/// A session that holds the table, of a transaction that is young, once the cutover waits for it and has the
/// view.
async fn in_the_way(shop: &Shop) -> Client {
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
        WHERE a.application_name LIKE 'pgwraith/%/cutover' AND NOT l.granted AND l.relation = 'orders'::regclass)";
    let begin = "SET lock_timeout = '200ms'; BEGIN; LOCK TABLE orders IN ACCESS SHARE MODE";
    let (mut theirs, mut next) = (shop.session().await, shop.session().await);
    exec(&theirs, begin).await;
    let waiting = async {
        loop {
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(600) {
                if shop.value::<bool>(waits).await {
                    return;
                }
            }
            // No attempt is made behind an older one.
            if next.batch_execute(begin).await.is_ok() {
                exec(&theirs, "ROLLBACK").await;
                std::mem::swap(&mut theirs, &mut next);
            } else {
                exec(&next, "ROLLBACK").await;
            }
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect("the cutover does not wait for the table");
    exec(&theirs, "SET lock_timeout = 0").await;
    theirs
}

/// So long that nobody gives way by himself.
const LONG: [&str; 5] = ["--rebuild", "--max-lock-hold", "30s", "--lock-timeout", "30s"];

/// A cutover that has the view and waits for the table, which that session has.
async fn waiting_for_each_other() -> (Shop, Held, Client) {
    let shop = shop_with(&[("deadlock_timeout", "60s")]).await;
    orders(&shop, 2_000).await;
    shop.exec("CREATE VIEW v AS SELECT id FROM orders").await;
    let held = shop.held("cutover", "orders", &LONG).await;
    held.release().await;
    let theirs = in_the_way(&shop).await;
    (shop, held, theirs)
}

/// The view is locked before the table. Who has used the table and wants the view gets it, although both
/// sides have a long time to wait; and the next try, of the same attempt, gets its locks.
#[tokio::test]
async fn whoever_waits_for_us_and_is_waited_for_goes_first() {
    let (_shop, held, theirs) = waiting_for_each_other().await;
    let began = Instant::now();
    exec(&theirs, "SELECT FROM v; COMMIT").await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let output = held.run.finish(SOON).await.expect_code(0);
    assert_eq!(output.json()["cutover"]["attempts"], 1, "{output}");
}

/// Between tries too we hold what blocks DDL, and give it up where somebody waits for it.
#[tokio::test]
async fn whoever_waits_for_us_between_tries_goes_first() {
    let (shop, held, theirs) = waiting_for_each_other().await;
    let ddl = shop.session().await;
    let alter = async {
        exec(&ddl, "ALTER TABLE orders ADD COLUMN more int").await;
    };
    let queued = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE orders ADD%' \
        AND wait_event_type = 'Lock')";
    let began = Instant::now();
    let read = async {
        harness::wait_for_sql(&shop.client, "the DDL waits", queued).await;
        exec(&theirs, "SELECT FROM v; COMMIT").await;
    };
    tokio::join!(alter, read);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let output = held.run.finish(SOON).await.expect_code(6);
    assert!(output.stderr.contains("column, more appeared"), "{output}");
}

#[tokio::test]
async fn a_silent_synchronous_standby_does_not_hold_the_lock() {
    let shop = shop().await;
    orders(&shop, 2_000).await;
    let held = shop.held("cutover", "orders", &CHANGE).await;
    shop.exec("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    shop.exec("SELECT pg_reload_conf()").await;
    let output = held.finish().await.expect_code(0);
    let stall = output.json()["cutover"]["stall_ms"].as_f64().unwrap();
    assert!(stall <= 500.0, "{stall} ms");
}

#[tokio::test]
async fn autovacuum_at_work_on_the_source_gives_way() {
    let shop = shop_with(&[
        ("autovacuum_naptime", "1s"),
        ("autovacuum_vacuum_threshold", "10"),
        ("autovacuum_vacuum_scale_factor", "0"),
        ("autovacuum_vacuum_cost_delay", "100ms"),
        ("autovacuum_vacuum_cost_limit", "1"),
    ])
    .await;
    orders(&shop, 20_000).await;
    let held = shop.held("cutover", "orders", &CHANGE).await;
    shop.exec("UPDATE orders SET note = 'dead rows'").await;
    let works = "SELECT EXISTS (SELECT 1 FROM pg_stat_progress_vacuum v JOIN pg_stat_activity a USING (pid) \
        WHERE v.relid = 'public.orders'::regclass AND a.backend_type = 'autovacuum worker')";
    harness::wait_for_sql(&shop.client, "autovacuum works on the source", works).await;
    held.finish().await.expect_code(0);
}
