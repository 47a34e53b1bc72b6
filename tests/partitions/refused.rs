use super::{TABLE, make};
use crate::harness::{self, Background};
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

/// Under the lock each partition gets its part of each key.
#[tokio::test]
async fn what_keys_of_many_partitions_take_is_said() {
    let shop = shop().await;
    let keys = "CREATE TABLE c (id int PRIMARY KEY); INSERT INTO c SELECT DISTINCT customer_id FROM orders; \
                ALTER TABLE orders ADD CONSTRAINT of_c FOREIGN KEY (customer_id) REFERENCES c; \
                CREATE TABLE items (order_id int REFERENCES orders)";
    make(&shop, "ours", 500, keys).await;
    let hash = |partitions| ["--partition-by", "HASH (id)", "--partitions", partitions];
    let plan = async |partitions| {
        let change = hash(partitions);
        let arguments = [&["plan", TABLE, "-d", &shop.dsn][..], &change].concat();
        harness::run(arguments).await.expect_code(0)
    };
    let told = "foreign keys to take off 0 partitions and to put on";
    let (few, many) = (plan("20").await, plan("300").await);
    assert!(!few.stdout.contains(told), "{few}");
    assert!(many.stdout.contains(&format!("has 2 {told} 300")), "{many}");
    let more = ["--postpone-cutover", "--max-lock-hold", "20ms"];
    let mut run = Background::start(shop.arguments(TABLE, &[&hash("20")[..], &more].concat()));
    run.wait_for_saying(&format!("{told} 20")).await;
}

/// Of numbers of many digits a division is rounded.
#[tokio::test]
async fn the_ends_of_types_have_ranges_or_are_named() {
    let shop = shop().await;
    shop.exec(
        "CREATE SCHEMA ends; CREATE TABLE ends.least (n bigint PRIMARY KEY); INSERT INTO ends.least VALUES (-9223372036854775808), (-9223372036854775799);
         CREATE TABLE ends.most (n bigint PRIMARY KEY); INSERT INTO ends.most VALUES (9223372036854775807), (9223372036854775799);
         CREATE TABLE ends.late (at timestamptz PRIMARY KEY); INSERT INTO ends.late VALUES ('294276-12-31 12:00+00'), ('2024-01-01')",
    )
    .await;
    for table in ["ends.least", "ends.most"] {
        let change = [
            "--partition-by",
            "RANGE (n)",
            "--partition-every",
            "50",
            "--partition-default",
            "off",
        ];
        shop.run(table, &change).await.expect_code(0);
        assert_eq!(shop.value::<i64>(&format!("SELECT count(*) FROM {table}")).await, 2, "{table}");
    }
    let change = ["--partition-by", "RANGE (at)", "--partition-every", "1000 years"];
    let output = shop.run("ends.late", &change).await.expect_code(4);
    assert!(output.stderr.contains("near the end of what a timestamp"), "{output}");
}
