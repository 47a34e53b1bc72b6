//! What presses holds the copy up, and the operator changes limits while it runs.

use pgwraith::demo::orders::create_orders;

use crate::harness::{self, ANY_WAY, Output};
use crate::scene::{Held, SOON, Shop, exec, shop, shop_with, wait_for};

/// Many small ranges.
const SLOW: [&str; 7] =
    ["--rebuild", "--chunk-rows", "300", "--chunk-time", "3ms", "--workers", "1"];

async fn set(shop: &Shop, limits: &[&str]) -> Output {
    let given = ["set", "orders", "-d", &shop.dsn];
    harness::run(given.iter().chain(limits)).await
}

/// A run that is held where it begins to copy.
async fn held(shop: &Shop, rows: u64, more: &[&str]) -> Held {
    create_orders(&shop.client, rows).await.unwrap();
    let change: Vec<&str> = SLOW.iter().chain(more).copied().collect();
    shop.held("copy", "orders", &change).await
}

const COPIED: &str = "SELECT count(*) FROM pgwraith.chunk WHERE kind = 'copy' AND done";

/// Nothing is copied any more: the last range that had been begun is done.
async fn it_rests(shop: &Shop) {
    let began = std::time::Instant::now();
    loop {
        let before = shop.value::<i64>(COPIED).await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        if shop.value::<i64>(COPIED).await == before {
            return;
        }
        assert!(began.elapsed() < SOON, "it goes on and on");
    }
}

/// It counts as over until it is forgotten.
#[tokio::test]
async fn a_standby_that_vanishes_holds_the_copy_up_for_a_while() {
    let shop = shop().await;
    let mut standby = shop.cluster.standby(&[]).await.unwrap();
    let mut held = held(&shop, 50_000, &["--pause"]).await;
    held.release().await;
    held.run.wait_for_saying("paused by the operator").await;
    standby.crash().await.unwrap();
    set(&shop, &["pause=off"]).await.expect_code(0);
    held.run.wait_for_saying("standby walreceiver cannot be measured: gone for").await;
    set(&shop, &["ignore-standby=walreceiver"]).await.expect_code(0);
    held.run.wait_for_saying("it goes on").await;
    held.run.finish(SOON).await.expect_code(0);
}

/// A role that may not see what others do sees no lag and nobody who waits: that is not the same as none.
#[tokio::test]
async fn what_the_role_may_not_see_holds_the_copy_up() {
    let shop = shop().await;
    let _standby = shop.cluster.standby(&[]).await.unwrap();
    create_orders(&shop.client, 50_000).await.unwrap();
    shop.exec(
        "CREATE ROLE \"App user\" LOGIN REPLICATION; GRANT CREATE ON DATABASE shop TO \"App user\"; \
         GRANT CREATE ON SCHEMA public TO \"App user\"; GRANT pg_read_all_stats TO \"App user\"; \
         ALTER TABLE orders OWNER TO \"App user\"",
    )
    .await;
    let mut arguments = shop.arguments("orders", &SLOW);
    arguments[3] = shop.dsn.replace("postgres@", "App%20user@");
    let mut held = Held::start(&shop, "copy", arguments).await;
    shop.exec("REVOKE pg_read_all_stats FROM \"App user\"").await;
    held.release().await;
    let told = "standby walreceiver cannot be measured: \"App user\" may not see it: \
                GRANT pg_read_all_stats TO \"App user\"";
    held.run.wait_for_saying(told).await;
    it_rests(&shop).await;
    let blind = "SELECT count(*) FROM pgwraith.progress, jsonb_array_elements(facts->'signals') s \
                 WHERE s->>'signal' IN ('standby walreceiver', 'lock-waiters') AND s->>'share' IS NULL";
    assert_eq!(shop.value::<i64>(blind).await, 2);
    shop.exec("GRANT pg_read_all_stats TO \"App user\"").await;
    held.run.wait_for_saying("it goes on").await;
    held.run.finish(SOON).await.expect_code(0);
}

/// The server sends each commit at once. Whoever wakes for each of them takes as much of the processors as it.
#[tokio::test]
async fn not_every_commit_of_the_application_wakes_it() {
    let shop = shop().await;
    let mut held = held(&shop, 1_000, &["--pause"]).await;
    held.release().await;
    held.run.wait_for_saying("paused by the operator").await;
    let commits: i32 = 3_000;
    let update = shop.client.prepare("UPDATE orders SET note = 'x' WHERE id = $1").await.unwrap();
    let before = held.run.sleeps();
    for n in 0..commits {
        shop.client.execute(&update, &[&(n % 900 + 1)]).await.unwrap();
    }
    // Not of the time after them: others of its tasks wake by the clock.
    let woken = held.run.sleeps() - before;
    let all = "SELECT (facts->>'keys_waiting')::int8 + (facts->>'keys_synced')::int8 >= 900 FROM pgwraith.progress";
    wait_for(&shop.client, &mut held.run, "they were taken in", all).await;
    assert!(woken < commits as u64, "it woke {woken} times for {commits} commits");
    set(&shop, &["pause=off"]).await.expect_code(0);
    held.run.finish(SOON).await.expect_code(0);
}

#[tokio::test]
async fn the_operator_pauses_it_and_lets_it_go_on_with_more_workers() {
    let shop = shop().await;
    let mut held = held(&shop, 50_000, &[]).await;
    set(&shop, &["pause=on"]).await.expect_code(0);
    held.run.wait_for_saying("paused by the operator").await;
    held.release().await;
    it_rests(&shop).await;
    assert_eq!(shop.value::<i64>(COPIED).await, 0);
    set(&shop, &["workers=3", "chunk-time=20ms"]).await.expect_code(0);
    let third = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%/copy 3')";
    wait_for(&shop.client, &mut held.run, "the third worker is there", third).await;
    set(&shop, &["pause=off"]).await.expect_code(0);
    held.run.wait_for_saying("it goes on").await;
    let events = "SELECT string_agg(who || ' ' || detail, '; ' ORDER BY id) FROM pgwraith.event WHERE what = 'set'";
    let events: String = shop.value(events).await;
    assert_eq!(events, "postgres pause=on; postgres workers=3 chunk-time=20ms; postgres pause=off");
    let options = "SELECT options->>'workers' FROM pgwraith.migration";
    assert_eq!(shop.value::<String>(options).await, "3");
    held.run.finish(SOON).await.expect_code(0);

    let nothing = set(&shop, &["pause=on"]).await.expect_code(2);
    assert!(nothing.stderr.contains("has no unfinished migration"), "{nothing}");
    let wrong = set(&shop, &["speed=9"]).await.expect_code(2);
    assert!(wrong.stderr.contains("speed=9"), "{wrong}");
}

/// It stays in sync, for as long as the operator likes.
#[tokio::test]
async fn the_cutover_waits_for_the_operators_word() {
    let shop = shop().await;
    let held = held(&shop, 1_000, &["--postpone-cutover", "--cutover-patience", "1s"]).await;
    held.release().await;
    let mut run = held.run;
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    shop.exec("UPDATE orders SET note = 'late' WHERE id = 5; DELETE FROM orders WHERE id = 6")
        .await;
    let synced = "SELECT note = 'late' FROM orders_v2 WHERE id = 5";
    wait_for(&shop.client, &mut run, "the new table follows", synced).await;
    set(&shop, &["pause=on"]).await.expect_code(0);
    run.wait_for_saying("the cutover waits: paused by the operator").await;
    let cutover = harness::run(["cutover", "orders", "-d", &shop.dsn]).await.expect_code(0);
    assert!(!cutover.stdout.contains("nobody runs it"), "{cutover}");
    set(&shop, &["pause=off"]).await.expect_code(0);
    run.finish(SOON).await.expect_code(0);
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM orders").await, 999);
    let events = "SELECT count(*) FROM pgwraith.event WHERE what = 'cutover'";
    assert_eq!(shop.value::<i64>(events).await, 1);
}

#[tokio::test]
async fn the_cutover_waits_for_its_hours() {
    let shop = shop().await;
    let hours = "SELECT to_char(now() + interval '2 hours', 'HH24:MI-') || to_char(now() + interval '3 hours', 'HH24:MI')";
    let hours: String = shop.value(hours).await;
    let held = held(&shop, 1_000, &["--cutover-window", &hours]).await;
    held.release().await;
    let mut run = held.run;
    run.wait_for_saying("the cutover waits: the hours of --cutover-window have not come yet").await;
    let nowhere = set(&shop, &["cutover-window=00:00-24:00 Nowhere/Land"]).await.expect_code(2);
    assert!(nowhere.stderr.contains("no time zone \"Nowhere/Land\""), "{nowhere}");
    // In a zone three hours to the east of UTC it is time now.
    let there = "SELECT to_char(now() AT TIME ZONE 'UTC' + interval '2 hours', 'HH24:MI-') || to_char(now() AT TIME ZONE 'UTC' + interval '4 hours', 'HH24:MI')";
    let there: String = shop.value(there).await;
    set(&shop, &[&format!("cutover-window={there} <x>-03")]).await.expect_code(0);
    run.finish(SOON).await.expect_code(0);
    let wrong = set(&shop, &["cutover-window=now"]).await.expect_code(2);
    assert!(wrong.stderr.contains("02:00-04:00"), "{wrong}");
}

/// The copy of a huge table would be over before anybody noticed; whoever goes on with one is told as well.
#[tokio::test]
async fn hours_of_a_time_zone_that_is_none_are_refused_before_anything_is_touched() {
    let shop = shop().await;
    create_orders(&shop.client, 100).await.unwrap();
    let window = ["--cutover-window", "02:00-04:00 Europ/Berlin"];
    let told = "the server knows no time zone \"Europ/Berlin\"";
    let ways = [vec!["--rebuild"], vec!["--alter", "ADD COLUMN a int", ANY_WAY]];
    for way in ways {
        let change: Vec<&str> = way.into_iter().chain(window).collect();
        let output = shop.run("orders", &change).await.expect_code(3);
        assert!(output.stderr.contains(told), "{output}");
    }
    assert_eq!(harness::leftovers(&shop.client).await, [""; 0]);
    let paused = ["--rebuild", "--postpone-cutover"];
    let mut run = harness::Background::start(shop.arguments("orders", &paused));
    run.wait_for_saying("the cutover waits: postponed").await;
    run.signal(libc::SIGINT);
    run.finish(SOON).await.expect_code(5);
    let go_on = ["resume", "orders", "-d", &shop.dsn, "--postpone-cutover=off"];
    let output = harness::run(go_on.iter().chain(&window)).await.expect_code(2);
    assert!(output.stderr.contains(told), "{output}");
    harness::run(go_on).await.expect_code(0);
}

/// It was typed to be looked at for a while, not for ever.
#[tokio::test]
async fn a_limit_is_taken_back_by_setting_it_to_nothing() {
    let shop = shop().await;
    let limits = ["--throttle-query", "SELECT 1", "--critical", "lag=1h"];
    let mut held = held(&shop, 1_000, &limits).await;
    held.run.wait_for_saying("it waits for throttle-query: 1").await;
    let back = ["throttle-query=", "critical=", "workers=", "max-wal-rate="];
    set(&shop, &back).await.expect_code(0);
    held.run.wait_for_saying("set: throttle-query= critical= workers= max-wal-rate=").await;
    held.run.wait_for_saying("it goes on").await;
    let left = "SELECT jsonb_strip_nulls(options)::text FROM pgwraith.migration";
    let left: String = shop.value(left).await;
    for name in ["throttle_query", "critical", "workers"] {
        assert!(!left.contains(name), "{left}");
    }
    held.finish().await.expect_code(0);
}

#[tokio::test]
async fn the_operators_own_question_holds_it_up() {
    let shop = shop().await;
    shop.exec("CREATE TABLE busy (n int); INSERT INTO busy VALUES (1)").await;
    let query = "SELECT n FROM public.busy";
    let mut held = held(&shop, 50_000, &["--throttle-query", query]).await;
    held.release().await;
    held.run.wait_for_saying("it waits for throttle-query: 1").await;
    it_rests(&shop).await;
    exec(&shop.client, "UPDATE busy SET n = 0").await;
    held.run.wait_for_saying("it goes on").await;
    exec(&shop.client, "DROP TABLE busy").await;
    held.run.wait_for_saying("throttle-query cannot be measured").await;
    set(&shop, &["throttle-query=SELECT -1"]).await.expect_code(0);
    held.run.finish(SOON).await.expect_code(0);
}

/// A session that does this until it is told to end.
async fn busy(shop: &Shop, sql: &str) -> tokio::task::JoinHandle<()> {
    let (client, sql) = (shop.session().await, format!("/* busy */ {sql}"));
    tokio::spawn(async move {
        let _ = client.batch_execute(&sql).await;
    })
}

async fn end_busy(shop: &Shop) {
    shop.exec(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '/* busy */%'",
    )
    .await;
}

#[tokio::test]
async fn others_that_wait_for_locks_hold_the_copy_up() {
    let shop = shop().await;
    let mut held = held(&shop, 60_000, &["--max-lock-waiters", "1"]).await;
    let other = shop.session().await;
    exec(&other, "CREATE TABLE theirs ()").await;
    exec(&other, "BEGIN; LOCK TABLE theirs").await;
    for _ in 0..2 {
        busy(&shop, "SELECT count(*) FROM theirs").await;
    }
    let waiting = "SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                   AND query LIKE '/* busy */%' AND query_start < now() - interval '1 second'";
    harness::wait_for_sql(&shop.client, "they have waited for long", waiting).await;
    held.release().await;
    held.run.wait_for_saying("it waits for lock-waiters: 2 of 1 sessions").await;
    it_rests(&shop).await;
    exec(&other, "COMMIT").await;
    held.run.wait_for_saying("it goes on").await;
    held.run.finish(SOON).await.expect_code(0);
}

#[tokio::test]
async fn many_that_are_at_work_hold_the_copy_up_where_that_is_wanted() {
    let shop = shop().await;
    for _ in 0..3 {
        busy(&shop, "SELECT pg_sleep(1000)").await;
    }
    let mut held = held(&shop, 60_000, &["--max-active-sessions", "1"]).await;
    held.release().await;
    held.run.wait_for_saying("it waits for active-sessions: ").await;
    it_rests(&shop).await;
    end_busy(&shop).await;
    held.run.wait_for_saying("it goes on").await;
    held.run.finish(SOON).await.expect_code(0);
}

#[tokio::test]
async fn an_archiver_that_is_behind_holds_the_copy_up() {
    let shop = shop_with(&[
        ("archive_mode", "on"),
        ("archive_command", "false"),
        ("wal_level", "logical"),
    ])
    .await;
    let mut held = held(&shop, 60_000, &["--max-archive-lag", "16MB"]).await;
    held.release().await;
    for _ in 0..4 {
        shop.exec("SELECT pg_logical_emit_message(true, 'x', 'x'), pg_switch_wal()").await;
    }
    held.run.wait_for_saying("it waits for archiver: ").await;
    it_rests(&shop).await;
    shop.exec("ALTER SYSTEM SET archive_command = 'true'").await;
    shop.exec("SELECT pg_reload_conf()").await;
    held.run.wait_for_saying("it goes on").await;
    held.run.finish(SOON).await.expect_code(0);
}

/// What is over a critical limit needs a person: the run ends, and goes on when he says so.
#[tokio::test]
async fn a_critical_limit_stops_the_run() {
    let shop = shop().await;
    let paused = ["--pause", "--critical", "active-sessions=1,lag=1h"];
    let held = held(&shop, 20_000, &paused).await;
    for _ in 0..2 {
        busy(&shop, "SELECT pg_sleep(1000)").await;
    }
    held.release().await;
    let output = held.run.finish(SOON).await.expect_code(1);
    for told in ["active-sessions is over its critical limit", "pgwraith resume orders"] {
        assert!(output.stderr.contains(told), "{told}: {output}");
    }
    end_busy(&shop).await;
    let go_on = ["resume", "orders", "-d", &shop.dsn, "--pause=off"];
    harness::run(go_on).await.expect_code(0);
    let wrong = ["run", "orders", "-d", &shop.dsn, "--rebuild", "--critical", "speed=3"];
    let output = harness::run(wrong).await.expect_code(2);
    assert!(output.stderr.contains("there is no signal \"speed\""), "{output}");
}

/// The copy of a table that is worth being probed, once it is known what that takes in calm.
async fn probed(shop: &Shop) -> Held {
    shop.exec(
        "CREATE TABLE orders (id int PRIMARY KEY, filler text); \
         ALTER TABLE orders ALTER filler SET STORAGE plain; \
         INSERT INTO orders SELECT i, repeat('f', 2000) FROM generate_series(1, 40000) i",
    )
    .await;
    let mut held = shop.held("copy", "orders", &SLOW).await;
    held.release().await;
    let copied = "SELECT count(*) > 3 FROM pgwraith.chunk WHERE kind = 'copy' AND done";
    wait_for(&shop.client, &mut held.run, "the copy goes on", copied).await;
    held
}

/// Their clients wait, and that is said to be our doing until a rest shows that it is not.
#[tokio::test]
async fn more_that_are_at_work_than_in_calm_hold_the_copy_up_until_a_rest_shows_that_they_are_not_ours()
 {
    let shop = shop().await;
    let mut held = probed(&shop).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let client = shop.session().await;
        clients.push(tokio::spawn(async move {
            while client.batch_execute("SELECT pg_sleep(2)").await.is_ok() {}
        }));
    }
    let share = |is: &str| {
        format!(
            "SELECT EXISTS (SELECT FROM pgwraith.progress p, jsonb_array_elements(p.facts->'signals') s \
             WHERE s->>'signal' = 'average-active' AND (s->>'share')::float8 {is})"
        )
    };
    wait_for(&shop.client, &mut held.run, "they are too many", &share("> 1")).await;
    wait_for(&shop.client, &mut held.run, "they are not ours", &share("< 0.1")).await;
    assert!(clients.iter().all(|client| !client.is_finished()), "they are there all the time");
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    held.run.finish(SOON).await.expect_code(0);
}

/// A read that does not come back is as bad as a slow one.
#[tokio::test]
async fn reads_that_take_long_hold_the_copy_up() {
    let shop = shop().await;
    let mut held = probed(&shop).await;
    let other = shop.session().await;
    exec(&other, "BEGIN; LOCK TABLE orders").await;
    busy(&shop, "SELECT pg_sleep(1000)").await;
    held.run.wait_for_saying("it waits for probe: a read takes ").await;
    exec(&other, "COMMIT").await;
    held.run.wait_for_saying("it goes on").await;
    end_busy(&shop).await;
    held.run.finish(SOON).await.expect_code(0);
}
