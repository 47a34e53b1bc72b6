//! The source is a partitioned table: it becomes an ordinary one, is divided otherwise, or stays divided as it is. Under
//! live traffic whose updates move rows between partitions, killed once in the copy and resumed.

use pgwraith::demo::traffic::Traffic;

use super::mover::Mover;
use super::same::{same_partitions, same_rows};
use super::{BY_QUARTER, TABLE, make, twin};
use crate::harness::{self, Background};
use crate::scene::{AT_ONCE, SOON, Shop, die_in_the_copy, many_rows, mix, shop};

/// One change of a table that `made` makes of `orders`.
struct Case {
    made: &'static [&'static str],
    change: &'static [&'static str],
    twin: Twin,
}

/// What makes `twin.orders` what the change makes of `ours.orders`, but for its rows.
enum Twin {
    /// These statements, of `orders`.
    Made(&'static [&'static str]),
    /// Divided by this; and what would follow ALTER TABLE.
    DividedBy(&'static str, &'static str),
}

/// What `orders` has by quarter, without partitions.
const SAME: &str = "ALTER COLUMN amount SET NOT NULL";
const ORDINARY: &str = "ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY (id, created_at);
    DROP INDEX orders_created_at_idx";

impl Case {
    fn arguments(&self, shop: &Shop, command: &str) -> Vec<String> {
        let mut all: Vec<&str> = vec![command, TABLE, "-d", &shop.dsn, "--json"];
        if command == "run" {
            all.extend(["--postpone-cutover", "--chunk-rows", "2000", "--chunk-time", "200ms"]);
            all.extend(AT_ONCE);
            all.extend(self.change);
        }
        all.into_iter().map(str::to_owned).collect()
    }

    async fn holds(&self) -> Shop {
        let what = format!("{:?}", self.change);
        let shop = shop().await;
        make(&shop, "ours", many_rows(), &self.made.join("; ")).await;
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
        assert_eq!(output.json()["verify"]["mismatches"], 0, "{what}: {output}");
        let oracle = report.verify(&shop.client, TABLE).await.unwrap();
        assert!(oracle.is_ok(), "{what}: {oracle:?}");
        assert_eq!(shop.held_back().await, [""; 0], "{what}");
        // Nobody wrote since the old table was one.
        match self.twin {
            Twin::Made(statements) => {
                make(&shop, "twin", 0, &statements.join("; ")).await;
                twin::fill(&shop).await;
            }
            Twin::DividedBy(by, alter) => twin::divide_anew(&shop, ORDINARY, alter, by).await,
        }
        same_partitions(&shop, "orders", &what).await;
        same_rows(&shop, "orders", &what).await;
        shop
    }
}

#[tokio::test]
async fn a_partitioned_table_becomes_an_ordinary_one() {
    let shop = Case {
        made: &[BY_QUARTER],
        change: &["--partition-by", "none"],
        twin: Twin::Made(&[ORDINARY]),
    }
    .holds()
    .await;
    // Neither the old table nor a partition of it takes a write.
    for table in ["orders_old", "orders_p20240101"] {
        let write =
            format!("UPDATE ours.{table} SET note = 'late' WHERE created_at < '2024-02-01'");
        assert!(shop.client.execute(&write, &[]).await.is_err(), "{table}");
    }
}

/// Some partitions of the new table have the names of old ones in the end.
#[tokio::test]
async fn a_partitioned_table_is_divided_otherwise() {
    let case = Case {
        made: &[BY_QUARTER],
        change: &["--partition-by", "RANGE (created_at)", "--partition-every", "1 month"],
        twin: Twin::DividedBy("RANGE (created_at)", SAME),
    };
    let shop = case.holds().await;
    let bound = "SELECT pg_get_expr(relpartbound, oid) LIKE '%2024-01-01%2024-02-01%' FROM pg_class
                 WHERE oid = 'ours.orders_p20240101'::regclass";
    assert!(shop.value::<bool>(bound).await);
    let part =
        "SELECT i.inhparent::regclass::text FROM pg_inherits i WHERE i.inhrelid = to_regclass($1)";
    for (name, parent) in [
        ("ours.orders_p20240101_old", "ours.orders_old"),
        ("ours.orders_p20240201", "ours.orders"),
        ("ours.orders_p20240401_pkey", "ours.orders_pkey"),
        ("ours.orders_p20240401_pkey_old", "ours.orders_pkey_old"),
    ] {
        let row = shop.client.query_one(part, &[&name]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), parent, "{name}");
    }
}

#[tokio::test]
async fn a_partitioned_table_is_divided_by_hash() {
    let change = &["--partition-by", "HASH (id)", "--partitions", "3"];
    Case { made: &[BY_QUARTER], change, twin: Twin::DividedBy("HASH (id)", SAME) }.holds().await;
}

#[tokio::test]
async fn a_partitioned_table_is_divided_by_list() {
    const KEY: &str =
        "DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY (status, id)";
    let change = &["--alter", KEY, "--partition-by", "LIST (status)"];
    Case { made: &[BY_QUARTER], change, twin: Twin::DividedBy("LIST (status)", KEY) }.holds().await;
}

#[tokio::test]
async fn a_partitioned_table_stays_divided_as_it_is() {
    const OWN: &str = "ALTER TABLE orders_p20240101 SET (fillfactor = 70); COMMENT ON TABLE orders_p20240401 IS 'spring'";
    Case {
        made: &[BY_QUARTER, OWN],
        change: &["--alter", "ALTER COLUMN id TYPE bigint"],
        twin: Twin::Made(&[BY_QUARTER, OWN, "ALTER TABLE orders ALTER COLUMN id TYPE bigint"]),
    }
    .holds()
    .await;
}

/// One quarter is divided by hash, and one half of that by status.
#[tokio::test]
async fn a_table_of_several_levels_stays_divided_as_it_is() {
    const DEEP: &str = "
        CREATE TEMP TABLE spring AS SELECT * FROM orders_p20240401; DROP TABLE orders_p20240401;
        ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY (id, created_at, status);
        CREATE TABLE orders_p20240401 PARTITION OF orders
          FOR VALUES FROM ('2024-04-01 00:00:00+00') TO ('2024-07-01 00:00:00+00') PARTITION BY HASH (id);
        CREATE TABLE orders_p20240401_0 PARTITION OF orders_p20240401 FOR VALUES WITH (MODULUS 2, REMAINDER 0)
          PARTITION BY LIST (status);
        CREATE TABLE orders_p20240401_0_new PARTITION OF orders_p20240401_0 FOR VALUES IN ('new') WITH (fillfactor = 60);
        CREATE TABLE orders_p20240401_0_rest PARTITION OF orders_p20240401_0 DEFAULT;
        CREATE TABLE orders_p20240401_1 PARTITION OF orders_p20240401 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        COMMENT ON TABLE orders_p20240401 IS 'spring'; COMMENT ON TABLE orders_p20240401_1 IS 'odd';
        INSERT INTO orders SELECT * FROM spring; DROP TABLE spring";
    const ALTER: &str = "ALTER COLUMN amount TYPE numeric(14,2), ALTER COLUMN note TYPE varchar";
    const PLAIN: &str =
        "ALTER TABLE orders ALTER COLUMN amount TYPE numeric(14,2), ALTER COLUMN note TYPE varchar";
    Case {
        made: &[BY_QUARTER, DEEP],
        change: &["--alter", ALTER],
        twin: Twin::Made(&[BY_QUARTER, DEEP, PLAIN]),
    }
    .holds()
    .await;
}

/// PostgreSQL itself alters no column that rows are divided by: the twin is divided when it is wider.
#[tokio::test]
async fn what_a_large_table_is_divided_by_becomes_wider() {
    const BY_NUMBER: &str = "
        ALTER TABLE orders RENAME TO plain; ALTER SEQUENCE orders_id_seq RENAME TO plain_id_seq;
        CREATE TABLE orders (LIKE plain INCLUDING DEFAULTS) PARTITION BY RANGE (id);
        ALTER TABLE orders ALTER id ADD GENERATED BY DEFAULT AS IDENTITY;
        CREATE TABLE orders_gone PARTITION OF orders FOR VALUES FROM (MINVALUE) TO (-1000000);
        CREATE TABLE orders_low PARTITION OF orders FOR VALUES FROM (-1000000) TO (10000);
        CREATE TABLE orders_high PARTITION OF orders FOR VALUES FROM (10000) TO (1000000000);
        CREATE TABLE orders_rest PARTITION OF orders DEFAULT;
        INSERT INTO orders OVERRIDING SYSTEM VALUE SELECT * FROM plain; DROP TABLE plain;
        SELECT setval('orders_id_seq', (SELECT max(id) FROM orders));
        ALTER TABLE orders ADD CONSTRAINT orders_pkey PRIMARY KEY (id);
        CREATE INDEX orders_customer_id_idx ON orders (customer_id)";
    let shop = Case {
        made: &[BY_NUMBER],
        change: &["--alter", "ALTER COLUMN id TYPE bigint"],
        twin: Twin::Made(&["ALTER TABLE orders ALTER COLUMN id TYPE bigint", BY_NUMBER]),
    }
    .holds()
    .await;
    // Rows went to each of them.
    let rows = "SELECT count(DISTINCT tableoid) FROM ours.orders";
    assert_eq!(shop.value::<i64>(rows).await, 4);
}

/// By another name too.
#[tokio::test]
async fn what_rows_are_divided_by_becomes_wider() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE n (at date, id int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE n_low PARTITION OF n FOR VALUES FROM (MINVALUE) TO (1000);
         CREATE TABLE n_high PARTITION OF n FOR VALUES FROM (1000) TO (2147483647);
         INSERT INTO n SELECT date '2026-01-01', n FROM generate_series(1, 3000) n",
    )
    .await;
    let change =
        ["--alter", "ALTER COLUMN id TYPE bigint", "--alter", "RENAME COLUMN id TO number"];
    shop.run("n", &change).await.expect_code(0);
    let low = "SELECT count(*) = 999 AND max(number) = 999 AND max(pg_typeof(number)::text) = 'bigint' FROM n_low";
    assert!(shop.value::<bool>(low).await);
    let key = "SELECT pg_get_partkeydef('n'::regclass) || pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = 'n_high'::regclass";
    assert_eq!(
        shop.value::<String>(key).await,
        "RANGE (number)FOR VALUES FROM ('1000') TO ('2147483647')"
    );
}
