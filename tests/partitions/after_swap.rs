//! What is done after the swap where new partitions get the names of old ones: also where one does not, where the
//! run dies in between, and where the old table is gone by then.

use super::TABLE;
use crate::harness::{self, Output};
#[cfg(feature = "failpoints")]
use crate::scene::dies_at;
use crate::scene::{Shop, shop};

const CHANGE: &[&str] =
    &["--alter", "ALTER COLUMN v TYPE varchar(20)", "--alter", "ADD COLUMN z int"];
const RESUME: [&str; 3] = ["resume", TABLE, "--take-over"];

/// A table of two partitions that refers to another.
async fn make(shop: &Shop) {
    shop.exec(
        "DROP SCHEMA IF EXISTS ours CASCADE; CREATE SCHEMA ours; SET search_path = ours;
         CREATE TABLE customers (id int PRIMARY KEY);
         INSERT INTO customers SELECT generate_series(1, 20);
         CREATE TABLE orders (id int PRIMARY KEY, customer_id int, v varchar(10)) PARTITION BY RANGE (id);
         CREATE TABLE orders_p1 PARTITION OF orders FOR VALUES FROM (0) TO (500);
         CREATE TABLE orders_p2 PARTITION OF orders FOR VALUES FROM (500) TO (1000);
         INSERT INTO orders SELECT n, 1 + n % 20, n FROM generate_series(0, 999) n;
         ALTER TABLE orders ADD CONSTRAINT of_customer FOREIGN KEY (customer_id) REFERENCES customers;
         COMMENT ON CONSTRAINT of_customer ON orders IS 'whose';
         SET search_path = public; ANALYZE ours.orders",
    )
    .await;
}

async fn resume(shop: &Shop) -> Output {
    harness::run(RESUME.into_iter().chain(["-d", &shop.dsn])).await
}

/// The keys of the new table: its own, and of each partition one, proven and a part of it.
async fn is_proven(shop: &Shop, what: &str) {
    let keys = "SELECT array_agg(conrelid::regclass || ' ' || conname || ' ' || convalidated || ' ' || (conparentid <> 0)
                  ORDER BY conrelid, conname)
                FROM pg_constraint WHERE contype = 'f' AND conrelid IN (
                  SELECT relid FROM pg_partition_tree('ours.orders'))";
    let keys: Vec<String> = shop.value(keys).await;
    let parts = keys.iter().filter(|key| key.ends_with(" of_customer true true")).count();
    let whole = keys.iter().filter(|key| *key == "ours.orders of_customer true false").count();
    assert_eq!((keys.len(), parts, whole), (3, 2, 1), "{what}: {keys:?}");
    let told = "SELECT obj_description(oid) FROM pg_constraint WHERE conrelid = 'ours.orders'::regclass AND contype = 'f'";
    assert_eq!(shop.value::<String>(told).await, "whose", "{what}");
}

/// Partitions and their indexes have their names.
async fn is_named(shop: &Shop, what: &str) {
    let names = "SELECT array_agg(c.relname::text ORDER BY c.relname COLLATE \"C\") FROM pg_inherits i \
         JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent IN ('ours.orders'::regclass, 'ours.orders_pkey'::regclass)";
    let names: Vec<String> = shop.value(names).await;
    assert_eq!(names, ["orders_p1", "orders_p1_pkey", "orders_p2", "orders_p2_pkey"], "{what}");
}

#[tokio::test]
async fn the_keys_of_renamed_partitions_are_proven_one_by_one() {
    let shop = shop().await;
    make(&shop).await;
    shop.run(TABLE, CHANGE).await.expect_code(0);
    is_named(&shop, "at the end").await;
    is_proven(&shop, "at the end").await;
}

/// A partition is not renamed: its key is proven under the name that it has, and so is the table's.
#[tokio::test]
async fn a_name_that_cannot_be_given_keeps_no_key_from_being_proven() {
    let shop = shop().await;
    make(&shop).await;
    shop.exec(
        "CREATE FUNCTION public.not_that() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
           IF EXISTS (SELECT 1 FROM pg_catalog.pg_event_trigger_ddl_commands() WHERE object_identity = 'ours.orders_p1_old')
           THEN RAISE EXCEPTION 'keep that name'; END IF; END $$;
         CREATE EVENT TRIGGER not_that ON ddl_command_end WHEN TAG IN ('ALTER TABLE')
           EXECUTE FUNCTION public.not_that()",
    )
    .await;
    let output = shop.run(TABLE, &[CHANGE, &["--allow-event-triggers"]].concat()).await;
    assert!(output.code != Some(0) && output.stderr.contains("keep that name"), "{output}");
    is_proven(&shop, "with one name of before").await;
    let part = "SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = 'ours.orders_p1'::regclass";
    assert_eq!(shop.value::<String>(part).await, "ours.orders_old");
    shop.exec("DROP EVENT TRIGGER not_that").await;
    resume(&shop).await.expect_code(0);
    is_named(&shop, "resumed").await;
    is_proven(&shop, "resumed").await;
}

#[cfg(feature = "failpoints")]
async fn die(shop: &Shop, point: &str, nth: u32) {
    dies_at(point, nth, shop.arguments(TABLE, CHANGE)).await;
}

/// Whatever was done of it: names first, then keys.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn dying_between_names_and_keys_is_gone_on_from() {
    let shop = shop().await;
    for (point, nth) in [
        ("cutover committed", 1),
        ("step done", 1),
        ("step recorded", 1),
        ("step recorded", 2),
        ("step done", 3),
    ] {
        let what = format!("{point} {nth}");
        make(&shop).await;
        die(&shop, point, nth).await;
        resume(&shop).await.expect_code(0);
        is_named(&shop, &what).await;
        is_proven(&shop, &what).await;
    }
}

/// Before 18: PostgreSQL would read all rows of those under the lock.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn the_whole_key_waits_for_those_of_partitions() {
    let shop = shop().await;
    if shop.cluster.major() >= 18 {
        return;
    }
    make(&shop).await;
    die(&shop, "cutover committed", 1).await;
    shop.exec("DELETE FROM pgwraith.event WHERE detail LIKE '%VALIDATE CONSTRAINT%'").await;
    let output = resume(&shop).await;
    assert_ne!(output.code, Some(0), "{output}");
    for leaf in ["orders_p1", "orders_p2"] {
        let validate =
            format!("ALTER TABLE \"ours\".\"{leaf}\" VALIDATE CONSTRAINT \"of_customer\"");
        assert!(output.stderr.contains(&validate), "{output}");
    }
    let whole = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid = 'ours.orders'::regclass";
    assert_eq!(shop.value::<i64>(whole).await, 0, "{output}");
    shop.exec(
        "ALTER TABLE ours.orders_p1 VALIDATE CONSTRAINT of_customer;
         ALTER TABLE ours.orders_p2 VALIDATE CONSTRAINT of_customer",
    )
    .await;
    resume(&shop).await.expect_code(0);
    is_proven(&shop, "by hand").await;
}

/// By a hook or by hand, before its partitions gave their names away; also one of them alone.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn an_old_table_that_is_gone_has_no_names_to_give() {
    let shop = shop().await;
    for (n, gone) in [
        "DROP TABLE ours.orders_old",
        "DROP TABLE ours.orders_p1",
        "ALTER TABLE ours.orders_old RENAME TO kept; ALTER TABLE ours.orders_p1 RENAME TO kept_p1;
         DROP TABLE ours.orders_p2",
    ]
    .into_iter()
    .enumerate()
    {
        make(&shop).await;
        die(&shop, "cutover committed", 1).await;
        shop.exec(gone).await;
        resume(&shop).await.expect_code(0);
        is_named(&shop, gone).await;
        is_proven(&shop, gone).await;
        let kept = "SELECT count(*) FROM pg_inherits WHERE inhrelid = to_regclass('ours.kept_p1')";
        assert_eq!(shop.value::<i64>(kept).await, i64::from(n == 2), "{gone}");
    }
}

/// A name that is somebody else's by then is left to him, and told of.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn what_is_not_the_old_tables_keeps_its_name() {
    let shop = shop().await;
    make(&shop).await;
    die(&shop, "cutover committed", 1).await;
    shop.exec("DROP TABLE ours.orders_old; CREATE TABLE ours.orders_p1 (mine int)").await;
    let output = resume(&shop).await;
    assert!(output.code != Some(0) && output.stderr.contains("already exists"), "{output}");
    is_proven(&shop, "with a name that is taken").await;
    shop.exec("ALTER TABLE ours.orders_p1 RENAME mine TO still_mine; DROP TABLE ours.orders_p1")
        .await;
    resume(&shop).await.expect_code(0);
    is_named(&shop, "the name is free").await;
}
