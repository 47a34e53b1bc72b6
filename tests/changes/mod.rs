//! Every kind of change, under live traffic whose sessions also change keys, killed once in the copy and resumed:
//! the new table is what plain statements make of the same rows, and no acknowledged write is missing.

mod keys;
mod shape;
mod told;

use pgwraith::demo::orders::create_orders;
use pgwraith::demo::traffic::Traffic;

use crate::cases::tablespaces;
use crate::harness::{self, Background};
use crate::scene::{AT_ONCE, LARGER, SOON, Shop, die_in_the_copy, many_rows, mix, shop, value};
use crate::twins;

/// The traffic writes here too.
const TABLE: &str = "ours.t";

const NOW: &str = "SELECT clock_timestamp()::text";

/// Where the numbers of `{s}.t` stand.
const POSITION: &str = "SELECT last_value FROM pg_sequences \
    WHERE format('%I.%I', schemaname, sequencename)::regclass = pg_get_serial_sequence('{s}.t', 'id')::regclass";

/// One kind of change.
struct Case {
    /// What is done to a table like `orders` before.
    before: &'static [&'static str],
    alters: &'static [&'static str],
    /// Columns whose values the server gives, each row its own; they are not compared.
    given: &'static [&'static str],
    /// Columns that have one moment for all rows: that when the run began.
    moment: &'static [&'static str],
    /// Other tables, whose rows change with those of the table.
    others: &'static [&'static str],
    /// Only rows for which this is true are kept.
    keep: Option<&'static str>,
    /// More of the change, and what makes the same of the twin.
    more: &'static [&'static str],
    twin: &'static str,
}

const CASE: Case = Case {
    before: &[],
    alters: &[],
    given: &[],
    moment: &[],
    others: &[],
    keep: None,
    more: &[],
    twin: "",
};

/// `{s}.t` as `orders` are, in the schema.
pub async fn make(shop: &Shop, schema: &str, rows: u64, before: &str) {
    shop.exec(&format!("CREATE SCHEMA {schema}; SET search_path = {schema}")).await;
    create_orders(&shop.client, rows).await.unwrap();
    shop.exec(&format!(
        "ALTER TABLE orders RENAME TO t; {before}; SET search_path = public; ANALYZE {schema}.t"
    ))
    .await;
}

impl Case {
    fn arguments(&self, shop: &Shop, command: &str) -> Vec<String> {
        let mut all: Vec<&str> = vec![command, TABLE, "-d", &shop.dsn, "--json"];
        if command == "run" {
            // Many small ranges, so that keys move from those that are copied to those that are not, and back.
            all.extend(["--postpone-cutover", "--chunk-rows", "1000", "--chunk-time", "20ms"]);
            all.extend(AT_ONCE);
            all.extend(self.alters.iter().flat_map(|alter| ["--alter", alter]));
            all.extend(self.more);
            all.extend(self.keep.iter().flat_map(|keep| ["--where", keep, "--yes"]));
        }
        if command == "resume" {
            all.extend(LARGER);
        }
        all.into_iter().map(str::to_owned).collect()
    }

    async fn holds(&self) {
        let what = format!("{:?} {:?}", self.alters, self.keep);
        let shop = shop().await;
        tablespaces(&shop.client).await;
        let before = self.before.join("; ");
        make(&shop, "ours", many_rows(), &before).await;
        make(&shop, "twin", 0, &before).await;
        let traffic = Traffic::start(&shop.dsn, TABLE, mix()).await.unwrap();

        let began: String = shop.value(NOW).await;
        die_in_the_copy(&shop, self.arguments(&shop, "run")).await;
        let died: String = shop.value(NOW).await;
        let mut run = Background::start(self.arguments(&shop, "resume"));
        run.wait_for_saying("postponed until `pgwraith cutover`").await;
        let report = traffic.stop().await.unwrap();
        assert_eq!((report.error_count, report.anomaly_count), (0, 0), "{what}: {report:?}");
        assert!(report.moves > 50, "{what}: {report:?}");

        self.alter_the_twin(&shop).await;
        harness::run(["cutover", TABLE, "-d", &shop.dsn]).await.expect_code(0);
        let output = run.finish(SOON).await.expect_code(0);
        assert_eq!(output.json()["verify"]["mismatches"], 0, "{what}: {output}");
        twins::same_definition(&shop, &what).await;
        self.same_rows(&shop, "t", &what).await;
        for other in self.others {
            twins::same_definition_of(&shop, other, &what).await;
            self.same_rows(&shop, other, &what).await;
        }
        let at = async |schema: &str| shop.value::<i64>(&POSITION.replace("{s}", schema)).await;
        assert_eq!(at("ours").await, at("twin").await, "{what}");
        for column in self.moment {
            let one = format!(
                "SELECT min({column}) = max({column}) AND min({column}) BETWEEN '{began}' AND '{died}' FROM ours.t"
            );
            assert!(shop.value::<bool>(&one).await, "{what}: {column}");
        }
        for column in self.given {
            let alike = format!("SELECT count(*) - count(DISTINCT {column}) FROM ours.t");
            assert_eq!(shop.value::<i64>(&alike).await, 0, "{what}: {column}");
        }
        // Rows that are not kept are in the old table.
        let all = self.keep.map_or(TABLE.to_owned(), |keep| {
            format!("(SELECT id, note FROM {TABLE} UNION ALL SELECT id, note FROM ours.t_old WHERE ({keep}) IS NOT TRUE) r")
        });
        let oracle = report.verify(&shop.client, &all).await.unwrap();
        assert!(oracle.is_ok(), "{what}: {oracle:?}");
        assert_eq!(shop.held_back().await, [""; 0], "{what}");
    }

    /// Nobody writes any more, and the names are not swapped yet.
    async fn alter_the_twin(&self, shop: &Shop) {
        let keep = self.keep.unwrap_or("true");
        let rows =
            format!("INSERT INTO twin.t OVERRIDING SYSTEM VALUE SELECT * FROM ours.t WHERE {keep}");
        shop.exec(&rows).await;
        for other in self.others {
            shop.exec(&format!("INSERT INTO twin.{other} SELECT * FROM ours.{other}")).await;
        }
        shop.exec(
            "SELECT setval(pg_get_serial_sequence('twin.t', 'id'), s.last_value, s.is_called) FROM ours.orders_id_seq s",
        )
        .await;
        for alter in self.alters {
            shop.exec(&format!("ALTER TABLE twin.t {alter}")).await;
        }
        shop.exec(self.twin).await;
    }

    async fn same_rows(&self, shop: &Shop, table: &str, what: &str) {
        let not_compared = [self.given, self.moment].concat().join(",");
        let columns: String = value(
            &shop.client,
            &format!(
                "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute \
                 WHERE attrelid = 'twin.{table}'::regclass AND attnum > 0 AND NOT attisdropped \
                 AND attname <> ALL ('{{{not_compared}}}')"
            ),
        )
        .await;
        let differ = format!(
            "SELECT count(*) FROM ((SELECT {columns} FROM ours.{table} EXCEPT ALL SELECT {columns} FROM twin.{table}) \
             UNION ALL (SELECT {columns} FROM twin.{table} EXCEPT ALL SELECT {columns} FROM ours.{table})) d"
        );
        assert_eq!(shop.value::<i64>(&differ).await, 0, "{what}: {table}");
    }
}
