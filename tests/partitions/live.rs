//! Under live traffic whose updates move rows between partitions and change keys, killed once in the copy and
//! resumed: it is what plain statements make of the same rows.

use pgwraith::demo::traffic::Traffic;

use super::mover::Mover;
use super::same::{same_partitions, same_rows};
use super::{TABLE, make, twin};
use crate::harness::{self, Background};
use crate::scene::{AT_ONCE, LARGER, SOON, Shop, die_in_the_copy, many_rows, mix, shop};

const KEY_WITH_TIME: &str =
    "DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY (id, created_at)";
const KEY_WITH_STATUS: &str =
    "DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY (status, id)";

/// One way to partition.
struct Case {
    /// What is done to a table like `orders` before.
    before: &'static str,
    change: &'static [&'static str],
    /// What would follow ALTER TABLE, as in `change`.
    alter: &'static str,
    /// What follows CREATE TABLE by plain statements.
    by: &'static str,
}

impl Case {
    fn arguments(&self, shop: &Shop, command: &str) -> Vec<String> {
        let mut all: Vec<&str> = vec![command, TABLE, "-d", &shop.dsn, "--json"];
        if command == "run" {
            all.extend(["--postpone-cutover", "--chunk-rows", "1000", "--chunk-time", "20ms"]);
            all.extend(AT_ONCE);
            all.extend(self.change);
        }
        if command == "resume" {
            all.extend(LARGER);
        }
        all.into_iter().map(str::to_owned).collect()
    }

    async fn holds(&self) -> Shop {
        let what = format!("{:?}", self.change);
        let shop = shop().await;
        make(&shop, "ours", many_rows(), self.before).await;
        let mover = Mover::start(&shop).await;
        let traffic = Traffic::start(&shop.dsn, TABLE, mix()).await.unwrap();

        die_in_the_copy(&shop, self.arguments(&shop, "run")).await;
        let mut run = Background::start(self.arguments(&shop, "resume"));
        run.wait_for_saying("postponed until `pgwraith cutover`").await;
        let moved = mover.stop().await;
        assert!(moved > 10, "{what}: only {moved} rows were moved");
        let report = traffic.stop().await.unwrap();
        assert_eq!((report.error_count, report.anomaly_count), (0, 0), "{what}: {report:?}");

        harness::run(["cutover", TABLE, "-d", &shop.dsn]).await.expect_code(0);
        let output = run.finish(SOON).await.expect_code(0);
        let verify = &output.json()["verify"];
        assert_eq!(verify["mismatches"], 0, "{what}: {output}");
        twin::divide_anew(&shop, self.before, self.alter, self.by).await;
        same_partitions(&shop, "orders", &what).await;
        same_rows(&shop, "orders", &what).await;
        let oracle = report.verify(&shop.client, TABLE).await.unwrap();
        assert!(oracle.is_ok(), "{what}: {oracle:?}");
        let compared: i64 = verify["partitions"]
            .as_object()
            .map(|all| all.values().filter_map(|one| one["rows"].as_i64()).sum())
            .unwrap_or(0);
        assert_eq!(verify["rows"].as_i64(), Some(compared), "{what}: {output}");
        assert_eq!(shop.held_back().await, [""; 0], "{what}");
        let helpers = "SELECT count(*) FROM pg_class WHERE relname LIKE '%pgwraith_key%'";
        assert_eq!(shop.value::<i64>(helpers).await, 0, "{what}");
        shop
    }
}

/// Rows that come for a month that has no partition yet are in the default partition.
#[tokio::test]
async fn a_table_becomes_partitioned_by_month() {
    let shop = Case {
        before: "",
        change: &[
            "--alter",
            KEY_WITH_TIME,
            "--partition-by",
            "RANGE (created_at)",
            "--partition-every",
            "1 month",
            "--partition-premake",
            "2",
        ],
        alter: KEY_WITH_TIME,
        by: "RANGE (created_at)",
    }
    .holds()
    .await;
    let bounds = "SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_class c WHERE c.oid = 'ours.orders_p20240201'::regclass";
    let bound = shop.value::<String>(bounds).await;
    assert!(
        bound.starts_with("FOR VALUES FROM ('2024-02-01 00:00:00")
            && bound.contains("TO ('2024-03-01"),
        "{bound}"
    );
}

async fn is_made_in_place_of_a_default(shop: &Shop, partition: &str) {
    let made = "SELECT to_regclass('ours.{partition}') IS NOT NULL AND to_regclass('ours.orders_default') IS NULL";
    assert!(shop.value::<bool>(&made.replace("{partition}", partition)).await);
}

/// Without a default partition those that are missing are made, as they would have been at first.
#[tokio::test]
async fn months_that_are_missing_are_made() {
    let shop = Case {
        before: "",
        change: &[
            "--alter",
            KEY_WITH_TIME,
            "--partition-by",
            "RANGE (created_at)",
            "--partition-every",
            "1 month",
            "--partition-premake",
            "0",
            "--partition-default",
            "off",
        ],
        alter: KEY_WITH_TIME,
        by: "RANGE (created_at)",
    }
    .holds()
    .await;
    // The mover takes rows to before the first month that there was at first.
    is_made_in_place_of_a_default(&shop, "orders_p20231201").await;
}

/// What the mover writes first is no value of the rows as they are.
#[tokio::test]
async fn values_that_are_missing_get_a_partition() {
    let shop = Case {
        before: "",
        change: &[
            "--alter",
            KEY_WITH_STATUS,
            "--partition-by",
            "LIST (status)",
            "--partition-default",
            "off",
        ],
        alter: KEY_WITH_STATUS,
        by: "LIST (status)",
    }
    .holds()
    .await;
    is_made_in_place_of_a_default(&shop, "orders_moved").await;
}

#[tokio::test]
async fn a_table_becomes_partitioned_by_hash() {
    Case {
        before: "CREATE UNIQUE INDEX orders_id_note_idx ON orders (id, note) WITH (fillfactor = 70)",
        change: &["--partition-by", "HASH (id)", "--partitions", "5"],
        alter: "ALTER COLUMN amount SET NOT NULL",
        by: "HASH (id)",
    }
    .holds()
    .await;
}

/// Rows that get another key get another partition with it.
#[tokio::test]
async fn a_table_becomes_partitioned_by_its_number() {
    Case {
        before: "",
        change: &["--partition-by", "RANGE (id)", "--partition-every", "100000000"],
        alter: "ALTER COLUMN amount SET NOT NULL",
        by: "RANGE (id)",
    }
    .holds()
    .await;
}

/// No index begins with the key's column: there is one of ours until the swap.
#[tokio::test]
async fn a_table_becomes_partitioned_by_list() {
    Case {
        before: "",
        change: &["--alter", KEY_WITH_STATUS, "--partition-by", "LIST (status)"],
        alter: KEY_WITH_STATUS,
        by: "LIST (status)",
    }
    .holds()
    .await;
}
