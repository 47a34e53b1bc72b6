//! Every kind of change, under live traffic whose sessions also change keys, killed once in the copy and resumed:
//! the new table is what plain statements make of the same rows, and no acknowledged write is missing.

use pgwraith::demo::orders::create_orders;
use pgwraith::demo::traffic::{Mix, Traffic};

use crate::cases::tablespaces;
use crate::harness::{self, Background};
use crate::scene::{AT_ONCE, LARGER, SOON, Shop, die_in_the_copy, shop, value};
use crate::twins;

/// The traffic writes here too.
const TABLE: &str = "ours.t";

/// One kind of change.
struct Case {
    /// What is done to a table like `orders` before.
    before: &'static str,
    alters: &'static [&'static str],
    /// Columns whose values the server gives, each row its own; they are not compared.
    given: &'static [&'static str],
    /// Only rows for which this is true are kept.
    keep: Option<&'static str>,
    /// More of the change, and what makes the same of the twin.
    more: &'static [&'static str],
    twin: &'static str,
}

const CASE: Case = Case { before: "", alters: &[], given: &[], keep: None, more: &[], twin: "" };

/// `{s}.t` as `orders` are, in the schema.
async fn make(shop: &Shop, schema: &str, rows: u64, before: &str) {
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

    async fn holds(&self, rows: u64) {
        let what = format!("{:?} {:?}", self.alters, self.keep);
        let shop = shop().await;
        tablespaces(&shop.client).await;
        make(&shop, "ours", rows, self.before).await;
        make(&shop, "twin", 0, self.before).await;
        // Keys change as often as rows are updated.
        let mix = Mix { sessions: 3, rate: Some(300.0), moves: 45, ..Mix::default() };
        let traffic = Traffic::start(&shop.dsn, TABLE, mix).await.unwrap();

        die_in_the_copy(&shop, self.arguments(&shop, "run")).await;
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
        self.same_rows(&shop, &what).await;
        if self.keep.is_none() {
            let oracle = report.verify(&shop.client, TABLE).await.unwrap();
            assert!(oracle.is_ok(), "{what}: {oracle:?}");
        }
        assert_eq!(shop.held_back().await, [""; 0], "{what}");
    }

    /// Nobody writes any more, and the names are not swapped yet.
    async fn alter_the_twin(&self, shop: &Shop) {
        let keep = self.keep.unwrap_or("true");
        let rows =
            format!("INSERT INTO twin.t OVERRIDING SYSTEM VALUE SELECT * FROM ours.t WHERE {keep}");
        shop.exec(&rows).await;
        shop.exec(
            "SELECT setval(pg_get_serial_sequence('twin.t', 'id'), s.last_value, s.is_called) FROM ours.orders_id_seq s",
        )
        .await;
        for alter in self.alters {
            shop.exec(&format!("ALTER TABLE twin.t {alter}")).await;
        }
        shop.exec(self.twin).await;
    }

    async fn same_rows(&self, shop: &Shop, what: &str) {
        let columns: String = value(
            &shop.client,
            &format!(
                "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute \
                 WHERE attrelid = 'twin.t'::regclass AND attnum > 0 AND NOT attisdropped \
                 AND attname <> ALL ('{{{}}}')",
                self.given.join(",")
            ),
        )
        .await;
        let differ = format!(
            "SELECT count(*) FROM ((SELECT {columns} FROM ours.t EXCEPT ALL SELECT {columns} FROM twin.t) \
             UNION ALL (SELECT {columns} FROM twin.t EXCEPT ALL SELECT {columns} FROM ours.t)) d"
        );
        assert_eq!(shop.value::<i64>(&differ).await, 0, "{what}");
        for column in self.given {
            let alike = format!("SELECT count(*) - count(DISTINCT {column}) FROM ours.t");
            assert_eq!(shop.value::<i64>(&alike).await, 0, "{what}: {column}");
        }
    }
}

#[tokio::test]
async fn the_key_becomes_part_of_a_longer_one() {
    let alters =
        &["DROP CONSTRAINT orders_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY (customer_id, id)"];
    Case { alters, ..CASE }.holds(200_000).await;
}

#[tokio::test]
async fn the_key_becomes_part_of_a_longer_one_and_wider() {
    let alters = &[
        "ALTER COLUMN id TYPE bigint",
        "DROP CONSTRAINT orders_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY (id, created_at)",
    ];
    Case { alters, ..CASE }.holds(200_000).await;
}

/// The old key's columns stay, in no index at all.
#[tokio::test]
async fn a_key_gives_way_to_an_identity() {
    let alters = &[
        "DROP CONSTRAINT orders_pkey",
        "ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    ];
    Case { alters, given: &["number"], ..CASE }.holds(200_000).await;
}

#[tokio::test]
async fn a_composite_key_gives_way_to_a_uuid() {
    let before = "ALTER TABLE t DROP CONSTRAINT orders_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY (customer_id, id)";
    let alters = &[
        "DROP CONSTRAINT t_pkey, ADD COLUMN name uuid NOT NULL DEFAULT gen_random_uuid()",
        "ADD PRIMARY KEY (name)",
    ];
    Case { before, alters, given: &["name"], ..CASE }.holds(200_000).await;
}

#[tokio::test]
async fn a_composite_key_becomes_one_column_and_another_order() {
    let before = "ALTER TABLE t DROP CONSTRAINT orders_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY (customer_id, id)";
    let single = &["DROP CONSTRAINT t_pkey", "ADD PRIMARY KEY (id)"];
    Case { before, alters: single, ..CASE }.holds(200_000).await;
    let turned = &["DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, customer_id)"];
    Case { before, alters: turned, ..CASE }.holds(200_000).await;
}

#[tokio::test]
async fn an_amount_becomes_minor_units_beside_a_column_that_goes() {
    let case = Case {
        before: "ALTER TABLE t ADD COLUMN gone text DEFAULT 'x'; ALTER TABLE t ADD COLUMN tag text DEFAULT 'a'",
        alters: &[
            "ADD COLUMN minor bigint NOT NULL DEFAULT 0, DROP COLUMN gone",
            "ALTER COLUMN tag DROP DEFAULT, ALTER COLUMN tag TYPE int USING ascii(tag), ALTER COLUMN note SET STORAGE EXTERNAL",
            "RENAME COLUMN tag TO code",
            "ALTER COLUMN customer_id DROP NOT NULL, ALTER COLUMN status SET DEFAULT 'new', SET (fillfactor = 90), \
             ADD CONSTRAINT fits CHECK (amount > -1000000000), ALTER COLUMN note SET COMPRESSION pglz",
            "SET TABLESPACE fast",
        ],
        more: &["--map", "minor = (amount * 100)::bigint + id"],
        twin: "UPDATE twin.t SET minor = (amount * 100)::bigint + id",
        ..CASE
    };
    case.holds(200_000).await;
}

#[tokio::test]
async fn nothing_changes_but_bloat() {
    Case { more: &["--rebuild"], ..CASE }.holds(200_000).await;
}

#[tokio::test]
async fn columns_take_another_order_under_live_traffic() {
    // Since 18 NOT NULL is a constraint, and has a name.
    let twin = "CREATE TABLE twin.u (status text CONSTRAINT orders_status_not_null NOT NULL,
          created_at timestamptz CONSTRAINT orders_created_at_not_null NOT NULL DEFAULT now(),
          id int CONSTRAINT orders_id_not_null NOT NULL GENERATED BY DEFAULT AS IDENTITY,
          customer_id int CONSTRAINT orders_customer_id_not_null NOT NULL,
          amount numeric(12,2) CONSTRAINT orders_amount_not_null NOT NULL, note text);
        INSERT INTO twin.u (id, customer_id, status, amount, note, created_at) SELECT * FROM twin.t;
        SELECT setval('twin.u_id_seq', s.last_value, s.is_called) FROM twin.orders_id_seq s;
        DROP TABLE twin.t; ALTER TABLE twin.u RENAME TO t; ALTER SEQUENCE twin.u_id_seq RENAME TO orders_id_seq;
        ALTER TABLE twin.t ADD CONSTRAINT orders_pkey PRIMARY KEY (id);
        CREATE INDEX orders_customer_id_idx ON twin.t (customer_id);
        CREATE INDEX orders_status_created_at_idx ON twin.t (status, created_at);
        CREATE INDEX orders_created_at_idx ON twin.t (created_at)";
    let more = &["--column-order", "status, created_at"];
    Case { more, twin, ..CASE }.holds(200_000).await;
}

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

/// The traffic changes what the condition is about: rows move into it and out of it.
#[tokio::test]
async fn only_rows_that_are_to_be_kept_are_there() {
    Case { keep: Some("status <> 'paid' AND id > 1000"), ..CASE }.holds(200_000).await;
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
        ("nothing = 1", "does not exist"),
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
