//! Whoever subscribes to the table notices nothing.

use crate::harness;
use crate::scene::{exec, shop, value};

#[tokio::test]
async fn a_subscriber_goes_on_over_the_swap_without_a_refresh() {
    let shop = shop().await;
    let table = "CREATE TABLE orders (id int PRIMARY KEY, note text, hidden text)";
    shop.exec(&format!(
        "{table}; INSERT INTO orders SELECT g, 'n' || g, 'h' FROM generate_series(1, 500) g; \
         CREATE PUBLICATION p FOR TABLE orders (id, note) WHERE (id <> 13)"
    ))
    .await;
    // In the same cluster the subscription cannot make its slot itself.
    shop.exec("SELECT pg_create_logical_replication_slot('s', 'pgoutput')").await;
    let subscriber = harness::connect(&harness::database(&shop.cluster, "subscriber").await).await;
    exec(&subscriber, table).await;
    let subscribe = format!(
        "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p WITH (create_slot = false)",
        shop.dsn
    );
    exec(&subscriber, &subscribe).await;
    let arrived = |note: &'static str| {
        format!("SELECT count(*) = 1 FROM orders WHERE note = '{note}' AND hidden IS NULL")
    };
    shop.exec("INSERT INTO orders VALUES (1000, 'before', 'h')").await;
    harness::wait_for_sql(&subscriber, "the first change arrives", &arrived("before")).await;

    let held = shop.held("cutover", "orders", &["--alter", "ALTER hidden TYPE varchar(9)"]).await;
    shop.exec("UPDATE orders SET note = 'meanwhile' WHERE id = 7; DELETE FROM orders WHERE id = 8")
        .await;
    held.finish().await.expect_code(0);
    shop.exec("UPDATE orders SET note = 'after' WHERE id = 9; DELETE FROM orders WHERE id = 10")
        .await;
    harness::wait_for_sql(&subscriber, "a change after the swap arrives", &arrived("after")).await;
    let theirs = "SELECT string_agg(id || note, ' ' ORDER BY id) FROM orders";
    let ours = "SELECT string_agg(id || note, ' ' ORDER BY id) FROM orders WHERE id <> 13";
    assert_eq!(value::<String>(&subscriber, theirs).await, shop.value::<String>(ours).await);
    exec(&subscriber, "ALTER SUBSCRIPTION s DISABLE").await;
    exec(&subscriber, "ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s").await;
}

/// After the swap its worker would skip every change of the table without a word.
#[tokio::test]
async fn a_subscription_that_begins_to_feed_the_table_in_mid_run_stops_it() {
    let shop = shop().await;
    shop.exec("CREATE TABLE orders (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE orders")
        .await;
    let held = shop.held("cutover", "orders", &["--rebuild"]).await;
    let subscribe = format!(
        "CREATE SUBSCRIPTION fed CONNECTION '{}' PUBLICATION p WITH (connect = false)",
        shop.dsn
    );
    shop.exec(&subscribe).await;
    shop.exec(
        "INSERT INTO pg_subscription_rel SELECT oid, 'orders'::regclass, 'r' FROM pg_subscription",
    )
    .await;
    let output = held.finish().await.expect_code(6);
    assert!(output.stderr.contains("subscription \"fed\""), "{output}");
    shop.exec("ALTER SUBSCRIPTION fed SET (slot_name = NONE); DROP SUBSCRIPTION fed").await;
}
