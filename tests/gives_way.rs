//! What reads all of a table keeps nobody waiting behind somebody who wants it for himself: it is ended, and begun anew.

use crate::harness::{ANY_WAY, Background};
use crate::scene::{AT_ONCE, SOON, Shop, exec, shop, value, wait_for};

/// `public.gate` gives what it got; with a number above 500 only while nobody has the gate.
const TABLE: &str = "CREATE FUNCTION public.gate(n int) RETURNS int LANGUAGE plpgsql STABLE AS $$ \
    BEGIN IF n > 500 THEN PERFORM pg_advisory_xact_lock_shared(1); END IF; RETURN n; END $$; \
    CREATE SCHEMA ours; CREATE TABLE ours.p (id int PRIMARY KEY); INSERT INTO ours.p SELECT generate_series(1, 7); \
    CREATE TABLE ours.t (id int PRIMARY KEY, k int NOT NULL); \
    INSERT INTO ours.t SELECT n, n % 7 + 1 FROM generate_series(1, 1000) n; ANALYZE ours.t";

const GATED: &str =
    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)";

/// Whoever alters the table gets it while `run` is in the middle of what reads it, and `run` says so.
async fn somebody_alters_it(shop: &Shop, run: &mut Background) {
    let other = shop.session().await;
    exec(
        &other,
        "SET lock_timeout = '30s'; BEGIN; LOCK TABLE ours.t IN ACCESS EXCLUSIVE MODE; COMMIT",
    )
    .await;
    run.wait_for_saying("it gave way, and begins anew").await;
}

#[tokio::test]
async fn validate_gives_way() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    shop.exec("ALTER TABLE ours.t ADD CONSTRAINT c CHECK (public.gate(id) > 0) NOT VALID").await;
    shop.exec("SELECT pg_advisory_lock(1)").await;
    let change = ["--in-place", "--alter", "VALIDATE CONSTRAINT c", ANY_WAY];
    let mut run = Background::start(shop.arguments("ours.t", &change));
    wait_for(&shop.client, &mut run, "it reads", GATED).await;
    somebody_alters_it(&shop, &mut run).await;
    shop.exec("SELECT pg_advisory_unlock(1)").await;
    run.finish(SOON).await.expect_code(0);
    assert!(shop.value::<bool>("SELECT convalidated FROM pg_constraint WHERE conname = 'c'").await);
}

/// It waits for whoever has an older snapshot, and others for it.
#[tokio::test]
async fn an_index_built_concurrently_gives_way() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let older = shop.session().await;
    exec(&older, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM ours.p").await;
    let change = ["--in-place", "--alter", "ADD UNIQUE (k, id)", ANY_WAY];
    let mut run = Background::start(shop.arguments("ours.t", &change));
    let waits =
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'virtualxid' AND NOT granted)";
    wait_for(&shop.client, &mut run, "it waits", waits).await;
    somebody_alters_it(&shop, &mut run).await;
    run.wait_for_saying("the invalid index").await;
    exec(&older, "COMMIT").await;
    run.finish(SOON).await.expect_code(0);
    let indexes =
        "SELECT count(*) FROM pg_index WHERE indrelid = 'ours.t'::regclass AND indisvalid";
    assert_eq!(shop.value::<i64>(indexes).await, 2);
}

/// After the swap, in the middle of proving a foreign key.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn proving_a_foreign_key_gives_way() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    shop.exec("ALTER TABLE ours.t ADD CONSTRAINT f FOREIGN KEY (k) REFERENCES ours.p").await;
    let change = ["--rebuild", AT_ONCE[0], AT_ONCE[1]];
    crate::scene::dies_at("cutover committed", 1, shop.arguments("ours.t", &change)).await;
    let parent = shop.session().await;
    exec(&parent, "BEGIN; LOCK TABLE ours.p IN ACCESS EXCLUSIVE MODE").await;
    let mut run =
        Background::start(["resume", "ours.t", "-d", &shop.dsn].map(str::to_owned).to_vec());
    let waits =
        "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'ours.p'::regclass AND NOT granted)";
    wait_for(&shop.client, &mut run, "it waits", waits).await;
    somebody_alters_it(&shop, &mut run).await;
    exec(&parent, "COMMIT").await;
    run.finish(SOON).await.expect_code(0);
    assert!(shop.value::<bool>("SELECT convalidated FROM pg_constraint WHERE conname = 'f' AND conrelid = 'ours.t'::regclass").await);
}

/// Bounds of partitions follow from all rows, where no index leads to them.
#[tokio::test]
async fn reading_bounds_gives_way() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    shop.exec("SELECT pg_advisory_lock(1)").await;
    let change = [
        "--alter",
        "DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, k)",
        "--map",
        "k = public.gate(id) % 3",
        "--partition-by",
        "LIST (k)",
        AT_ONCE[0],
        AT_ONCE[1],
    ];
    let mut run = Background::start(shop.arguments("ours.t", &change));
    run.wait_for_saying("all its rows are read for them first").await;
    wait_for(&shop.client, &mut run, "it reads", GATED).await;
    somebody_alters_it(&shop, &mut run).await;
    shop.exec("SELECT pg_advisory_unlock(1)").await;
    run.finish(SOON).await.expect_code(0);
    assert_eq!(value::<i64>(&shop.client, "SELECT count(DISTINCT tableoid) FROM ours.t").await, 3);
}
