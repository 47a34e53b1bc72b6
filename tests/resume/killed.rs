//! The process dies at every place where it changes the state, under live traffic, and another goes on.

use pgwraith::demo::orders::create_orders;
use pgwraith::demo::traffic::{Mix, Traffic};
use pgwraith::failpoint;
use rand::RngExt;

use super::{CHANGE, TABLE, nothing_is_lost, nothing_was_forgotten, resume};
use crate::harness::{self, Background, Failpoint};
use crate::scene::{SOON, Shop, dies_at, exec, shop};

/// Many ranges, and something left to do behind the swap.
async fn orders(shop: &Shop, rows: u64) -> Traffic {
    create_orders(&shop.client, rows).await.unwrap();
    shop.exec(
        "CREATE TABLE source_of (id int PRIMARY KEY); INSERT INTO source_of VALUES (1); \
         ALTER TABLE orders ADD COLUMN source int DEFAULT 1 REFERENCES source_of",
    )
    .await;
    let mix = Mix { sessions: 3, rate: Some(60.0), ..Mix::default() };
    Traffic::start(&shop.dsn, TABLE, mix).await.unwrap()
}

fn run(shop: &Shop) -> Vec<String> {
    let small = ["--chunk-rows", "400", "--chunk-time", "8ms"];
    let change: Vec<&str> = CHANGE.iter().chain(&small).copied().collect();
    shop.arguments("orders", &change)
}

fn resumed(shop: &Shop, more: &[&str]) -> Vec<String> {
    let given = ["resume", "orders", "-d", &shop.dsn, "--json", "--take-over"];
    given.iter().chain(more).map(|s| (*s).to_owned()).collect()
}

/// Goes on until everything is done, and nothing is left to do.
async fn goes_on(shop: &Shop, point: &str) {
    let output = resume(shop, &["--take-over"]).await;
    // Where all was done, and only nobody was told.
    let done = if point == "finished" { Some(2) } else { Some(0) };
    assert_eq!(output.code, done, "{point}: {output}");
    if done == Some(0) {
        nothing_was_forgotten(&output);
    }
}

async fn each_of(part: usize) {
    let mut shop = shop().await;
    for (n, point) in failpoint::ALL.iter().enumerate().filter(|(n, _)| n % 4 == part) {
        shop.move_to(&format!("case{n}")).await;
        // A position is stored once a second.
        let rows = if point.starts_with("position") { 120_000 } else { 20_000 };
        let traffic = orders(&shop, rows).await;
        dies_at(point, 1, run(&shop)).await;
        goes_on(&shop, point).await;
        nothing_is_lost(&shop, traffic).await;
        let validated = "SELECT bool_and(convalidated) FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'f'";
        assert!(shop.value::<bool>(validated).await, "{point}");
    }
}

#[tokio::test]
async fn dying_at_every_first_failpoint_of_four() {
    each_of(0).await;
}

#[tokio::test]
async fn dying_at_every_second_failpoint_of_four() {
    each_of(1).await;
}

#[tokio::test]
async fn dying_at_every_third_failpoint_of_four() {
    each_of(2).await;
}

#[tokio::test]
async fn dying_at_every_fourth_failpoint_of_four() {
    each_of(3).await;
}

#[tokio::test]
async fn dying_twice_in_a_row_and_in_the_midst_of_things() {
    let mut shop = shop().await;
    for (n, (first, nth, second)) in [
        ("chunk committed", 3, "chunk copied"),
        ("slot recorded", 1, "shadow made"),
        ("index built", 2, "index attached"),
        ("batch committed", 2, "cutover renamed"),
        ("cutover locked", 1, "cutover committed"),
        ("slot dropped", 1, "step done"),
    ]
    .into_iter()
    .enumerate()
    {
        shop.move_to(&format!("case{n}")).await;
        let traffic = orders(&shop, 20_000).await;
        dies_at(first, nth, run(&shop)).await;
        dies_at(second, 1, resumed(&shop, &[])).await;
        goes_on(&shop, second).await;
        nothing_is_lost(&shop, traffic).await;
    }
}

#[tokio::test]
async fn dying_while_keys_go_to_the_database_and_come_back() {
    let mut shop = shop().await;
    for (n, point) in failpoint::OF_SPILLING.iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        let traffic = orders(&shop, 20_000).await;
        let few = ["--max-keys-in-memory", "10"].map(str::to_owned);
        let arguments: Vec<String> = run(&shop).into_iter().chain(few).collect();
        dies_at(point, 1, arguments).await;
        goes_on(&shop, point).await;
        nothing_is_lost(&shop, traffic).await;
    }
}

/// What was copied before a TRUNCATE is gone, whoever empties the new table.
#[tokio::test]
async fn dying_while_a_truncate_is_followed() {
    let mut shop = shop().await;
    for (n, point) in failpoint::OF_TRUNCATE.iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        create_orders(&shop.client, 2_000).await.unwrap();
        harness::make_state(&shop.dsn, &shop.client).await;
        let gate = Failpoint::at_chunk(&shop.client, shop.session().await, 3).await;
        let slow = ["--chunk-rows", "100", "--chunk-time", "1ms", "--workers", "1"];
        let change: Vec<&str> = CHANGE.iter().chain(&slow).copied().collect();
        let arguments = shop.arguments("orders", &change);
        let dying =
            Background::start_with(&[("FAILPOINTS", &format!("{point}=return"))], arguments);
        gate.wait_for_somebody().await;
        let session = shop.session().await;
        let truncated = tokio::spawn(async move {
            let sql = "TRUNCATE orders; INSERT INTO orders (customer_id, status, amount) VALUES (1, 'after', 1)";
            exec(&session, sql).await;
        });
        let waits = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE relation = 'orders'::regclass AND NOT granted)";
        harness::wait_for_sql(&shop.client, "it waits for the chunk", waits).await;
        gate.open().await;
        truncated.await.unwrap();
        let output = dying.finish(SOON).await;
        assert_eq!(output.signal, Some(libc::SIGKILL), "{point}: {output}");
        goes_on(&shop, point).await;
        let statuses = "SELECT string_agg(status, ' ') FROM orders";
        assert_eq!(shop.value::<String>(statuses).await, "after", "{point}");
    }
}

#[tokio::test]
async fn dying_while_a_lost_slot_is_made_anew() {
    let mut shop = shop().await;
    for (n, point) in failpoint::OF_RECOVERY.iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        create_orders(&shop.client, 2_000).await.unwrap();
        dies_at("vacuumed", 1, run(&shop)).await;
        let free = "SELECT bool_and(NOT active) FROM pg_replication_slots WHERE database = current_database()";
        harness::wait_for_sql(&shop.client, "the slot is free", free).await;
        shop.exec("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()").await;
        shop.exec(
            "UPDATE orders SET note = 'untold' WHERE id = 5; DELETE FROM orders WHERE id = 6",
        )
        .await;
        dies_at(point, 1, resumed(&shop, &["--recover"])).await;
        let output = resume(&shop, &["--take-over", "--recover"]).await;
        assert_eq!(output.code, Some(0), "{point}: {output}");
        assert_eq!(output.json()["recovered"]["mismatches"], 2, "{point}: {output}");
        assert_eq!(shop.value::<String>("SELECT note FROM orders WHERE id = 5").await, "untold");
        assert_eq!(shop.value::<i64>("SELECT count(*) FROM orders WHERE id = 6").await, 0);
    }
}

#[tokio::test]
async fn dying_in_an_abort_and_aborting_again() {
    let mut shop = shop().await;
    for (n, point) in failpoint::OF_ABORT.iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        create_orders(&shop.client, 1_000).await.unwrap();
        let before = shop.rows("orders").await;
        dies_at("vacuumed", 1, run(&shop)).await;
        let abort = ["abort", "orders", "-d", &shop.dsn].map(str::to_owned).to_vec();
        dies_at(point, 1, abort.clone()).await;
        harness::run(&abort).await.expect_code(0);
        let gone = async || harness::leftovers(&shop.client).await.is_empty();
        harness::wait_until("nothing is left", SOON, gone).await;
        assert_eq!(shop.rows("orders").await, before, "{point}");
        let again = harness::run(&abort).await;
        assert_eq!(again.code, Some(2), "{again}");
    }
}

/// So many times, or as often as `PGWRAITH_ROUNDS` says.
const ROUNDS: u32 = 2;

#[tokio::test]
async fn dying_at_any_time() {
    let rounds =
        std::env::var("PGWRAITH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    let mut shop = shop().await;
    for round in 0..rounds {
        shop.move_to(&format!("round{round}")).await;
        let traffic = orders(&shop, 20_000).await;
        let mut arguments = run(&shop);
        let mut deaths = Vec::new();
        loop {
            let program = Background::start(arguments);
            // Each may live longer than the one before, so that some day one lives long enough.
            let longest = 2_000 + 600 * deaths.len() as u64;
            let after = std::time::Duration::from_millis(rand::rng().random_range(20..longest));
            tokio::time::sleep(after).await;
            program.signal_if_running(libc::SIGKILL);
            let output = program.finish(SOON).await;
            deaths.push(after);
            match (output.code, output.signal) {
                (Some(0), _) => {
                    nothing_was_forgotten(&output);
                    break;
                }
                // It died before it had begun anything, or behind the end.
                (Some(2), _) if deaths.len() > 1 => break,
                (_, Some(libc::SIGKILL)) => {}
                _ => panic!("{deaths:?}: {output}"),
            }
            let begun = "SELECT to_regclass('pgwraith.migration') IS NOT NULL";
            arguments = match shop.value::<bool>(begun).await {
                true => resumed(&shop, &[]),
                false => run(&shop),
            };
        }
        nothing_is_lost(&shop, traffic).await;
    }
}
