//! What cannot follow is refused by name, with a mend, before anything is touched.

use super::copies::copy;
use crate::cases;
use crate::definition::{assert_same, database};
use crate::harness::{self, Output};
use crate::scene::{SOON, Shop, exec, shop};

/// The run over `table` is refused for what is named so, with a mend, and touches nothing.
async fn refused(shop: &Shop, table: &str, made_by: &str, named: &[&str]) -> Output {
    let before = database(shop, &[]).await;
    let output = shop.run(table, &["--rebuild"]).await;
    assert_eq!(output.code, Some(3), "{made_by}: {output}");
    for name in named {
        let told = output.stderr.lines().find(|line| line.contains(name));
        let told = told.unwrap_or_else(|| panic!("{made_by}: {name} is not named: {output}"));
        let mend = told.split_once(". ").map_or("", |(_, mend)| mend);
        assert!(mend.len() > 10, "{made_by}: no mend for {name}: {told}");
    }
    assert!(output.stderr.contains("Nothing was touched"), "{output}");
    assert_same(&database(shop, &[]).await.lines(), &before.lines(), made_by);
    let ours = harness::leftovers(&shop.client).await;
    let ours: Vec<_> = ours.iter().filter(|what| what.contains("pgwraith")).collect();
    assert!(ours.is_empty(), "{made_by}: {ours:?}");
    output
}

/// What each statement of the script makes, as it is to be named.
const BOUND: [(&str, &str); 5] = [
    ("create materialized view", "zoo_mv"),
    ("alter table child add column zz zoo", "column zz of table public.child"),
    ("create function zoo_fn()", "zoo_fn()"),
    ("create publication everything", "everything"),
    ("create table zoo_cub", "zoo_cub"),
];

#[tokio::test]
async fn each_thing_bound_to_the_zoo_is_refused_by_name() {
    let mut shop = shop().await;
    cases::zoo(&shop).await;
    let script = include_str!("../cases/zoo-bound.sql");
    let statements: Vec<&str> = script.lines().filter(|line| !line.starts_with("--")).collect();
    assert_eq!(statements.len(), BOUND.len());
    for (n, (statement, (begins, name))) in statements.into_iter().zip(BOUND).enumerate() {
        assert!(statement.starts_with(begins), "{statement}");
        copy(&mut shop, "shop", &format!("bound{n}")).await;
        shop.exec(statement).await;
        let output = refused(&shop, "zoo", statement, &[name]).await;
        // It alone is in the way: everything else of the zoo follows.
        assert!(output.stderr.contains("found in the way: 1\n"), "{statement}: {output}");
    }
}

const TABLE: &str =
    "CREATE TABLE t (id int PRIMARY KEY, v text, n int); INSERT INTO t VALUES (1, 'a', 1);";

/// What makes it, the table, how it is named.
const OTHERS: &[(&str, &str, &[&str])] = &[
    (
        "CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n FROM t",
        "t",
        &["materialized view", "mv"],
    ),
    ("CREATE FUNCTION takes(t) RETURNS int LANGUAGE sql AS 'SELECT 1'", "t", &["takes("]),
    (
        "CREATE FUNCTION takes_many(t[]) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "t",
        &["takes_many("],
    ),
    ("CREATE FUNCTION gives() RETURNS t LANGUAGE sql AS 'SELECT * FROM t'", "t", &["gives()"]),
    (
        "CREATE FUNCTION lists() RETURNS SETOF t LANGUAGE sql AS 'SELECT * FROM t'",
        "t",
        &["lists()"],
    ),
    (
        "CREATE FUNCTION out_of(OUT a t, OUT b int) LANGUAGE sql AS 'SELECT NULL::t, 1'",
        "t",
        &["out_of("],
    ),
    ("CREATE TABLE has (one t)", "t", &["column one of table public.has"]),
    ("CREATE TABLE has (many t[])", "t", &["column many of table public.has"]),
    ("CREATE DOMAIN checked AS t CHECK ((value).n > 0)", "t", &["checked"]),
    ("CREATE TYPE wraps AS (inside t)", "t", &["inside", "wraps"]),
    ("CREATE VIEW whole AS SELECT t AS whole_row FROM t", "t", &["whole"]),
    ("CREATE TABLE below () INHERITS (t)", "t", &["inheritance", "public.below"]),
    (
        "CREATE TABLE above (id int NOT NULL); ALTER TABLE t INHERIT above",
        "t",
        &["inheritance", "public.above"],
    ),
    (
        "CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF parted DEFAULT",
        "part",
        &["a partition of another"],
    ),
    (
        "CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF parted DEFAULT;
         CREATE VIEW of_part AS SELECT id FROM part",
        "parted",
        &["use of a partition by name public.part by rule _RETURN on view public.of_part"],
    ),
    (
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE far (id int) SERVER s",
        "far",
        &["a foreign table"],
    ),
    (
        "CREATE VIEW size AS SELECT pg_relation_size('t_pkey') AS bytes",
        "t",
        &["use of an index by name public.t_pkey by rule _RETURN on view public.size"],
    ),
    (
        "CREATE FUNCTION size() RETURNS bigint BEGIN ATOMIC SELECT pg_relation_size('t_pkey'::regclass); END",
        "t",
        &["use of an index by name public.t_pkey by function public.size()"],
    ),
    (
        "CREATE TABLE other (of regclass DEFAULT 't_pkey'::regclass)",
        "t",
        &["by default value for column of of table public.other"],
    ),
    (
        "ALTER TABLE t ADD of regclass DEFAULT 't_pkey'::regclass",
        "t",
        &["by default value for column of of table public.t"],
    ),
    (
        "CREATE TABLE other (of regclass); CREATE POLICY p ON other USING (of <> 't_pkey'::regclass)",
        "t",
        &["by policy p on table public.other"],
    ),
    (
        "CREATE STATISTICS st ON n, (id + 't_pkey'::regclass::oid::int8) FROM t",
        "t",
        &["expression that names the table or its own, in extended statistics public.st"],
    ),
    (
        "CREATE TABLE other (id int PRIMARY KEY, k oid); CREATE PUBLICATION feed FOR TABLE other WHERE (id <> 't'::regclass::oid::int)",
        "t",
        &["publication of table public.other in publication feed"],
    ),
    (
        "CREATE TABLE other (id int, k oid); CREATE STATISTICS st ON id, (k = 't'::regclass) FROM other",
        "t",
        &["dependent object statistics object public.st"],
    ),
    (
        "CREATE STATISTICS st ON n, (id + 't'::regclass::oid::int8) FROM t",
        "t",
        &["expression that names the table or its own, in extended statistics public.st"],
    ),
    ("ALTER TABLE t ADD CONSTRAINT c CHECK (n::oid <> 't'::regclass)", "t", &["in constraint c"]),
    ("CREATE INDEX x ON t (n) WHERE n::oid = 't_pkey'::regclass", "t", &["in index public.x"]),
    ("ALTER TABLE t SET UNLOGGED", "t", &["unlogged"]),
    (
        "CREATE TYPE shape AS (id int, v text); CREATE TABLE typed OF shape (PRIMARY KEY (id))",
        "typed",
        &["typed table", "shape"],
    ),
    (
        "CREATE EXTENSION btree_gist; ALTER EXTENSION btree_gist ADD TABLE t",
        "t",
        &["extension", "btree_gist"],
    ),
    (
        "CREATE EXTENSION btree_gist; CREATE INDEX by_n ON t (n); ALTER INDEX by_n DEPENDS ON EXTENSION btree_gist",
        "t",
        &["extension membership of index public.by_n in extension btree_gist"],
    ),
    (
        "CREATE TABLE u (id int); CREATE CONSTRAINT TRIGGER ct AFTER INSERT ON u FROM t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "t",
        &["DROP TRIGGER ct on public.u and create it again"],
    ),
    // No provider is there: the label is put where providers put theirs.
    (
        "SET allow_system_table_mods = on; INSERT INTO pg_seclabel VALUES ('t'::regclass, 'pg_class'::regclass, 0, 'guard', 'secret')",
        "t",
        &["security label"],
    ),
    (
        "SET allow_system_table_mods = on; INSERT INTO pg_seclabel VALUES ('t'::regclass, 'pg_class'::regclass, 2, 'guard', 'secret')",
        "t",
        &["security label"],
    ),
    (
        "CREATE INDEX by_n ON t (n); SET allow_system_table_mods = on; UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'by_n'::regclass",
        "t",
        &["invalid index", "by_n"],
    ),
    (
        "CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'begin end'; CREATE EVENT TRIGGER watching ON ddl_command_end EXECUTE FUNCTION watch()",
        "t",
        &["watching"],
    ),
    ("CREATE PUBLICATION everything FOR ALL TABLES", "t", &["\"everything\" is FOR ALL TABLES"]),
    (
        "CREATE PUBLICATION few FOR TABLES IN SCHEMA public",
        "t",
        &["\"few\" is FOR TABLES IN SCHEMA"],
    ),
];

#[tokio::test]
async fn whatever_cannot_follow_is_refused_by_name() {
    let mut shop = shop().await;
    shop.exec(TABLE).await;
    for (n, (made_by, table, named)) in OTHERS.iter().enumerate() {
        copy(&mut shop, "shop", &format!("other{n}")).await;
        shop.exec(made_by).await;
        refused(&shop, table, made_by, named).await;
    }
}

#[tokio::test]
async fn a_temporary_table_is_refused() {
    let shop = shop().await;
    shop.exec("CREATE TEMPORARY TABLE passing (id int PRIMARY KEY)").await;
    let name: String = shop.value("SELECT nspname || '.passing' FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relname = 'passing'").await;
    refused(&shop, &name, "a temporary table", &["temporary"]).await;
}

#[tokio::test]
async fn what_a_session_made_for_itself_is_waited_for() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let other = shop.session().await;
    exec(&other, "CREATE TEMPORARY VIEW mine AS SELECT * FROM t").await;
    let output = refused(&shop, "t", "a temporary view", &["mine, which is temporary"]).await;
    assert!(output.stderr.contains("found in the way: 1\n"), "{output}");
    exec(
        &other,
        "DROP VIEW mine; CREATE TEMPORARY VIEW sized AS SELECT pg_relation_size('t_pkey')",
    )
    .await;
    let output = refused(&shop, "t", "a temporary view", &["sized, which is temporary"]).await;
    assert!(output.stderr.contains("found in the way: 1\n"), "{output}");
    exec(&other, "DROP VIEW sized").await;
    let mut held = shop.held("cutover", "t", &["--rebuild"]).await;
    exec(&other, "CREATE TEMPORARY VIEW mine AS SELECT * FROM t").await;
    held.release().await;
    held.run.wait_for_saying("the cutover waits: view pg_temp_").await;
    exec(&other, "DROP VIEW mine").await;
    held.run.finish(SOON).await.expect_code(0);
}

#[tokio::test]
async fn a_prepared_transaction_that_holds_the_table_is_refused() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    shop.exec("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'stuck'").await;
    let output = refused(&shop, "t", "a prepared transaction", &["stuck"]).await;
    assert!(output.stderr.contains("ROLLBACK PREPARED"), "{output}");
    shop.exec("ROLLBACK PREPARED 'stuck'").await;
    shop.run("t", &["--rebuild"]).await.expect_code(0);
}
