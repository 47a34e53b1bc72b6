//! What expressions give: values as an UPDATE would take them, and keys that stay apart.

use crate::harness;
use crate::scene::{Shop, shop};
use crate::twins::twins;

const ROWS: &str = "CREATE TYPE {s}.colour AS ENUM ('red', 'blue'); \
    CREATE TABLE {s}.t (id int PRIMARY KEY, x int, j jsonb, e {s}.colour, d date, s varchar(3)); \
    INSERT INTO {s}.t SELECT n, n, '{\"a\": 1}', 'blue', '2020-01-01', n % 100 FROM generate_series(1, 300) n";

async fn run(shop: &Shop, change: &[&str]) -> harness::Output {
    shop.run("ours.t", change).await
}

#[tokio::test]
async fn values_are_what_an_update_would_take() {
    let shop = shop().await;
    shop.exec("CREATE SCHEMA ours; CREATE SCHEMA twin").await;
    twins(&shop, ROWS).await;
    let maps = [
        "x = NULL",
        "j = '{}'",
        "e = 'red'",
        "d = '2024-01-01'",
        "s = CASE WHEN x > 5 THEN 'a' ELSE 'b' END",
    ];
    let change: Vec<&str> = maps.iter().flat_map(|map| ["--map", map]).collect();
    run(&shop, &change).await.expect_code(0);
    shop.exec(&format!("UPDATE twin.t SET {}", maps.join(", "))).await;
    let differ = "SELECT count(*) FROM (SELECT id, x, j, e::text, d, s FROM ours.t EXCEPT SELECT id, x, j, e::text, d, s FROM twin.t) q";
    assert_eq!(shop.value::<i64>(differ).await, 0);
    shop.exec("DROP TABLE ours.t_old").await;
    let using = "ALTER COLUMN s TYPE text USING CASE s WHEN 'a' THEN 'first' ELSE s || '!' END";
    run(&shop, &["--alter", using]).await.expect_code(0);
    shop.exec(&format!("ALTER TABLE twin.t {using}")).await;
    assert_eq!(shop.value::<i64>(differ).await, 0);
    shop.exec("DROP TABLE ours.t_old").await;
    let long = run(&shop, &["--map", "s = 'x'", "--map", "d = 'no date'"]).await.expect_code(2);
    assert!(long.stderr.contains("no date"), "{long}");
}

/// Two keys that become one would be written over, or go with each other.
#[tokio::test]
async fn keys_that_may_become_one_are_refused() {
    let shop = shop().await;
    shop.exec(
        "CREATE SCHEMA ours; CREATE COLLATION public.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
         CREATE TABLE ours.t (code text, at timestamptz, v int, PRIMARY KEY (code, at)); \
         INSERT INTO ours.t SELECT 'ABC' || n, now(), n FROM generate_series(1, 100) n",
    )
    .await;
    for change in [
        &["--map", "code = lower(code)"][..],
        &["--alter", "ALTER COLUMN code TYPE text USING lower(code)"],
        &["--alter", "ALTER COLUMN code TYPE varchar(8)"],
        &["--alter", "ALTER COLUMN code TYPE text COLLATE public.nocase"],
        &["--alter", "ALTER COLUMN at TYPE timestamptz(0)"],
        &["--alter", "ALTER COLUMN at TYPE date USING at::date"],
    ] {
        let output = run(&shop, change).await.expect_code(2);
        assert!(output.stderr.contains("may be the same for two keys"), "{change:?}: {output}");
        assert!(harness::leftovers(&shop.client).await.is_empty(), "{change:?}");
    }
    // The way that is told instead.
    let instead = [
        "--alter",
        "ADD COLUMN low text NOT NULL DEFAULT '', DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (low, at)",
        "--map",
        "low = lower(code)",
    ];
    run(&shop, &instead).await.expect_code(0);
    let low = "SELECT count(*) FROM ours.t WHERE low = lower(code)";
    assert_eq!(shop.value::<i64>(low).await, 100);
}

/// Where keys come in another order, a part of the old one is none of the new one, however little time there is.
#[tokio::test]
async fn a_key_in_another_order_is_compared_while_time_is_scarce() {
    let shop = shop().await;
    shop.exec("CREATE SCHEMA ours; CREATE TABLE ours.t (id int PRIMARY KEY, v int); INSERT INTO ours.t SELECT n, n FROM generate_series(1, 10000) n").await;
    let change = ["--alter", "ALTER COLUMN id TYPE text", "--max-wal-rate", "300kB"];
    let output = run(&shop, &change).await.expect_code(0);
    assert_eq!(output.json()["verify"]["mismatches"], 0, "{output}");
}
