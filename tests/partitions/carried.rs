use super::{TABLE, make};
use crate::scene::shop;

/// Foreign keys both ways, triggers, privileges, settings: on the root, and on partitions what is theirs.
#[tokio::test]
async fn what_hangs_on_it_is_on_the_partitioned_table() {
    let shop = shop().await;
    make(
        &shop,
        "ours",
        3_000,
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id, created_at);
         ALTER TABLE orders SET (fillfactor = 80, toast.autovacuum_enabled = off), ALTER note SET STORAGE EXTERNAL,
           ALTER note SET COMPRESSION pglz, ALTER status SET STATISTICS 77, ALTER customer_id SET (n_distinct = 50);
         CREATE TABLE customers (id int PRIMARY KEY);
         INSERT INTO customers SELECT DISTINCT customer_id FROM orders;
         ALTER TABLE orders ADD CONSTRAINT of_customer FOREIGN KEY (customer_id) REFERENCES customers ON DELETE CASCADE;
         COMMENT ON CONSTRAINT of_customer ON orders IS 'whose';
         CREATE TABLE items (order_id int, at timestamptz, FOREIGN KEY (order_id, at) REFERENCES orders);
         INSERT INTO items SELECT id, created_at FROM orders WHERE id < 100;
         CREATE TABLE log (id int);
         CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO ours.log VALUES (NEW.id); RETURN NULL; END $$;
         CREATE TRIGGER noted AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note_it();
         CREATE STATISTICS of_both ON customer_id, status FROM orders;
         CREATE VIEW fresh AS SELECT * FROM orders WHERE status = 'new';
         CREATE ROLE app; GRANT USAGE ON SCHEMA ours TO app; GRANT SELECT, UPDATE ON orders TO app;
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON orders TO app USING (id < 10);
         ALTER DEFAULT PRIVILEGES IN SCHEMA ours GRANT SELECT ON TABLES TO PUBLIC;
         COMMENT ON TABLE orders IS 'all of them'; COMMENT ON COLUMN orders.id IS 'number';
         COMMENT ON INDEX orders_created_at_idx IS 'when'",
    )
    .await;
    let before = shop.rows(TABLE).await;
    let change = ["--partition-by", "RANGE (created_at)", "--partition-every", "3 months"];
    let output = shop.run(TABLE, &change).await.expect_code(0);
    assert_eq!(shop.rows(TABLE).await, before);
    assert_eq!(output.json()["verify"]["rows"], 3_000, "{output}");

    let holds = async |what: &str| {
        assert!(shop.value::<bool>(&format!("SELECT {what}")).await, "{what}: {output}");
    };
    holds("relkind = 'p' AND relrowsecurity AND obj_description(oid) = 'all of them' FROM pg_class WHERE oid = 'ours.orders'::regclass").await;
    holds("count(*) > 5 AND bool_and(c.reloptions = '{fillfactor=80}' AND c.relacl IS DISTINCT FROM ARRAY['=r/postgres']::aclitem[] AND NOT EXISTS (
             SELECT 1 FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner))
           FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'ours.orders'::regclass").await;
    holds("bool_and(t.reloptions = '{autovacuum_enabled=off}') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           JOIN pg_class t ON t.oid = c.reltoastrelid WHERE i.inhparent = 'ours.orders'::regclass").await;
    holds("count(*) = count(*) FILTER (WHERE a.attstorage = 'e' AND a.attcompression = 'p') FROM pg_attribute a
           JOIN pg_inherits i ON i.inhrelid = a.attrelid WHERE i.inhparent = 'ours.orders'::regclass AND a.attname = 'note'").await;
    holds("count(*) > 5 AND bool_and(a.attoptions = '{n_distinct=50}') FROM pg_attribute a
           JOIN pg_inherits i ON i.inhrelid = a.attrelid WHERE i.inhparent = 'ours.orders'::regclass AND a.attname = 'customer_id'").await;
    // Each part of the key is proven, and a part of the table's.
    holds("count(*) > 5 AND bool_and(convalidated) AND count(*) FILTER (WHERE conparentid = 0) = 1 AND bool_or(obj_description(oid) = 'whose')
           FROM pg_constraint WHERE conname = 'of_customer'").await;
    holds("convalidated FROM pg_constraint WHERE conrelid = 'ours.items'::regclass AND conparentid = 0").await;
    holds("NOT EXISTS (SELECT 1 FROM pg_constraint WHERE contype = 'f' AND 'ours.orders_old'::regclass IN (conrelid, confrelid))").await;
    holds("count(*) > 5 FROM pg_trigger WHERE tgname = 'noted'").await;
    holds("has_table_privilege('app', 'ours.orders', 'UPDATE') AND NOT has_table_privilege('public', 'ours.orders', 'SELECT')").await;
    holds("pg_get_indexdef('ours.orders_created_at_idx'::regclass) LIKE '%ON ONLY ours.orders %' AND obj_description('ours.orders_created_at_idx'::regclass) = 'when'").await;
    holds("stxrelid = 'ours.orders'::regclass FROM pg_statistic_ext WHERE stxname = 'of_both'")
        .await;
    holds("bool_and(indisvalid) FROM pg_index WHERE indrelid = 'ours.orders'::regclass").await;
    shop.exec("UPDATE ours.orders SET note = 'x' WHERE id = 5").await;
    holds("count(*) = 1 FROM ours.log").await;
    shop.exec("SET ROLE app").await;
    holds("count(*) = 9 FROM ours.orders").await;
    shop.exec("RESET ROLE; DROP TABLE ours.orders_old").await;
    // The foreign keys work.
    let stray = "INSERT INTO ours.items VALUES (-1, now())";
    assert!(shop.client.execute(stray, &[]).await.is_err());
    let stray = "UPDATE ours.orders SET customer_id = -1 WHERE id = 7";
    assert!(shop.client.execute(stray, &[]).await.is_err());
}
