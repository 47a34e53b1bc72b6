//! A partition that brings many rows is taken in while everything else goes on.

use tokio_postgres::Client;

use super::{TABLE, divided};
use crate::harness::{self, Background, Failpoint};
use crate::scene::{SOON, Shop, shop, wait_for};

/// As many as are stored at a time, two times, and half of that.
const ROWS: i64 = 25_000;
const GATE: i64 = 4714;
const ATTACH: &str = "ALTER TABLE ours.orders ATTACH PARTITION ours.late FOR VALUES FROM ('2031-01-01') TO ('2032-01-01')";

/// A run that is in sync, and waits for `pgwraith cutover`; it is held at the `nth` page of a newcomer, which is made of
/// `ours.late`.
async fn in_sync(shop: &Shop, nth: i64, more: &[&str]) -> (Background, Failpoint) {
    harness::make_state(&shop.dsn, &shop.client).await;
    let late = format!(
        "DROP TABLE orders_default; CREATE TABLE late (LIKE orders INCLUDING ALL EXCLUDING IDENTITY);
         INSERT INTO late (id, customer_id, status, amount, created_at)
           SELECT 100000 + n, n, 'late', n, '2031-01-05' FROM generate_series(1, {ROWS}) n"
    );
    divided(shop, "ours", 1_000, &late).await;
    // The transaction of a newcomer's keys is one that every snapshot sees.
    shop.exec(&format!(
        "CREATE SEQUENCE public.pages; GRANT ALL ON SEQUENCE public.pages TO PUBLIC;
         CREATE FUNCTION public.gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF EXISTS (SELECT 1 FROM stored WHERE xid = '2') THEN
             IF pg_catalog.nextval('public.pages') = {nth} THEN PERFORM pg_catalog.pg_advisory_xact_lock_shared({GATE}); END IF;
           END IF; RETURN NULL; END $$;
         CREATE TRIGGER gate AFTER INSERT ON pgwraith.dirty REFERENCING NEW TABLE AS stored
           FOR EACH STATEMENT EXECUTE FUNCTION public.gate()"
    ))
    .await;
    let gate = Failpoint::closed(shop.session().await, GATE).await;
    let flags = ["--partition-by", "none", "--postpone-cutover"];
    let mut run = Background::start(shop.arguments(TABLE, &[&flags[..], more].concat()));
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    (run, gate)
}

async fn swaps(shop: &Shop, run: Background) {
    let rows = shop.rows(TABLE).await;
    harness::run(["cutover", TABLE, "-d", &shop.dsn]).await.expect_code(0);
    run.finish(SOON).await.expect_code(0);
    let now = shop.rows(TABLE).await;
    assert!(now == rows, "{} rows, not {}", now.len(), rows.len());
    assert_eq!(shop.held_back().await, [""; 0]);
}

/// What ends a run is found while it is at the keys.
#[tokio::test]
async fn the_source_is_watched_meanwhile() {
    let shop = shop().await;
    let (run, gate) = in_sync(&shop, 2, &[]).await;
    shop.exec(ATTACH).await;
    gate.wait_for_somebody().await;
    shop.exec("ALTER TABLE ours.orders_p20241001 REPLICA IDENTITY FULL").await;
    let output = run.finish(SOON).await.expect_code(6);
    assert!(output.stderr.contains("orders_p20241001"), "{output}");
    assert_eq!(shop.held_back().await, [""; 0]);
    shop.exec("UPDATE ours.orders SET note = 'x' WHERE id = 100001").await;
}

/// The race: rows go from pages that are stored to pages that are not, and the other way round; they come and go.
#[tokio::test]
async fn rows_that_move_between_its_pages_are_neither_lost_nor_there_twice() {
    let shop = shop().await;
    let (run, gate) = in_sync(&shop, 2, &[]).await;
    shop.exec(ATTACH).await;
    gate.wait_for_somebody().await;
    for sql in [
        // From the last page to the first, and back.
        "UPDATE ours.orders SET id = id - 124000 WHERE id BETWEEN 124500 AND 124600",
        "UPDATE ours.late SET id = id + 100000 WHERE id BETWEEN 100500 AND 100600",
        "DELETE FROM ours.orders WHERE id BETWEEN 123000 AND 123100 OR id BETWEEN 103000 AND 103100",
        "UPDATE ours.late SET note = 'changed' WHERE id BETWEEN 109990 AND 110010 OR id BETWEEN 119990 AND 120010",
        "INSERT INTO ours.late (id, customer_id, status, amount, created_at) VALUES (50000, 1, 'x', 1, '2031-02-01')",
    ] {
        shop.exec(sql).await;
    }
    gate.open().await;
    swaps(&shop, run).await;
}

/// Detached between two of its pages, written to, and attached again: nobody was told of that.
#[tokio::test]
async fn one_that_went_and_came_meanwhile_is_compared_for() {
    let shop = shop().await;
    let (mut run, gate) = in_sync(&shop, 1, &[]).await;
    shop.exec(ATTACH).await;
    gate.wait_for_somebody().await;
    harness::run(["set", TABLE, "-d", &shop.dsn, "pause=on"]).await.expect_code(0);
    let rests = "SELECT facts->>'workers' = '0' FROM pgwraith.progress";
    wait_for(&shop.client, &mut run, "it rests", rests).await;
    gate.open().await;
    let synced = "SELECT EXISTS (SELECT 1 FROM ours.orders_v2 WHERE id = 100200) AND NOT EXISTS (SELECT 1 FROM pgwraith.dirty)";
    wait_for(&shop.client, &mut run, "a page of it is synced", synced).await;
    shop.exec("ALTER TABLE ours.orders DETACH PARTITION ours.late; DELETE FROM ours.late WHERE id BETWEEN 100100 AND 100200")
        .await;
    shop.exec(ATTACH).await;
    harness::run(["set", TABLE, "-d", &shop.dsn, "pause=off"]).await.expect_code(0);
    let output = run.finish(SOON).await.expect_code(1);
    assert!(output.stderr.contains("came and went"), "{output}");
    let mut run = Background::start(["resume", TABLE, "-d", &shop.dsn]);
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    swaps(&shop, run).await;
}

/// The race: other keys are stored, and brought back, while those of a page have their numbers and are not committed.
#[tokio::test]
async fn keys_are_stored_beside_it() {
    let shop = shop().await;
    let (mut run, gate) = in_sync(&shop, 1, &["--max-keys-in-memory", "10"]).await;
    shop.exec(ATTACH).await;
    gate.wait_for_somebody().await;
    shop.exec("UPDATE ours.orders SET note = 'beside' WHERE id BETWEEN 1 AND 300").await;
    looked_three_times(&shop.client, &mut run).await;
    gate.open().await;
    swaps(&shop, run).await;
}

/// Who keeps keys looks more often than the run tells of itself.
async fn looked_three_times(client: &Client, run: &mut Background) {
    for _ in 0..3 {
        let at: String =
            crate::scene::value(client, "SELECT at::text FROM pgwraith.progress").await;
        let later = format!("SELECT at <> '{at}' FROM pgwraith.progress");
        wait_for(client, run, "it tells of itself", &later).await;
    }
}
