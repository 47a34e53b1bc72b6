//! A table whose partitions have partitions stays divided as it is: what hangs on it, what is done after the swap, and what
//! it may not be.

use super::TABLE;
#[cfg(feature = "failpoints")]
use crate::harness;
#[cfg(feature = "failpoints")]
use crate::scene::dies_at;
use crate::scene::{Shop, shop};

const CHANGE: &[&str] = &["--alter", "ADD COLUMN z int NOT NULL DEFAULT 7"];

/// By year, those by region, with a key to another table and one from another.
async fn make(shop: &Shop) {
    shop.exec(
        "DROP SCHEMA IF EXISTS ours CASCADE; CREATE SCHEMA ours; SET search_path = ours;
         CREATE TABLE customers (id int PRIMARY KEY);
         INSERT INTO customers SELECT generate_series(1, 20);
         CREATE TABLE orders (id int, region text, customer_id int, v text, PRIMARY KEY (id, region)) PARTITION BY RANGE (id);
         CREATE TABLE orders_p1 PARTITION OF orders FOR VALUES FROM (0) TO (500) PARTITION BY LIST (region);
         CREATE TABLE orders_p1_eu PARTITION OF orders_p1 FOR VALUES IN ('eu');
         CREATE TABLE orders_p1_us PARTITION OF orders_p1 FOR VALUES IN ('us');
         CREATE TABLE orders_p2 PARTITION OF orders FOR VALUES FROM (500) TO (1000);
         CREATE INDEX orders_v_idx ON orders (v);
         INSERT INTO orders SELECT n, CASE WHEN n % 2 = 0 THEN 'eu' ELSE 'us' END, 1 + n % 20, n FROM generate_series(0, 999) n;
         ALTER TABLE orders ADD CONSTRAINT of_customer FOREIGN KEY (customer_id) REFERENCES customers;
         CREATE TABLE items (order_id int, region text, CONSTRAINT of_order FOREIGN KEY (order_id, region) REFERENCES orders);
         INSERT INTO items SELECT id, region FROM orders;
         SET search_path = public; ANALYZE ours.orders",
    )
    .await;
}

/// Every relation of the tree has its name, is where it was, and its keys are proven.
async fn is_whole(shop: &Shop, what: &str) {
    let tree = "SELECT array_agg(t.relid::regclass || ' of ' || t.parentrelid::regclass ORDER BY t.relid::regclass::text COLLATE \"C\")
                FROM pg_partition_tree('ours.orders') t WHERE t.level > 0";
    let tree: Vec<String> = shop.value(tree).await;
    assert_eq!(
        tree,
        [
            "ours.orders_p1 of ours.orders",
            "ours.orders_p1_eu of ours.orders_p1",
            "ours.orders_p1_us of ours.orders_p1",
            "ours.orders_p2 of ours.orders"
        ],
        "{what}"
    );
    for index in ["pkey", "v_idx"] {
        let tree = format!(
            "SELECT array_agg(t.relid::regclass::text ORDER BY t.relid::regclass::text COLLATE \"C\") FROM pg_partition_tree('ours.orders_{index}') t WHERE t.level > 0"
        );
        let tree: Vec<String> = shop.value(&tree).await;
        let mut names =
            ["p1", "p1_eu", "p1_us", "p2"].map(|part| format!("ours.orders_{part}_{index}"));
        names.sort();
        assert_eq!(tree, names, "{what}");
    }
    // Of a partition's part of a key before 18 nothing says that it is proven but that the whole is.
    let keys = "SELECT count(*) FILTER (WHERE conname = 'of_customer' AND convalidated) = 5
                  AND count(*) FILTER (WHERE conname = 'of_order' AND convalidated AND conparentid = 0) = 1
                FROM pg_constraint WHERE contype = 'f' AND (conrelid IN (SELECT relid FROM pg_partition_tree('ours.orders'))
                  OR conrelid = 'ours.items'::regclass)";
    assert!(shop.value::<bool>(keys).await, "{what}");
    let rows = "SELECT count(*) = 1000 AND sum(z) = 7000 FROM ours.orders";
    assert!(shop.value::<bool>(rows).await, "{what}");
    let wrong = "INSERT INTO ours.items VALUES (17, 'eu')";
    assert!(shop.client.batch_execute(wrong).await.is_err(), "{what}");
}

#[tokio::test]
async fn a_column_comes_to_all_levels() {
    let shop = shop().await;
    make(&shop).await;
    let output = shop.run(TABLE, CHANGE).await.expect_code(0);
    is_whole(&shop, &output.to_string()).await;
    // The old ones are together still.
    let old = "SELECT count(*) FROM pg_partition_tree('ours.orders_old')";
    assert_eq!(shop.value::<i64>(old).await, 5);
}

/// Names are given from above to below, each in a transaction of its own.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn dying_between_the_names_of_levels_is_gone_on_from() {
    let shop = shop().await;
    for (point, nth) in [
        ("shadow made", 1),
        (pgwraith::failpoint::OF_PARTITIONS[0], 2),
        ("cutover committed", 1),
        ("step done", 1),
        ("step recorded", 1),
        ("step done", 3),
        ("step recorded", 5),
    ] {
        let what = format!("{point} {nth}");
        make(&shop).await;
        dies_at(point, nth, shop.arguments(TABLE, CHANGE)).await;
        harness::run(["resume", TABLE, "-d", &shop.dsn, "--take-over"]).await.expect_code(0);
        is_whole(&shop, &what).await;
        assert_eq!(shop.held_back().await, [""; 0], "{what}");
    }
}

/// A unique index has the columns of every level.
#[tokio::test]
async fn what_a_level_forbids_is_said_at_once() {
    let shop = shop().await;
    make(&shop).await;
    for (change, code, told) in [
        (&["--alter", "ADD UNIQUE (id)"][..], 2, "region"),
        (&["--alter", "DROP COLUMN region"], 2, "region"),
        (&["--alter", "DROP CONSTRAINT orders_pkey CASCADE, ADD PRIMARY KEY (id)"], 2, "region"),
    ] {
        let output = shop.run(TABLE, change).await;
        assert!(
            output.stderr.contains(told) && output.code.is_some_and(|c| c == code || c == 3),
            "{change:?}: {output}"
        );
    }
    shop.run(TABLE, &["--alter", "RENAME COLUMN region TO area"]).await.expect_code(0);
    let key = "SELECT pg_get_partkeydef('ours.orders_p1'::regclass)";
    assert_eq!(shop.value::<String>(key).await, "LIST (area)");
}

/// How values are compared is kept.
#[tokio::test]
async fn an_operator_class_stays_one() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE n (word text, id int, PRIMARY KEY (word, id)) PARTITION BY RANGE (word text_pattern_ops);
         CREATE TABLE n_low PARTITION OF n FOR VALUES FROM ('a') TO ('m') PARTITION BY LIST (id int4_ops);
         CREATE TABLE n_low_all PARTITION OF n_low DEFAULT;
         CREATE TABLE n_high PARTITION OF n FOR VALUES FROM ('m') TO ('zz');
         INSERT INTO n SELECT chr(97 + g % 25), g FROM generate_series(1, 500) g",
    )
    .await;
    shop.run("n", &["--alter", "RENAME COLUMN word TO said"]).await.expect_code(0);
    let keys = "SELECT pg_get_partkeydef('n'::regclass) || pg_get_partkeydef('n_low'::regclass)";
    assert_eq!(shop.value::<String>(keys).await, "RANGE (said text_pattern_ops)LIST (id)");
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM n_low").await, 240);
}
