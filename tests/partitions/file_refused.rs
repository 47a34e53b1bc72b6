//! Files that make no table for the rows, and what follows to one that does.

use super::by_file::file;
use super::{TABLE, make};
use crate::scene::shop;

const PLAIN: &str = "CREATE TABLE {shadow} (id int PRIMARY KEY, customer_id int, status text, amount numeric, note text, created_at timestamptz)";

#[tokio::test]
async fn what_a_file_may_not_say_is_refused_by_name() {
    let shop = shop().await;
    make(
        &shop,
        "ours",
        500,
        "CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE parent (id int)",
    )
    .await;
    let with = |more: &str| format!("{PLAIN};\n{more}");
    let cases = [
        // What is not even tried.
        (with("DROP TABLE ours.other"), 2, "line 2: only CREATE TABLE"),
        (with("BEGIN; COMMIT"), 2, "not BEGIN"),
        (with("ALTER TABLE ours.other ADD b int"), 2, "ours is not the new table"),
        (with("CREATE TABLE ours.third (id int)"), 2, "ours is not the new table"),
        (with("ALTER TABLE {shadow} ADD FOREIGN KEY (id) REFERENCES ours.other"), 2, "a foreign key would lock"),
        ("-- nothing".to_owned(), 2, "no CREATE TABLE {shadow}"),
        // What PostgreSQL says no to.
        (with("\nCREATE INDEX ON {shadow}\n (nothing)"), 2, "line 3: "),
        (with("CREATE INDEX ON {shadow} (id"), 2, "line 2: PostgreSQL says: syntax error"),
        (PLAIN.replace("note text", "note txt"), 2, "line 1: PostgreSQL says: type \"txt\" does not exist"),
        ("CREATE TEMP TABLE {shadow} (id int)".to_owned(), 2, "temporary"),
        (with("CREATE TABLE {shadow} (id int)"), 2, "already exists"),
        // What it made, by the catalogs.
        (with("CREATE TABLE {shadow_2} (id int)"), 2, "it makes orders_2, which is neither"),
        (with("CREATE TABLE {shadow_2} () INHERITS ({shadow})"), 2, "it makes orders_2"),
        (with("ALTER TABLE {shadow} INHERIT ours.parent"), 2, "ours.parent too"),
        (PLAIN.replace("id int PRIMARY KEY", "id serial PRIMARY KEY"), 2, "for a serial column"),
        (PLAIN.replace("CREATE TABLE", "CREATE UNLOGGED TABLE"), 2, "not permanent"),
        (with("ALTER TABLE {shadow} ENABLE ROW LEVEL SECURITY"), 2, "row security"),
        (with("ALTER TABLE {shadow} RENAME TO another"), 2, "no table of that name any more"),
        ("CREATE TABLE {shadow} (id int PRIMARY KEY) PARTITION BY HASH (id)".to_owned(), 2, "no partition"),
        (
            "CREATE TABLE {shadow} (id int PRIMARY KEY) PARTITION BY HASH (id);
             CREATE TABLE {shadow_v2} PARTITION OF {shadow} FOR VALUES WITH (MODULUS 1, REMAINDER 0)".to_owned(),
            2,
            "is called until the swap",
        ),
        (
            "CREATE TABLE {shadow} (id int PRIMARY KEY, note text) PARTITION BY HASH (id);
             CREATE TABLE {shadow_0} PARTITION OF {shadow} FOR VALUES WITH (MODULUS 1, REMAINDER 0);
             CREATE INDEX ON {shadow_0} (note)".to_owned(),
            2,
            "index of a partition orders_0_note_idx",
        ),
        (
            "CREATE TABLE {shadow} (id int PRIMARY KEY, note text) PARTITION BY HASH (id);
             CREATE UNLOGGED TABLE {shadow_0} PARTITION OF {shadow} FOR VALUES WITH (MODULUS 1, REMAINDER 0)".to_owned(),
            2,
            "orders_0 is an unlogged table",
        ),
        (
            "CREATE TABLE {shadow} (id int PRIMARY KEY, note text) PARTITION BY HASH (id);
             CREATE TABLE {shadow_0} PARTITION OF {shadow} FOR VALUES WITH (MODULUS 1, REMAINDER 0);
             COMMENT ON COLUMN {shadow_0}.note IS 'x'".to_owned(),
            2,
            "something of its own: comment on column",
        ),
        // What of the rows has no place there.
        ("CREATE TABLE {shadow} (status text PRIMARY KEY)".to_owned(), 2, "drops key column \"id\""),
        (PLAIN.replace("note text", "note int"), 2, "cannot be converted as asked"),
        (PLAIN.replace("note text", "note text, more int NOT NULL"), 2, "\"more\" is NOT NULL and has no default"),
        (PLAIN.replace(", note text", ""), 2, "no column note"),
        (
            PLAIN.replace("note text", "note text GENERATED ALWAYS AS (status || '!') STORED"),
            2,
            "no column note of ours.orders, or computes it",
        ),
    ];
    let before = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'ours'::regnamespace";
    let before_all: String = shop.value(before).await;
    for (text, code, told) in cases {
        let file = file(&text);
        let change = ["--shadow-ddl", file.path().to_str().unwrap()];
        let output = shop.run(TABLE, &change).await.expect_code(code);
        assert!(output.stderr.contains(told), "{text}: {output}");
    }
    let output = shop.run(TABLE, &["--shadow-ddl", "/nowhere/at/all"]).await.expect_code(2);
    assert!(output.stderr.contains("/nowhere/at/all"), "{output}");
    let bad = file("");
    std::fs::write(bad.path(), [0xff, 0xfe]).unwrap();
    let path = bad.path().to_str().unwrap();
    let output = shop.run(TABLE, &["--shadow-ddl", path]).await.expect_code(2);
    assert!(output.stderr.contains("UTF-8"), "{output}");
    let output =
        shop.run(TABLE, &["--shadow-ddl", path, "--alter", "DROP note"]).await.expect_code(2);
    assert!(output.stderr.contains("cannot be used with"), "{output}");
    assert_eq!(shop.value::<String>(before).await, before_all);
    shop.exec("CREATE PUBLICATION feed FOR TABLE ours.orders").await;
    let without = file(&PLAIN.replace(" PRIMARY KEY", ""));
    let change = ["--shadow-ddl", without.path().to_str().unwrap()];
    let output = shop.run(TABLE, &change).await.expect_code(2);
    assert!(output.stderr.contains("publication feed could send no update"), "{output}");
    shop.exec(
        "DROP PUBLICATION feed; CREATE STATISTICS ours.both ON status, note FROM ours.orders",
    )
    .await;
    let less = file(&PLAIN.replace(", note text", ""));
    let change = ["--shadow-ddl", less.path().to_str().unwrap(), "--yes"];
    let output = shop.run(TABLE, &change).await.expect_code(3);
    for told in
        ["statistics \"ours\".\"both\"", "column \"note\"", "DROP STATISTICS \"ours\".\"both\""]
    {
        assert!(output.stderr.contains(told), "{told}: {output}");
    }
    assert!(!output.stderr.contains("pgwraith_0"), "{output}");
    assert_eq!(shop.held_back().await, [""; 0]);
}

/// A table with a quoted name; everything that hangs on it, and plan and dry run.
#[tokio::test]
async fn what_hangs_on_it_follows_to_the_table_of_the_file() {
    let shop = shop().await;
    shop.exec(
        "CREATE ROLE owner; CREATE ROLE app; CREATE SCHEMA \"S;1\" AUTHORIZATION owner; SET ROLE owner; SET search_path = \"S;1\";
         CREATE TABLE customers (id int PRIMARY KEY); INSERT INTO customers SELECT generate_series(1, 9);
         CREATE TABLE \"The Table\" (\"Id\" int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, c int REFERENCES customers, \"Note\" text DEFAULT 'n', gone int);
         INSERT INTO \"The Table\" (c, gone) SELECT 1 + n % 9, n FROM generate_series(1, 3000) n;
         CREATE TABLE child (t int REFERENCES \"The Table\"); INSERT INTO child VALUES (7);
         CREATE VIEW seen AS SELECT \"Id\", \"Note\" FROM \"The Table\";
         CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.\"Note\" := 'fired'; RETURN NEW; END $$;
         CREATE TRIGGER t BEFORE UPDATE ON \"The Table\" FOR EACH ROW EXECUTE FUNCTION pass();
         CREATE STATISTICS of_both ON \"Id\", c FROM \"The Table\";
         COMMENT ON TABLE \"The Table\" IS 'mine'; COMMENT ON COLUMN \"The Table\".c IS 'whose';
         GRANT SELECT ON \"The Table\" TO app; GRANT UPDATE (\"Note\") ON \"The Table\" TO app;
         ALTER TABLE \"The Table\" ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON \"The Table\" TO app USING (c < 5);
         RESET ROLE; RESET search_path",
    )
    .await;
    let table = "\"S;1\".\"The Table\"";
    let text = file(
        "CREATE TABLE {shadow} (LIKE \"S;1\".\"The Table\" INCLUDING DEFAULTS INCLUDING IDENTITY);
         ALTER TABLE {shadow} DROP COLUMN gone, ADD PRIMARY KEY (\"Id\");
         CREATE INDEX \"By Note\" ON {shadow} (lower(\"Note\")) WHERE c > 2;
         COMMENT ON INDEX {schema}.\"By Note\" IS 'found'",
    );
    let change = ["--shadow-ddl", text.path().to_str().unwrap()];
    let planned = harness_run("plan", &shop.dsn, table, &change).await.expect_code(0);
    for told in ["no column gone", "\"By Note\"", "CREATE TABLE \"S;1\".\"The Table_v2\""] {
        assert!(planned.stdout.contains(told), "{told}: {planned}");
    }
    harness_run("dry-run", &shop.dsn, table, &change).await.expect_code(0);
    let output = shop.run(table, &change).await.expect_code(2);
    assert!(
        output.stderr.contains("no column gone") && output.stderr.contains("--yes"),
        "{output}"
    );
    let change: Vec<&str> = change.into_iter().chain(["--yes"]).collect();
    let output = shop.run(table, &change).await.expect_code(0);

    let holds = async |what: &str| {
        assert!(shop.value::<bool>(&format!("SELECT {what}")).await, "{what}: {output}");
    };
    holds("relowner = 'owner'::regrole AND relrowsecurity AND obj_description(oid) = 'mine' AND col_description(oid, 2) = 'whose'
           FROM pg_class WHERE oid = '\"S;1\".\"The Table\"'::regclass").await;
    holds("has_table_privilege('app', '\"S;1\".\"The Table\"', 'SELECT') AND has_column_privilege('app', '\"S;1\".\"The Table\"', 'Note', 'UPDATE')").await;
    holds("count(*) = 2 AND bool_and(convalidated) FROM pg_constraint WHERE contype = 'f' AND '\"S;1\".\"The Table\"'::regclass IN (conrelid, confrelid)").await;
    holds("obj_description('\"S;1\".\"By Note\"'::regclass) = 'found' AND pg_get_indexdef('\"S;1\".\"By Note\"'::regclass) LIKE '%lower%WHERE (c > 2)'").await;
    holds("stxrelid = '\"S;1\".\"The Table\"'::regclass FROM pg_statistic_ext WHERE stxname = 'of_both'").await;
    holds("count(*) = 3000 FROM \"S;1\".seen").await;
    holds("count(*) = 0 FROM (SELECT \"Id\", c, \"Note\" FROM \"S;1\".\"The Table\" EXCEPT ALL SELECT \"Id\", c, \"Note\" FROM \"S;1\".\"The Table_old\") d").await;
    holds("count(*) = 1 FROM pg_policy WHERE polrelid = '\"S;1\".\"The Table\"'::regclass").await;
    let next = "INSERT INTO \"S;1\".\"The Table\" (c) VALUES (1) RETURNING \"Id\"";
    assert_eq!(shop.value::<i32>(next).await, 3001);
    shop.exec("UPDATE \"S;1\".\"The Table\" SET c = 2 WHERE \"Id\" = 3001").await;
    holds("\"Note\" = 'fired' FROM \"S;1\".\"The Table\" WHERE \"Id\" = 3001").await;
}

async fn harness_run(
    command: &str,
    dsn: &str,
    table: &str,
    change: &[&str],
) -> crate::harness::Output {
    let fixed = [command, table, "-d", dsn];
    crate::harness::run(fixed.iter().chain(change).copied()).await
}

/// Where the names are printed without their schema: the table's is on the search path.
#[tokio::test]
async fn a_table_on_the_search_path_is_made_by_a_file_too() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE public.plain (id int PRIMARY KEY, note text); \
         INSERT INTO public.plain SELECT i, 'n' || i FROM generate_series(1, 500) i",
    )
    .await;
    let file = file(
        "CREATE TABLE {shadow} (id bigint PRIMARY KEY, note text); CREATE INDEX ON {shadow} (note)",
    );
    let change = ["--shadow-ddl", file.path().to_str().unwrap()];
    shop.run("plain", &change).await.expect_code(0);
    let same = "SELECT count(*) FROM plain JOIN plain_old o USING (id, note)";
    assert_eq!(shop.value::<i64>(same).await, 500);
}

/// What the file has no place for is said beforehand. A row that has none is named, found before anything is made or by
/// the copy or the sync.
#[tokio::test]
async fn rows_without_a_partition_in_the_file_are_named() {
    let shop = shop().await;
    make(&shop, "ours", 2_000, "").await;
    let columns = "(LIKE ours.orders)";
    let half = format!(
        "CREATE TABLE {{shadow}} {columns} PARTITION BY HASH (id);
         CREATE TABLE {{shadow_0}} PARTITION OF {{shadow}} FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
    );
    let deep = |from: i32| {
        format!(
            "CREATE TABLE {{shadow}} {columns} PARTITION BY RANGE (id);
             CREATE TABLE {{shadow_low}} PARTITION OF {{shadow}} FOR VALUES FROM ({from}) TO (9000) PARTITION BY HASH (id);
             CREATE TABLE {{shadow_low_0}} PARTITION OF {{shadow_low}} FOR VALUES WITH (MODULUS 2, REMAINDER 0) PARTITION BY LIST (status);
             CREATE TABLE {{shadow_low_0_a}} PARTITION OF {{shadow_low_0}} FOR VALUES IN ('new', 'paid', 'shipped', 'returned');
             CREATE TABLE {{shadow_low_1}} PARTITION OF {{shadow_low}} FOR VALUES WITH (MODULUS 4, REMAINDER 1);
             CREATE TABLE {{shadow_low_3}} PARTITION OF {{shadow_low}} FOR VALUES WITH (MODULUS 4, REMAINDER 3);
             CREATE TABLE {{shadow_rest}} PARTITION OF {{shadow}} DEFAULT PARTITION BY LIST (status);
             CREATE TABLE {{shadow_rest_new}} PARTITION OF {{shadow_rest}} FOR VALUES IN ('new')"
        )
    };
    for (text, key) in [(half, "id = "), (deep(17), "id = ")] {
        let file = file(&text);
        let change = ["--shadow-ddl", file.path().to_str().unwrap()];
        let output = shop.run(TABLE, &change).await.expect_code(4);
        assert!(output.stderr.contains(&format!("the row with key {key}")), "{output}");
        assert!(output.stderr.contains("has no partition in the new table"), "{output}");
        assert_eq!(shop.held_back().await, [""; 0]);
    }
    let file = file(&deep(0));
    let change = ["--shadow-ddl", file.path().to_str().unwrap()];
    let plan = harness_run("plan", &shop.dsn, TABLE, &change).await.expect_code(0);
    for told in
        ["\"orders_low_0\" has no default partition", "\"orders_rest\" has no default partition"]
    {
        assert!(plan.stdout.contains(told), "{plan}");
    }
    assert!(!plan.stdout.contains("remainders"), "{plan}");
    for phase in ["copy", "verify"] {
        let held = shop.held(phase, TABLE, &change).await;
        shop.exec("UPDATE ours.orders SET status = 'lost' WHERE id BETWEEN 1230 AND 1239").await;
        let output = held.finish().await.expect_code(4);
        assert!(output.stderr.contains("has no default partition"), "{output}");
        assert!(output.stderr.contains("the row with key id = 123"), "{output}");
        assert!(output.stderr.contains("no partition for it: give it one"), "{output}");
        crate::harness::run(["abort", TABLE, "-d", &shop.dsn]).await.expect_code(0);
        shop.exec("UPDATE ours.orders SET status = 'new' WHERE status = 'lost'").await;
    }
}
