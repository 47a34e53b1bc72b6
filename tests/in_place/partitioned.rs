//! Steps for columns and checks of a partitioned table; what else it asks for is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{self, Background};
use crate::scene::{SOON, Shop, exec, shop, wait_for};

use super::{abort, alter_the_twin, arguments, as_its_twin, run};

/// A thousand rows in partitions, one of which is divided again; and where each is may change.
const ROWS: &str = "CREATE SCHEMA {s}; CREATE TABLE {s}.t (id int, a int, b text, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k); \
    CREATE TABLE {s}.t_0 PARTITION OF {s}.t FOR VALUES IN (0); \
    CREATE TABLE {s}.\"T 1\" PARTITION OF {s}.t FOR VALUES IN (1) PARTITION BY HASH (id); \
    CREATE TABLE {s}.t_10 PARTITION OF {s}.\"T 1\" FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
    CREATE TABLE {s}.t_11 PARTITION OF {s}.\"T 1\" FOR VALUES WITH (MODULUS 2, REMAINDER 1); \
    CREATE TABLE {s}.rest PARTITION OF {s}.t DEFAULT; \
    INSERT INTO {s}.t SELECT n, n, 'row ' || n, n % 4 FROM generate_series(1, 1000) n";

const COLUMNS: &str = "ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid(), ADD CHECK (a > 0), ALTER COLUMN b SET NOT NULL";

pub(super) async fn table() -> Shop {
    let shop = shop().await;
    crate::twins::twins(&shop, ROWS).await;
    shop
}

/// Each partition is as a plain ALTER TABLE makes it.
pub(super) async fn partitions_are_as_their_twins(shop: &Shop) {
    let shape = |schema: &str| {
        format!(
            "SELECT array_agg(x ORDER BY x) FROM (SELECT concat_ws(' ', c.relname, a.attname, a.attnotnull, pg_get_expr(d.adbin, d.adrelid)) AS x \
               FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum \
               WHERE c.relnamespace = '{schema}'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped \
             UNION ALL SELECT concat_ws(' ', c.relname, k.conname, pg_get_constraintdef(k.oid), k.convalidated) FROM pg_class c \
               JOIN pg_constraint k ON k.conrelid = c.oid WHERE c.relnamespace = '{schema}'::regnamespace) d"
        )
    };
    let (ours, twin): (Vec<String>, Vec<String>) =
        (shop.value(&shape("ours")).await, shop.value(&shape("twin")).await);
    assert_eq!(ours, twin);
}

#[tokio::test]
async fn columns_and_checks_are_made_in_all_partitions() {
    let shop = table().await;
    let planned =
        harness::run(["plan", "ours.t", "-d", &shop.dsn, "--json", "--alter", COLUMNS]).await;
    assert_eq!(planned.json()["way"], "careful", "{planned}");
    let moves = Arc::new(AtomicBool::new(true));
    let (mover, goes_on) = (shop.session().await, Arc::clone(&moves));
    // Rows go from partition to partition all the while; at the end each is where it was.
    let mover = tokio::spawn(async move {
        let mut n = 0;
        while goes_on.load(Ordering::Relaxed) {
            n = n % 1000 + 1;
            for k in [(n + 1) % 4, n % 4] {
                exec(&mover, &format!("UPDATE ours.t SET k = {k} WHERE id = {n}")).await;
            }
        }
    });
    let output = run(&shop, COLUMNS, &["--chunk-time", "10ms"]).await;
    moves.store(false, Ordering::Relaxed);
    mover.await.unwrap();
    let output = output.expect_code(0);
    assert_eq!(output.json()["way"], "careful", "{output}");
    alter_the_twin(&shop, COLUMNS).await;
    as_its_twin(&shop, "altered").await;
    partitions_are_as_their_twins(&shop).await;
    let differ = "SELECT count(*) FROM (SELECT id, a, b, k FROM ours.t EXCEPT SELECT id, a, b, k FROM twin.t) d";
    assert_eq!(shop.value::<i64>(differ).await, 0);
}

/// A row that moves from a partition that is to come into one that is done takes its NULL along.
#[tokio::test]
async fn a_row_that_moved_is_found_by_the_last_look() {
    let shop = table().await;
    shop.exec("CREATE TABLE public.gate (n int); INSERT INTO public.gate VALUES (1)").await;
    let gate = ["--throttle-query", "SELECT n FROM public.gate"];
    let alter = "ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid()";
    let mut held = Background::start(arguments(&shop, alter, &gate));
    held.wait_for_saying("UPDATE").await;
    let holder = shop.session().await;
    // It has a new key too, in front of all ranges. Until COMMIT others see it where it was, and locked.
    exec(&holder, "BEGIN; UPDATE ours.t SET id = -id, k = 0 WHERE id = 997").await;
    shop.exec("UPDATE public.gate SET n = 0").await;
    held.wait_for_saying("rows that are not filled yet are locked by others").await;
    exec(&holder, "COMMIT").await;
    held.finish(SOON).await.expect_code(0);
    let token = "SELECT token IS NOT NULL FROM ours.t_0 WHERE id = -997";
    assert!(shop.value::<bool>(token).await);
}

#[tokio::test]
async fn what_is_not_for_steps_is_told_and_what_is_made_taken_back() {
    let shop = table().await;
    let output = run(&shop, "ADD EXCLUDE (id WITH =, k WITH =)", &[]).await.expect_code(3);
    // Before 17 PostgreSQL has none for such a table.
    let why = match shop.cluster.major() {
        15 | 16 => "not supported on partitioned tables",
        _ => "of a partitioned table only",
    };
    for told in [why, "without --in-place"] {
        assert!(output.stderr.contains(told), "{told}: {output}");
    }
    // What fires for one partition alone.
    shop.exec(
        "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$; \
         CREATE TRIGGER own BEFORE UPDATE ON ours.t_10 FOR EACH ROW EXECUTE FUNCTION public.f()",
    )
    .await;
    let output = run(&shop, COLUMNS, &[]).await.expect_code(3);
    assert!(output.stderr.contains("trigger own"), "{output}");
    shop.exec("DROP TRIGGER own ON ours.t_10; UPDATE ours.t SET a = -1 WHERE id IN (5, 6)").await;
    let output = run(&shop, COLUMNS, &[]).await.expect_code(4);
    for told in ["id = 5", "id = 6", "pgwraith abort"] {
        assert!(output.stderr.contains(told), "{told}: {output}");
    }
    shop.exec("UPDATE ours.t SET a = id").await;
    abort(&shop).await.expect_code(0);
    crate::twins::same(&shop, "aborted").await;
    partitions_are_as_their_twins(&shop).await;
}

const KEYS: &str = "ADD PRIMARY KEY (a, k, id), ADD CONSTRAINT late UNIQUE (k, id) DEFERRABLE";

async fn keyless() -> Shop {
    let shop = table().await;
    crate::twins::twins(
        &shop,
        "ALTER TABLE {s}.t DROP CONSTRAINT t_pkey, ALTER COLUMN id DROP NOT NULL",
    )
    .await;
    shop
}

/// What builds an index waits for whoever is older; a partition that comes meanwhile has its own built too.
#[tokio::test]
async fn keys_are_built_partition_by_partition() {
    let shop = keyless().await;
    let planned = harness::run(["plan", "ours.t", "-d", &shop.dsn, "--alter", KEYS]).await;
    for told in [
        "in place with care",
        "CONCURRENTLY \"t_10_pkey\" ON \"ours\".\"t_10\" ",
        "DEFERRABLE, its index alone is not",
    ] {
        assert!(planned.stdout.contains(told), "{told}: {planned}");
    }
    let older = shop.session().await;
    exec(&older, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await;
    let mut waiting = Background::start(arguments(&shop, KEYS, &[]));
    let building = "SELECT EXISTS (SELECT 1 FROM pg_index WHERE NOT indisvalid)";
    wait_for(&shop.client, &mut waiting, "it builds", building).await;
    crate::twins::twins(&shop, "CREATE TABLE {s}.young PARTITION OF {s}.t FOR VALUES IN (9)").await;
    crate::twins::twins(
        &shop,
        "INSERT INTO {s}.t SELECT -n, n, 'young', 9 FROM generate_series(1, 50) n",
    )
    .await;
    exec(&older, "COMMIT").await;
    let output = waiting.finish(SOON).await.expect_code(0);
    assert!(output.stderr.contains("\"young\" came meanwhile"), "{output}");
    alter_the_twin(&shop, KEYS).await;
    crate::twins::same(&shop, "altered").await;
    partitions_are_as_their_twins(&shop).await;
    let attached = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind IN ('i', 'I') \
                      AND c.relnamespace = '{s}'::regnamespace";
    let ours: i64 = shop.value(&attached.replace("{s}", "ours")).await;
    assert_eq!((ours, shop.value::<i64>(&attached.replace("{s}", "twin")).await), (12, 12));
    assert!(!shop.value::<bool>(building).await);
}

#[tokio::test]
async fn what_was_built_in_partitions_is_taken_back() {
    let shop = keyless().await;
    let wrong = run(&shop, "ADD UNIQUE (a, k)", &[]).await.expect_code(3);
    assert!(wrong.stderr.contains("divided by"), "{wrong}");
    crate::twins::twins(&shop, "INSERT INTO {s}.t SELECT * FROM {s}.t WHERE id = 5").await;
    let output = run(&shop, KEYS, &[]).await.expect_code(4);
    assert!(output.stderr.contains("violates the unique index"), "{output}");
    abort(&shop).await.expect_code(0);
    crate::twins::same(&shop, "aborted").await;
    partitions_are_as_their_twins(&shop).await;
    let none = "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'ours'::regnamespace";
    assert_eq!(shop.value::<i64>(none).await, 0);
    // Under the table's key they go with it.
    let later = format!("{KEYS}, ADD CHECK (a > 9)");
    crate::twins::twins(&shop, "DELETE FROM {s}.t WHERE id = 5").await;
    run(&shop, &later, &[]).await.expect_code(4);
    abort(&shop).await.expect_code(0);
    crate::twins::same(&shop, "aborted once more").await;
    partitions_are_as_their_twins(&shop).await;
    assert_eq!(shop.value::<i64>(none).await, 0);
}

/// In the middle of a partition, between two, and while the table takes them over.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn whoever_goes_on_builds_what_is_left() {
    let shop = keyless().await;
    let given = ["resume", "ours.t", "-d", &shop.dsn, "--take-over"];
    let resumed: Vec<String> = given.iter().map(|s| (*s).to_owned()).collect();
    let begun = arguments(&shop, KEYS, &[]);
    crate::scene::dies_at("index made", 2, begun).await;
    for (point, nth) in [("altered", 1), ("step made", 2), ("alter locked", 2), ("step made", 3)] {
        crate::scene::dies_at(point, nth, resumed.clone()).await;
    }
    super::resume(&shop, &["--take-over"]).await.expect_code(0);
    alter_the_twin(&shop, KEYS).await;
    crate::twins::same(&shop, "went on").await;
    partitions_are_as_their_twins(&shop).await;
}
