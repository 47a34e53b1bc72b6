//! A slot that is lost is not the end: a new one is made, every row is compared, and what differs is copied
//! again.

use pgwraith::demo::orders::create_orders;

use super::{CHANGE, kill, resume};
use crate::harness;
use crate::scene::{SOON, exec, shop, shop_with};

/// Told, and recovered from: by comparing, not by copying everything again.
#[tokio::test]
async fn a_slot_that_is_lost_is_made_anew_and_only_what_differs_is_copied_again() {
    let mut shop = shop().await;
    for (n, (phase, spoil, told)) in [
        ("cutover", "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots", "is gone"),
        ("index", "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots", "is gone"),
        (
            "verify",
            "SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn()) FROM pg_replication_slots",
            "was moved to",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        shop.move_to(&format!("case{n}")).await;
        create_orders(&shop.client, 3_000).await.unwrap();
        let held = shop.held(phase, "orders", &CHANGE).await;
        kill(held).await;
        shop.exec("DROP FUNCTION gate() CASCADE").await;
        let free = "SELECT bool_and(NOT active) FROM pg_replication_slots";
        harness::wait_for_sql(&shop.client, "the slot is free", free).await;
        shop.exec(
            "DELETE FROM orders WHERE id BETWEEN 100 AND 109; UPDATE orders SET note = 'untold' WHERE id BETWEEN 200 AND 209; \
             INSERT INTO orders (customer_id, status, amount) VALUES (1, 'untold', 1)",
        )
        .await;
        shop.exec(spoil).await;
        let output = resume(&shop, &["--take-over"]).await;
        assert_eq!(output.code, Some(1), "{phase}: {output}");
        for text in [told, "--recover", "is untouched and in use"] {
            assert!(output.stderr.contains(text), "{phase}: {text:?}: {output}");
        }
        let wanted = shop.rows("(SELECT id, note FROM orders)").await;
        let output = resume(&shop, &["--recover"]).await;
        assert_eq!(output.code, Some(0), "{phase}: {output}");
        let found = &output.json()["recovered"];
        assert_eq!(found["mismatches"], 21, "{phase}: {output}");
        assert_eq!(output.json()["rows_copied"], 0, "{phase}: {output}");
        assert_eq!(shop.rows("(SELECT id, note FROM orders)").await, wanted, "{phase}");
        assert_eq!(shop.held_back().await, [""; 0]);
    }
}

#[tokio::test]
async fn a_publication_that_is_made_anew_is_recovered_from() {
    let shop = shop().await;
    create_orders(&shop.client, 1_000).await.unwrap();
    let held = shop.held("verify", "orders", &CHANGE).await;
    kill(held).await;
    shop.exec("DROP FUNCTION gate() CASCADE").await;
    let name: String = shop.value("SELECT publication FROM pgwraith.flow").await;
    shop.exec(&format!("DROP PUBLICATION {name}; UPDATE orders SET note = 'untold' WHERE id = 5; CREATE PUBLICATION {name} FOR TABLE orders (id)")).await;
    let output = resume(&shop, &["--take-over"]).await.expect_code(1);
    assert!(output.stderr.contains("the publication was altered"), "{output}");
    let output = resume(&shop, &["--recover"]).await.expect_code(0);
    assert_eq!(output.json()["recovered"]["mismatches"], 1, "{output}");
    assert_eq!(shop.value::<String>("SELECT note FROM orders WHERE id = 5").await, "untold");
}

/// What happens is the same whether the operator asks for it in words or by Ctrl-C.
#[tokio::test]
async fn a_run_that_gave_its_slot_up_when_stopped_is_recovered() {
    let shop = shop().await;
    create_orders(&shop.client, 1_000).await.unwrap();
    let change: Vec<&str> = CHANGE.iter().chain(&["--drop-slot-on-stop"]).copied().collect();
    let held = shop.held("verify", "orders", &change).await;
    held.run.signal(libc::SIGINT);
    let output = held.finish().await.expect_code(5);
    assert!(output.stderr.contains("--recover"), "{output}");
    let slots: i64 = shop.value("SELECT count(*) FROM pg_replication_slots").await;
    assert_eq!(slots, 0);
    shop.exec("DROP FUNCTION gate() CASCADE; UPDATE orders SET note = 'untold' WHERE id = 5").await;
    resume(&shop, &["--recover"]).await.expect_code(0);
    assert_eq!(shop.value::<String>("SELECT note FROM orders WHERE id = 5").await, "untold");
    assert_eq!(shop.held_back().await, [""; 0]);
}

/// The slot is given up before the disk fills up; the state stays.
#[tokio::test]
async fn a_slot_that_holds_back_too_much_is_given_up_and_recovered_from() {
    let shop = shop().await;
    create_orders(&shop.client, 1_000).await.unwrap();
    let change: Vec<&str> = CHANGE.iter().chain(&["--max-slot-wal", "40MB"]).copied().collect();
    let held = shop.held("verify", "orders", &change).await;
    // Whoever has written and stays open keeps the slot where it is.
    let open = shop.session().await;
    exec(&open, "BEGIN; CREATE TABLE something (id int)").await;
    let filling = async {
        loop {
            exec(&shop.client, "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))")
                .await;
            if held.run.said().contains("--max-slot-wal") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SOON, filling).await.expect("the limit is never reached");
    let output = held.run.finish(SOON).await.expect_code(1);
    for text in [
        "the copy slows down",
        "it is held by the transaction of pid",
        "The slot is dropped",
        "--recover",
    ] {
        assert!(output.stderr.contains(text), "{text}: {output}");
    }
    let slots: i64 = shop.value("SELECT count(*) FROM pg_replication_slots").await;
    assert_eq!(slots, 0);
    exec(&open, "ROLLBACK").await;
    drop(held.gate);
    shop.exec("DROP FUNCTION gate() CASCADE; UPDATE orders SET note = 'untold' WHERE id = 5").await;
    let output = resume(&shop, &["--recover"]).await.expect_code(0);
    assert_eq!(output.json()["recovered"]["mismatches"], 1, "{output}");
}

/// The server moves a slot on only each 15 s; the run, which writes more than it may hold back in that time,
/// sees to it more often.
#[tokio::test]
async fn a_run_does_not_give_its_slot_up_because_of_itself() {
    let shop = shop().await;
    create_orders(&shop.client, 500_000).await.unwrap();
    let change: Vec<&str> = CHANGE.iter().chain(&["--max-slot-wal", "48MB"]).copied().collect();
    let output = shop.run("orders", &change).await.expect_code(0);
    let written = "SELECT pg_total_relation_size('orders') > 48 * 1024 * 1024";
    assert!(shop.value::<bool>(written).await, "{output}");
}

/// The server's own limit, at a time when no tool was there to guard the slot.
#[tokio::test]
async fn a_slot_that_the_server_invalidated_is_recovered_from() {
    let shop = shop_with(&[
        ("max_slot_wal_keep_size", "32MB"),
        ("max_wal_size", "32MB"),
        ("min_wal_size", "32MB"),
    ])
    .await;
    create_orders(&shop.client, 1_000).await.unwrap();
    let held = shop.held("verify", "orders", &CHANGE).await;
    kill(held).await;
    shop.exec("DROP FUNCTION gate() CASCADE; UPDATE orders SET note = 'untold' WHERE id = 5").await;
    let free = "SELECT bool_and(NOT active) FROM pg_replication_slots";
    harness::wait_for_sql(&shop.client, "the slot is free", free).await;
    while shop.value::<bool>("SELECT wal_status <> 'lost' FROM pg_replication_slots").await {
        shop.exec("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)) FROM generate_series(1, 20)").await;
        shop.exec("SELECT pg_switch_wal()").await;
        shop.exec("CHECKPOINT").await;
    }
    let output = resume(&shop, &["--take-over"]).await.expect_code(1);
    assert!(
        output.stderr.contains("max_slot_wal_keep_size") || output.stderr.contains("invalidated"),
        "{output}"
    );
    let output = resume(&shop, &["--recover"]).await.expect_code(0);
    assert_eq!(output.json()["recovered"]["mismatches"], 1, "{output}");
    assert_eq!(output.json()["recovered"]["differing_ranges"], 1, "{output}");
    assert_eq!(shop.held_back().await, [""; 0]);
}
