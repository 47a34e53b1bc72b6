//! Recipes under live traffic whose sessions also change keys, each killed and gone on with: the table is what a plain
//! ALTER TABLE makes of the same rows, no acknowledged write is missing, and nobody waited longer than for a lock.

use std::time::Duration;

use pgwraith::demo::traffic::{Report, Traffic};

use crate::changes::make;
use crate::harness::{self, ANY_WAY, Output};
use crate::partitions::mover::Mover;
use crate::partitions::{self, same};
use crate::scene::{LARGER, SOON, Shop, dies_at, many_rows, mix, shop};
use crate::twins;

/// By lock_timeout and max_lock_hold nobody waits longer than 750 ms; other tests have the same two cores.
const STALL: Duration = Duration::from_millis(1500);
const OLD: &str = "id, customer_id, status, amount, note, created_at";

struct Case {
    table: &'static str,
    /// What is done to a table like `orders` before.
    before: &'static str,
    alter: &'static str,
    /// Columns whose values the server gives, each row its own.
    given: &'static [&'static str],
    /// Where it dies, one run after the other.
    deaths: &'static [(&'static str, u32)],
    /// What the last one may do.
    phases: &'static [&'static str],
}

impl Case {
    /// It was altered while it was in use.
    async fn goes_on(&self, shop: &Shop) -> (Report, Output) {
        let table = format!("ours.{}", self.table);
        let traffic = Traffic::start(&shop.dsn, &table, mix()).await.unwrap();
        let change = ["--in-place", "--alter", self.alter, ANY_WAY];
        let mut arguments = shop.arguments(&table, &change);
        arguments.extend(["--chunk-rows", "200", "--chunk-time", "10ms"].map(str::to_owned));
        for (point, nth) in self.deaths {
            dies_at(point, *nth, arguments).await;
            let undone = "SELECT EXISTS (SELECT 1 FROM pgwraith.step WHERE done_at IS NULL)";
            assert!(shop.value::<bool>(undone).await, "{point}");
            let again = ["resume", &table, "-d", &shop.dsn, "--json", "--take-over"];
            arguments = again.iter().chain(&LARGER).map(|s| (*s).to_owned()).collect();
        }
        let output = harness::run_within(SOON, arguments).await.expect_code(0);
        (traffic.stop().await.unwrap(), output)
    }

    /// Nobody waited for long, and nothing got lost.
    async fn is_in_order(&self, shop: &Shop, report: &Report, output: &Output) {
        let what = self.alter;
        assert_eq!((report.error_count, report.anomaly_count), (0, 0), "{what}: {report:?}");
        assert!(report.moves > 50, "{what}: {report:?}");
        let stall = report.longest_stall;
        assert!(stall.duration < STALL, "{what}: {stall:?}\n{output}");
        let json = output.json();
        let way = if what.starts_with("VALIDATE") { "online" } else { "careful" };
        assert_eq!((&json["way"], &json["outcome"]), (&way.into(), &"altered".into()));
        let mut phases = json["phases"].as_object().unwrap().keys();
        assert!(phases.all(|phase| self.phases.contains(&phase.as_str())), "{output}");
        let undone = "SELECT count(*) FROM pgwraith.step WHERE done_at IS NULL";
        assert_eq!(shop.value::<i64>(undone).await, 0, "{what}");
        let oracle = report.verify(&shop.client, &format!("ours.{}", self.table)).await.unwrap();
        assert!(oracle.is_ok(), "{what}: {oracle:?}");
        assert_eq!(shop.held_back().await, [""; 0], "{what}");
    }

    /// The same rows, altered as one does offline.
    async fn alter_the_twin(&self, shop: &Shop) {
        let table = self.table;
        shop.exec(&format!(
            "INSERT INTO twin.{table} ({OLD}) OVERRIDING SYSTEM VALUE SELECT {OLD} FROM ours.{table}; \
             ALTER TABLE twin.{table} {}",
            self.alter
        ))
        .await;
    }

    async fn same_rows(&self, shop: &Shop) {
        let (what, table) = (self.alter, self.table);
        let columns: String = shop
            .value(&format!(
                "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute WHERE attrelid = 'twin.{table}'::regclass \
                 AND attnum > 0 AND attname <> ALL ('{{{}}}')",
                self.given.join(",")
            ))
            .await;
        // In the same partitions.
        let rows = |schema: &str| {
            format!(
                "SELECT (SELECT relname FROM pg_class c WHERE c.oid = r.tableoid), {columns} FROM {schema}.{table} r"
            )
        };
        let (ours, twin) = (rows("ours"), rows("twin"));
        let differ = format!(
            "SELECT count(*) FROM (({ours} EXCEPT ALL {twin}) UNION ALL ({twin} EXCEPT ALL {ours})) d"
        );
        assert_eq!(shop.value::<i64>(&differ).await, 0, "{what}");
        for column in self.given {
            let alike = format!("SELECT count(*) - count(DISTINCT {column}) FROM ours.{table}");
            assert_eq!(shop.value::<i64>(&alike).await, 0, "{what}: {column}");
        }
    }

    async fn holds(&self) {
        let shop = shop().await;
        make(&shop, "ours", many_rows(), self.before).await;
        make(&shop, "twin", 0, self.before).await;
        let (report, output) = self.goes_on(&shop).await;
        self.is_in_order(&shop, &report, &output).await;
        self.alter_the_twin(&shop).await;
        twins::same_definition(&shop, self.alter).await;
        self.same_rows(&shop).await;
    }
}

#[tokio::test]
async fn rows_are_filled_under_live_traffic() {
    Case {
        table: "t",
        before: "",
        alter: "ADD COLUMN token uuid DEFAULT gen_random_uuid(), ADD COLUMN other uuid NOT NULL DEFAULT gen_random_uuid(), \
            ADD COLUMN n int NOT NULL DEFAULT 5 CHECK (n > 0), ALTER COLUMN status SET DEFAULT 'new'",
        given: &["token", "other"],
        deaths: &[("fill committed", 4)],
        phases: &["alter", "fill", "vacuum", "validate"],
    }
    .holds()
    .await;
}

#[tokio::test]
async fn constraints_and_indexes_are_added_under_live_traffic() {
    Case {
        table: "t",
        before: "CREATE TABLE IF NOT EXISTS public.customers (id int PRIMARY KEY);
            INSERT INTO public.customers SELECT generate_series(0, 100000) ON CONFLICT DO NOTHING;
            ALTER TABLE t DROP CONSTRAINT orders_pkey, ALTER COLUMN amount DROP NOT NULL, ALTER COLUMN customer_id DROP NOT NULL;
            CREATE UNIQUE INDEX orders_id_idx ON t (id);
            ALTER TABLE t ADD COLUMN other uuid DEFAULT gen_random_uuid()",
        alter: "ALTER COLUMN amount SET NOT NULL, ADD CONSTRAINT enough CHECK (amount > -100000000), \
            ADD FOREIGN KEY (customer_id) REFERENCES public.customers, ADD UNIQUE (other), \
            ADD PRIMARY KEY (customer_id, id)",
        given: &["other"],
        deaths: &[("index made", 1), ("step read", 1)],
        phases: &["alter", "index", "validate"],
    }
    .holds()
    .await;
}

#[tokio::test]
async fn what_was_not_valid_is_proven_under_live_traffic() {
    Case {
        table: "t",
        before: "ALTER TABLE t ADD CONSTRAINT late CHECK (amount > -100000000) NOT VALID",
        alter: "VALIDATE CONSTRAINT late",
        given: &[],
        deaths: &[("step read", 1)],
        phases: &["validate"],
    }
    .holds()
    .await;
}

/// Its rows move between partitions meanwhile.
#[tokio::test]
async fn a_partitioned_table_is_altered_under_live_traffic() {
    let case = Case {
        table: "orders",
        before: "",
        alter: "ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid(), ADD CHECK (amount > -100000000), \
            ADD CONSTRAINT by_time UNIQUE (created_at, id)",
        given: &["token"],
        deaths: &[("fill committed", 4), ("index made", 3)],
        phases: &["alter", "fill", "vacuum", "validate", "index"],
    };
    let shop = shop().await;
    partitions::divided(&shop, "ours", many_rows(), case.before).await;
    let mover = Mover::start(&shop).await;
    let (report, output) = case.goes_on(&shop).await;
    let moved = mover.stop().await;
    assert!(moved > 100, "only {moved} rows were moved");
    case.is_in_order(&shop, &report, &output).await;
    partitions::divided(&shop, "twin", 0, case.before).await;
    case.alter_the_twin(&shop).await;
    same::same_partitions(&shop, "orders", case.alter).await;
    case.same_rows(&shop).await;
}
