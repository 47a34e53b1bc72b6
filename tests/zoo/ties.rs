//! Foreign keys: those that are not to be validated, those that cannot be, and two tables tied by one
//! that migrate at the same time.

use crate::definition::{assert_same, database};
use crate::harness::{self, Background};
use crate::scene::{SOON, shop, wait_for};

const TIED: &str = "
    CREATE TABLE parent (id int PRIMARY KEY, v text); INSERT INTO parent SELECT g, 'p' FROM generate_series(1, 500) g;
    CREATE TABLE child (id int PRIMARY KEY, p int NOT NULL CONSTRAINT p_fk REFERENCES parent ON DELETE CASCADE);
    INSERT INTO child SELECT g, 1 + g % 500 FROM generate_series(1, 1000) g;
    ALTER TABLE parent ADD favourite int CONSTRAINT favourite_fk REFERENCES child DEFERRABLE INITIALLY DEFERRED;
    UPDATE parent SET favourite = id WHERE id < 100;
    CREATE VIEW tied AS SELECT p.id, c.id AS child FROM parent p JOIN child c ON c.p = p.id;
    CREATE POLICY seen ON child USING (EXISTS (SELECT 1 FROM parent WHERE parent.id = p));";

const RETIRED: [&str; 2] = ["public.parent_old", "public.child_old"];

/// Both are held where they begin to swap, so neither ends before the other has seen the tables as
/// they are; then both go on at once.
#[tokio::test]
async fn two_tables_tied_to_each_other_migrate_at_once() {
    let shop = shop().await;
    shop.exec(TIED).await;
    let parent = shop.held("cutover", "parent", &["--rebuild"]).await;
    let mut child = Background::start(shop.arguments("child", &["--rebuild"]));
    let both = "SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    wait_for(&shop.client, &mut child, "both are held", both).await;
    shop.exec("INSERT INTO parent VALUES (1000, 'new'); INSERT INTO child VALUES (5000, 1000)")
        .await;
    shop.exec("DELETE FROM parent WHERE id = 400").await;
    let rows = (shop.rows("parent").await, shop.rows("child").await);
    parent.release().await;
    let (parent, child) = tokio::join!(parent.run.finish(SOON), child.finish(SOON));
    parent.expect_code(0);
    child.expect_code(0);
    assert_eq!((shop.rows("parent").await, shop.rows("child").await), rows);
    let proven = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated";
    assert_eq!(shop.value::<i64>(proven).await, 2);
    let after = database(&shop, &RETIRED).await;
    shop.exec("DROP TABLE parent_old").await;
    shop.exec("DROP TABLE child_old").await;
    assert_same(&database(&shop, &[]).await.lines(), &after.lines(), "the old tables dropped");

    // The same definition as tables that nobody migrated.
    let mut fresh = shop;
    fresh.move_to("fresh").await;
    fresh.exec("CREATE TABLE elsewhere (n int)").await;
    fresh.exec(TIED).await;
    let wanted = super::copies::lines(&database(&fresh, &[]).await);
    assert_same(&super::copies::lines(&after), &wanted, "both rebuilt");
    assert_eq!(
        harness::leftovers(&fresh.client).await.iter().filter(|l| l.starts_with("slot")).count(),
        0
    );
}

/// A reference that is broken, by triggers that were off, say: the swap is done, and what is left to
/// do is told.
#[tokio::test]
async fn a_foreign_key_that_does_not_hold_is_told_after_the_swap() {
    let shop = shop().await;
    shop.exec(TIED).await;
    shop.exec(
        "SET session_replication_role = replica; INSERT INTO child VALUES (6000, 7777); \
         RESET session_replication_role",
    )
    .await;
    let source: u32 = shop.value("SELECT 'child'::regclass::oid").await;
    let rows = shop.rows("child").await;
    let output = shop.run("child", &["--rebuild"]).await.expect_code(4);
    assert!(output.stderr.contains("p_fk"), "{output}");
    assert!(output.stderr.contains("VALIDATE CONSTRAINT"), "{output}");
    assert!(output.stderr.contains("Mend the rows that violate the foreign key first"), "{output}");
    assert_ne!(shop.value::<u32>("SELECT 'child'::regclass::oid").await, source, "{output}");
    assert_eq!(shop.rows("child").await, rows);
    let left = "SELECT string_agg(conname, ' ') FROM pg_constraint WHERE contype = 'f' AND NOT convalidated";
    assert_eq!(shop.value::<String>(left).await, "p_fk");
    // It binds new rows all the same, and is validated by hand once the row is gone.
    let refused = shop.client.batch_execute("INSERT INTO child VALUES (6001, 7777)").await;
    assert!(refused.is_err());
    shop.exec("DELETE FROM child WHERE id = 6000").await;
    shop.exec("ALTER TABLE child VALIDATE CONSTRAINT p_fk; DROP TABLE child_old").await;
    assert_eq!(shop.held_back().await, [""; 0]);
}

/// A default of another table that calls an identity column's sequence.
#[tokio::test]
async fn a_default_that_calls_an_identity_sequence_goes_on() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text); \
         INSERT INTO t (v) SELECT 'v' FROM generate_series(1, 100); \
         CREATE TABLE uses (n int DEFAULT nextval('t_id_seq'), m text)",
    )
    .await;
    let before = database(&shop, &[]).await;
    shop.run("t", &["--rebuild"]).await.expect_code(0);
    shop.exec("DROP TABLE t_old").await;
    assert_same(&database(&shop, &[]).await.lines(), &before.lines(), "rebuilt");
    let next = "INSERT INTO uses (m) VALUES ('x') RETURNING n";
    assert_eq!(shop.value::<i32>(next).await, 101);
    let next = "INSERT INTO t (v) VALUES ('x') RETURNING id";
    assert_eq!(shop.value::<i32>(next).await, 102);
}
