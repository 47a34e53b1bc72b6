//! What follows the table may belong to many: the tool needs no superuser for it, but to be one of them
//! all, and says whom it cannot act as.

use crate::cases;
use crate::definition::{assert_same, database};
use crate::scene::{Shop, shop};

/// A rebuild of `t` changes no definition in the database, and nothing still depends on the old table.
async fn is_rebuilt_alike(shop: &Shop) {
    let before = database(shop, &[]).await;
    shop.run("t", &["--rebuild"]).await.expect_code(0);
    shop.exec("DROP TABLE t_old").await;
    assert_same(&database(shop, &[]).await.lines(), &before.lines(), "rebuilt");
}

/// Nothing belongs to a superuser any more.
const BELONGINGS: &str = "
    CREATE ROLE parents; CREATE ROLE children; CREATE ROLE \"View's\"; CREATE ROLE writer; CREATE ROLE publisher; CREATE ROLE counter;
    GRANT USAGE ON SCHEMA s TO \"View's\", owner1; GRANT CREATE ON SCHEMA s TO \"View's\"; GRANT CREATE ON SCHEMA public TO counter;
    GRANT CREATE ON DATABASE shop TO publisher;
    ALTER TABLE parent OWNER TO parents; ALTER TABLE child OWNER TO children; ALTER VIEW s.zoo_v2 OWNER TO \"View's\";
    ALTER VIEW zoo_v3 OWNER TO \"View's\"; ALTER FUNCTION zoo_count() OWNER TO writer; ALTER STATISTICS zoo_st OWNER TO counter;
    ALTER PUBLICATION p1 OWNER TO publisher; ALTER PUBLICATION p2 OWNER TO publisher;
    GRANT REFERENCES ON parent TO owner1; GRANT REFERENCES ON zoo TO children; GRANT SELECT ON zoo TO \"View's\", writer;
    GRANT DELETE ON zoo TO app WITH GRANT OPTION;
    SET ROLE app; GRANT DELETE ON zoo TO writer; RESET ROLE;
    CREATE ROLE tool LOGIN REPLICATION BYPASSRLS IN ROLE owner1, pg_read_all_stats; GRANT CREATE ON DATABASE shop TO tool;";

#[tokio::test]
async fn each_owner_of_what_follows_is_named_with_the_membership_it_takes() {
    let mut shop = shop().await;
    cases::zoo(&shop).await;
    shop.exec(BELONGINGS).await;
    let before = database(&shop, &[]).await;
    let as_superuser = shop.dsn.clone();
    shop.dsn = as_superuser.replace("postgres@", "tool@");

    let output = shop.run("zoo", &["--rebuild"]).await.expect_code(3);
    for (role, what) in [
        ("parents", "table \"public\".\"parent\" of foreign key \"zoo_pid_fk\""),
        ("children", "table \"public\".\"child\" of foreign key \"child_zid_fk\""),
        ("View's", "view s.zoo_v2"),
        ("writer", "function public.zoo_count()"),
        ("counter", "statistics \"public\".\"zoo_st\""),
        ("publisher", "publication p1, publication p2"),
        ("app", "grants on \"public\".\"zoo\""),
    ] {
        let told = format!("followers: \"tool\" cannot act as \"{role}\", to whom belongs");
        let line = output.stderr.lines().find(|line| line.contains(&told));
        let line = line.unwrap_or_else(|| panic!("{told}: {output}"));
        assert!(line.contains(what), "{line}");
        let mend = line.split_once(". GRANT ").unwrap().1.trim_end_matches('.');
        shop.exec(&format!("GRANT {mend}")).await;
    }
    // The function's owner may not make functions in its schema any more; the tool may.
    shop.run("zoo", &["--rebuild"]).await.expect_code(0);
    shop.exec("DROP TABLE zoo_old").await;
    shop.dsn = as_superuser;
    assert_same(&database(&shop, &[]).await.lines(), &before.lines(), "rebuilt by no superuser");
    assert_eq!(shop.held_back().await, [""; 0]);
}

/// Owners may have less than what is theirs would take: they do not need it for what follows.
#[tokio::test]
async fn rights_that_an_owner_lacks_on_his_own_are_no_obstacle() {
    let mut shop = shop().await;
    shop.exec(
        "CREATE ROLE owner1; CREATE ROLE viewer; CREATE ROLE children; GRANT CREATE ON SCHEMA public TO owner1; \
         CREATE SCHEMA h; CREATE TYPE h.grade AS ENUM ('a', 'b'); CREATE COLLATION h.coll (LOCALE = 'C'); \
         CREATE TABLE t (id int PRIMARY KEY, v varchar(7)); ALTER TABLE t OWNER TO owner1; INSERT INTO t VALUES (1, 'a'); \
         CREATE VIEW h.v AS SELECT id, v, v COLLATE h.coll AS w, 'a'::h.grade AS g, '1'::numeric(9, 2) AS n FROM t; \
         CREATE TABLE h.child (id int PRIMARY KEY, t int REFERENCES t, g h.grade, w text COLLATE h.coll, n numeric(9, 2)); \
         CREATE POLICY p ON h.child USING (g = 'a' AND w = 'x' AND EXISTS (SELECT 1 FROM t WHERE t.id = child.t)); \
         ALTER VIEW h.v OWNER TO viewer; ALTER TABLE h.child OWNER TO children; GRANT SELECT ON t TO viewer, children; \
         REVOKE ALL ON h.child FROM children; REVOKE USAGE ON TYPE h.grade FROM PUBLIC, children; \
         CREATE ROLE tool LOGIN REPLICATION IN ROLE owner1, viewer, children, pg_read_all_stats; GRANT CREATE ON DATABASE shop TO tool; \
         GRANT ALL ON SCHEMA h TO tool; GRANT USAGE ON TYPE h.grade TO tool; GRANT USAGE ON SCHEMA h TO owner1",
    )
    .await;
    let as_superuser = shop.dsn.clone();
    let as_tool = as_superuser.replace("postgres@", "tool@");
    shop.dsn = as_tool.clone();
    let output = shop.run("t", &["--rebuild"]).await.expect_code(3);
    let mend = "GRANT UPDATE ON \"h\".\"child\" TO \"tool\"";
    assert!(output.stderr.contains(mend), "{output}");
    assert!(output.stderr.contains("found in the way: 1\n"), "{output}");
    shop.exec("GRANT UPDATE ON h.child TO tool").await;
    shop.dsn = as_superuser.clone();
    let before = database(&shop, &[]).await;
    shop.dsn = as_tool;
    shop.run("t", &["--rebuild"]).await.expect_code(0);
    shop.exec("DROP TABLE t_old").await;

    shop.exec("REVOKE USAGE ON TYPE h.grade FROM tool").await;
    let output = shop.run("t", &["--rebuild"]).await.expect_code(3);
    assert!(output.stderr.contains("permission denied for type h.grade"), "{output}");
    shop.exec("GRANT USAGE ON TYPE h.grade TO tool; ALTER TABLE t ADD g h.grade").await;
    let output = shop.run("t", &["--rebuild"]).await.expect_code(3);
    let told = "as owner1: PostgreSQL says: permission denied for type h.grade";
    assert!(output.stderr.contains(told), "{output}");
    shop.exec("ALTER TABLE t DROP g").await;
    shop.dsn = as_superuser;
    assert_same(&database(&shop, &[]).await.lines(), &before.lines(), "rebuilt");
}

/// Where a schema, its table and a column have one name, only the table is another by the swap.
#[tokio::test]
async fn one_name_for_a_schema_a_table_and_a_column_confuses_nobody() {
    let shop = shop().await;
    shop.exec(
        "CREATE SCHEMA s; CREATE TABLE s.s (s int PRIMARY KEY, n int); INSERT INTO s.s VALUES (1, 2), (3, 4); \
         CREATE VIEW s.v AS SELECT s.s, s.n, extract(epoch FROM make_interval(secs => s.s)) AS e FROM s.s WHERE s.s IS DISTINCT FROM s.n; \
         CREATE VIEW s.w AS SELECT a.s, s.s AS t FROM s.s a JOIN s.s ON s.s = a.s, s.v; \
         CREATE POLICY p ON s.s FOR DELETE USING (s.s > 1 AND s.s NOT IN (SELECT s.n FROM s.s)); \
         CREATE RULE r AS ON DELETE TO s.s WHERE old.s = 7 DO ALSO UPDATE s.s SET n = s.s WHERE s.s = old.n; \
         CREATE FUNCTION s.s(s int) RETURNS bigint BEGIN ATOMIC SELECT sum(s.n) FROM s.s WHERE s.s = s.s.s; END",
    )
    .await;
    let before = database(&shop, &[]).await;
    let rows = (shop.rows("s.v").await, shop.rows("s.w").await);
    shop.run("s.s", &["--rebuild"]).await.expect_code(0);
    shop.exec("DROP TABLE s.s_old").await;
    assert_same(&database(&shop, &[]).await.lines(), &before.lines(), "rebuilt");
    assert_eq!((shop.rows("s.v").await, shop.rows("s.w").await), rows);
}

/// A view may group by a table's key and select what depends on it, at either end of a foreign key; the
/// key's name is nothing to it.
#[tokio::test]
async fn views_that_group_by_a_key_follow() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE customers (id int PRIMARY KEY, name text); INSERT INTO customers VALUES (1, 'a'), (2, 'b'); \
         CREATE TABLE t (id int PRIMARY KEY, c int REFERENCES customers, n int); INSERT INTO t VALUES (1, 1, 3), (2, 1, 4); \
         CREATE TABLE lines (id int PRIMARY KEY, t int REFERENCES t, note text); INSERT INTO lines VALUES (1, 2, 'x'); \
         CREATE VIEW totals AS SELECT c.id, c.name, sum(t.n) AS n FROM customers c JOIN t ON t.c = c.id GROUP BY c.id; \
         CREATE VIEW noted AS SELECT l.id, l.note, sum(t.n) AS n FROM lines l JOIN t ON l.t = t.id GROUP BY l.id; \
         CREATE VIEW own AS SELECT t.id, t.n, count(*) AS k FROM t JOIN lines l ON l.t = t.id GROUP BY t.id",
    )
    .await;
    let before = database(&shop, &[]).await;
    let rows = (shop.rows("totals").await, shop.rows("noted").await, shop.rows("own").await);
    shop.run("t", &["--rebuild"]).await.expect_code(0);
    shop.exec("DROP TABLE t_old").await;
    assert_same(&database(&shop, &[]).await.lines(), &before.lines(), "rebuilt");
    shop.run("t", &["--alter", "RENAME CONSTRAINT t_pkey TO the_key"]).await.expect_code(0);
    shop.exec("DROP TABLE t_old").await;
    assert_eq!((shop.rows("totals").await, shop.rows("noted").await, shop.rows("own").await), rows);
}

/// Privileges may be on columns that every table has, also those given while the rows are copied.
#[tokio::test]
async fn privileges_on_system_columns_follow() {
    let shop = shop().await;
    shop.exec(
        "CREATE ROLE r1; CREATE ROLE \"R 2\"; CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'); \
         GRANT SELECT (xmin, ctid, id) ON t TO r1; GRANT SELECT (tableoid) ON t TO \"R 2\" WITH GRANT OPTION; \
         SET ROLE \"R 2\"; GRANT SELECT (tableoid) ON t TO r1; RESET ROLE",
    )
    .await;
    let granted = "SELECT string_agg(attname || ' ' || attacl::text, ', ' ORDER BY attnum) FROM pg_attribute \
                   WHERE attrelid = 't'::regclass AND attacl IS NOT NULL AND attacl <> '{}'";
    let before: String = shop.value(granted).await;
    shop.run("t", &["--rebuild"]).await.expect_code(0);
    assert_eq!(shop.value::<String>(granted).await, before);
    shop.exec("DROP TABLE t_old").await;

    let held = shop.held("verify", "t", &["--rebuild"]).await;
    shop.exec("GRANT SELECT (cmin) ON t TO r1; REVOKE SELECT (ctid) ON t FROM r1").await;
    let before: String = shop.value(granted).await;
    assert!(before.contains("cmin"), "{before}");
    held.finish().await.expect_code(0);
    assert_eq!(shop.value::<String>(granted).await, before);
}

/// Functions of two schemas may have one name and the same arguments.
#[tokio::test]
async fn functions_of_one_name_follow() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'); CREATE SCHEMA a; CREATE SCHEMA b; \
         CREATE FUNCTION a.f(int) RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t WHERE id > $1; END; \
         CREATE FUNCTION b.f(int) RETURNS text BEGIN ATOMIC SELECT v FROM t WHERE id = $1; END; \
         CREATE PROCEDURE public.f(int) BEGIN ATOMIC DELETE FROM t WHERE id = $1; END",
    )
    .await;
    is_rebuilt_alike(&shop).await;
}

/// Only its default follows, and its body is found by whoever calls it.
#[tokio::test]
async fn a_body_that_is_a_string_is_no_obstacle() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY); INSERT INTO t DEFAULT VALUES; \
         CREATE FUNCTION nid(x bigint DEFAULT nextval('t_id_seq')) RETURNS bigint LANGUAGE sql AS 'SELECT x FROM t LIMIT 1'",
    )
    .await;
    is_rebuilt_alike(&shop).await;
    assert_eq!(shop.value::<i64>("SELECT nid()").await, 2);
}

/// A default of the table's own may name the table, or call the sequence of one of its identity columns.
#[tokio::test]
async fn own_defaults_that_name_the_table_mean_the_new_one() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, k int DEFAULT nextval('t_id_seq'), \
           r regclass DEFAULT 't'::regclass); INSERT INTO t (k) VALUES (7)",
    )
    .await;
    is_rebuilt_alike(&shop).await;
    shop.exec("INSERT INTO t DEFAULT VALUES").await;
    let row = "SELECT (t.*)::text FROM t WHERE id > 1";
    assert_eq!(shop.value::<String>(row).await, "(2,3,t)");
}

/// A foreign table's column may take its numbers from the table's sequence.
#[tokio::test]
async fn a_foreign_tables_default_follows() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text); INSERT INTO t (v) VALUES ('a'); \
         CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w; \
         CREATE FOREIGN TABLE ft (id int DEFAULT nextval('t_id_seq'), v text) SERVER far",
    )
    .await;
    is_rebuilt_alike(&shop).await;
}

/// What was written before a column was added is read again with it, and means the same.
#[tokio::test]
async fn an_upsert_from_before_a_column_was_added_follows() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1); \
         CREATE FUNCTION up() RETURNS void BEGIN ATOMIC INSERT INTO t (id, a) SELECT 1, 2 ON CONFLICT (id) DO UPDATE SET a = excluded.a; END; \
         CREATE VIEW v AS SELECT id FROM t WHERE 't'::regclass IS NOT NULL; ALTER TABLE t ADD COLUMN b int",
    )
    .await;
    shop.run("t", &["--rebuild"]).await.expect_code(0);
    shop.exec("SELECT up(); DROP TABLE t_old").await;
    assert_eq!(shop.rows("t").await, ["(1,2,)"]);
    assert_eq!(shop.rows("v").await, ["(1)"]);
}

/// What follows may use the row type or a constraint of what it only reads: that stays as it is.
#[tokio::test]
async fn row_types_and_constraints_of_others_are_no_obstacle() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE customers (id int PRIMARY KEY, name text); INSERT INTO customers VALUES (1, 'a'), (2, 'b'); \
         CREATE TABLE t (id int PRIMARY KEY, c int REFERENCES customers, n int); INSERT INTO t VALUES (1, 1, 3), (2, 1, 4); \
         CREATE FUNCTION label(customers) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1.name || $1.id'; \
         CREATE VIEW base AS SELECT id, n FROM t; \
         CREATE FUNCTION twice(base) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1.n'; \
         CREATE VIEW computed AS SELECT t.id, c.label, c AS whole FROM t JOIN customers c ON c.id = t.c; \
         CREATE VIEW doubled AS SELECT base.id, base.twice, t.n FROM base JOIN t USING (id); \
         CREATE FUNCTION greet() RETURNS SETOF text BEGIN ATOMIC SELECT label(c.*) FROM customers c WHERE c.id IN (SELECT t.c FROM t); END; \
         CREATE POLICY p ON t USING ((SELECT label(c.*) FROM customers c WHERE c.id = t.c) <> ''); \
         CREATE RULE r AS ON DELETE TO t DO ALSO INSERT INTO customers VALUES (old.id, 'x') \
           ON CONFLICT ON CONSTRAINT customers_pkey DO UPDATE SET name = 'again'",
    )
    .await;
    let before = database(&shop, &[]).await;
    let rows = (shop.rows("computed").await, shop.rows("doubled").await);
    shop.run("t", &["--rebuild"]).await.expect_code(0);
    shop.exec("DROP TABLE t_old").await;
    assert_same(&database(&shop, &[]).await.lines(), &before.lines(), "rebuilt");
    assert_eq!((shop.rows("computed").await, shop.rows("doubled").await), rows);
    shop.exec("DELETE FROM t WHERE id = 2").await;
    assert_eq!(shop.rows("customers").await, ["(1,a)", "(2,again)"]);
    assert_eq!(shop.value::<Vec<String>>("SELECT array_agg(g) FROM greet() g").await, ["a1"]);
}
