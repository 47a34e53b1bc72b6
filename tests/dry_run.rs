//! `pgwraith dry-run`: what it finds out, and that nothing of it is left, whatever ends it.

use pgwraith::demo::orders::create_orders;
use pgwraith::demo::traffic::{Mix, Traffic};

use crate::harness::{self, Background, Failpoint, leftovers};
use crate::scene::{SOON, Shop, shop, wait_for};

const CHANGE: [&str; 2] = ["--alter", "ALTER COLUMN customer_id TYPE bigint"];

fn arguments(shop: &Shop, more: &[&str]) -> Vec<String> {
    let given = ["dry-run", "orders", "-d", &shop.dsn];
    given.iter().chain(more).map(|s| (*s).to_owned()).collect()
}

/// A dry run that has copied something and goes on for long.
async fn under_way(shop: &Shop, more: &[&str]) -> Background {
    let slow = ["--for", "600s", "--chunk-rows", "100", "--chunk-time", "1ms", "--workers", "1"];
    let all: Vec<&str> = slow.iter().chain(more).copied().collect();
    let mut run = Background::start(arguments(shop, &all));
    let state = "SELECT to_regclass('pgwraith.chunk') IS NOT NULL";
    wait_for(&shop.client, &mut run, "the state is there", state).await;
    let copied = "SELECT EXISTS (SELECT 1 FROM pgwraith.chunk WHERE done)";
    wait_for(&shop.client, &mut run, "something is copied", copied).await;
    run
}

#[tokio::test]
async fn a_part_is_migrated_for_real_under_traffic_and_nothing_is_left() {
    let shop = shop().await;
    create_orders(&shop.client, 60_000).await.unwrap();
    let definition = shop.definition("orders").await;
    let mix = Mix { sessions: 2, rate: Some(100.0), ..Mix::default() };
    let traffic = Traffic::start(&shop.dsn, "public.orders", mix).await.unwrap();
    let part = ["--share", "20%", "--chunk-rows", "200", "--chunk-time", "5ms", "--json"];
    let all: Vec<&str> = CHANGE.iter().chain(&part).copied().collect();
    let output = harness::run(arguments(&shop, &all)).await.expect_code(0);
    traffic.stop().await.unwrap();

    let first = output.stderr.lines().next().unwrap_or_default();
    for told in ["publication", "slot (given up at 1024 MB", "20 % of its rows", "only read"] {
        assert!(first.contains(told), "{told}: {output}");
    }
    let (seen, forecast) = (&output.json()["seen"], &output.json()["forecast"]);
    let rows = seen["copied"]["rows"].as_u64().unwrap();
    assert!((12_000..40_000).contains(&rows), "{output}");
    assert!(seen["copied"]["places"].as_u64().unwrap() > 10, "{output}");
    // What it copied and no more, give or take what changed meanwhile.
    let verified = seen["verified"][0].as_u64().unwrap();
    assert!(verified.abs_diff(rows) < 2_000, "{verified} of {rows}: {output}");
    assert!(seen["changes"]["in_per_second"].as_f64().unwrap() > 1.0, "{output}");
    let total = forecast["total"]["seconds"].as_f64().unwrap();
    let phases = ["prepare", "copy", "index", "verify", "cutover"];
    let seconds = |phase: &&str| forecast["phases"][phase]["seconds"].as_f64().unwrap();
    assert!((phases.iter().map(seconds).sum::<f64>() - total).abs() < 0.01, "{output}");
    let locks: Vec<&str> =
        seen["cutover"]["locks"].as_array().unwrap().iter().filter_map(|l| l.as_str()).collect();
    assert!(locks[0].contains("\"orders_v2\""), "{locks:?}");
    assert!(locks.iter().any(|l| l.contains("TABLE ONLY \"public\".\"orders\" IN")), "{locks:?}");

    assert_eq!(leftovers(&shop.client).await, [] as [&str; 0]);
    assert_eq!(shop.definition("orders").await, definition);
    // A real run finds nothing in its way.
    shop.run("orders", &CHANGE).await.expect_code(0);
}

#[tokio::test]
async fn ranges_are_from_all_over_the_key_space() {
    let shop = shop().await;
    shop.exec("CREATE TABLE orders (a text, b int, filler text, PRIMARY KEY (a, b))").await;
    let rows = "INSERT INTO orders SELECT CASE WHEN i % 2 = 0 THEN 'x' ELSE 'y' END, i, repeat('f', 100) \
                FROM generate_series(1, 40000) i";
    shop.exec(rows).await;
    let run = under_way(&shop, &["--rebuild"]).await;
    // Four of the first places are in four quarters.
    let spread = "SELECT count(*) >= 4 FROM (SELECT DISTINCT (SELECT count(*) FROM orders o \
                  WHERE (o.a, o.b) <= (c.upper[1], c.upper[2]::int)) / 10000 FROM pgwraith.chunk c \
                  WHERE c.kind = 'copy' AND c.number < 12 AND c.upper IS NOT NULL) q";
    harness::wait_for_sql(&shop.client, "ranges from everywhere", spread).await;
    // None of them overlaps another.
    let overlap = "SELECT count(*) FROM pgwraith.chunk c JOIN pgwraith.chunk d ON d.number > c.number AND c.kind = d.kind \
                   WHERE COALESCE((c.lower[1], c.lower[2]::int) < (d.upper[1], d.upper[2]::int), true) \
                   AND COALESCE((d.lower[1], d.lower[2]::int) < (c.upper[1], c.upper[2]::int), true)";
    assert_eq!(shop.value::<i64>(overlap).await, 0);
    run.signal(libc::SIGINT);
    run.finish(SOON).await.expect_code(5);
    assert_eq!(leftovers(&shop.client).await, [] as [&str; 0]);
}

#[tokio::test]
async fn one_that_is_stopped_leaves_nothing_and_says_so() {
    let shop = shop().await;
    create_orders(&shop.client, 20_000).await.unwrap();
    let run = under_way(&shop, &["--rebuild"]).await;
    let status = harness::run(["status", "-d", &shop.dsn]).await.expect_code(0);
    assert!(status.stdout.contains("DRY RUN"), "{status}");
    run.signal(libc::SIGTERM);
    let output = run.finish(SOON).await.expect_code(5);
    assert!(output.stderr.contains("everything of the dry run is removed"), "{output}");
    assert_eq!(leftovers(&shop.client).await, [] as [&str; 0]);
}

/// The race: the stop comes when its row is written, and its COMMIT not answered yet. A run says what there is of it.
#[tokio::test]
async fn one_that_is_stopped_while_it_is_put_down_is_known() {
    const GATE: i64 = 4713;
    let shop = shop().await;
    create_orders(&shop.client, 2_000).await.unwrap();
    let run = shop.arguments("orders", &["--rebuild"]);
    for arguments in [arguments(&shop, &["--rebuild"]), run] {
        let rehearses = arguments[0] == "dry-run";
        harness::make_state(&shop.dsn, &shop.client).await;
        shop.exec(&format!(
            "CREATE FUNCTION pgwraith.gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               PERFORM pg_catalog.pg_advisory_xact_lock_shared({GATE}); RETURN NULL; END $$;
             CREATE TRIGGER gate AFTER INSERT ON pgwraith.migration FOR EACH ROW EXECUTE FUNCTION pgwraith.gate()"
        ))
        .await;
        let gate = Failpoint::closed(shop.session().await, GATE).await;
        let run = Background::start(&arguments);
        gate.wait_for_somebody().await;
        run.signal(libc::SIGINT);
        gate.open().await;
        let output = run.finish(SOON).await.expect_code(5);
        if !rehearses {
            assert!(output.stderr.contains("nothing was copied yet"), "{output}");
            harness::run(["abort", "orders", "-d", &shop.dsn]).await.expect_code(0);
        }
        assert_eq!(leftovers(&shop.client).await, [] as [&str; 0], "{arguments:?}");
    }
}

#[tokio::test]
async fn what_a_killed_one_leaves_is_found_and_nobody_goes_on_with_it() {
    let shop = shop().await;
    create_orders(&shop.client, 20_000).await.unwrap();
    for remove in [["abort", "orders"], ["cleanup", "--yes"]] {
        let run = under_way(&shop, &["--rebuild"]).await;
        run.signal(libc::SIGKILL);
        run.finish(SOON).await;
        let ours = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
        harness::wait_for_sql(&shop.client, "its sessions end", ours).await;
        let again = harness::run(["resume", "orders", "-d", &shop.dsn]).await.expect_code(2);
        assert!(again.stderr.contains("is a dry run, which nobody goes on with"), "{again}");
        for flags in [&["--rebuild"][..], &["--rebuild", "--or-resume"]] {
            let run = shop.run("orders", flags).await.expect_code(3);
            assert!(run.stderr.contains("a dry run of"), "{run}");
            assert!(run.stderr.contains("pgwraith abort"), "{run}");
        }
        let listed = harness::run(["cleanup", "-d", &shop.dsn]).await;
        assert!(listed.stdout.contains("dry run"), "{listed}");
        assert!(!listed.stdout.contains("pgwraith resume"), "{listed}");
        let set =
            harness::run(["set", "orders", "-d", &shop.dsn, "workers=2"]).await.expect_code(0);
        assert!(set.stdout.contains("`pgwraith abort orders` removes it"), "{set}");
        let swap = harness::run(["cutover", "orders", "-d", &shop.dsn]).await.expect_code(2);
        assert!(swap.stderr.contains("is a dry run, which never swaps"), "{swap}");
        harness::run(remove.iter().chain(&["-d", &shop.dsn])).await.expect_code(0);
        assert_eq!(leftovers(&shop.client).await, [] as [&str; 0]);
    }
}

#[tokio::test]
async fn rows_that_do_not_fit_are_named() {
    let shop = shop().await;
    shop.exec("CREATE TABLE orders (id int PRIMARY KEY, n int)").await;
    shop.exec("INSERT INTO orders SELECT i, i FROM generate_series(1, 3000) i").await;
    shop.exec("UPDATE orders SET n = NULL WHERE id IN (77, 2900)").await;
    let change = ["--alter", "ALTER COLUMN n SET NOT NULL", "--chunk-rows", "500"];
    let all: Vec<&str> = change.iter().chain(&["--share", "100%"]).copied().collect();
    let output = harness::run(arguments(&shop, &all)).await.expect_code(4);
    for told in [
        "key id = 77 ",
        "key id = 2900 ",
        "a run would fail",
        "everything of the dry run is removed",
    ] {
        assert!(format!("{output}").contains(told), "{told}: {output}");
    }
    assert_eq!(leftovers(&shop.client).await, [] as [&str; 0]);
}

#[tokio::test]
async fn without_capture_there_is_no_slot_and_no_publication() {
    let shop = shop().await;
    create_orders(&shop.client, 20_000).await.unwrap();
    let run = under_way(&shop, &["--rebuild", "--no-capture"]).await;
    assert_eq!(shop.held_back().await, [] as [&str; 0]);
    run.signal(libc::SIGKILL);
    run.finish(SOON).await;
    harness::run(["abort", "orders", "-d", &shop.dsn]).await.expect_code(0);
    let all = ["--rebuild", "--no-capture", "--share", "50%"];
    let output = harness::run(arguments(&shop, &all)).await.expect_code(0);
    assert!(output.stdout.contains("not captured"), "{output}");
    // A share that the throttle lets nobody come to has an end, too.
    let held_up = ["--rebuild", "--no-capture", "--share", "50%", "--for", "1s", "--pause"];
    let output = harness::run(arguments(&shop, &held_up)).await.expect_code(0);
    assert!(output.stdout.contains("copied    0 of about 20 000 rows"), "{output}");
    assert!(output.stdout.contains("would take and need is unknown"), "{output}");
    assert!(!output.stdout.contains("  disk "), "{output}");
    assert!(!output.stderr.contains("replication slot (given up"), "{output}");
    assert_eq!(leftovers(&shop.client).await, [] as [&str; 0]);
}

/// A dry run of the first so many orders, of which `changed` are written when it captures and copies nothing yet.
async fn beside_changes(shop: &Shop, changed: u64, more: &[&str]) -> harness::Output {
    let share = ["--rebuild", "--share", "5%", "--chunk-rows", "200", "--chunk-time", "5ms"];
    let all: Vec<&str> = share.iter().chain(more).copied().collect();
    let mut run = Background::start(arguments(shop, &all));
    let made = "SELECT to_regclass('orders_v2') IS NOT NULL";
    wait_for(&shop.client, &mut run, "the shadow is there", made).await;
    shop.exec(&format!("UPDATE orders SET note = 'changed' WHERE id <= {changed}")).await;
    run.finish(SOON).await.expect_code(0)
}

#[tokio::test]
async fn rows_that_the_sync_writes_are_not_taken_for_copied_ones() {
    let shop = shop().await;
    shop.exec("CREATE TABLE orders (id bigint PRIMARY KEY, note text, code bigint UNIQUE)").await;
    let rows = "INSERT INTO orders SELECT i, repeat('n', 100), i FROM generate_series(1, 40000) i";
    shop.exec(rows).await;
    let table = shop.value::<i64>("SELECT pg_table_size('orders')").await;
    let indexes = shop.value::<i64>("SELECT pg_indexes_size('orders')").await;
    let output = beside_changes(&shop, 40_000, &["--json"]).await;
    let (seen, forecast) = (&output.json()["seen"], &output.json()["forecast"]);
    for (what, real) in [("table_bytes", table), ("index_bytes", indexes)] {
        let told = forecast[what].as_f64().unwrap();
        assert!((0.3..3.0).contains(&(told / real as f64)), "{what} {told} of {real}: {output}");
    }
    // They came while it looked at how things are, which takes three seconds.
    let come = seen["changes"]["in_per_second"].as_f64().unwrap();
    assert!((1.0..40_000.0 / 3.0).contains(&come), "{output}");
    assert_eq!(forecast["converges"], true, "{output}");
    assert_eq!(leftovers(&shop.client).await, [] as [&str; 0]);
}

#[tokio::test]
async fn a_few_changes_that_are_applied_are_kept_up_with() {
    let shop = shop().await;
    shop.exec("CREATE TABLE orders (id bigint PRIMARY KEY, note text)").await;
    shop.exec("INSERT INTO orders SELECT i, 'n' FROM generate_series(1, 20000) i").await;
    let output = beside_changes(&shop, 50, &[]).await;
    assert!(output.stdout.contains("all that had come were applied: it keeps up"), "{output}");
}

#[tokio::test]
async fn where_some_rows_are_wanted_the_forecast_is_for_those() {
    let shop = shop().await;
    shop.exec("CREATE TABLE orders (id bigint PRIMARY KEY, filler text)").await;
    let rows = "INSERT INTO orders SELECT i, repeat('f', 100) FROM generate_series(1, 40000) i";
    shop.exec(rows).await;
    let some = ["--where", "id % 10 = 0", "--yes", "--share", "50%", "--json"];
    let output = harness::run(arguments(&shop, &some)).await.expect_code(0);
    let (seen, forecast) = (&output.json()["seen"], &output.json()["forecast"]);
    let copied = &seen["copied"];
    let number = |of: &str| copied[of].as_f64().unwrap();
    assert!((20_000.0..30_000.0).contains(&number("passed")), "{output}");
    assert!((number("passed") / number("rows") - 10.0).abs() < 0.2, "{output}");
    assert!(number("places") > 10.0, "{output}");
    let wanted = number("rows") * forecast["table_bytes"].as_f64().unwrap()
        / seen["table_bytes"].as_f64().unwrap();
    assert!((3_800.0..4_200.0).contains(&wanted), "{wanted}: {output}");
    assert!(!output.stdout.contains("row security"), "{output}");
}

#[tokio::test]
async fn a_migration_that_is_there_is_not_touched() {
    let shop = shop().await;
    create_orders(&shop.client, 5_000).await.unwrap();
    let held = shop.held("verify", "orders", &["--rebuild"]).await;
    let refused = harness::run(arguments(&shop, &["--rebuild"])).await.expect_code(3);
    assert!(refused.stderr.contains("is not finished"), "{refused}");
    // Its new table, and the indexes of that, are no others' to be dropped.
    assert!(!refused.stderr.contains("names: "), "{refused}");
    assert!(!refused.stderr.contains("DROP TABLE"), "{refused}");
    held.finish().await.expect_code(0);
    harness::run(arguments(&shop, &["--share", "5%"])).await.expect_code(2);
}
