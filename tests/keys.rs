//! Keys of every kind: each table is rewritten while sessions insert, update, delete and change
//! keys, and must then hold, byte for byte, what the retired table holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::Client;

use crate::harness::{self, Background};

const LIMIT: Duration = Duration::from_secs(60);
const ROWS: u32 = 600;

/// One kind of key.
#[derive(Clone)]
struct Kind {
    /// Made before the table: types, collations, extensions.
    before: &'static str,
    table: &'static str,
    /// The key's columns with their types.
    columns: &'static str,
    names: &'static str,
    /// The key of row `{i}`.
    key: &'static str,
    /// The same key, perhaps in other bytes.
    again: &'static str,
    /// Made after the table: its replica identity.
    after: &'static str,
}

const PLAIN: Kind = Kind {
    before: "",
    table: "t",
    columns: "id int NOT NULL",
    names: "id",
    key: "{i}",
    again: "{i}",
    after: "",
};

/// With the same expression for a key again.
const fn kind(columns: &'static str, key: &'static str) -> Kind {
    Kind { columns, key, again: key, ..PLAIN }
}

impl Kind {
    fn at(&self, template: &str, i: u32) -> String {
        template.replace("{i}", &i.to_string())
    }

    fn change(&self, what: u32, i: u32, j: u32) -> String {
        let (table, names) = (self.table, self.names);
        let (a, b) = (self.at(self.key, i), self.at(self.key, j));
        let again = self.at(self.again, i);
        match what % 6 {
            0 => format!("UPDATE {table} SET v = v || '+' WHERE ({names}) = ({a})"),
            1 => format!("DELETE FROM {table} WHERE ({names}) = ({a})"),
            2 => format!(
                "INSERT INTO {table} ({names}, v) VALUES ({a}, 'new {i}') ON CONFLICT DO NOTHING"
            ),
            3 => format!(
                "UPDATE {table} SET ({names}) = ROW({b}) WHERE ({names}) = ({a}) \
                 AND NOT EXISTS (SELECT 1 FROM {table} WHERE ({names}) = ({b}))"
            ),
            4 => format!("UPDATE {table} SET ({names}) = ROW({again}) WHERE ({names}) = ({a})"),
            _ => format!(
                "BEGIN; DELETE FROM {table} WHERE ({names}) = ({a}); INSERT INTO {table} \
                 ({names}, v) VALUES ({again}, 'again') ON CONFLICT DO NOTHING; COMMIT"
            ),
        }
    }
}

async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> T {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Rewrites a table with such a key under traffic, and compares.
async fn rewrite(dsn: &str, kind: Kind) {
    let what = format!("{} {}", kind.columns, kind.after);
    let client = harness::connect(dsn).await;
    client.batch_execute(kind.before).await.unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let (table, names) = (kind.table, kind.names);
    let keys = kind.key.replace("{i}", "i");
    let create = format!(
        "CREATE TABLE {table} ({}, v text, PRIMARY KEY ({names})); {}; \
         INSERT INTO {table} ({names}, v) SELECT {keys}, 'v' FROM generate_series(1, {ROWS}) i",
        kind.columns, kind.after
    );
    client.batch_execute(&create).await.unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let source: u32 = one(&client, &format!("SELECT '{table}'::regclass::oid")).await;

    // Keeps the names from being swapped while there is traffic, so that the whole of it counts.
    let reader = harness::connect(dsn).await;
    reader.batch_execute(&format!("BEGIN; SELECT FROM {table} LIMIT 1")).await.unwrap();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut sessions = Vec::new();
    // An error's text with a key that is no UTF-8 would be too much for the driver: no clashes there.
    let encoding: String = one(&client, "SHOW server_encoding").await;
    if encoding == "SQL_ASCII" {
        // Else the server refuses to send what is no UTF-8.
        client.batch_execute("SET client_encoding = 'SQL_ASCII'").await.unwrap();
    }
    for seed in 1..=if encoding == "SQL_ASCII" { 1 } else { 2 } {
        let session = harness::connect(dsn).await;
        let (stop, done, kind) = (Arc::clone(&stop), Arc::clone(&done), kind.clone());
        let mut random = StdRng::seed_from_u64(seed);
        sessions.push(tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let mut row = || random.random_range(1..=ROWS * 5 / 4);
                let sql = kind.change(row(), row(), row());
                if let Err(e) = session.batch_execute(&sql).await {
                    let code = e.code().unwrap_or_else(|| panic!("{e:?}")).code().to_owned();
                    assert!(["23505", "40P01"].contains(&code.as_str()), "{sql}: {e:?}");
                    session.batch_execute("ROLLBACK").await.unwrap();
                }
                done.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }));
    }
    let mut run = Background::start([
        "run",
        table,
        "-d",
        dsn,
        "--rebuild",
        "--chunk-rows",
        "50",
        "--chunk-time",
        "1ms",
        "--max-keys-in-memory",
        "50",
        "--json",
    ]);
    run.wait_for_saying("the cutover waits: ").await;
    let more = done.load(Ordering::SeqCst) + 100;
    let reached = async || done.load(Ordering::SeqCst) > more;
    harness::wait_until("the sessions go on", LIMIT, reached).await;
    stop.store(true, Ordering::SeqCst);
    for session in sessions {
        session.await.unwrap();
    }
    reader.batch_execute("COMMIT").await.unwrap();
    let output = run.finish(LIMIT).await;
    assert_eq!(output.code, Some(0), "{what}: {output}");
    assert_eq!(output.json()["verify"]["mismatches"], 0, "{what}: {output}");

    let retired: String = one(&client, &format!("SELECT {source}::regclass::text")).await;
    assert_ne!(retired, table, "{what}");
    let differing = format!(
        "SELECT count(*) FROM ((SELECT record_send(o) FROM {retired} o EXCEPT ALL \
           SELECT record_send(n) FROM {table} n) UNION ALL (SELECT record_send(n) FROM {table} n \
           EXCEPT ALL SELECT record_send(o) FROM {retired} o)) d"
    );
    assert_eq!(one::<i64>(&client, &differing).await, 0, "{what}: {output}");
    let rows: i64 = one(&client, &format!("SELECT count(*) FROM {table}")).await;
    assert!(rows > i64::from(ROWS / 4), "{what}: {rows} rows");
}

/// Each in a database of its own.
async fn rewrite_all(kinds: Vec<Kind>) {
    let cluster = harness::cluster().await;
    for (n, kind) in kinds.into_iter().enumerate() {
        let dsn = harness::database(&cluster, &format!("d{n}")).await;
        rewrite(&dsn, kind).await;
    }
}

#[tokio::test]
async fn keys_of_one_text_for_each_value() {
    rewrite_all(vec![
        kind("id smallint", "{i}::smallint"),
        kind("id bigint", "{i}::bigint * 10000000000"),
        kind("id uuid", "md5({i}::text)::uuid"),
        kind("id timestamptz", "timestamptz '2020-03-29 00:30+00' + {i} * interval '7.000001 min'"),
        kind("id date", "date '0001-12-30 BC' + {i}"),
        kind("id bytea", "decode(md5({i}::text), 'hex') || '\\x0000ff'::bytea"),
    ])
    .await;
}

#[tokio::test]
async fn text_keys() {
    let icu = "CREATE COLLATION german (provider = icu, locale = 'de-u-kn-true')";
    let deaf =
        "CREATE COLLATION deaf (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    rewrite_all(vec![
        kind("id text COLLATE \"C\"", "'k''\\' || {i}"),
        Kind { before: icu, ..kind("id text COLLATE german", "chr(65 + {i} % 26) || 'ä' || {i}") },
        Kind {
            before: deaf,
            again: "upper('Key ' || {i})",
            ..kind("id text COLLATE deaf", "'Key ' || {i}")
        },
        kind("id varchar(20)", "'v' || {i}"),
        Kind { again: "'b' || {i} || '  '", ..kind("id char(9)", "'b' || {i}") },
        // Too long to stay in the row, not too long for the index.
        kind(
            "id text",
            "(SELECT string_agg(md5(({i} * 1000 + n)::text), '') FROM generate_series(1, 80) n)",
        ),
    ])
    .await;
}

#[tokio::test]
async fn keys_with_more_than_one_text_for_a_value() {
    rewrite_all(vec![
        Kind { again: "({i}::text || '.00')::numeric", ..kind("id numeric", "{i}::numeric") },
        kind("id numeric(9,3)", "{i} / 8.0"),
        Kind {
            again: "make_interval(hours => 24 * {i})",
            ..kind("id interval", "make_interval(days => {i})")
        },
        Kind {
            before: "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
            ..kind("id positive", "{i}::positive")
        },
    ])
    .await;
}

#[tokio::test]
async fn composite_and_enum_keys_under_odd_names() {
    let sizes = "DO $$ BEGIN EXECUTE 'CREATE TYPE size AS ENUM (' || (SELECT string_agg(quote_literal('s' || i), ', ' \
                 ORDER BY i DESC) FROM generate_series(1, 800) i) || ')'; END $$";
    rewrite_all(vec![
        Kind { names: "a, b", ..kind("a text, b int", "'r' || {i} % 5, {i}") },
        Kind { before: sizes, ..kind("id size", "('s' || {i})::size") },
        Kind {
            before: sizes,
            names: "\"Größe\", \"select\"\"x\"",
            table: "\"Ünsere Tabelle\"",
            ..kind("\"Größe\" size, \"select\"\"x\" int", "('s' || {i})::size, -{i}")
        },
        Kind {
            before: "CREATE SCHEMA \"Sch.ema\"",
            table: "\"Sch.ema\".\"T.x\"",
            ..kind("id int", "{i}")
        },
    ])
    .await;
}

#[tokio::test]
async fn other_replica_identities() {
    rewrite_all(vec![
        Kind {
            after: "ALTER TABLE t ADD other int NOT NULL GENERATED ALWAYS AS IDENTITY UNIQUE; \
                    ALTER TABLE t REPLICA IDENTITY USING INDEX t_other_key",
            ..kind("id int", "{i}")
        },
        Kind { after: "ALTER TABLE t REPLICA IDENTITY FULL", ..kind("id int", "{i}") },
    ])
    .await;
}

#[tokio::test]
async fn keys_in_other_encodings() {
    let cluster = harness::cluster().await;
    let admin = harness::connect(&cluster.dsn("postgres")).await;
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let sql = format!(
            "CREATE DATABASE {encoding} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        );
        admin.batch_execute(&sql).await.unwrap();
    }
    // 0xE9 is é in LATIN1 and the beginning of something in UTF-8.
    let bytes = "chr(233) || {i}";
    rewrite(&cluster.dsn("sql_ascii"), kind("id text", bytes)).await;
    rewrite(&cluster.dsn("latin1"), kind("id text", "'é' || {i}")).await;
}

/// Compared by text's operators, `a` and `A` would be two keys for us and one for the index.
#[tokio::test]
async fn a_key_with_operators_of_its_own_is_refused() {
    let cluster = harness::cluster().await;
    let dsn = harness::database(&cluster, "app").await;
    let client = harness::connect(&dsn).await;
    let sql = "CREATE EXTENSION citext; CREATE TABLE t (id citext PRIMARY KEY)";
    client.batch_execute(sql).await.unwrap();
    let output = harness::run(["run", "t", "-d", &dsn, "--rebuild"]).await.expect_code(3);
    assert!(output.stderr.contains("has the type public.citext"), "{output}");
    assert_eq!(harness::leftovers(&client).await, Vec::<String>::new());
}
