use super::{TABLE, make};
use crate::scene::shop;

/// What has to be decided is said at once, with what mends it.
#[tokio::test]
async fn what_cannot_be_partitioned_so_is_refused_by_name() {
    let shop = shop().await;
    make(&shop, "ours", 2_000, "CREATE UNIQUE INDEX orders_once ON orders (customer_id, id)").await;
    let month = ["--partition-by", "RANGE (created_at)", "--partition-every", "1 month"];
    let key = "DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id, created_at)";
    for (change, code, told) in [
        (&["--partition-by", "RANGE (created_at)"][..], 2, "--partition-every"),
        (
            &["--partition-by", "RANGE (lower(status))", "--partition-every", "1"],
            2,
            "not understood",
        ),
        (&["--partition-by", "RANGE (gone)", "--partition-every", "1"], 2, "\"gone\""),
        (&["--partition-by", "HASH (id)"], 2, "--partitions"),
        (&["--partition-by", "HASH (id)", "--partitions", "0"], 2, "--partitions"),
        (&["--rebuild", "--partition-every", "1 day"], 2, "--partition-by"),
        (&month, 2, "orders_pkey, orders_once"),
        (&month, 2, "PRIMARY KEY (id, created_at)"),
        (
            &[
                "--partition-by",
                "RANGE (created_at)",
                "--partition-every",
                "1 month 1 day",
                "--alter",
                key,
                "--alter",
                "ADD COLUMN x int",
            ],
            2,
            "orders_once",
        ),
    ] {
        let output = shop.run(TABLE, change).await.expect_code(code);
        assert!(output.stderr.contains(told), "{change:?}: {output}");
    }
    shop.exec("DROP INDEX ours.orders_once").await;
    for (span, told) in [
        ("1 month 1 day", "span of one kind"),
        ("-1 day", "span of one kind"),
        ("x", "not an interval"),
        ("1 second", "no more than 2000"),
    ] {
        let change =
            ["--partition-by", "RANGE (created_at)", "--partition-every", span, "--alter", key];
        let output = shop.run(TABLE, &change).await.expect_code(2);
        assert!(output.stderr.contains(told), "{span}: {output}");
    }
    let by_text = [
        "--partition-by",
        "RANGE (note)",
        "--partition-every",
        "1",
        "--alter",
        "DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id, note)",
        "--map",
        "note = coalesce(note, '')",
    ];
    let output = shop.run(TABLE, &by_text).await.expect_code(2);
    assert!(output.stderr.contains("of type text"), "{output}");
    let by_customer = [
        "--partition-by",
        "LIST (customer_id)",
        "--alter",
        "DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id, customer_id)",
    ];
    let output = shop.run(TABLE, &by_customer).await.expect_code(2);
    assert!(output.stderr.contains("more than 200 values"), "{output}");

    shop.exec(
        "CREATE TABLE ours.orders_p20240201 (); CREATE PUBLICATION feed FOR TABLE ours.orders",
    )
    .await;
    let ready: Vec<&str> = month.into_iter().chain(["--alter", key]).collect();
    let output = shop.run(TABLE, &ready).await.expect_code(3);
    assert!(output.stderr.contains("publish_via_partition_root"), "{output}");
    shop.exec("ALTER PUBLICATION feed SET (publish_via_partition_root = true)").await;
    let output = shop.run(TABLE, &ready).await.expect_code(3);
    assert!(output.stderr.contains("orders_p20240201"), "{output}");
    assert_eq!(shop.held_back().await, [""; 0]);
}
