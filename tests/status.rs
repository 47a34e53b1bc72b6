//! What `pgwraith status` tells, from any session, of a run that is under way and of one that is not.

use pgwraith::demo::orders::create_orders;

use crate::harness::{self, Background, Output};
use crate::scene::{SOON, Shop, exec, shop};

async fn status(shop: &Shop, more: &[&str]) -> Output {
    let given = ["status", "-d", &shop.dsn];
    harness::run(given.iter().chain(more)).await
}

/// The first migration's own words, once they say that.
async fn until_it_says(shop: &Shop, text: &str) -> String {
    let last = std::cell::RefCell::new(String::new());
    let says = async || {
        let output = status(shop, &["orders"]).await.expect_code(0);
        *last.borrow_mut() = output.stdout;
        last.borrow().contains(text)
    };
    harness::wait_until(text, SOON, says).await;
    last.into_inner()
}

#[tokio::test]
async fn a_run_is_shown_with_what_it_holds_and_who_is_needed() {
    let shop = shop().await;
    let none = status(&shop, &[]).await.expect_code(0);
    assert!(none.stdout.contains("no migration is under way"), "{none}");
    create_orders(&shop.client, 20_000).await.unwrap();
    let slow = ["--rebuild", "--pause", "--chunk-rows", "300", "--chunk-time", "3ms"];
    let held = shop.held("copy", "orders", &slow).await;
    held.release().await;
    let told =
        until_it_says(&shop, "in the last minute; paused by the operator; ETA unknown").await;
    for text in [
        "public.orders → public.orders_v2   COPY 0 %   application OK (not probed)   old table in use: safe to stop",
        "run by process ",
        "needs you: it is paused",
        "we hold: slot pgwraith_",
        "no lock that anybody waits for",
        "disk: the new table has 8.0 kB now, at the end about ",
        "next: index, for how long is unknown (cannot pause, about ",
        ", then verify, then swaps",
        "pause: pgwraith set public.orders pause=off    abort: pgwraith abort public.orders",
    ] {
        assert!(told.contains(text), "{text}: {told}");
    }

    // Somebody keeps it waiting.
    let other = shop.session().await;
    exec(&other, "BEGIN; LOCK TABLE orders_v2 IN ACCESS EXCLUSIVE MODE").await;
    harness::run(["set", "orders", "-d", &shop.dsn, "pause=off"]).await.expect_code(0);
    let told = until_it_says(&shop, "keeps it waiting").await;
    assert!(told.contains("LOCK TABLE orders_v2"), "{told}");
    let object = status(&shop, &["--json"]).await.expect_code(0);
    let one = &object.json()["migrations"][0];
    assert_eq!((&one["phase"], &one["source"]), (&"copy".into(), &"public.orders".into()));
    assert_eq!(one["blocked_by"].as_array().unwrap().len(), 1, "{object}");

    held.run.signal(libc::SIGKILL);
    exec(&other, "COMMIT").await;
    held.run.finish(SOON).await;
    let told =
        until_it_says(&shop, "needs you: nobody runs it: `pgwraith resume public.orders`").await;
    assert!(told.contains("we hold: slot"), "{told}");
    shop.exec("UPDATE pgwraith.progress SET at = at - interval '2 minutes'; UPDATE pgwraith.migration SET run_started_at = NULL")
        .await;
    let needed: String = shop.value("SELECT needs_you FROM pgwraith.status").await;
    assert_eq!(needed, "nobody runs it: `pgwraith status` tells what to do");
    harness::run(["abort", "orders", "-d", &shop.dsn]).await.expect_code(0);
    status(&shop, &["orders"]).await.expect_code(2);
    let none = status(&shop, &["orders", "--json"]).await.expect_code(2);
    assert_eq!((&none.json()["outcome"], &none.json()["exit_code"]), (&"failed".into(), &2.into()));
    assert!(none.json()["error"].as_str().unwrap().contains("no unfinished migration"), "{none}");
}

/// When it is over nobody knows while a signal stops it; and that it says nothing is said for it.
#[tokio::test]
async fn one_that_waits_has_no_end_in_sight_and_one_that_is_silent_is_named() {
    let shop = shop().await;
    create_orders(&shop.client, 20_000).await.unwrap();
    let slow = ["--rebuild", "--chunk-rows", "100", "--chunk-time", "1ms", "--workers", "1"];
    let held = shop.held("copy", "orders", &slow).await;
    held.release().await;
    let some = "SELECT count(*) > 5 FROM pgwraith.chunk WHERE kind = 'copy' AND done";
    harness::wait_for_sql(&shop.client, "some ranges are copied", some).await;
    harness::run(["set", "orders", "-d", &shop.dsn, "throttle-query=SELECT 1"])
        .await
        .expect_code(0);
    until_it_says(&shop, "it waits for throttle-query: 1").await;
    // Long enough for a pace.
    shop.exec("UPDATE pgwraith.chunk SET finished_at = finished_at - interval '30 seconds'").await;
    let told = until_it_says(&shop, "it waits for throttle-query: 1").await;
    assert!(told.contains("; ETA unknown"), "{told}");
    harness::run(["set", "orders", "-d", &shop.dsn, "throttle-query=SELECT 'NaN'::float8"])
        .await
        .expect_code(0);
    until_it_says(&shop, "throttle-query cannot be measured: it gives \"NaN\"").await;

    held.run.signal(libc::SIGSTOP);
    shop.exec(
        "UPDATE pgwraith.progress SET at = at - interval '1 minute'; \
         UPDATE pgwraith.migration SET run_started_at = run_started_at - interval '1 minute'",
    )
    .await;
    let told = until_it_says(&shop, "needs you: the run has said nothing for ").await;
    assert!(told.contains(" s: look at process "), "{told}");
    let object = status(&shop, &["--json"]).await.expect_code(0);
    assert!(object.json()["migrations"][0]["silent_seconds"].as_i64().unwrap() > 10, "{object}");
    held.run.signal(libc::SIGCONT);
    until_it_says(&shop, "needs you: nothing").await;
    held.run.signal(libc::SIGKILL);
    held.run.finish(SOON).await;
}

/// A transaction that somebody left open has the migration's row: that is said, and nothing is done.
#[tokio::test]
async fn who_holds_the_state_is_named_and_nothing_is_done() {
    let shop = shop().await;
    create_orders(&shop.client, 2_000).await.unwrap();
    let mut held = shop.held("copy", "orders", &["--rebuild"]).await;
    let other = shop.session().await;
    exec(&other, "BEGIN; SELECT pgwraith.pause('orders')").await;
    let events = "SELECT count(*) FROM pgwraith.event";
    let before: i64 = shop.value(events).await;
    let asked = [&["set", "orders", "workers=2"][..], &["cutover", "orders"], &["abort", "orders"]];
    for command in asked {
        let output = harness::run(command.iter().chain(&["-d", &shop.dsn])).await.expect_code(1);
        for text in [
            "is held by pid ",
            " postgres (idle in transaction, transaction of ",
            "SELECT pgwraith.pause('orders')",
            "Nothing was changed",
            "pg_terminate_backend(",
        ] {
            assert!(output.stderr.contains(text), "{text}: {output}");
        }
    }
    assert_eq!(shop.value::<i64>(events).await, before);
    held.run.expect_running();
    exec(&other, "ROLLBACK").await;

    // What a run holds that hangs ends with it.
    let id: i64 = shop.value("SELECT max(id) FROM pgwraith.migration").await;
    exec(&other, &format!("SET application_name = 'pgwraith/{id}/hangs'")).await;
    exec(&other, "BEGIN; SELECT pgwraith.pause('orders')").await;
    harness::run(["abort", "orders", "-d", &shop.dsn]).await.expect_code(0);
    held.finish().await.expect_code(6);
    assert!(harness::leftovers(&shop.client).await.is_empty());

    // Nor do those wait that come when nobody runs it.
    let held = shop.held("copy", "orders", &["--rebuild"]).await;
    held.run.signal(libc::SIGKILL);
    held.release().await;
    held.run.finish(SOON).await;
    let other = shop.session().await;
    exec(&other, "BEGIN; SELECT pgwraith.pause('orders')").await;
    let output = harness::run(["cleanup", "--yes", "-d", &shop.dsn]).await.expect_code(1);
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(said.contains("is held by pid ") && said.contains("pg_terminate_backend("), "{output}");
    let mut resumed = Background::start(["resume", "orders", "-d", &shop.dsn]);
    resumed.wait_for_saying("is held by pid ").await;
    exec(&other, "ROLLBACK").await;
    resumed.finish(SOON).await.expect_code(0);
}

/// A view for those who may only look, also from psql.
#[tokio::test]
async fn whoever_monitors_sees_it_without_any_other_right() {
    let shop = shop().await;
    create_orders(&shop.client, 1_000).await.unwrap();
    let held = shop.held("verify", "orders", &["--rebuild"]).await;
    shop.exec("CREATE ROLE monitor IN ROLE pg_monitor; SET ROLE monitor").await;
    let seen = "SELECT phase || ' ' || source || ' ' || rows_copied FROM pgwraith.status";
    assert_eq!(shop.value::<String>(seen).await, "verify public.orders 1000");
    let told =
        "SELECT (SELECT needs_you FROM pgwraith.status) LIKE 'pid % postgres keeps it waiting'";
    harness::wait_for_sql(&shop.client, "who keeps it waiting is told", told).await;
    shop.exec("RESET ROLE").await;
    held.finish().await.expect_code(0);
    let over = "SELECT outcome || ' ' || needs_you FROM pgwraith.status";
    assert_eq!(shop.value::<String>(over).await, "swapped nothing");
}

/// By the rows and the key, and by the pace of what was done lately.
#[tokio::test]
async fn how_far_it_is_and_when_it_ends_follow_from_what_is_done() {
    let shop = shop().await;
    create_orders(&shop.client, 100).await.unwrap();
    shop.run("orders", &["--rebuild"]).await.expect_code(0);
    shop.exec("UPDATE pgwraith.migration SET finished_at = NULL, options = '{}'").await;
    let nothing = "NULL::text, NULL::int8, NULL::float4";
    for (phase, estimated, done, floor, expected, why) in [
        ("copy", "200", "'copy', 50, NULL", 0.0, "25 150", "by the rows"),
        ("copy", "200", "'copy', 500, NULL", 0.0, "99 0", "the estimate is too low"),
        ("copy", "NULL", "'copy', 50, NULL", 0.0, "- -", "no estimate"),
        ("copy", "10", "'copy', 50, 0.25", 0.0, "25 150", "the key knows better"),
        ("copy", "NULL", "'copy', 0, 0", 0.0, "0 -", "nothing is done, nothing is known"),
        (
            "verify",
            "200",
            "'copy', 400, NULL), ('verify', 100, NULL",
            0.0,
            "25 300",
            "by what was copied",
        ),
        ("verify", "NULL", "'copy', 400, 1), ('verify', 100, NULL", 0.0, "25 300", "and no key"),
        ("verify", "NULL", "'copy', 400, 1), ('verify', 0, NULL", 0.5, "50 400", "once more"),
        (
            "verify",
            "NULL",
            "'copy', 400, 1), ('verify', 200, NULL",
            0.5,
            "75 200",
            "half of the rest",
        ),
        (
            "verify",
            "NULL",
            "'copy', 400, 1), ('verify', 400, NULL",
            0.5,
            "99 0",
            "not past the end",
        ),
        ("verify", "NULL", nothing, 0.0, "- -", "of nothing nothing is known"),
        ("index", "200", "'copy', 400, 1", 0.0, "- -", "no part of it is known"),
        ("in place", "200", "'fill', 50, 0.25", 0.0, "25 150", "of what is filled"),
    ] {
        shop.exec(&format!(
            "UPDATE pgwraith.migration SET phase = '{phase}', rows_estimated = {estimated}; \
             UPDATE pgwraith.progress SET facts = '{{\"verify_floor\": {floor}, \"workers\": 2}}'; DELETE FROM pgwraith.chunk; \
             INSERT INTO pgwraith.step (migration_id, number, step) SELECT max(id), 1, '{{}}' FROM pgwraith.migration ON CONFLICT DO NOTHING; \
             INSERT INTO pgwraith.chunk (migration_id, flow, kind, number, done, rows, key_position, finished_at) \
             SELECT m.id, 1, v.kind, 1, true, v.rows::int8, v.at::float4, clock_timestamp() - interval '20 seconds' \
             FROM pgwraith.migration m, (VALUES ({done})) v (kind, rows, at) WHERE v.kind IS NOT NULL"
        ))
        .await;
        let told = "SELECT COALESCE(round(percent)::text, '-') || ' ' || COALESCE(round(rows_left)::text, '-') FROM pgwraith.status";
        assert_eq!(shop.value::<String>(told).await, expected, "{phase}: {why}");
    }

    // 50 rows of 20 seconds: 150 more take a minute; and 1,000 of a quarter of an hour a little less.
    let ends = async |chunks: &str| {
        shop.exec(&format!(
            "UPDATE pgwraith.migration SET phase = 'copy', rows_estimated = 200; DELETE FROM pgwraith.chunk; \
             INSERT INTO pgwraith.chunk (migration_id, flow, kind, number, done, rows, finished_at) \
             SELECT m.id, 1, 'copy', v.number, true, v.rows, clock_timestamp() - v.ago * interval '1 second' \
             FROM pgwraith.migration m, (VALUES {chunks}) v (number, rows, ago)"
        ))
        .await;
        let told = "SELECT ARRAY[date_part('epoch', eta_first - clock_timestamp()), \
                    date_part('epoch', eta_last - clock_timestamp())] FROM pgwraith.status";
        shop.value::<Vec<Option<f64>>>(told).await
    };
    // A little time goes by between that and this.
    let about = |told: &[Option<f64>], expected: [f64; 2]| {
        let near = |(told, expected): (&Option<f64>, f64)| {
            told.is_some_and(|told| (0.99 * expected..1.2 * expected).contains(&told))
        };
        assert!(told.iter().zip(expected).all(near), "{told:?}, not {expected:?}");
    };
    about(&ends("(1, 50, 20)").await, [60.0, 60.0]);
    about(&ends("(1, 10, 20), (2, 40, 300)").await, [900.0, 900.0]);
    about(&ends("(1, 20, 20), (2, 40, 400)").await, [420.0, 933.0]);
    assert_eq!(ends("(1, 50, 2)").await, [None; 2], "too short a time");
    assert_eq!(ends("(1, 50, 2000)").await, [None; 2], "too long ago");
    shop.exec("UPDATE pgwraith.progress SET facts = facts || '{\"workers\": 0}'").await;
    assert_eq!(ends("(1, 50, 20)").await, [None; 2], "a signal stops it");
    let verifies: f64 = shop.value("SELECT verify_seconds FROM pgwraith.status").await;
    assert!((79.0..96.0).contains(&verifies), "200 rows at 2.5 a second: {verifies}");
}

/// Whatever ANALYZE makes of the table meanwhile, and however wrong the first estimate was.
#[tokio::test]
async fn progress_goes_forward_only_and_not_past_the_end() {
    let shop = shop().await;
    create_orders(&shop.client, 20_000).await.unwrap();
    // Ten times too few; in mid-run the truth, then twice as many.
    shop.exec(
        "ANALYZE orders; UPDATE pg_class SET reltuples = 2000 WHERE oid = 'orders'::regclass",
    )
    .await;
    let slow = ["--rebuild", "--chunk-rows", "100", "--chunk-time", "3ms", "--workers", "1"];
    let mut run = Background::start(shop.arguments("orders", &slow));
    let mut last: (String, f64) = (String::new(), 0.0);
    let (mut steps, mut n) = (0, 0);
    while !run.has_ended() {
        n += 1;
        let tuples = [20_000, 60_000, 1_000][n % 3];
        // Not for ever: the cutover waits until nobody changes anything about the table.
        if last.0 != "verify" {
            shop.exec(&format!(
                "UPDATE pg_class SET reltuples = {tuples} WHERE oid = 'orders'::regclass"
            ))
            .await;
        }
        let output = status(&shop, &["--json"]).await.expect_code(0);
        let Some(one) = output.json()["migrations"].get(0).cloned() else { continue };
        let Some(percent) = one["percent"].as_f64() else { continue };
        let phase = one["phase"].as_str().unwrap().to_owned();
        assert!((0.0..=99.0).contains(&percent), "{output}");
        if phase == last.0 {
            assert!(percent >= last.1, "back from {}: {output}", last.1);
            steps += usize::from(percent > last.1);
        }
        last = (phase, percent);
    }
    run.finish(SOON).await.expect_code(0);
    assert!(steps > 3, "it was seen to go forward {steps} times");
}

/// The functions are for whoever has no more than a client.
#[tokio::test]
async fn it_is_paused_and_aborted_over_sql() {
    let shop = shop().await;
    create_orders(&shop.client, 20_000).await.unwrap();
    let slow = ["--rebuild", "--chunk-rows", "100", "--chunk-time", "1ms", "--workers", "1"];
    let held = shop.held("copy", "orders", &slow).await;
    held.release().await;
    shop.exec("SELECT pgwraith.pause('orders')").await;
    until_it_says(&shop, "needs you: it is paused").await;
    shop.exec("SELECT pgwraith.pause('orders', false)").await;
    until_it_says(&shop, "needs you: nothing").await;
    let who = "SELECT string_agg(what || ' ' || detail || ' ' || (who = session_user), ', ' ORDER BY id) FROM pgwraith.event \
               WHERE what = 'set'";
    assert_eq!(shop.value::<String>(who).await, "set pause=on true, set pause=off true");
    shop.exec("SELECT pgwraith.pause('orders')").await;
    let told = shop.value::<String>("SELECT pgwraith.abort('orders')").await;
    assert!(told.contains("undoes itself"), "{told}");
    // As one that is aborted from the command line: a scheduler must not begin it anew.
    let output = held.run.finish(SOON).await.expect_code(6);
    assert!(output.stderr.contains("aborted over SQL: pgwraith.abort()"), "{output}");
    assert!(output.stderr.contains("nothing of the migration is left"), "{output}");
    assert_eq!(harness::leftovers(&shop.client).await, [] as [&str; 0]);

    // Of one that nobody runs.
    let held = shop.held("copy", "orders", &slow).await;
    held.run.signal(libc::SIGKILL);
    held.release().await;
    held.run.finish(SOON).await;
    let ended = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
    harness::wait_for_sql(&shop.client, "its sessions end", ended).await;
    let told = shop.value::<String>("SELECT pgwraith.abort('orders')").await;
    assert!(told.contains("nobody ran it"), "{told}");
    shop.exec("DROP SCHEMA pgwraith CASCADE").await;
    assert_eq!(harness::leftovers(&shop.client).await, [] as [&str; 0]);
    shop.run("orders", &["--rebuild"]).await.expect_code(0);
    let none = shop.client.batch_execute("SELECT pgwraith.abort('orders')").await.unwrap_err();
    assert!(none.to_string().contains("db error"), "{none}");
    assert_eq!(none.as_db_error().unwrap().message(), "public.orders has no unfinished migration");
}

/// No lock is asked for while somebody would keep it waiting, so nobody is seen to block it.
#[tokio::test]
async fn who_keeps_the_swap_waiting_is_told() {
    let shop = shop().await;
    create_orders(&shop.client, 2_000).await.unwrap();
    let other = shop.session().await;
    exec(&other, "BEGIN; SELECT count(*) FROM orders").await;
    let mut run = Background::start(shop.arguments("orders", &["--rebuild"]));
    run.wait_for_saying("the cutover waits: ").await;
    let told = until_it_says(&shop, "needs you: a long transaction uses the table").await;
    assert!(told.contains("SELECT count(*) FROM orders"), "{told}");
    let seen: Option<String> = shop.value("SELECT lock_waits FROM pgwraith.status").await;
    assert!(seen.is_some_and(|why| why.contains("long transaction")));
    exec(&other, "COMMIT").await;
    run.finish(SOON).await.expect_code(0);
}

/// What holds a swap that was let go is said at once; and that it is not under way is no failure of who watches.
#[tokio::test]
async fn what_still_holds_a_swap_is_said() {
    let shop = shop().await;
    create_orders(&shop.client, 2_000).await.unwrap();
    let change = ["--rebuild", "--postpone-cutover"];
    let mut run = Background::start(shop.arguments("orders", &change));
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    let watched = ["status", "orders", "-d", &shop.dsn, "--watch"].map(str::to_owned);
    let watch = Background::start(watched.to_vec());
    let looks =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgwraith/status')";
    harness::wait_for_sql(&shop.client, "it looks", looks).await;
    harness::run(["set", "orders", "-d", &shop.dsn, "pause=on"]).await.expect_code(0);
    let said = harness::run(["cutover", "orders", "-d", &shop.dsn]).await.expect_code(0);
    assert!(said.stdout.contains("it is paused: `pgwraith set orders pause=off`"), "{said}");
    harness::run(["set", "orders", "-d", &shop.dsn, "pause=off"]).await.expect_code(0);
    run.finish(SOON).await.expect_code(0);
    let watched = watch.finish(SOON).await.expect_code(0);
    assert!(watched.stdout.contains("not under way any more"), "{watched}");
}

#[tokio::test]
async fn one_that_cannot_go_on_is_not_said_to_be_resumable() {
    let shop = shop().await;
    create_orders(&shop.client, 2_000).await.unwrap();
    let held = shop.held("copy", "orders", &["--rebuild"]).await;
    shop.exec("ALTER TABLE orders ADD COLUMN more int").await;
    held.finish().await.expect_code(6);
    let told = until_it_says(&shop, "needs you: nobody runs it, and it cannot go on").await;
    assert!(told.contains("`pgwraith abort public.orders` removes what is left"), "{told}");
    harness::run(["resume", "orders", "-d", &shop.dsn]).await.expect_code(6);
    let said = harness::run(["cutover", "orders", "-d", &shop.dsn]).await.expect_code(0);
    assert!(said.stdout.contains("it cannot go on: `pgwraith abort orders`"), "{said}");
    assert!(!said.stdout.contains("resume"), "{said}");
    until_it_says(&shop, "it cannot go on").await;
    harness::run(["abort", "orders", "-d", &shop.dsn]).await.expect_code(0);
    assert_eq!(harness::leftovers(&shop.client).await, [""; 0]);
}

#[tokio::test]
async fn whoever_may_only_read_is_told_and_whoever_aborts_is_in_the_log() {
    let shop = shop().await;
    create_orders(&shop.client, 2_000).await.unwrap();
    let held = shop.held("copy", "orders", &["--rebuild"]).await;
    shop.exec(
        "CREATE ROLE bi LOGIN; GRANT pg_read_all_data, pg_monitor TO bi; CREATE ROLE lone LOGIN",
    )
    .await;
    let by = |role: &str| shop.dsn.replace("postgres@", &format!("{role}@"));
    let seen = harness::run(["status", "-d", &by("bi")]).await.expect_code(0);
    assert!(seen.stdout.contains("public.orders → public.orders_v2"), "{seen}");
    let refused = harness::run(["status", "-d", &by("lone")]).await.expect_code(3);
    assert!(refused.stderr.contains("view pgwraith.status"), "{refused}");
    let dsn = "postgres://u:secret@127.0.0.1/x";
    let wrong = harness::run(["status", dsn]).await.expect_code(2);
    assert!(wrong.stderr.contains("by -d") && !wrong.stderr.contains("secret"), "{wrong}");
    held.release().await;
    harness::run(["abort", "orders", "-d", &shop.dsn]).await.expect_code(0);
    let log = shop.cluster.log_tail();
    assert!(
        log.contains(
            "the migration of \"public\".\"orders\" is aborted by postgres from 127.0.0.1"
        ),
        "{log}"
    );
    held.run.finish(SOON).await;
}
