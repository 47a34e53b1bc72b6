//! What expressions give: values as an UPDATE would take them, and keys that stay apart.

use crate::harness::{self, Background};
use crate::scene::{SOON, Shop, shop};
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
    // One key that is written in several ways would be several.
    let split = ["--alter", "ALTER code TYPE text COLLATE \"C\""];
    shop.exec("CREATE TABLE ours.n (code text COLLATE public.nocase PRIMARY KEY)").await;
    let output = shop.run("ours.n", &split).await.expect_code(2);
    assert!(output.stderr.contains("written in two ways"), "{output}");
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

/// A value that has another collation than the column it goes to hashes in another way, and does not compare with it.
#[tokio::test]
async fn values_change_their_collation() {
    let shop = shop().await;
    shop.exec(
        "CREATE SCHEMA ours; CREATE COLLATION public.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
         CREATE TABLE ours.t (code text COLLATE public.nocase PRIMARY KEY, plain text, v int); \
         INSERT INTO ours.t SELECT 'Ab' || n, 'X' || n, n FROM generate_series(1, 500) n",
    )
    .await;
    let twin = "SELECT code COLLATE \"C\", plain COLLATE \"C\", v FROM ours.t_old EXCEPT SELECT code COLLATE \"C\", plain COLLATE \"C\", v FROM ours.t";
    for change in [
        &[
            "--alter",
            "ADD l text, ADD c text COLLATE \"C\"",
            "--map",
            "l = lower(code)",
            "--map",
            "c = code",
        ][..],
        &["--alter", "ADD n text", "--map", "n = plain COLLATE public.nocase"],
        &["--alter", "ALTER plain TYPE text COLLATE public.nocase"],
        &["--alter", "ALTER plain TYPE text COLLATE \"C\""],
        &["--alter", "ALTER v TYPE bigint", "--partition-by", "HASH (code)", "--partitions", "2"],
    ] {
        let output = run(&shop, change).await.expect_code(0);
        assert_eq!(output.json()["verify"]["mismatches"], 0, "{change:?}: {output}");
        assert_eq!(
            shop.value::<i64>(&format!("SELECT count(*) FROM ({twin}) d")).await,
            0,
            "{change:?}"
        );
        shop.exec("DROP TABLE ours.t_old").await;
    }
}

/// Keys that are followed under one collation are rows of another: what comes meanwhile is synced all the same.
#[tokio::test]
async fn keys_of_another_collation_are_followed() {
    let shop = shop().await;
    shop.exec(
        "CREATE SCHEMA ours; CREATE TABLE ours.t (code text COLLATE \"C\" PRIMARY KEY, v int); \
         INSERT INTO ours.t SELECT 'Ab' || n, n FROM generate_series(1, 500) n",
    )
    .await;
    let change = ["--alter", "ALTER code TYPE text COLLATE \"en-x-icu\"", "--postpone-cutover"];
    let mut run = Background::start(shop.arguments("ours.t", &change));
    run.wait_for_saying("the cutover waits: postponed").await;
    shop.exec("UPDATE ours.t SET code = lower(code) WHERE v % 3 = 0; DELETE FROM ours.t WHERE v % 7 = 0; INSERT INTO ours.t VALUES ('new', 501)").await;
    harness::run(["cutover", "ours.t", "-d", &shop.dsn]).await.expect_code(0);
    run.finish(SOON).await.expect_code(0);
    let differ = "SELECT count(*) FROM (SELECT code COLLATE \"C\", v FROM ours.t_old EXCEPT ALL SELECT code COLLATE \"C\", v FROM ours.t) d";
    assert_eq!(shop.value::<i64>(differ).await, 0);
    let rows = "SELECT (SELECT count(*) FROM ours.t) = (SELECT count(*) FROM ours.t_old)";
    assert!(shop.value::<bool>(rows).await);
}

/// Rows are made by the settings of the beginning, whatever the server says later and whoever goes on.
#[tokio::test]
async fn settings_stay_what_they_were() {
    let shop = shop().await;
    shop.exec(
        "CREATE SCHEMA ours; CREATE TABLE ours.t (id int PRIMARY KEY, at timestamptz, v int); \
         INSERT INTO ours.t SELECT n, '2026-11-28 22:30:00+00', n FROM generate_series(1, 1000) n",
    )
    .await;
    let change =
        ["--alter", "ADD d date, ADD s text", "--map", "d = at::date", "--map", "s = at::text"];
    let keep = ["--where", "at::text LIKE '%22:30%'", "--yes", "--postpone-cutover"];
    let all: Vec<&str> = change.into_iter().chain(keep).collect();
    let mut run = Background::start(shop.arguments("ours.t", &all));
    run.wait_for_saying("the cutover waits: postponed").await;
    shop.exec("ALTER SYSTEM SET timezone = 'Asia/Tokyo'").await;
    shop.exec("SELECT pg_reload_conf(); ALTER ROLE postgres SET timezone = 'Asia/Tokyo'").await;
    shop.exec("UPDATE ours.t SET v = v + 1 WHERE id < 10").await;
    run.signal(libc::SIGINT);
    run.finish(SOON).await.expect_code(5);
    shop.exec("UPDATE ours.t SET v = v + 1 WHERE id BETWEEN 10 AND 20").await;
    let postponed = ["resume", "ours.t", "-d", &shop.dsn, "--postpone-cutover", "--json"];
    let mut run = Background::start(postponed);
    run.wait_for_saying("the cutover waits: postponed").await;
    shop.exec("UPDATE ours.t SET v = v + 1 WHERE id BETWEEN 21 AND 30").await;
    harness::run(["cutover", "ours.t", "-d", &shop.dsn]).await.expect_code(0);
    run.finish(SOON).await.expect_code(0);
    let alike = "SELECT count(*) = 1000 AND count(DISTINCT (d, s)) = 1 AND min(d) = '2026-11-28' FROM ours.t";
    assert!(shop.value::<bool>(alike).await);
}

/// What was copied before would be other rows than what is copied behind.
#[tokio::test]
async fn a_function_that_rows_are_made_by_is_not_replaced() {
    let shop = shop().await;
    let function = |times: i32| {
        format!(
            "CREATE OR REPLACE FUNCTION ours.times(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * {times}'"
        )
    };
    shop.exec(&format!(
        "CREATE SCHEMA ours; CREATE TABLE ours.t (id int PRIMARY KEY, v int); {}; \
         INSERT INTO ours.t SELECT n, n FROM generate_series(1, 1000) n",
        function(2)
    ))
    .await;
    let change = ["--alter", "ADD x int", "--map", "x = ours.times(v)", "--postpone-cutover"];
    let mut run = Background::start(shop.arguments("ours.t", &change));
    run.wait_for_saying("the cutover waits: postponed").await;
    shop.exec(&function(3)).await;
    let output = run.finish(SOON).await.expect_code(6);
    assert!(output.stderr.contains("function, ours.times(integer) was altered"), "{output}");
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

/// As one ALTER TABLE after the other does it: a later default is about rows to come.
#[tokio::test]
async fn rows_get_what_a_new_column_says_when_it_comes() {
    let mut shop = shop().await;
    let rows = "CREATE SCHEMA {s}; CREATE DOMAIN {s}.seven AS int DEFAULT 7; \
                CREATE TABLE {s}.t (id int PRIMARY KEY, a int, b int, date date); \
                INSERT INTO {s}.t SELECT n, n, n * 10, '2026-01-01' FROM generate_series(1, 500) n";
    let cases: [&[&str]; 12] = [
        &["ADD x int DEFAULT 1", "ALTER x DROP DEFAULT"],
        &["ADD x int", "ALTER x SET DEFAULT 5"],
        &["ADD x int DEFAULT 1, ALTER x SET DEFAULT 2"],
        &["ADD x text NOT NULL DEFAULT 'eu'", "ALTER x DROP DEFAULT", "RENAME x TO region"],
        &["ADD x int DEFAULT 1", "ALTER x TYPE text"],
        &["ADD x int DEFAULT 1", "ALTER x DROP DEFAULT, ADD y int DEFAULT 2"],
        &["ALTER a TYPE bigint USING a * 2, ALTER b TYPE bigint USING a + b"],
        &["ADD x int", "ALTER x TYPE {s}.seven"],
        &["ADD x {s}.seven", "ALTER x TYPE bigint"],
        // What is about others is in nobody's way.
        &["DROP COLUMN b, ADD COLUMN b text, ADD CHECK (a > 0), ALTER a SET DEFAULT 1"],
        &[
            "ALTER a SET DEFAULT 3, ALTER a TYPE bigint USING a::bigint, ADD CHECK (a < 10000000000)",
        ],
        &[
            "ALTER date TYPE timestamp",
            "ALTER b TYPE text USING (b + 2000 || '-01-01')::date::text",
        ],
    ];
    for (n, alters) in cases.iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        crate::twins::twins(&shop, rows).await;
        let mut change = Vec::new();
        let ours: Vec<String> = alters.iter().map(|alter| alter.replace("{s}", "ours")).collect();
        for (alter, ours) in alters.iter().zip(&ours) {
            shop.exec(&format!("ALTER TABLE twin.t {}", alter.replace("{s}", "twin"))).await;
            change.extend(["--alter", ours]);
        }
        shop.run("ours.t", &change).await.expect_code(0);
        assert_eq!(shop.rows("ours.t").await, shop.rows("twin.t").await, "{alters:?}");
        crate::twins::same_definition(&shop, &format!("{alters:?}")).await;
    }

    let refused: [(&[&str], &str); 6] = [
        (
            &["ADD g int GENERATED ALWAYS AS (a * 2) STORED", "ALTER g DROP EXPRESSION"],
            "the new column \"g\" comes as a generated column, and then is none",
        ),
        (
            &["ADD g int GENERATED BY DEFAULT AS IDENTITY", "ALTER g DROP IDENTITY"],
            "the new column \"g\" comes as an identity column, and then is none",
        ),
        (
            &["ADD u uuid DEFAULT gen_random_uuid()", "ALTER u DROP DEFAULT"],
            "comes with a volatile default and is given another one",
        ),
        (
            &["ADD x int DEFAULT 1", "ALTER x TYPE text", "ALTER x SET DEFAULT 'y'"],
            "is given another type and another default after it came",
        ),
        (
            &["ALTER a TYPE bigint USING a * 2", "ALTER b TYPE bigint USING a + b"],
            "the USING of column \"b\" reads \"a\", which an earlier --alter gives other values",
        ),
        (
            &["ALTER a TYPE numeric(10,1)", "ALTER a TYPE text"],
            "the type of column \"a\" is changed twice",
        ),
    ];
    shop.move_to("refused").await;
    crate::twins::twins(&shop, rows).await;
    for (alters, why) in refused {
        let change: Vec<&str> = alters.iter().flat_map(|alter| ["--alter", alter]).collect();
        let output = shop.run("ours.t", &change).await.expect_code(2);
        assert!(output.stderr.contains(why), "{alters:?}: {output}");
    }
}

/// Under the lock, too, rows are made by the settings of the beginning, though its session reads the catalogs by others.
#[tokio::test]
async fn texts_of_times_are_alike_to_the_last_row() {
    let shop = shop().await;
    shop.exec(
        "CREATE SCHEMA ours; CREATE TABLE ours.t (id int PRIMARY KEY, at timestamp); \
         INSERT INTO ours.t SELECT n, '2026-11-28 22:30:00' FROM generate_series(1, 2000) n",
    )
    .await;
    let change = ["--alter", "ALTER at TYPE text", "--postpone-cutover"];
    let mut run = Background::start(shop.arguments("ours.t", &change));
    run.wait_for_saying("the cutover waits: postponed").await;
    shop.exec("ALTER ROLE postgres SET \"DateStyle\" = 'German'").await;
    let writer = shop.session().await;
    let writes = async {
        let mut n = 0;
        // It ends as the new table's column is a text.
        while writer
            .batch_execute(&format!(
                "UPDATE ours.t SET at = at + interval '0' WHERE id = {}",
                n % 2000 + 1
            ))
            .await
            .is_ok()
        {
            n += 1;
        }
    };
    let swaps = async {
        harness::run(["cutover", "ours.t", "-d", &shop.dsn]).await.expect_code(0);
        run.finish(SOON).await.expect_code(0)
    };
    tokio::join!(writes, swaps);
    let others = "SELECT count(*) FROM ours.t WHERE at <> '2026-11-28 22:30:00'";
    assert_eq!(shop.value::<i64>(others).await, 0);

    // What rows that are there get is what rows to come get.
    shop.exec("DROP TABLE ours.t_old; CREATE TABLE ours.u (id int PRIMARY KEY); INSERT INTO ours.u VALUES (1)").await;
    let change =
        ["--alter", "ADD d text DEFAULT (current_date::text), ADD e date DEFAULT current_date"];
    shop.run("ours.u", &change).await.expect_code(0);
    let alike = "SELECT d ~ '^[0-9]{2}[.][0-9]{2}[.][0-9]{4}$' AND e = current_date FROM ours.u";
    assert!(shop.value::<bool>(alike).await);
}

/// Under the name that it had.
#[tokio::test]
async fn an_index_that_is_made_otherwise_is_noticed() {
    let mut shop = shop().await;
    let others = [
        "CREATE UNIQUE INDEX by_v ON t (v)",
        "CREATE INDEX by_v ON t (v DESC)",
        "CREATE INDEX by_v ON t (v) WHERE v > 7",
    ];
    for (n, other) in others.iter().enumerate() {
        shop.move_to(&format!("case{n}")).await;
        shop.exec("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT n, n FROM generate_series(1, 1000) n; CREATE INDEX by_v ON t (v)").await;
        let held = shop.held("copy", "t", &["--rebuild"]).await;
        shop.exec(&format!("BEGIN; DROP INDEX by_v; {other}; COMMIT")).await;
        let output = held.finish().await.expect_code(6);
        assert!(output.stderr.contains("definition of index, by_v was altered"), "{output}");
    }
}
