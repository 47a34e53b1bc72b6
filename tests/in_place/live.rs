//! Every recipe under live traffic whose sessions also change keys: the table is what a plain ALTER TABLE makes of
//! the same rows, no acknowledged write is missing, and nobody waited longer than for a lock.

use std::time::Duration;

use pgwraith::demo::orders::create_orders;
use pgwraith::demo::traffic::{Mix, Traffic};

use crate::harness::{self, ANY_WAY, Background};
use crate::scene::{SOON, Shop, shop, wait_for};
use crate::twins;

/// By lock_timeout and max_lock_hold nobody waits longer than 750 ms; other tests have the same two cores.
const STALL: Duration = Duration::from_millis(1500);

struct Case {
    /// What is done to a table like `orders` before.
    before: &'static str,
    alter: &'static str,
    /// Columns whose values the server gives, each row its own.
    given: &'static str,
    way: &'static [&'static str],
    rows: u64,
    /// Killed while it fills rows, and gone on with.
    killed: bool,
}

const CASE: Case = Case {
    before: "",
    alter: "",
    given: "",
    way: &["alter", "validate"],
    rows: 10_000,
    killed: false,
};

async fn make(shop: &Shop, schema: &str, rows: u64, before: &str) {
    shop.exec(&format!("CREATE SCHEMA {schema}; SET search_path = {schema}, public")).await;
    create_orders(&shop.client, rows).await.unwrap();
    let rename = "ALTER TABLE orders RENAME TO t; ALTER SEQUENCE orders_id_seq RENAME TO t_id_seq";
    shop.exec(&format!("{rename}; {before}; SET search_path = public; ANALYZE {schema}.t")).await;
}

impl Case {
    async fn holds(&self, shop: &Shop) {
        let what = self.alter;
        make(shop, "ours", self.rows, self.before).await;
        make(shop, "twin", 0, self.before).await;
        let mix = Mix { sessions: 3, rate: Some(200.0), moves: 20, ..Mix::default() };
        let traffic = Traffic::start(&shop.dsn, "ours.t", mix).await.unwrap();
        let change = [
            "--in-place",
            "--alter",
            self.alter,
            ANY_WAY,
            "--chunk-rows",
            "200",
            "--chunk-time",
            "10ms",
        ];
        let arguments = shop.arguments("ours.t", &change);
        let output = match self.killed {
            false => harness::run(arguments).await.expect_code(0),
            true => {
                die_in_the_fill(shop, arguments).await;
                harness::run(["resume", "ours.t", "-d", &shop.dsn, "--json"]).await.expect_code(0)
            }
        };
        let report = traffic.stop().await.unwrap();
        assert_eq!((report.error_count, report.anomaly_count), (0, 0), "{what}: {report:?}");
        assert!(
            report.longest_stall.duration < STALL,
            "{what}: {:?}\n{output}",
            report.longest_stall
        );
        let json = output.json();
        let way = if self.alter.starts_with("VALIDATE") { "online" } else { "careful" };
        assert_eq!((&json["way"], &json["outcome"]), (&way.into(), &"altered".into()));
        if !self.killed {
            let phases: Vec<&String> = json["phases"].as_object().unwrap().keys().collect();
            assert_eq!(phases, self.way, "{output}");
            let made = json["made"].as_array().unwrap().len() as u64;
            assert_eq!(made, json["steps"].as_u64().unwrap());
        }
        let oracle = report.verify(&shop.client, "ours.t").await.unwrap();
        assert!(oracle.is_ok(), "{what}: {oracle:?}");

        let old = "id, customer_id, status, amount, note, created_at";
        shop.exec(&format!(
            "INSERT INTO twin.t ({old}) OVERRIDING SYSTEM VALUE SELECT {old} FROM ours.t; \
             ALTER TABLE twin.t {}; \
             SELECT setval('twin.t_id_seq', s.last_value, s.is_called) FROM ours.t_id_seq s",
            self.alter
        ))
        .await;
        twins::same_definition(shop, what).await;
        let columns: String = shop
            .value(&format!(
                "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute WHERE attrelid = 'twin.t'::regclass \
                 AND attnum > 0 AND attname <> '{}'",
                self.given
            ))
            .await;
        let differ = format!(
            "SELECT count(*) FROM ((SELECT {columns} FROM ours.t EXCEPT ALL SELECT {columns} FROM twin.t) \
             UNION ALL (SELECT {columns} FROM twin.t EXCEPT ALL SELECT {columns} FROM ours.t)) d"
        );
        assert_eq!(shop.value::<i64>(&differ).await, 0, "{what}");
        if !self.given.is_empty() {
            let alike = format!("SELECT count(*) - count(DISTINCT {}) FROM ours.t", self.given);
            assert_eq!(shop.value::<i64>(&alike).await, 0, "{what}");
        }
        assert_eq!(shop.held_back().await, [""; 0], "{what}");
    }
}

/// A run that is killed once some ranges are filled, and before all are.
async fn die_in_the_fill(shop: &Shop, arguments: Vec<String>) {
    let mut run = Background::start(arguments);
    let made = "SELECT to_regclass('pgwraith.chunk') IS NOT NULL";
    wait_for(&shop.client, &mut run, "it begins", made).await;
    let some = "SELECT count(*) > 3 FROM pgwraith.chunk WHERE kind = 'fill' AND done";
    wait_for(&shop.client, &mut run, "some ranges are filled", some).await;
    run.signal(libc::SIGKILL);
    assert_eq!(run.finish(SOON).await.signal, Some(libc::SIGKILL));
    let filling = "SELECT EXISTS (SELECT 1 FROM ours.t WHERE token IS NULL)";
    assert!(shop.value::<bool>(filling).await, "it is over before it could die");
    let gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
    harness::wait_for_sql(&shop.client, "its sessions end", gone).await;
}

async fn hold(cases: &[Case]) {
    let mut shop = shop().await;
    for (n, case) in cases.iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        shop.exec(
            "CREATE TABLE customers (id int PRIMARY KEY); INSERT INTO customers SELECT generate_series(0, 100000)",
        )
        .await;
        case.holds(&shop).await;
    }
}

#[tokio::test]
async fn rows_are_filled_under_live_traffic() {
    let filled = &["alter", "fill", "vacuum", "validate"];
    hold(&[
        Case {
            alter: "ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid()",
            given: "token",
            way: filled,
            ..CASE
        },
        Case {
            alter: "ADD COLUMN n int NOT NULL DEFAULT 5 CHECK (n > 0), ALTER COLUMN status SET DEFAULT 'new'",
            ..CASE
        },
    ])
    .await;
}

#[tokio::test]
async fn a_large_table_is_filled_by_one_run_after_another() {
    hold(&[Case {
        alter: "ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid(), ADD CONSTRAINT enough CHECK (amount > -1000000000)",
        given: "token",
        rows: 200_000,
        killed: true,
        ..CASE
    }])
    .await;
}

#[tokio::test]
async fn constraints_and_indexes_are_added_under_live_traffic() {
    hold(&[
        Case {
            before: "ALTER TABLE t ALTER COLUMN amount DROP NOT NULL; ALTER TABLE t ADD COLUMN other uuid DEFAULT gen_random_uuid()",
            alter: "ALTER COLUMN amount SET NOT NULL, ADD CONSTRAINT enough CHECK (amount > -100000000), \
                ADD FOREIGN KEY (customer_id) REFERENCES public.customers, ADD UNIQUE (other), \
                ADD CONSTRAINT by_both UNIQUE (customer_id, id)",
            way: &["alter", "index", "validate"],
            given: "other",
            ..CASE
        },
        Case {
            before: "ALTER TABLE t ADD CONSTRAINT late CHECK (amount > -100000000) NOT VALID",
            alter: "VALIDATE CONSTRAINT late",
            way: &["validate"],
            ..CASE
        },
    ])
    .await;
}
