//! What else a partitioned source may have, together with what is done to it.

use super::{TABLE, divided};
use crate::cases::tablespaces;
use crate::harness::{self, Background};
use crate::scene::{SOON, Shop, shop};

const NONE: [&str; 2] = ["--partition-by", "none"];

async fn holds(shop: &Shop, what: &str) {
    assert!(shop.value::<bool>(&format!("SELECT {what}")).await, "{what}");
}

/// All rows go to where the table is; divided as it is they would have to stay where they are.
#[tokio::test]
async fn partitions_in_tablespaces() {
    let shop = shop().await;
    tablespaces(&shop.client).await;
    let before =
        "ALTER TABLE orders SET TABLESPACE slow; ALTER TABLE orders_p20240101 SET TABLESPACE fast;
                  ALTER INDEX orders_p20240401_pkey SET TABLESPACE fast";
    for change in [&NONE[..], &["--partition-by", "HASH (id)", "--partitions", "2"]] {
        divided(&shop, "ours", 2_000, before).await;
        let rows = shop.rows(TABLE).await;
        shop.run(TABLE, change).await.expect_code(0);
        assert!(shop.rows(TABLE).await == rows);
        holds(&shop, "bool_and(s.spcname IS NOT DISTINCT FROM 'slow') FROM
            (SELECT 'ours.orders'::regclass UNION SELECT relid FROM pg_partition_tree('ours.orders')) t (relid)
            JOIN pg_class c ON c.oid = t.relid LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace").await;
        shop.exec("DROP SCHEMA ours CASCADE").await;
    }
    divided(&shop, "ours", 500, before).await;
    let output = shop.run(TABLE, &["--rebuild"]).await.expect_code(3);
    assert!(output.stderr.contains("orders_p20240101\" has another tablespace"), "{output}");
}

/// They fire for a statement on the table, whatever it is.
#[tokio::test]
async fn triggers_that_see_all_rows_of_a_statement() {
    let shop = shop().await;
    let trigger = "CREATE TABLE log (rows bigint);
        CREATE FUNCTION note_them() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN INSERT INTO ours.log SELECT count(*) FROM was JOIN becomes USING (id); RETURN NULL; END $$;
        CREATE TRIGGER noted AFTER UPDATE ON orders REFERENCING OLD TABLE AS was NEW TABLE AS becomes
          FOR EACH STATEMENT EXECUTE FUNCTION note_them()";
    for change in [&["--rebuild"][..], &["--partition-by", "HASH (id)", "--partitions", "2"], &NONE]
    {
        divided(&shop, "ours", 1_000, trigger).await;
        let mut run =
            Background::start(shop.arguments(TABLE, &[change, &["--postpone-cutover"]].concat()));
        run.wait_for_saying("postponed until `pgwraith cutover`").await;
        let update = "UPDATE ours.orders SET note = 'x', created_at = created_at + interval '100 days' WHERE id <= 50";
        shop.exec(update).await;
        holds(&shop, "array_agg(rows) = '{50}' FROM ours.log").await;
        let rows = shop.rows(TABLE).await;
        harness::run(["cutover", TABLE, "-d", &shop.dsn]).await.expect_code(0);
        run.finish(SOON).await.expect_code(0);
        assert!(shop.rows(TABLE).await == rows, "{change:?}");
        shop.exec(update).await;
        holds(&shop, "array_agg(rows) = '{50,50}' FROM ours.log").await;
        shop.exec("DROP SCHEMA ours CASCADE").await;
    }
    // FOR EACH ROW, PostgreSQL has them on no partition.
    super::make(&shop, "ours", 500, &trigger.replace("EACH STATEMENT", "EACH ROW")).await;
    let output = shop.run(TABLE, &["--partition-by", "HASH (id)", "--partitions", "2"]).await;
    assert!(matches!(output.code, Some(2 | 3)) && output.stderr.contains("noted"), "{output}");
}

/// Before 17 no partitioned table has any. One partition may; and what becomes of a table may.
#[tokio::test]
async fn exclusion_constraints() {
    let shop = shop().await;
    divided(&shop, "ours", 1_000, "").await;
    shop.exec(
        "ALTER TABLE ours.orders_p20240101 ADD CONSTRAINT own EXCLUDE USING btree (id WITH =)",
    )
    .await;
    let output = shop.run(TABLE, &NONE).await.expect_code(3);
    assert!(output.stderr.contains("constraint of a partition own"), "{output}");
    shop.exec("ALTER TABLE ours.orders_p20240101 DROP CONSTRAINT own").await;
    let rows = shop.rows(TABLE).await;
    let exclude = ["--alter", "ADD CONSTRAINT once EXCLUDE USING btree (id WITH =)"];
    shop.run(TABLE, &[&NONE[..], &exclude].concat()).await.expect_code(0);
    assert!(shop.rows(TABLE).await == rows);
    let again = "INSERT INTO ours.orders SELECT id, customer_id, status, amount, note, created_at + interval '1 day' FROM ours.orders LIMIT 1";
    let refused = shop.client.execute(again, &[]).await.unwrap_err();
    assert!(
        refused.to_string().contains("db error") && refused.code().unwrap().code() == "23P01",
        "{refused}"
    );
    if shop.cluster.major() < 17 {
        let output = shop.run(TABLE, &["--partition-by", "HASH (id)", "--partitions", "2"]).await;
        assert!(matches!(output.code, Some(2 | 3)) && output.stderr.contains("once"), "{output}");
        assert_eq!(shop.held_back().await, [""; 0]);
    }
}

/// By an index of its own on the key's columns a partition's rows are known as well.
#[tokio::test]
async fn replica_identities_of_partitions() {
    let shop = shop().await;
    let before = "CREATE UNIQUE INDEX turned ON orders (created_at, id);
                  ALTER TABLE orders_p20240101 REPLICA IDENTITY USING INDEX orders_p20240101_created_at_id_idx;
                  ALTER TABLE orders_p20240401 REPLICA IDENTITY USING INDEX orders_p20240401_pkey";
    for change in [&NONE[..], &["--rebuild"]] {
        divided(&shop, "ours", 3_000, before).await;
        let mut run =
            Background::start(shop.arguments(TABLE, &[change, &["--postpone-cutover"]].concat()));
        run.wait_for_saying("postponed until `pgwraith cutover`").await;
        // From one of them to the other, by new keys, and gone.
        shop.exec(
            "UPDATE ours.orders SET created_at = created_at + interval '91 days' WHERE id % 10 = 3;
             UPDATE ours.orders_p20240101 SET id = id + 100000, note = 'x' WHERE id % 10 = 4;
             UPDATE ours.orders SET note = 'y' WHERE id % 10 = 5; DELETE FROM ours.orders WHERE id % 10 = 6",
        )
        .await;
        let rows = shop.rows(TABLE).await;
        harness::run(["cutover", TABLE, "-d", &shop.dsn]).await.expect_code(0);
        run.finish(SOON).await.expect_code(0);
        assert!(shop.rows(TABLE).await == rows, "{change:?}");
        shop.exec("DROP SCHEMA ours CASCADE").await;
    }
    divided(&shop, "ours", 500, before).await;
    shop.exec(
        "CREATE UNIQUE INDEX wider ON ours.orders (id, created_at, status);
         ALTER TABLE ours.orders_p20240701 REPLICA IDENTITY USING INDEX orders_p20240701_id_created_at_status_idx",
    )
    .await;
    let output = shop.run(TABLE, &NONE).await.expect_code(3);
    assert!(output.stderr.contains("orders_p20240701\" is (created_at, id, status)"), "{output}");
}

/// Rows are read through a view for the one and for the other, and move into the condition, out of it, and between
/// partitions.
#[tokio::test]
async fn forced_row_security_and_fewer_rows() {
    let shop = shop().await;
    let before = "CREATE ROLE owner; GRANT ALL ON SCHEMA ours TO owner; CREATE ROLE app; GRANT USAGE ON SCHEMA ours TO app;
        ALTER TABLE orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY few ON orders USING (id < 10); GRANT SELECT ON orders TO app;
        DO $$ DECLARE p text; BEGIN FOR p IN SELECT relid::regclass FROM pg_partition_tree('orders') LOOP
          EXECUTE format('ALTER TABLE %s OWNER TO owner', p); END LOOP; END $$";
    for (n, change) in [&NONE[..], &[], &["--partition-by", "HASH (id)", "--partitions", "2"]]
        .into_iter()
        .enumerate()
    {
        divided(&shop, "ours", 3_000, before).await;
        let keep = ["--where", "status <> 'paid'", "--yes", "--postpone-cutover"];
        let mut run = Background::start(shop.arguments(TABLE, &[change, &keep].concat()));
        run.wait_for_saying("postponed until `pgwraith cutover`").await;
        shop.exec(
            "UPDATE ours.orders SET status = 'paid', created_at = created_at + interval '91 days' WHERE id % 10 = 3;
             UPDATE ours.orders SET status = 'new', created_at = created_at + interval '91 days' WHERE id % 10 = 5;
             DELETE FROM ours.orders WHERE id % 10 = 7; UPDATE ours.orders SET id = id + 100000 WHERE id % 10 = 9",
        )
        .await;
        let rows = shop.rows("(SELECT * FROM ours.orders WHERE status <> 'paid')").await;
        harness::run(["cutover", TABLE, "-d", &shop.dsn]).await.expect_code(0);
        run.finish(SOON).await.expect_code(0);
        assert!(shop.rows(TABLE).await == rows, "{change:?}");
        holds(&shop, "relforcerowsecurity AND relrowsecurity FROM pg_class WHERE oid = 'ours.orders'::regclass").await;
        shop.exec("SET ROLE app").await;
        holds(&shop, "count(*) < 10 FROM ours.orders").await;
        shop.exec("RESET ROLE; DROP SCHEMA ours CASCADE; DROP OWNED BY app; DROP ROLE app; DROP OWNED BY owner; DROP ROLE owner").await;
        assert_eq!(shop.held_back().await, [""; 0], "{n}");
    }
}

/// It takes two transactions, of which the first says so to everybody; neither waits for ours for long.
#[tokio::test]
async fn a_partition_that_is_detached_concurrently_ends_the_run() {
    let shop = shop().await;
    for phase in ["copy", "cutover"] {
        divided(&shop, "ours", 2_000, "DROP TABLE orders_default").await;
        let held = shop.held(phase, TABLE, &NONE).await;
        let detached = shop.session().await;
        let detach = "ALTER TABLE ours.orders DETACH PARTITION ours.orders_p20240401 CONCURRENTLY";
        detached.batch_execute(detach).await.unwrap();
        let output = held.finish().await.expect_code(6);
        assert!(output.stderr.contains("orders_p20240401"), "{output}");
        assert_eq!(shop.held_back().await, [""; 0]);
        harness::run(["abort", TABLE, "-d", &shop.dsn]).await.expect_code(0);
        shop.exec("DROP SCHEMA ours CASCADE").await;
    }
}
