//! A definition travels as text: what would mean something else when it is read again is refused by name,
//! and so is what a clone cannot show.

use crate::definition::{assert_same, database};
use crate::scene::{Shop, shop};

async fn refused(shop: &Shop, change: &[&str], code: i32, told: &str) {
    let output = shop.run("t", change).await;
    assert_eq!(output.code, Some(code), "{change:?}: {output}");
    assert!(output.stderr.contains(told), "{change:?}: {told:?} is not told: {output}");
    assert_eq!(shop.held_back().await, [""; 0]);
}

/// They print no operator, and read again they mean that of text.
#[tokio::test]
async fn operators_that_are_not_printed_are_compared() {
    let mut shop = shop().await;
    let function =
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$";
    for (n, (sql, told)) in [
        ("CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW WHEN (OLD.e IS DISTINCT FROM NEW.e) EXECUTE FUNCTION f()", "trigger g: "),
        ("ALTER TABLE t ADD CONSTRAINT c CHECK (e IS DISTINCT FROM 'never')", "constraint c of"),
        ("CREATE INDEX i ON t (id) WHERE nullif(e, 'x') IS NOT NULL", "index i of"),
        ("CREATE POLICY p ON t USING (CASE e WHEN 'a' THEN true END)", "policy p: "),
        ("CREATE VIEW v AS SELECT a.id FROM t a JOIN (SELECT e FROM t) b USING (e)", "view public.v: "),
        ("CREATE FUNCTION n() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t WHERE CASE e WHEN 'a' THEN true END; END", "function public.n(): "),
    ]
    .iter()
    .enumerate()
    {
        shop.move_to(&format!("case{n}")).await;
        shop.exec(&format!("CREATE EXTENSION citext; {function}; CREATE TABLE t (id int PRIMARY KEY, e citext); {sql}")).await;
        refused(&shop, &["--rebuild"], 3, told).await;
    }
}

/// A function's argument is printed like a column of a table that has the function's name.
#[tokio::test]
async fn an_argument_does_not_become_a_column() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2); \
         CREATE FUNCTION t(x int) RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t WHERE t.id = x; END",
    )
    .await;
    let told =
        "function public.t(integer): the text that PostgreSQL prints of it means something else";
    refused(&shop, &["--alter", "ADD COLUMN x int"], 3, told).await;
    shop.run("t", &["--alter", "ADD COLUMN y int"]).await.expect_code(0);
    assert_eq!(shop.value::<i64>("SELECT t(2)").await, 1);
}

/// An upsert mentions all columns, also one that the change brings: by what it depends on nothing shows.
#[tokio::test]
async fn an_argument_of_an_upsert_does_not_become_a_column() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2); \
         CREATE FUNCTION t(x int) RETURNS void BEGIN ATOMIC \
           INSERT INTO t (id, v) VALUES (1, 0) ON CONFLICT (id) DO UPDATE SET v = x; END",
    )
    .await;
    let told = "function public.t(integer): the text that PostgreSQL prints of it means something else when it is \
                read again: 0 places with its arguments";
    refused(&shop, &["--alter", "ADD COLUMN x int"], 3, told).await;
    shop.run("t", &["--alter", "ADD COLUMN y int"]).await.expect_code(0);
    shop.exec("SELECT t(7)").await;
    assert_eq!(shop.value::<i32>("SELECT v FROM t WHERE id = 1").await, 7);
}

/// A column's name is another column's afterwards.
#[tokio::test]
async fn columns_that_exchange_names_are_not_taken_for_each_other() {
    let mut shop = shop().await;
    for (n, (sql, told)) in [
        ("CREATE POLICY p ON t USING (a < 5)", "policy p uses column \"a\""),
        ("CREATE PUBLICATION p FOR TABLE t (id, a)", "publication p uses column \"a\""),
        ("CREATE FUNCTION f() RETURNS bigint BEGIN ATOMIC SELECT sum(a) FROM t; END", "function public.f() uses column \"a\""),
        ("CREATE TRIGGER g BEFORE UPDATE OF a ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()", "trigger g uses column \"a\""),
    ]
    .iter()
    .enumerate()
    {
        shop.move_to(&format!("case{n}")).await;
        shop.exec(&format!("CREATE TABLE t (id int PRIMARY KEY, a int, b int); {sql}")).await;
        let change = ["--alter", "RENAME a TO c", "--alter", "RENAME b TO a", "--alter", "RENAME c TO b"];
        refused(&shop, &change, 3, told).await;
    }
}

#[tokio::test]
async fn clauses_that_a_clone_does_not_show_are_refused() {
    let shop = shop().await;
    shop.exec("CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, p int, v text); ALTER TABLE t ENABLE ROW LEVEL SECURITY; \
               INSERT INTO t (v) SELECT 'x' FROM generate_series(1, 10)").await;
    shop.exec("CREATE TABLE parent (id int PRIMARY KEY)").await;
    for (clause, told) in [
        ("DISABLE ROW LEVEL SECURITY", "row security"),
        ("FORCE ROW LEVEL SECURITY", "row security"),
        ("DISABLE TRIGGER ALL", "whether triggers fire"),
        ("DISABLE TRIGGER USER", "whether triggers fire"),
        ("ENABLE ALWAYS TRIGGER g", "whether triggers fire"),
        ("DISABLE RULE r", "whether rules fire"),
        ("ALTER id RESTART WITH 5000", "where a sequence stands"),
        ("ALTER id SET MAXVALUE 8", "stands at 10"),
        ("ALTER COLUMN id RESTART", "where a sequence stands"),
        ("ALTER COLUMN id RESTART WITH 1", "where a sequence stands"),
        (
            "ALTER id DROP IDENTITY, ALTER id ADD GENERATED ALWAYS AS IDENTITY (START 5000)",
            "DROP IDENTITY with ADD GENERATED",
        ),
        ("ADD CONSTRAINT fk FOREIGN KEY (p) REFERENCES parent", "foreign key \"fk\""),
    ] {
        refused(&shop, &["--alter", clause], 2, told).await;
    }
}

/// A constant that is another table goes on meaning it; one that is the table itself, the new one.
#[tokio::test]
async fn constants_that_name_tables_mean_what_they_say() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE o (id int); CREATE TABLE t (id int PRIMARY KEY, k regclass, CONSTRAINT c CHECK (k <> 'o'::regclass), \
           g bool GENERATED ALWAYS AS (k = 'o'::regclass) STORED); CREATE INDEX i ON t (id) WHERE k = 'o'::regclass; \
         CREATE STATISTICS st ON id, (k = 'o'::regclass) FROM t; INSERT INTO t VALUES (1, 'pg_class')",
    )
    .await;
    for (clause, told) in [
        ("ADD CHECK (k <> 't'::regclass)", "what names the old one for good: constraint t_k_check"),
        (
            "ADD CHECK (k <> 't_pkey'::regclass)",
            "what names the old one for good: constraint t_k_check",
        ),
        (
            "ADD n regclass DEFAULT 't_pkey'::regclass",
            "for good: default value for column n of table t",
        ),
    ] {
        refused(&shop, &["--alter", clause], 2, told).await;
    }
    let before = database(&shop, &[]).await;
    shop.run("t", &["--rebuild"]).await.expect_code(0);
    shop.exec("DROP TABLE t_old").await;
    assert_same(&database(&shop, &[]).await.lines(), &before.lines(), "rebuilt");
    shop.run("t", &["--alter", "ADD n regclass DEFAULT 't'::regclass"]).await.expect_code(0);
    shop.exec("DROP TABLE t_old; INSERT INTO t VALUES (2)").await;
    assert!(shop.value::<bool>("SELECT n::oid = 't'::regclass::oid FROM t WHERE id = 2").await);
}

/// An index has a name of its own, which somebody may have.
#[tokio::test]
async fn names_that_the_change_brings_are_free_or_refused() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int, CONSTRAINT u UNIQUE (b)); INSERT INTO t VALUES (1, 2, 3); \
         CREATE TABLE o (id int); CREATE INDEX t_a_key ON o (id); CREATE INDEX i2 ON o (id); CREATE SEQUENCE i3_v2; \
         CREATE DOMAIN kind AS text",
    )
    .await;
    for (clause, told) in [
        ("ADD UNIQUE (a)", "\"t_a_key\", and that is the name of another index"),
        ("ADD CONSTRAINT i2 UNIQUE (a)", "\"i2\", and that is the name of another index"),
        ("ADD CONSTRAINT t UNIQUE (a)", "relation \"t\" already exists"),
        ("ADD CONSTRAINT t_old UNIQUE (a)", "the old table after the swap"),
        ("ADD CONSTRAINT i3 UNIQUE (a)", "another sequence with _v2 at its end"),
        ("RENAME CONSTRAINT u TO i2", "\"i2\", and that is the name of another index"),
    ] {
        refused(&shop, &["--alter", clause], 2, told).await;
    }
    let clauses = "DROP CONSTRAINT u, ADD CONSTRAINT u UNIQUE (a), ADD CONSTRAINT kind UNIQUE (b), \
                   ADD CONSTRAINT t_pkey_old UNIQUE (a, b)";
    shop.run("t", &["--alter", clauses]).await.expect_code(0);
    let names = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relname ~ '^(t_pkey|u$|u_|kind$)'";
    assert_eq!(shop.value::<String>(names).await, "kind t_pkey t_pkey_old t_pkey_old1 u u_old");
}

/// Whatever a foreign key is called, the rows fulfil it; of another one under its name nobody knows.
#[tokio::test]
async fn a_foreign_key_is_renamed() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p VALUES (1); \
         CREATE TABLE t (id int PRIMARY KEY, p int, q int, CONSTRAINT fk FOREIGN KEY (p) REFERENCES p ON DELETE CASCADE); \
         COMMENT ON CONSTRAINT fk ON t IS 'one'; INSERT INTO t VALUES (1, 1, 2)",
    )
    .await;
    let another = "ADD CONSTRAINT fk FOREIGN KEY (q) REFERENCES p";
    let renamed = ["--alter", "RENAME CONSTRAINT fk TO fk2", "--alter", another];
    refused(&shop, &renamed, 2, "--alter adds the foreign key \"fk\"").await;
    for clause in [
        "DROP CONSTRAINT fk, ADD CONSTRAINT fk FOREIGN KEY (q) REFERENCES p",
        "DROP CONSTRAINT fk, ADD CONSTRAINT fk FOREIGN KEY (p) REFERENCES p MATCH FULL",
    ] {
        refused(&shop, &["--alter", clause], 2, "--alter adds the foreign key \"fk\"").await;
    }
    let both = ["--alter", "RENAME CONSTRAINT fk TO fk2", "--alter", "RENAME p TO r"];
    shop.run("t", &both).await.expect_code(0);
    let keys = "SELECT string_agg(concat_ws(' ', conname, convalidated, pg_get_constraintdef(oid), obj_description(oid)), ', ') \
                FROM pg_constraint WHERE contype = 'f'";
    let wanted = "fk2 t FOREIGN KEY (r) REFERENCES p(id) ON DELETE CASCADE one";
    assert_eq!(shop.value::<String>(keys).await, wanted);
}

/// A plain ALTER says so too.
#[tokio::test]
async fn a_serial_that_is_used_elsewhere_is_not_dropped() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int PRIMARY KEY, n serial, m serial); ALTER TABLE t ADD k int DEFAULT nextval('t_n_seq'); \
         CREATE TABLE o (x int DEFAULT nextval('t_m_seq'))",
    )
    .await;
    refused(&shop, &["--alter", "DROP n"], 2, "sequence \"t_n_seq\" is used elsewhere").await;
    refused(&shop, &["--alter", "DROP m"], 2, "default value for column x of table public.o").await;
    shop.exec("DROP TABLE o").await;
    shop.run("t", &["--alter", "DROP m"]).await.expect_code(0);
    shop.exec("DROP TABLE t_old").await;
}

#[tokio::test]
async fn functions_that_could_not_be_called_are_found_before_the_copy() {
    let shop = shop().await;
    shop.exec(
        "CREATE FUNCTION inner_one(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'; \
         CREATE FUNCTION outer_one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN inner_one($1); END'; \
         CREATE TABLE t (id int PRIMARY KEY, CHECK (outer_one(id) > 0)); INSERT INTO t VALUES (1)",
    )
    .await;
    refused(&shop, &["--rebuild"], 3, "function inner_one(integer) does not exist").await;
}

/// Times are printed as the database's settings have them, and need not be read again as they were.
#[tokio::test]
async fn constants_do_not_move_with_the_databases_settings() {
    let mut shop = shop().await;
    shop.exec(
        "ALTER DATABASE shop SET \"DateStyle\" = 'SQL, DMY'; ALTER DATABASE shop SET \"TimeZone\" = 'Asia/Kolkata'; \
         ALTER DATABASE shop SET \"IntervalStyle\" = 'sql_standard'; ALTER DATABASE shop SET array_nulls = off",
    )
    .await;
    shop.client = shop.session().await;
    shop.exec(
        "SET array_nulls = on; CREATE TABLE t (id int PRIMARY KEY, d timestamptz DEFAULT '2024-01-05 12:00+05:30', \
           i interval DEFAULT '-1 day 02:03:04', l text[] DEFAULT '{a,NULL}'); \
         CREATE INDEX x ON t (id) WHERE d > '2024-03-01 12:00+05:30'; INSERT INTO t VALUES (1); \
         CREATE VIEW v AS SELECT id FROM t WHERE d = '2024-01-05 12:00+05:30'",
    )
    .await;
    let before = database(&shop, &[]).await;
    shop.run("t", &["--rebuild"]).await.expect_code(0);
    assert_same(&database(&shop, &["public.t_old"]).await.lines(), &before.lines(), "rebuilt");
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM v").await, 1);
}
