//! What a table must be.

use super::{everything, findings, refusal, refusals, refusing, run_mend};
use crate::harness;

/// Each mend for a missing key is run as it stands, and then there is one.
#[tokio::test]
async fn a_table_without_a_usable_key_is_told_how_to_get_one() {
    let cluster = harness::cluster().await;
    let dsn = harness::database(&cluster, "d").await;
    let client = harness::connect(&dsn).await;
    client
        .batch_execute(
            "CREATE TABLE nothing (id int PRIMARY KEY);
             ALTER TABLE nothing REPLICA IDENTITY NOTHING;
             CREATE TABLE \"Full\" (id int NOT NULL UNIQUE);
             ALTER TABLE \"Full\" REPLICA IDENTITY FULL;
             CREATE TABLE other (id int NOT NULL UNIQUE);
             CREATE TABLE nullable (a int, b int NOT NULL, UNIQUE (a, b));
             CREATE TABLE deferred (a int, \"B\" int, PRIMARY KEY (a, \"B\") DEFERRABLE);
             CREATE TABLE partial (a int NOT NULL);
             CREATE UNIQUE INDEX ON partial (a) WHERE a > 0;
             CREATE TABLE fine (id int PRIMARY KEY);
             ALTER TABLE fine REPLICA IDENTITY FULL;
             CREATE TYPE pair AS (a int, b text); CREATE DOMAIN list AS int[];
             CREATE TABLE composite (id pair PRIMARY KEY);
             CREATE TABLE arrays (a int, b text[], PRIMARY KEY (a, b));
             CREATE TABLE lists (id list PRIMARY KEY);",
        )
        .await
        .unwrap();
    for table in ["composite", "arrays", "lists"] {
        refusal(&findings(&dsn, table).await, "usable_key", "an array or a composite value");
    }
    for (table, what, mend) in [
        ("nothing", "NOTHING", "ALTER TABLE \"public\".\"nothing\" REPLICA IDENTITY DEFAULT"),
        ("\"Full\"", "no primary key", "REPLICA IDENTITY USING INDEX \"Full_id_key\""),
        ("other", "no primary key", "REPLICA IDENTITY USING INDEX \"other_id_key\""),
        ("nullable", "no primary key", "ALTER COLUMN \"a\" SET NOT NULL; ALTER TABLE"),
        ("deferred", "deferrable", "CREATE UNIQUE INDEX CONCURRENTLY \"deferred_identity\""),
    ] {
        let found = findings(&dsn, table).await;
        let refused = refusal(&found, "usable_key", what);
        assert!(refused.mend.contains(mend), "{refused}");
        run_mend(&client, &refused.mend).await;
        assert_eq!(refusing(&findings(&dsn, table).await), [].into(), "{table}");
    }
    let found = findings(&dsn, "partial").await;
    assert!(refusal(&found, "usable_key", "no primary key").mend.contains("ADD PRIMARY KEY"));
    let found = findings(&dsn, "fine").await;
    assert!(found.iter().any(|f| f.check == "usable_key" && f.what.contains("whole rows")));
    assert_eq!(refusing(&found), [].into());
}

#[tokio::test]
async fn only_a_table_with_rows_of_its_own_passes() {
    let cluster = harness::cluster().await;
    let dsn = harness::database(&cluster, "d").await;
    let client = harness::connect(&dsn).await;
    client
        .batch_execute(
            "CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler;
             CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
             CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (10);
             CREATE FOREIGN TABLE far (id int) SERVER s;
             CREATE VIEW seen AS SELECT 1 AS id;
             CREATE MATERIALIZED VIEW kept AS SELECT 1 AS id;
             CREATE SEQUENCE counter;
             CREATE TYPE pair AS (a int, b int);
             CREATE UNLOGGED TABLE unsafe (id int PRIMARY KEY);
             CREATE TABLE odd (id int PRIMARY KEY) USING heap2;
             CREATE SCHEMA pgwraith; CREATE TABLE pgwraith.state (id int PRIMARY KEY);",
        )
        .await
        .unwrap();
    for (table, what, mend) in [
        ("part", "a partition of another", "DETACH"),
        ("far", "a foreign table", "the server that holds its rows"),
        ("seen", "a view", "underneath"),
        ("kept", "a materialized view", "anew"),
        ("counter", "a sequence", "the table that uses it"),
        ("pair", "a composite type", "Name a table"),
        ("parted_pkey", "an index", "the table that it belongs to"),
        ("unsafe", "unlogged", "ALTER TABLE \"public\".\"unsafe\" SET LOGGED"),
        ("odd", "\"heap2\"", "ALTER TABLE \"public\".\"odd\" SET ACCESS METHOD heap"),
        ("pgwraith.state", "\"pgwraith\"", "a table of your own"),
        ("pg_catalog.pg_class", "\"pg_catalog\"", "a table of your own"),
    ] {
        let found = findings(&dsn, table).await;
        let refused = refusal(&found, "table_kind", what);
        assert!(refused.mend.contains(mend), "{refused}");
        let unanswered = refusals(&found).into_iter().find(|f| f.what.contains("found out"));
        assert!(unanswered.is_none(), "{table}: {unanswered:?}");
    }
}

#[tokio::test]
async fn names_that_a_run_gives_must_be_free() {
    let cluster = harness::cluster().await;
    let dsn = harness::database(&cluster, "d").await;
    let client = harness::connect(&dsn).await;
    let long = format!("{}_v2", "x".repeat(60));
    client
        .batch_execute(&format!(
            "CREATE TABLE orders (id int PRIMARY KEY);
             CREATE VIEW orders_v2 AS SELECT 1 AS a;
             CREATE TABLE orders_old (id int);
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'begin return null; end';
             CREATE TRIGGER pgwraith_retired BEFORE INSERT ON orders_old EXECUTE FUNCTION refuse();
             CREATE INDEX orders_pkey_v2 ON orders_old (id);
             CREATE TABLE items (id int PRIMARY KEY);
             CREATE TYPE items_v2 AS ENUM ('a');
             CREATE TYPE items_old AS (a int);
             CREATE TABLE \"{long}\" (id int PRIMARY KEY);
             CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.t_v2 (id int);
             CREATE TYPE t AS ENUM ('a'); CREATE TABLE \"_t_v2\" (id int);
             DROP TYPE t; CREATE TABLE t (id int PRIMARY KEY);",
        ))
        .await
        .unwrap();

    let found = findings(&dsn, "orders").await;
    let new = refusal(&found, "names", "\"orders_v2\", wanted for the new table");
    assert!(new.mend.contains("ALTER VIEW \"public\".\"orders_v2\" RENAME TO"), "{new}");
    assert!(new.mend.ends_with("or drop it if nobody needs it"), "{new}");
    let old = refusal(&found, "names", "the old table of an earlier run");
    assert!(old.mend.starts_with("DROP TABLE \"public\".\"orders_old\""), "{old}");
    let index = refusal(&found, "names", "\"orders_pkey_v2\", wanted for a new index");
    assert!(index.mend.contains("ALTER INDEX"), "{index}");
    assert_eq!(refusals(&found).len(), 3, "{found:#?}");

    let found = findings(&dsn, "items").await;
    assert!(refusal(&found, "names", "\"items_v2\"").mend.contains("ALTER TYPE"));
    assert!(refusal(&found, "names", "\"items_old\"").mend.contains("ALTER TYPE"));
    assert_eq!(refusals(&found).len(), 2, "{found:#?}");

    refusal(&findings(&dsn, &long).await, "names", &long);
    assert_eq!(refusing(&findings(&dsn, "t").await), [].into());
}

/// Conditions of many kinds in one table come in one list, and looking changes nothing.
#[tokio::test]
async fn everything_around_the_table_is_told_at_once() {
    let mut cluster = harness::cluster().await;
    let dsn = harness::database(&cluster, "d").await;
    let client = harness::connect(&dsn).await;
    let publisher = harness::connect(&harness::database(&cluster, "publisher").await).await;
    publisher
        .batch_execute(
            "CREATE TABLE orders (id int PRIMARY KEY); CREATE PUBLICATION feed FOR TABLE orders",
        )
        .await
        .unwrap();
    client
        .batch_execute(
            "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE calm (id int PRIMARY KEY);
             CREATE PUBLICATION everything FOR ALL TABLES;
             CREATE PUBLICATION \"by schema\" FOR TABLES IN SCHEMA public;",
        )
        .await
        .unwrap();
    let feed = format!(
        "CREATE SUBSCRIPTION sub CONNECTION '{}' PUBLICATION feed
         WITH (enabled = false, create_slot = false, slot_name = NONE)",
        cluster.dsn("publisher")
    );
    client.batch_execute(&feed).await.unwrap();
    client
        .batch_execute(
            "CREATE SCHEMA pgwraith;
             CREATE TABLE pgwraith.migration (id bigint PRIMARY KEY, source_schema text,
               source_name text, source_oid oid, phase text, finished_at timestamptz);
             INSERT INTO pgwraith.migration VALUES
               (6, 'public', 'orders', 0, 'done', now()), (7, 'public', 'orders', 0, 'copy', NULL);",
        )
        .await
        .unwrap();
    client
        .batch_execute("BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'it''s \\ stuck'")
        .await
        .unwrap();

    let before = everything(&client).await;
    let found = findings(&dsn, "orders").await;
    assert_eq!(everything(&client).await, before);

    let all = refusal(&found, "publications", "\"everything\" is FOR ALL TABLES");
    assert!(all.mend.contains("DROP PUBLICATION \"everything\""), "{all}");
    let schema = refusal(&found, "publications", "\"by schema\" is FOR TABLES IN SCHEMA");
    assert!(schema.mend.contains("DROP TABLES IN SCHEMA \"public\""), "{schema}");
    let sub = refusal(&found, "subscription", "\"sub\"");
    assert!(sub.mend.contains("ALTER SUBSCRIPTION \"sub\" REFRESH PUBLICATION"), "{sub}");
    let other = refusal(&found, "another_migration", "migration 7");
    assert!(other.what.contains("phase copy") && other.mend.contains("pgwraith abort"), "{other}");
    let stuck = refusal(&found, "prepared_transactions", "RowExclusiveLock");
    assert!(stuck.mend.contains("ROLLBACK PREPARED E'it''s \\\\ stuck'"), "{stuck}");
    let stuck = stuck.mend.clone();
    let expected = ["another_migration", "prepared_transactions", "publications", "subscription"];
    assert_eq!(refusing(&found), expected.into(), "{found:#?}");

    let error = pgwraith::preflight::refuse(&found, "public.orders").unwrap();
    assert_eq!(error.kind().exit_code(), 3);
    let text = error.to_string();
    for finding in refusals(&found) {
        let line = text.lines().find(|line| line.contains(&finding.what));
        assert!(line.is_some_and(|line| line.contains(&finding.mend)), "{finding}\n{text}");
    }
    assert!(text.lines().last().unwrap().starts_with("Nothing was touched"), "{text}");

    // What concerns another table only is not told of this one.
    let found = findings(&dsn, "calm").await;
    assert_eq!(refusing(&found), ["publications"].into(), "{found:#?}");

    // After a restart the locks of a prepared transaction are found by another virtual id.
    drop((client, publisher));
    cluster.restart().await.unwrap();
    let found = findings(&dsn, "orders").await;
    let again = refusal(&found, "prepared_transactions", "RowExclusiveLock");
    assert_eq!(again.mend, stuck);
}
