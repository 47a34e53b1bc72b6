//! The source is a partitioned table: it becomes an ordinary one, is divided otherwise, or stays divided as it is. Under
//! live traffic whose updates move rows between partitions, killed once in the copy and resumed.

use pgwraith::demo::traffic::{Mix, Traffic};

use super::mover::Mover;
use super::same::same_partitions;
use super::{TABLE, divided, make};
use crate::definition::assert_same;
use crate::harness::{self, Background};
use crate::scene::{AT_ONCE, SOON, Shop, die_in_the_copy, shop};

/// One change of `orders` by quarter.
struct Case {
    rows: u64,
    /// What is done to it before.
    before: &'static str,
    change: &'static [&'static str],
    /// What makes `twin.orders` what the change makes of `ours.orders`, but for its rows.
    twin: Twin,
}

enum Twin {
    /// Of the ordinary table, by these statements.
    Ordinary(&'static str),
    /// Of one that is divided by quarter, by these.
    ByQuarter(&'static str),
    /// It is looked at otherwise.
    None,
}

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
        divided(&shop, "ours", self.rows, self.before).await;
        let mix = Mix { sessions: 3, rate: Some(300.0), ..Mix::default() };
        let mover = Mover::start(&shop).await;
        let traffic = Traffic::start(&shop.dsn, TABLE, mix).await.unwrap();

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
        // Nobody wrote since the old table was one.
        let differ = "SELECT count(*) FROM ((SELECT * FROM ours.orders EXCEPT ALL SELECT * FROM ours.orders_old)
                      UNION ALL (SELECT * FROM ours.orders_old EXCEPT ALL SELECT * FROM ours.orders)) d";
        assert_eq!(shop.value::<i64>(differ).await, 0, "{what}");
        assert_eq!(shop.held_back().await, [""; 0], "{what}");
        match self.twin {
            Twin::Ordinary(before) => {
                make(&shop, "twin", 0, before).await;
                same_definition(&shop, &what).await;
            }
            Twin::ByQuarter(before) => {
                divided(&shop, "twin", 0, before).await;
                same_partitions(&shop, "orders", &what).await;
            }
            Twin::None => {}
        }
        shop
    }
}

async fn same_definition(shop: &Shop, what: &str) {
    let ours = shop.definition(TABLE).await;
    let ours: Vec<String> = ours.into_iter().map(|line| line.replace("ours", "twin")).collect();
    assert_same(&ours, &shop.definition("twin.orders").await, what);
}

#[tokio::test]
async fn a_partitioned_table_becomes_an_ordinary_one() {
    let shop = Case {
        rows: 200_000,
        before: "",
        change: &["--partition-by", "none"],
        twin: Twin::Ordinary(
            "ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY (id, created_at);
             DROP INDEX orders_created_at_idx",
        ),
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
        rows: 200_000,
        before: "",
        change: &["--partition-by", "RANGE (created_at)", "--partition-every", "1 month"],
        twin: Twin::None,
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
    Case { rows: 200_000, before: "", change, twin: Twin::None }.holds().await;
}

#[tokio::test]
async fn a_partitioned_table_stays_divided_as_it_is() {
    Case {
        rows: 200_000,
        before: "ALTER TABLE orders_p20240101 SET (fillfactor = 70); COMMENT ON TABLE orders_p20240401 IS 'spring'",
        change: &["--alter", "ALTER COLUMN id TYPE bigint"],
        twin: Twin::ByQuarter(
            "ALTER TABLE orders ALTER COLUMN id TYPE bigint; ALTER TABLE orders_p20240101 SET (fillfactor = 70);
             COMMENT ON TABLE orders_p20240401 IS 'spring'",
        ),
    }
    .holds()
    .await;
}

/// One quarter is divided by hash, and one half of that by status.
#[tokio::test]
async fn a_table_of_several_levels_stays_divided_as_it_is() {
    let deep = "
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
    let shop = Case {
        rows: 30_000,
        before: deep,
        change: &[
            "--alter",
            "ALTER COLUMN amount TYPE numeric(14,2), ALTER COLUMN note TYPE varchar",
        ],
        twin: Twin::None,
    }
    .holds()
    .await;
    let plain =
        "ALTER TABLE orders ALTER COLUMN amount TYPE numeric(14,2), ALTER COLUMN note TYPE varchar";
    divided(&shop, "twin", 0, &format!("{deep}; {plain}")).await;
    same_partitions(&shop, "orders", "several levels").await;
}

/// PostgreSQL itself alters no column that rows are divided by.
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
