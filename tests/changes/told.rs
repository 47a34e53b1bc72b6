//! What is refused, told and agreed to; and what needs no large table.

use super::{TABLE, make};
use crate::harness;
use crate::scene::shop;
use crate::twins;

/// `*` gives them in the new order; the views made of it before give theirs.
#[tokio::test]
async fn columns_take_another_order() {
    let shop = shop().await;
    make(&shop, "ours", 2_000, "CREATE VIEW seen AS SELECT * FROM t").await;
    for (bad, why) in [("id, nothing", "will not have"), ("id, id", "twice"), ("id,", "no list")] {
        let output = shop.run(TABLE, &["--column-order", bad]).await.expect_code(2);
        assert!(output.stderr.contains(why), "{output}");
    }
    let change =
        ["--column-order", "status, \"created_at\"", "--alter", "ADD COLUMN at int DEFAULT 7"];
    shop.run(TABLE, &change).await.expect_code(0);
    let order = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = '{t}'::regclass AND attnum > 0";
    let of = async |table: &str| shop.value::<String>(&order.replace("{t}", table)).await;
    assert_eq!(of(TABLE).await, "status created_at id customer_id amount note at");
    assert_eq!(of("ours.seen").await, "id customer_id status amount note created_at");
    let differ = "SELECT count(*) FROM (SELECT *, 7 FROM ours.seen EXCEPT ALL
        SELECT id, customer_id, status, amount, note, created_at, 7 FROM ours.t_old) d";
    assert_eq!(shop.value::<i64>(differ).await, 0);
}

#[tokio::test]
async fn what_would_be_left_behind_is_told_and_agreed_to() {
    let shop = shop().await;
    make(&shop, "ours", 20_000, "").await;
    let keep = ["--where", "status <> 'paid'"];
    let output = shop.run(TABLE, &keep).await.expect_code(2);
    let go: i64 = shop.value("SELECT count(*) FROM ours.t WHERE status = 'paid'").await;
    let told = format!("leaves {} of 20 000 rows, as they are now, of ours.t behind", spaced(go));
    assert!(output.stderr.contains(&told) && output.stderr.contains("--yes"), "{told}: {output}");
    let given = ["plan", TABLE, "-d", &shop.dsn, keep[0], keep[1]];
    let planned = harness::run(given).await.expect_code(0);
    assert!(planned.stdout.contains(&spaced(go)), "{go}: {planned}");
    // What has no answer for a row is estimated.
    let output = shop.run(TABLE, &["--where", "1 / (id - 7) = 0"]).await.expect_code(2);
    assert!(output.stderr.contains("of about 20 000 rows (as the server estimates"), "{output}");
    for (condition, why) in [
        ("status", "type boolean"),
        ("random() < 0.5", "volatile"),
        ("created_at > now()", "another moment"),
        ("age(created_at) > interval '1 year'", "another moment"),
        ("id IN (SELECT 1)", "reads other rows"),
        (
            "nothing = 1",
            "the expression \"nothing = 1\" is not valid: column \"nothing\" does not exist",
        ),
        ("id > 5) OR (true", "closes a \")\" that it has not opened"),
        ("id > (5", "no \")\" at its end"),
        ("true; DROP TABLE ours.t", "not valid"),
    ] {
        let output = shop.run(TABLE, &["--where", condition, "--yes"]).await.expect_code(2);
        assert!(output.stderr.contains(why), "{condition}: {output}");
    }
    shop.exec("CREATE TABLE child (parent int REFERENCES ours.t)").await;
    let output = shop.run(TABLE, &["--where", "id > 5", "--yes"]).await.expect_code(3);
    assert!(output.stderr.contains("child_parent_fkey"), "{output}");
    assert_eq!(shop.held_back().await, [""; 0]);
}

/// As numbers of rows are told.
fn spaced(rows: i64) -> String {
    assert!((1_000..1_000_000).contains(&rows), "{rows}");
    format!("{} {:03}", rows / 1000, rows % 1000)
}

/// A range is so many keys of the table, however few of them are wanted: it would go through all of it otherwise.
#[tokio::test]
async fn where_next_to_nothing_is_kept_ranges_are_no_larger() {
    let shop = shop().await;
    make(&shop, "ours", 40_000, "").await;
    let change = ["--where", "id % 20000 = 7", "--yes", "--chunk-rows", "500"];
    let output = shop.run(TABLE, &change).await.expect_code(0);
    assert_eq!(
        shop.value::<Vec<i32>>("SELECT array_agg(id ORDER BY id) FROM ours.t").await,
        [7, 20_007]
    );
    let result = output.json();
    // Each may be twice as large as the one before it.
    assert!(result["chunks"].as_i64().unwrap() >= 6, "{output}");
    assert!(result["verify"]["ranges"].as_i64().unwrap() >= 3, "{output}");
}

/// Not of moments that the new table mixes: of the data.
#[tokio::test]
async fn what_violates_the_new_key_is_told() {
    let shop = shop().await;
    make(&shop, "ours", 2_000, "UPDATE t SET customer_id = 7 WHERE id IN (500, 1500)").await;
    let change = ["--alter", "DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (customer_id)"];
    let output = shop.run(TABLE, &change).await.expect_code(4);
    assert!(output.stderr.contains("violates the unique index or constraint t_pkey"), "{output}");
    assert!(output.stderr.contains("keys 500; 1500"), "{output}");
    // What it was found by goes with the shadow.
    harness::run(["abort", TABLE, "-d", &shop.dsn]).await.expect_code(0);
    let ours = "SELECT count(*) FROM pg_class WHERE relname LIKE '%pgwraith_key%'";
    assert_eq!(shop.value::<i64>(ours).await, 0);
}

/// As by a plain ALTER TABLE: a domain's default is that of a column that has none.
#[tokio::test]
async fn a_new_column_of_a_domain_has_its_default() {
    let shop = shop().await;
    shop.exec(
        "CREATE DOMAIN seven AS int DEFAULT 7; CREATE DOMAIN as_seven AS seven; \
         CREATE DOMAIN bare AS int; CREATE DOMAIN other AS seven DEFAULT 8 CHECK (VALUE > 0)",
    )
    .await;
    let rows = "CREATE SCHEMA {s}; CREATE TABLE {s}.t (id int PRIMARY KEY); \
                INSERT INTO {s}.t SELECT generate_series(1, 100)";
    twins::twins(&shop, rows).await;
    let clauses = [
        "ADD COLUMN a as_seven, ADD COLUMN b bare",
        "ADD COLUMN c other, ADD COLUMN d seven DEFAULT 9",
    ];
    twins::alter_alike(&shop, &clauses).await;
}

/// Of a partitioned table the clone is made anew, and numbers its columns without gaps and in the new order.
#[tokio::test]
async fn partitions_go_together_with_columns_that_go_or_move() {
    let shop = shop().await;
    let change: [&[&str]; 2] =
        [&["--alter", "DROP COLUMN gone"], &["--column-order", "created_at, v"]];
    for (n, more) in change.into_iter().enumerate() {
        let table = format!("t{n}");
        shop.exec(&format!(
            "CREATE TABLE {table} (gone text, id int PRIMARY KEY, created_at timestamptz NOT NULL, v text); \
             INSERT INTO {table} SELECT 'x', i, timestamptz '2026-01-01' + i * interval '1 hour', 'v' || i \
             FROM generate_series(1, 2000) i"
        ))
        .await;
        let key = format!("DROP CONSTRAINT {table}_pkey, ADD PRIMARY KEY (created_at, id)");
        let fixed = [
            "--partition-by",
            "RANGE (created_at)",
            "--partition-every",
            "1 month",
            "--alter",
            &key,
        ];
        let all: Vec<&str> = fixed.iter().chain(more).copied().collect();
        shop.run(&table, &all).await.expect_code(0);
        let differ = format!(
            "SELECT count(*) FROM (SELECT id, created_at, v FROM {table} EXCEPT ALL \
             SELECT id, created_at, v FROM {table}_old) d"
        );
        assert_eq!(shop.value::<i64>(&differ).await, 0);
        assert_eq!(shop.value::<i64>(&format!("SELECT count(*) FROM {table}")).await, 2000);
    }
    // The first range may begin below what the type has.
    shop.exec(
        "CREATE TABLE small (id int2 PRIMARY KEY); INSERT INTO small VALUES (-32768), (0), (32767)",
    )
    .await;
    let ranges = ["--partition-by", "RANGE (id)", "--partition-every", "10000"];
    shop.run("small", &ranges).await.expect_code(0);
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM small").await, 3);
}
