//! The swap under load, and everything that may be in its way: the application never waits longer
//! than it was told, and in the end the names are swapped.

use std::time::{Duration, Instant};

use pgwraith::demo::orders::create_orders;
use pgwraith::demo::traffic::{Mix, Traffic};
use serde_json::Value;
use tokio_postgres::Client;

use crate::harness;
use crate::scene::{Held, SOON, Shop, exec, shop, shop_with, value, wait_for};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); \
    INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 2000) g;";

/// Makes the swap take `seconds` inside the lock, after everything is renamed.
async fn slow_swap(shop: &Shop, seconds: f64) {
    shop.exec(&format!(
        "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN PERFORM pg_catalog.pg_sleep({seconds}); RETURN NEW; END $$; \
         CREATE TRIGGER slow BEFORE UPDATE ON pgwraith.migration FOR EACH ROW \
           WHEN (NEW.outcome = 'swapped') EXECUTE FUNCTION public.slow()"
    ))
    .await;
}

fn milliseconds(json: &Value, of: &str) -> f64 {
    json["cutover"][of].as_f64().unwrap()
}

/// Writes single rows one after the other until `until` holds; the longest that one took.
async fn writes_until(client: &Client, mut until: impl AsyncFnMut() -> bool) -> Duration {
    let mut longest = Duration::ZERO;
    let deadline = Instant::now() + SOON;
    while !until().await {
        assert!(Instant::now() < deadline, "waited in vain");
        let began = Instant::now();
        exec(client, "UPDATE t SET v = v || '.' WHERE id = 7").await;
        longest = longest.max(began.elapsed());
    }
    longest
}

#[tokio::test]
async fn sessions_that_wait_go_on_into_the_new_table() {
    let shop = shop().await;
    create_orders(&shop.client, 20_000).await.unwrap();
    let old: u32 = shop.value("SELECT 'orders'::regclass::oid").await;
    let mix = Mix { sessions: 8, rate: Some(200.0), ..Mix::default() };
    let traffic = Traffic::start(&shop.dsn, "orders", mix).await.unwrap();
    let change = ["--alter", "ALTER id TYPE bigint, ADD region text NOT NULL DEFAULT 'eu'"];
    let mut held = shop.held("cutover", "orders", &change).await;
    // So long that every session of the traffic comes to wait.
    slow_swap(&shop, 0.25).await;
    held.release().await;
    let waiting = "SELECT count(*) >= 4 FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass \
                   AND mode IN ('RowExclusiveLock', 'AccessShareLock')";
    wait_for(&shop.client, &mut held.run, "sessions wait on the lock", waiting).await;
    let output = held.run.finish(SOON).await.expect_code(0);
    let writes = traffic.writes();
    let more = async || traffic.writes() > writes + 500;
    harness::wait_until("writes go on", SOON, more).await;
    let report = traffic.stop().await.unwrap();

    assert!(report.errors.is_empty() && report.error_count == 0, "{:?}", report.errors);
    assert!(report.anomalies.is_empty() && report.anomaly_count == 0, "{:?}", report.anomalies);
    assert_eq!(report.lost_connections, 0);
    assert!(report.cached_plan_errors > 0);
    assert!(!shop.log().contains("deadlock detected"));
    assert!(report.longest_stall.duration > Duration::from_millis(150), "nobody waited");
    let json = output.json();
    let (held, stall) = (milliseconds(json, "lock_held_ms"), milliseconds(json, "stall_ms"));
    assert!(held >= 250.0 && held <= stall && stall < 500.0, "{output}");
    assert_ne!(shop.value::<u32>("SELECT 'orders'::regclass::oid").await, old);
    let result = report.verify(&shop.client, "orders").await.unwrap();
    assert!(result.is_ok(), "{result:?}");
    assert!(!shop.value::<bool>("SELECT EXISTS (SELECT 1 FROM orders WHERE region <> 'eu')").await);
}

/// A transaction that used the table and does nothing more.
async fn is_not_queued_behind(statement: &str) {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let mut held = shop.held("cutover", "t", &["--rebuild"]).await;
    let idle = shop.session().await;
    exec(&idle, "BEGIN").await;
    exec(&idle, statement).await;
    let old = "SELECT xact_start < clock_timestamp() - interval '1200 ms' FROM pg_stat_activity WHERE pid = ";
    let pid: i32 = value(&idle, "SELECT pg_backend_pid()").await;
    exec(&idle, statement).await;
    wait_for(&shop.client, &mut held.run, "the transaction is long", &format!("{old}{pid}")).await;
    held.release().await;
    held.says(&format!("a long transaction uses the table: pid {pid} ")).await;
    assert!(held.run.said().contains(statement), "{}", held.run.said());

    // While it stays, nobody asks for the lock that would stop everybody.
    let asked = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' \
                 AND relation = 't'::regclass)";
    let (mut polls, writer) = (0, shop.session().await);
    let until = Instant::now() + Duration::from_millis(1500);
    let longest = writes_until(&writer, async || {
        polls += 1;
        assert!(!value::<bool>(&shop.client, asked).await, "the lock was asked for");
        Instant::now() > until
    })
    .await;
    assert!(polls > 20 && longest < Duration::from_millis(500), "{polls} {longest:?}");
    held.run.expect_running();
    exec(&idle, "COMMIT").await;
    let output = held.run.finish(SOON).await.expect_code(0);
    assert_eq!(output.json()["cutover"]["attempts"], 1, "{output}");
    assert_eq!(shop.rows("t").await, shop.rows("t_old").await);
}

#[tokio::test]
async fn a_transaction_that_read_is_not_queued_behind() {
    is_not_queued_behind("SELECT v FROM t WHERE id = 8").await;
}

#[tokio::test]
async fn a_transaction_that_wrote_is_not_queued_behind() {
    is_not_queued_behind("UPDATE t SET v = 'idle' WHERE id = 8").await;
}

/// A young transaction is met only by asking for the lock: for no longer than `--lock-timeout`.
#[tokio::test]
async fn a_lock_that_is_not_granted_is_given_up() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let mut held = shop.held("cutover", "t", &["--rebuild", "--lock-timeout", "100ms"]).await;
    let idle = shop.session().await;
    exec(&idle, "BEGIN; SELECT v FROM t WHERE id = 8").await;
    held.release().await;
    let writer = shop.session().await;
    let longest =
        writes_until(&writer, async || held.run.said().contains("the cutover waits: ")).await;
    held.run.expect_running();
    assert!(longest < Duration::from_millis(600), "{longest:?}\n{}", held.run.said());
    exec(&idle, "COMMIT").await;
    held.run.finish(SOON).await.expect_code(0);
    assert_eq!(shop.rows("t").await, shop.rows("t_old").await);
}

/// Between attempts we hold what blocks DDL. Somebody who is in our way and then wants DDL must not
/// wait for us, nor whoever queues behind him.
#[tokio::test]
async fn whoever_waits_for_us_between_attempts_goes_first() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let mut held = shop.held("cutover", "t", &["--rebuild"]).await;
    let theirs = shop.session().await;
    exec(&theirs, "BEGIN; SELECT v FROM t WHERE id = 8").await;
    held.release().await;
    let locked = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE granted AND relation = 't'::regclass \
                  AND mode = 'ShareUpdateExclusiveLock')";
    wait_for(&shop.client, &mut held.run, "the first lock is held", locked).await;
    held.says("the cutover waits: ").await;
    let began = Instant::now();
    exec(&theirs, "ALTER TABLE t ADD COLUMN more int; COMMIT").await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let output = held.run.finish(SOON).await.expect_code(6);
    assert!(output.stderr.contains("column, more appeared"), "{output}");
    assert_eq!(shop.held_back().await, [""; 0]);
}

#[tokio::test]
async fn patience_ends() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let held = shop.held("cutover", "t", &["--rebuild", "--cutover-patience", "1s"]).await;
    let idle = shop.session().await;
    exec(&idle, "BEGIN; SELECT v FROM t WHERE id = 8").await;
    let output = held.finish().await.expect_code(1);
    assert!(output.stderr.contains("did not get its lock in 1 s"), "{output}");
    assert!(output.stderr.contains("SELECT v FROM t WHERE id = 8"), "{output}");
    assert_eq!(shop.held_back().await, [""; 0]);
    assert!(shop.value::<bool>("SELECT to_regclass('t_old') IS NULL").await);
}

/// Stopped with the lock held: the server ends the attempt when its time is over.
#[tokio::test]
async fn a_stopped_tool_holds_nobody_longer_than_the_deadline() {
    const DEADLINE: Duration = Duration::from_millis(1000);
    let shop = shop().await;
    shop.exec(TABLE).await;
    let source: u32 = shop.value("SELECT 't'::regclass::oid").await;
    let change = ["--rebuild", "--max-lock-hold", "1s"];
    let mut held = shop.held("cutover", "t", &change).await;
    // The server is busy for most of the deadline; what is left is all that a stopped tool gets.
    slow_swap(&shop, 0.8).await;
    let locked = format!(
        "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE granted AND relation = {source} AND mode = 'AccessExclusiveLock')"
    );
    held.release().await;
    wait_for(&shop.client, &mut held.run, "the lock is held", &locked).await;
    held.run.signal(libc::SIGSTOP);
    let seen = Instant::now();
    // A statement that names the table waits for the lock, and finds the old table behind it.
    let writer = shop.session().await;
    exec(&writer, "UPDATE t SET v = 'written meanwhile' WHERE id = 7").await;
    let waited = seen.elapsed();
    assert!(waited > Duration::from_millis(200), "the lock was gone at once: {waited:?}");
    assert!(waited < DEADLINE + Duration::from_millis(450), "{waited:?}");
    assert_eq!(shop.value::<u32>("SELECT 't'::regclass::oid").await, source);

    shop.exec("DROP TRIGGER slow ON pgwraith.migration").await;
    held.run.signal(libc::SIGCONT);
    let output = held.run.finish(SOON).await.expect_code(0);
    assert_eq!(output.json()["cutover"]["attempts"], 2, "{output}");
    assert_ne!(shop.value::<u32>("SELECT 't'::regclass::oid").await, source);
    let row = "SELECT v FROM t WHERE id = 7";
    assert_eq!(shop.value::<String>(row).await, "written meanwhile");
    assert_eq!(shop.rows("t").await, shop.rows("t_old").await);
}

#[tokio::test]
async fn autovacuum_gives_way() {
    let shop = shop_with(&[
        ("autovacuum_naptime", "1s"),
        ("autovacuum_vacuum_threshold", "50"),
        ("autovacuum_vacuum_scale_factor", "0"),
        ("autovacuum_vacuum_cost_delay", "100ms"),
        ("autovacuum_vacuum_cost_limit", "1"),
        ("deadlock_timeout", "300ms"),
    ])
    .await;
    shop.exec(
        "CREATE TABLE t (id int PRIMARY KEY, v text); \
               INSERT INTO t SELECT g, repeat('v', 400) FROM generate_series(1, 4000) g",
    )
    .await;
    let mut held = shop.held("cutover", "t", &["--rebuild"]).await;
    shop.exec("UPDATE t SET v = v || '.'").await;
    let works = "SELECT EXISTS (SELECT 1 FROM pg_stat_progress_vacuum p JOIN pg_stat_activity a USING (pid) \
                 WHERE p.relid = 't'::regclass AND a.backend_type = 'autovacuum worker')";
    wait_for(&shop.client, &mut held.run, "autovacuum works on the source", works).await;
    let output = held.finish().await.expect_code(0);
    assert_eq!(output.json()["cutover"]["attempts"], 1, "{output}");
    assert!(milliseconds(output.json(), "stall_ms") < 500.0, "{output}");
    assert!(shop.log().contains("canceling autovacuum task"), "{}", shop.log());
    assert_eq!(shop.rows("t").await, shop.rows("t_old").await);
}

/// Our commits do not wait for standbys, the swap least of all.
#[tokio::test]
async fn a_standby_that_does_not_answer_is_not_waited_for() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let mut held = shop.held("cutover", "t", &["--rebuild"]).await;
    shop.exec("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    shop.exec("SELECT pg_reload_conf()").await;
    let set = "SELECT current_setting('synchronous_standby_names') = 'nobody'";
    wait_for(&shop.client, &mut held.run, "the setting is in force", set).await;
    let output = held.finish().await.expect_code(0);
    assert!(milliseconds(output.json(), "stall_ms") < 500.0, "{output}");
    // This one does wait, and proves that the setting works.
    let writer = shop.session().await;
    let stuck = tokio::spawn(async move { writer.batch_execute("CREATE TABLE stuck ()").await });
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep')";
    let waits = async || shop.value::<bool>(waits).await;
    harness::wait_until("a commit waits for the standby", SOON, waits).await;
    assert_eq!(shop.rows("t").await, shop.rows("t_old").await);
    assert_eq!(shop.held_back().await, [""; 0]);
    stuck.abort();
}

/// Whoever has an older snapshot would find the new table empty.
#[tokio::test]
async fn an_old_snapshot_is_waited_for() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    shop.exec("CREATE TABLE unrelated (n int)").await;
    let reader = shop.session().await;
    exec(&reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT n FROM unrelated").await;
    let pid: i32 = value(&reader, "SELECT pg_backend_pid()").await;
    let mut held: Held = shop.held("cutover", "t", &["--rebuild"]).await;
    held.release().await;
    held.says(&format!("older snapshots would see the new table as it was: pid {pid} ")).await;
    assert_eq!(value::<i64>(&reader, "SELECT count(*) FROM t").await, 2000);
    held.run.expect_running();
    exec(&reader, "COMMIT").await;
    held.run.finish(SOON).await.expect_code(0);
    assert_eq!(value::<i64>(&reader, "SELECT count(*) FROM t").await, 2000);
}
