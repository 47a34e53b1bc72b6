//! A limit that is changed while a run goes on holds from then on, whatever the run is at.

use pgwraith::demo::orders::create_orders;
use tokio_postgres::Client;

use crate::harness::{self, Background, Output};
use crate::scene::{SOON, Shop, exec, shop, shop_with, wait_for};

/// Many small ranges.
const SLOW: [&str; 7] =
    ["--rebuild", "--chunk-rows", "300", "--chunk-time", "3ms", "--workers", "1"];

async fn set(shop: &Shop, limits: &[&str]) -> Output {
    let given = ["set", "orders", "-d", &shop.dsn];
    harness::run(given.iter().chain(limits)).await
}

/// Sets it, and waits until the run has heard of it.
async fn change(shop: &Shop, run: &mut Background, limits: &[&str]) {
    set(shop, limits).await.expect_code(0);
    run.wait_for_saying(&format!("set: {}", limits.join(" "))).await;
}

/// A run that does nothing but sync has as many workers as are wanted by now; each attempt of the cutover goes by the
/// limits of its moment, and so does how long it goes on trying.
#[tokio::test]
async fn the_cutover_and_its_syncs_go_by_what_was_set_meanwhile() {
    let shop = shop().await;
    create_orders(&shop.client, 1_000).await.unwrap();
    let change_of = ["--rebuild", "--workers", "1", "--postpone-cutover"];
    let mut run = Background::start(shop.arguments("orders", &change_of));
    run.wait_for_saying("the cutover waits: postponed").await;
    set(&shop, &["workers=3"]).await.expect_code(0);
    wait_for(&shop.client, &mut run, "a third sync worker", &is_there("sync 3")).await;

    change(&shop, &mut run, &["max-lock-hold=1ms"]).await;
    harness::run(["cutover", "orders", "-d", &shop.dsn]).await.expect_code(0);
    wait_for(&shop.client, &mut run, "it tries", &is_there("cutover")).await;
    set(&shop, &["cutover-patience=1s"]).await.expect_code(0);
    let output = run.finish(SOON).await.expect_code(1);
    assert!(output.stderr.contains("did not get its lock in 1 s"), "{output}");
    let go_on = ["resume", "orders", "-d", &shop.dsn, "--max-lock-hold", "500ms"];
    harness::run(go_on.iter().chain(&["--cutover-patience", "1min"])).await.expect_code(0);
}

fn is_there(role: &str) -> String {
    format!(
        "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%/{role}')"
    )
}

/// What one worker more opens is known before: the run would fall over what it cannot open.
#[tokio::test]
async fn no_more_workers_are_set_than_there_is_room_for() {
    let shop = shop_with(&[("max_connections", "60")]).await;
    create_orders(&shop.client, 1_000).await.unwrap();
    let change_of = ["--rebuild", "--workers", "1", "--postpone-cutover"];
    let mut run = Background::start(shop.arguments("orders", &change_of));
    run.wait_for_saying("the cutover waits: postponed").await;
    let refused = set(&shop, &["workers=64"]).await.expect_code(2);
    let told =
        "63 workers more open up to 126 sessions more, and max_connections less what is reserved (";
    assert!(refused.stderr.contains(told), "{refused}");
    set(&shop, &["workers=2"]).await.expect_code(0);
    wait_for(&shop.client, &mut run, "a second sync worker", &is_there("sync 2")).await;
    harness::run(["cutover", "orders", "-d", &shop.dsn]).await.expect_code(0);
    run.finish(SOON).await.expect_code(0);
}

/// Who is held shows it by a lock of this class.
const HELD: i32 = 4;

/// Holds whoever records one of these ranges of a verification. Not by a lock: to wait for one it has no patience.
async fn hold_ranges(shop: &Shop, numbers: impl Iterator<Item = i32>) -> Client {
    shop.exec(&format!(
        "CREATE FUNCTION public.hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           WHILE NOT pg_try_advisory_xact_lock_shared(NEW.number) LOOP \
             PERFORM pg_advisory_xact_lock({HELD}, NEW.number::int), pg_sleep(0.02); \
           END LOOP; RETURN NEW; END $$; \
         CREATE TRIGGER hold BEFORE UPDATE ON pgwraith.chunk FOR EACH ROW \
           WHEN (NEW.kind = 'verify' AND NEW.done) EXECUTE FUNCTION public.hold()"
    ))
    .await;
    let gate = shop.session().await;
    for number in numbers {
        exec(&gate, &format!("SELECT pg_advisory_lock({number})")).await;
    }
    gate
}

async fn let_range_go(shop: &Shop, run: &mut Background, gate: &Client, number: i32) {
    exec(gate, &format!("SELECT pg_advisory_unlock({number})")).await;
    wait_for(&shop.client, run, "the next range that is held", &is_held(number + 1)).await;
}

fn is_held(number: i32) -> String {
    format!(
        "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = {HELD} AND objid = {number})"
    )
}

#[tokio::test]
async fn a_verification_under_way_goes_by_what_was_set_meanwhile() {
    let shop = shop().await;
    create_orders(&shop.client, 60_000).await.unwrap();
    let held = shop.held("verify", "orders", &SLOW).await;
    let gate = hold_ranges(&shop, 2..=4).await;
    held.release().await;
    let mut run = held.run;
    wait_for(&shop.client, &mut run, "it verifies", &is_held(2)).await;
    let snapshot = "SELECT xact_start::text FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%/verify 1'";
    let before: String = shop.value(snapshot).await;
    change(&shop, &mut run, &["max-snapshot-age=300ms"]).await;
    let old = format!("SELECT clock_timestamp() - '{before}' > interval '300 ms'");
    wait_for(&shop.client, &mut run, "the snapshot is older", &old).await;
    let_range_go(&shop, &mut run, &gate, 2).await;
    assert_ne!(shop.value::<String>(snapshot).await, before, "the snapshot is still there");
    change(&shop, &mut run, &["workers=3", "chunk-time=10s", "max-snapshot-age=30s"]).await;
    let_range_go(&shop, &mut run, &gate, 3).await;
    wait_for(&shop.client, &mut run, "a third worker", &is_there("verify 3")).await;
    exec(&gate, "SELECT pg_advisory_unlock_all()").await;
    run.finish(SOON).await.expect_code(0);
    let ranges = "SELECT count(*) FROM pgwraith.chunk WHERE kind = 'verify'";
    let ranges: i64 = shop.value(ranges).await;
    assert!(ranges < 60, "{ranges} ranges, which did not grow");
}

/// How many keys it keeps, how long it tries, and what becomes of the slot.
#[tokio::test]
async fn what_is_set_in_mid_run_holds_to_its_end() {
    let shop = shop().await;
    create_orders(&shop.client, 1_000).await.unwrap();
    let paused: Vec<&str> = SLOW.iter().copied().chain(["--pause"]).collect();
    let held = shop.held("copy", "orders", &paused).await;
    held.release().await;
    let mut run = held.run;
    run.wait_for_saying("paused by the operator").await;
    shop.exec("UPDATE orders SET note = 'x'").await;
    set(&shop, &["max-keys-in-memory=10"]).await.expect_code(0);
    let stored = "SELECT count(*) > 500 FROM pgwraith.dirty";
    wait_for(&shop.client, &mut run, "keys leave memory", stored).await;

    change(&shop, &mut run, &["retry-for=0s"]).await;
    shop.exec(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%/governor'",
    )
    .await;
    run.finish(SOON).await.expect_code(1);

    let mut run = Background::start(["resume", "orders", "-d", &shop.dsn]);
    run.wait_for_saying("paused by the operator").await;
    set(&shop, &["drop-slot-on-stop=on"]).await.expect_code(0);
    run.signal(libc::SIGINT);
    let output = run.finish(SOON).await.expect_code(5);
    assert!(output.stderr.contains("the slot is dropped"), "{output}");
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(shop.value::<i64>(slots).await, 0);
}

/// The copy is stopped before the slot is given up.
#[tokio::test]
async fn how_much_the_slot_may_hold_back_can_be_set_meanwhile() {
    let shop = shop().await;
    create_orders(&shop.client, 50_000).await.unwrap();
    let mut held = shop.held("copy", "orders", &SLOW).await;
    let writer = shop.session().await;
    exec(&writer, "CREATE TABLE theirs (n int); BEGIN; INSERT INTO theirs VALUES (1)").await;
    let write = |megabytes: u32| {
        format!(
            "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1 << 20)) FROM generate_series(1, {megabytes})"
        )
    };
    exec(&shop.client, &write(36)).await;
    change(&shop, &mut held.run, &["max-slot-wal=32MB"]).await;
    held.run.wait_for_saying("it waits for slot: ").await;
    exec(&shop.client, &write(100)).await;
    let output = held.finish().await.expect_code(1);
    assert!(output.stderr.contains("32 MB are allowed (--max-slot-wal"), "{output}");
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM pg_replication_slots").await, 0);
    exec(&writer, "COMMIT").await;
}
