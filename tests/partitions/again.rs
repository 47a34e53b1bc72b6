//! What a run that died has left, and what else comes in between.

use pgwraith::demo::orders::create_orders;

use super::{TABLE, make};
use crate::harness;
#[cfg(feature = "failpoints")]
use crate::scene::dies_at;
use crate::scene::shop;

/// Whatever there is already of partitions, of their indexes, and of what is left to do for each.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn dying_among_partitions_is_gone_on_from() {
    let mut shop = shop().await;
    let joined = pgwraith::failpoint::OF_PARTITIONS[0];
    // Since 18 the key is validated as a whole.
    let step = if shop.cluster.major() < 18 { 3 } else { 1 };
    for (n, (point, nth)) in [
        ("shadow made", 1),
        ("index built", 4),
        ("index attached", 2),
        (joined, 1),
        (joined, 3),
        ("cutover renamed", 1),
        ("step done", step),
    ]
    .into_iter()
    .enumerate()
    {
        shop.move_to(&format!("case{n}")).await;
        let key = "CREATE TABLE c (id int PRIMARY KEY); INSERT INTO c SELECT DISTINCT customer_id FROM orders; \
                   ALTER TABLE orders ADD CONSTRAINT of_c FOREIGN KEY (customer_id) REFERENCES c";
        make(&shop, "ours", 3_000, key).await;
        let rows = shop.rows(TABLE).await;
        let change = ["--partition-by", "HASH (id)", "--partitions", "3"];
        dies_at(point, nth, shop.arguments(TABLE, &change)).await;
        harness::run(["resume", TABLE, "-d", &shop.dsn, "--take-over"]).await.expect_code(0);
        assert_eq!(shop.rows(TABLE).await, rows, "{point}");
        let whole = "SELECT count(*) FILTER (WHERE i.indisvalid) = 16 AND count(*) = 16 FROM pg_index i \
                     JOIN pg_class c ON c.oid = i.indrelid WHERE c.relname ~ '^orders(_p[0-9])?$'";
        assert!(shop.value::<bool>(whole).await, "{point}");
        let proven = "SELECT count(*) = 4 AND bool_and(convalidated) AND count(*) FILTER (WHERE conparentid = 0) = 1 \
                      FROM pg_constraint WHERE conname = 'of_c'";
        assert!(shop.value::<bool>(proven).await, "{point}");
        assert_eq!(shop.held_back().await, [""; 0], "{point}");
    }
}

#[tokio::test]
async fn a_truncate_is_followed_into_every_partition() {
    let shop = shop().await;
    make(&shop, "ours", 2_000, "").await;
    let change = ["--partition-by", "HASH (id)", "--partitions", "3"];
    let held = shop.held("verify", TABLE, &change).await;
    shop.exec("TRUNCATE ours.orders; INSERT INTO ours.orders (customer_id, status, amount) SELECT 1, 'new', n FROM generate_series(1, 50) n").await;
    let rows = shop.rows(TABLE).await;
    held.finish().await.expect_code(0);
    assert_eq!(shop.rows(TABLE).await, rows);
    assert_eq!(rows.len(), 50);
}

/// What a dead run leaves goes with all its partitions; a number, and what is written beyond the last of them.
#[tokio::test]
async fn ranges_of_numbers_and_what_is_left_of_them() {
    let shop = shop().await;
    make(&shop, "ours", 3_500, "UPDATE orders SET id = -id WHERE id % 1000 = 7").await;
    let change =
        ["--partition-by", "RANGE (id)", "--partition-every", "1000", "--partition-premake", "0"];
    let held = shop.held("verify", TABLE, &change).await;
    shop.exec(
        "INSERT INTO ours.orders (id, customer_id, status, amount) VALUES (100000, 1, 'new', 1)",
    )
    .await;
    shop.exec("UPDATE ours.orders SET id = 200000 WHERE id = 17").await;
    held.finish().await.expect_code(0);
    let names: Vec<String> = shop
        .value("SELECT array_agg(inhrelid::regclass::text ORDER BY 1) FROM pg_inherits WHERE inhparent = 'ours.orders'::regclass")
        .await;
    let wanted: Vec<String> =
        ["default", "p-1000", "p-2000", "p-3000", "p-4000", "p0", "p1000", "p2000", "p3000"]
            .iter()
            .map(|end| {
                if end.contains('-') {
                    format!("ours.\"orders_{end}\"")
                } else {
                    format!("ours.orders_{end}")
                }
            })
            .collect();
    let sorted = |mut all: Vec<String>| {
        all.sort();
        all
    };
    assert_eq!(sorted(names), sorted(wanted));
    let beyond: Vec<i32> =
        shop.value("SELECT array_agg(id ORDER BY id) FROM ours.orders_default").await;
    assert_eq!(beyond, [100_000, 200_000]);

    shop.exec("DROP TABLE ours.orders, ours.orders_old").await;
    shop.exec("SET search_path = ours").await;
    create_orders(&shop.client, 2_000).await.unwrap();
    shop.exec("RESET search_path").await;
    let held = shop.held("verify", TABLE, &change).await;
    held.run.signal(libc::SIGKILL);
    held.release().await;
    let gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
    harness::wait_for_sql(&shop.client, "its sessions end", gone).await;
    harness::run(["abort", TABLE, "-d", &shop.dsn]).await.expect_code(0);
    let left =
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'orders\\_%' AND relkind IN ('r', 'p')";
    assert_eq!(shop.value::<i64>(left).await, 0);
}
