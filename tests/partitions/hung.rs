//! What hangs on a partitioned source: what follows it, and what is refused by name.

use super::{TABLE, divided};
use crate::harness::{self, ANY_WAY, Background, Failpoint};
use crate::scene::{SOON, shop};

const NONE: [&str; 2] = ["--partition-by", "none"];

/// Foreign keys both ways, triggers, policies, privileges, statistics, views, publications; partitions in another schema
/// and partitions of partitions.
#[tokio::test]
async fn what_hangs_on_a_partitioned_table_follows_it() {
    let shop = shop().await;
    divided(
        &shop,
        "ours",
        3_000,
        "CREATE TABLE customers (id int PRIMARY KEY);
         INSERT INTO customers SELECT DISTINCT customer_id FROM orders;
         ALTER TABLE orders ADD CONSTRAINT of_customer FOREIGN KEY (customer_id) REFERENCES customers ON DELETE CASCADE;
         CREATE TABLE items (order_id int, at timestamptz, FOREIGN KEY (order_id, at) REFERENCES orders);
         INSERT INTO items SELECT id, created_at FROM orders WHERE id < 100;
         CREATE TABLE log (id int);
         CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO ours.log VALUES (NEW.id); RETURN NULL; END $$;
         CREATE TRIGGER noted AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note_it();
         CREATE STATISTICS of_both ON customer_id, status FROM orders;
         CREATE VIEW fresh AS SELECT * FROM orders WHERE status = 'new';
         CREATE ROLE app; GRANT USAGE ON SCHEMA ours TO app; GRANT SELECT, UPDATE ON orders TO app;
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY, ADD CHECK (amount > -1);
         CREATE POLICY few ON orders TO app USING (id < 10);
         COMMENT ON TABLE orders IS 'all of them'; COMMENT ON INDEX orders_customer_id_idx IS 'whose';
         CREATE PUBLICATION feed FOR TABLE orders WITH (publish_via_partition_root = true);
         CREATE SCHEMA away; ALTER TABLE orders_p20240401 SET SCHEMA away;
         ALTER TABLE orders DETACH PARTITION orders_default; DROP TABLE orders_default;
         CREATE TABLE later PARTITION OF orders DEFAULT PARTITION BY HASH (id);
         CREATE TABLE later_all PARTITION OF later FOR VALUES WITH (MODULUS 1, REMAINDER 0);
         INSERT INTO orders (customer_id, status, amount, created_at)
           SELECT min(id), 'new', 1, '2031-01-01' FROM customers",
    )
    .await;
    let rows = shop.rows(TABLE).await;
    let plan = harness::run(["plan", TABLE, "-d", &shop.dsn, "--partition-by", "none", "--json"])
        .await
        .expect_code(0);
    assert_eq!(plan.json()["way"], "shadow_copy", "{plan}");
    assert!(plan.json()["size"]["rows"].as_f64().is_some_and(|rows| rows > 2_500.0), "{plan}");
    let dry = harness::run([
        "dry-run",
        TABLE,
        "-d",
        &shop.dsn,
        "--partition-by",
        "none",
        "--share",
        "30%",
    ]);
    dry.await.expect_code(0);
    assert_eq!(shop.held_back().await, [""; 0]);

    let output = shop.run(TABLE, &NONE).await.expect_code(0);
    assert_eq!(shop.rows(TABLE).await, rows);
    assert_eq!(output.json()["verify"]["rows"], 3_001, "{output}");
    let holds = async |what: &str| {
        assert!(shop.value::<bool>(&format!("SELECT {what}")).await, "{what}: {output}");
    };
    holds("relkind = 'r' AND relrowsecurity AND obj_description(oid) = 'all of them' FROM pg_class WHERE oid = 'ours.orders'::regclass").await;
    holds("count(*) = 1 AND bool_and(convalidated) FROM pg_constraint WHERE conname = 'of_customer' AND conrelid = 'ours.orders'::regclass").await;
    holds("convalidated FROM pg_constraint WHERE conrelid = 'ours.items'::regclass AND confrelid = 'ours.orders'::regclass").await;
    holds("NOT EXISTS (SELECT 1 FROM pg_constraint WHERE contype = 'f' AND 'ours.orders_old'::regclass IN (conrelid, confrelid))").await;
    holds("count(*) = 1 FROM pg_trigger WHERE tgname = 'noted'").await;
    holds("has_table_privilege('app', 'ours.orders', 'UPDATE')").await;
    holds("obj_description('ours.orders_customer_id_idx'::regclass) = 'whose'").await;
    holds("stxrelid = 'ours.orders'::regclass FROM pg_statistic_ext WHERE stxname = 'of_both'")
        .await;
    holds("prrelid = 'ours.orders'::regclass FROM pg_publication_rel").await;
    shop.exec("UPDATE ours.orders SET note = 'x' WHERE id = 5").await;
    holds("count(*) = 1 FROM ours.log").await;
    shop.exec("SET ROLE app").await;
    holds("count(*) = 9 FROM ours.orders").await;
    shop.exec("RESET ROLE; DROP TABLE ours.orders_old").await;
    holds("count(*) > 0 FROM ours.fresh").await;
    for stray in [
        "INSERT INTO ours.items VALUES (-1, now())",
        "UPDATE ours.orders SET customer_id = -1 WHERE id = 7",
    ] {
        assert!(shop.client.execute(stray, &[]).await.is_err(), "{stray}");
    }
}

/// Each thing that one partition has alone, or is named by; and what makes its rows unknown to the log.
#[tokio::test]
async fn what_is_of_one_partition_alone_is_refused_by_name() {
    let shop = shop().await;
    divided(&shop, "ours", 500, "CREATE TABLE other (id int PRIMARY KEY, at timestamptz)").await;
    let trigger = "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                   CREATE TRIGGER own AFTER DELETE ON ours.orders_p20240101 FOR EACH ROW EXECUTE FUNCTION nothing()";
    for (sql, undo, told) in [
        (trigger, "DROP TRIGGER own ON ours.orders_p20240101", "trigger of a partition own"),
        (
            "CREATE INDEX own ON ours.orders_p20240101 (amount)",
            "DROP INDEX ours.own",
            "index of a partition ours.own",
        ),
        (
            "ALTER TABLE ours.orders_p20240101 ADD CONSTRAINT own CHECK (amount > -1)",
            "ALTER TABLE ours.orders_p20240101 DROP CONSTRAINT own",
            "constraint of a partition own",
        ),
        (
            "ALTER TABLE ours.other ADD CONSTRAINT own FOREIGN KEY (id, at) REFERENCES ours.orders_p20240101 (id, created_at)",
            "ALTER TABLE ours.other DROP CONSTRAINT own",
            "foreign key to a partition own",
        ),
        (
            "ALTER TABLE ours.orders_p20240101 ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE ours.orders_p20240101 DISABLE ROW LEVEL SECURITY",
            "row security of a partition",
        ),
        (
            "CREATE VIEW ours.own AS SELECT id FROM ours.orders_p20240101",
            "DROP VIEW ours.own",
            "use of a partition by name ours.orders_p20240101",
        ),
        (
            "CREATE PUBLICATION own FOR TABLE ours.orders_p20240101",
            "DROP PUBLICATION own",
            "publication of a partition ours.orders_p20240101",
        ),
        (
            "CREATE PUBLICATION own FOR TABLE ours.orders",
            "DROP PUBLICATION own",
            "publish_via_partition_root = true",
        ),
        (
            "ALTER TABLE ours.orders_p20240101 REPLICA IDENTITY FULL",
            "ALTER TABLE ours.orders_p20240101 REPLICA IDENTITY NOTHING",
            "REPLICA IDENTITY DEFAULT",
        ),
        ("SELECT 1", "ALTER TABLE ours.orders_p20240101 REPLICA IDENTITY DEFAULT", "is NOTHING"),
        (
            "CREATE ROLE somebody; GRANT ALL ON SCHEMA ours TO somebody; ALTER TABLE ours.orders_p20240101 OWNER TO somebody",
            "ALTER TABLE ours.orders_p20240101 OWNER TO CURRENT_USER",
            "OWNER TO",
        ),
        (
            "ALTER TABLE ours.orders_p20240101 SET UNLOGGED",
            "ALTER TABLE ours.orders_p20240101 SET LOGGED",
            "unlogged",
        ),
    ] {
        shop.exec(sql).await;
        let output = shop.run(TABLE, &NONE).await.expect_code(3);
        assert!(output.stderr.contains(told), "{sql}: {output}");
        shop.exec(undo).await;
    }
    // What a partition of the same kind would not have.
    shop.exec("GRANT SELECT ON ours.orders_p20240101 TO somebody").await;
    let output = shop.run(TABLE, &["--rebuild"]).await.expect_code(3);
    assert!(output.stderr.contains("orders_p20240101\" has privileges"), "{output}");
    shop.exec("REVOKE ALL ON ours.orders_p20240101 FROM somebody").await;
    let alone = "ours.orders_p20240101";
    shop.exec(&format!("UPDATE {alone} SET note = 'none' WHERE note IS NULL")).await;
    shop.exec(&format!("ALTER TABLE {alone} ALTER COLUMN note SET NOT NULL")).await;
    let output = shop.run(TABLE, &["--rebuild"]).await.expect_code(3);
    assert!(output.stderr.contains("NOT NULL of a partition column note"), "{output}");
    shop.exec(&format!("ALTER TABLE {alone} ALTER COLUMN note DROP NOT NULL")).await;
    shop.exec(&format!("GRANT SELECT (note) ON {alone} TO somebody")).await;
    let output = shop.run(TABLE, &["--rebuild"]).await.expect_code(3);
    assert!(output.stderr.contains("has privileges on column note"), "{output}");
    shop.exec(&format!("REVOKE ALL (note) ON {alone} FROM somebody")).await;
    // What the table's has is no news, whether the partition has it or not.
    shop.exec(&format!(
        "COMMENT ON COLUMN {TABLE}.note IS 'all'; ALTER TABLE {TABLE} ALTER COLUMN note SET DEFAULT 'all';
         ALTER TABLE ONLY {alone} ALTER COLUMN note DROP DEFAULT"
    ))
    .await;
    let given = ["plan", TABLE, "-d", &shop.dsn, "--rebuild"];
    let planned = harness::run(given).await.expect_code(0);
    assert!(!planned.stdout.contains("of their own"), "{planned}");
    for (sql, told) in [
        ("ALTER COLUMN note SET STATISTICS 33", "column note"),
        ("ALTER COLUMN note SET STATISTICS -1, ALTER COLUMN note SET DEFAULT 'x'", "column note"),
        (
            "ALTER COLUMN note DROP DEFAULT, CLUSTER ON orders_p20240101_pkey",
            "index orders_p20240101_pkey",
        ),
    ] {
        shop.exec(&format!("ALTER TABLE {alone} {sql}")).await;
        let planned = harness::run(given).await.expect_code(0);
        let told = format!("of their own: {told} of \"ours\".\"orders_p20240101\"");
        assert!(planned.stdout.contains(&told), "{sql}: {planned}");
    }
    for (table, change, told) in [
        ("ours.other", &NONE[..], "is not partitioned"),
        (TABLE, &["--partition-by", "none", "--partition-every", "1 day"], "nothing else to say"),
        (TABLE, &["--alter", "DROP COLUMN created_at CASCADE"], "created_at"),
        (TABLE, &["--alter", "SET (fillfactor = 70)"], "storage parameters"),
        (TABLE, &["--map", "amount = 1", "--alter", "CLUSTER ON orders_pkey"], "CLUSTER ON"),
    ] {
        let output = shop.run(table, change).await;
        assert!(
            matches!(output.code, Some(2 | 3)) && output.stderr.contains(told),
            "{change:?}: {output}"
        );
    }
    assert_eq!(shop.held_back().await, [""; 0]);
}

/// What changes the catalogs alone is made in place, in all partitions.
#[tokio::test]
async fn an_instant_change_is_made_in_every_partition() {
    let shop = shop().await;
    divided(&shop, "ours", 500, "").await;
    let change = [ANY_WAY, "--alter", "ADD COLUMN region text NOT NULL DEFAULT 'eu'"];
    let output = shop.run(TABLE, &change).await.expect_code(0);
    assert!(output.stderr.contains("made in place"), "{output}");
    assert_eq!(
        shop.value::<i64>("SELECT count(*) FROM ours.orders_p20240101 WHERE region = 'eu'").await,
        500
    );
}

/// **Invariant 1**: whoever writes to a partition by its own name has a lock on that alone.
#[tokio::test]
async fn who_writes_to_a_partition_alone_is_waited_for() {
    let shop = shop().await;
    divided(&shop, "ours", 500, "").await;
    shop.exec(
        "CREATE FUNCTION public.stop_at_shadow() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
           IF EXISTS (SELECT 1 FROM pg_catalog.pg_event_trigger_ddl_commands() WHERE object_identity = 'ours.orders_v2')
           THEN PERFORM pg_catalog.pg_advisory_xact_lock_shared(7); END IF; END $$;
         CREATE EVENT TRIGGER stop ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
           EXECUTE FUNCTION public.stop_at_shadow()",
    )
    .await;
    let point = Failpoint::closed(shop.session().await, 7).await;
    let run = Background::start(
        shop.arguments(TABLE, &[&NONE[..], &["--allow-event-triggers"]].concat()),
    );
    point.wait_for_somebody().await;
    let writer = shop.session().await;
    writer
        .batch_execute("BEGIN; UPDATE ours.orders_p20240101 SET note = 'direct' WHERE id < 100")
        .await
        .unwrap();
    point.open().await;
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%/control'
                   AND query LIKE '%virtualtransaction = ANY%')
                 OR EXISTS (SELECT 1 FROM pgwraith.migration WHERE phase <> 'prepare')";
    harness::wait_for_sql(&shop.client, "the run waits or goes on", waits).await;
    let phase = "SELECT phase FROM pgwraith.migration";
    assert_eq!(shop.value::<String>(phase).await, "prepare");
    writer.batch_execute("COMMIT").await.unwrap();
    run.finish(SOON).await.expect_code(0);
}
