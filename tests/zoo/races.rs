//! Somebody changes what hangs on the table between the moment the swap's statements are rendered and
//! the moment they run.

use crate::scene::{Held, SOON, Shop, exec, shop};

const TABLES: &str = "
    CREATE ROLE reader; CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 50);
    CREATE TABLE t (id int PRIMARY KEY, p int CONSTRAINT p_fk REFERENCES parent, v text);
    INSERT INTO t SELECT g, 1 + g % 50, 'v' FROM generate_series(1, 500) g;
    CREATE VIEW seen AS SELECT id, v FROM t; CREATE TABLE child (t int CONSTRAINT t_fk REFERENCES t);
    CREATE FUNCTION counted() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t; END;";

/// A run whose attempts all come too late for the lock of `parent`, until the lock is given back.
async fn between_attempts(shop: &Shop) -> (Held, tokio_postgres::Client) {
    shop.exec(TABLES).await;
    let mut held = shop.held("cutover", "t", &["--rebuild"]).await;
    let theirs = shop.session().await;
    exec(&theirs, "BEGIN; LOCK TABLE parent IN ACCESS SHARE MODE").await;
    held.release().await;
    held.run.wait_for_saying("the cutover waits: ").await;
    (held, theirs)
}

async fn swapped_whole(shop: &Shop, held: Held) {
    let output = held.run.finish(SOON).await.expect_code(0);
    assert_eq!(output.json()["outcome"], "swapped", "{output}");
    shop.exec("DROP TABLE t_old").await;
    let proven = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated";
    assert_eq!(shop.value::<i64>(proven).await, 2, "{output}");
    assert_eq!(shop.value::<i64>("SELECT counted()").await, 500);
}

#[tokio::test]
async fn what_is_renamed_between_two_attempts_is_found_again() {
    let shop = shop().await;
    let (held, theirs) = between_attempts(&shop).await;
    shop.exec("ALTER VIEW seen RENAME TO looked_at; ALTER TABLE child RENAME TO infant").await;
    exec(&theirs, "COMMIT").await;
    swapped_whole(&shop, held).await;
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM looked_at").await, 500);
}

#[tokio::test]
async fn what_comes_and_goes_between_two_attempts_is_carried() {
    let shop = shop().await;
    let (held, theirs) = between_attempts(&shop).await;
    shop.exec("DROP VIEW seen; CREATE VIEW later AS SELECT max(id) AS m FROM t; DROP TABLE child")
        .await;
    shop.exec("CREATE OR REPLACE FUNCTION counted() RETURNS bigint BEGIN ATOMIC SELECT count(v) FROM t; END").await;
    shop.exec("CREATE TABLE infant (p int CONSTRAINT infant_fk REFERENCES parent)").await;
    exec(&theirs, "COMMIT").await;
    swapped_whole(&shop, held).await;
    assert_eq!(shop.value::<i32>("SELECT m FROM later").await, 500);
}

/// GRANT takes no lock: one whose transaction is open is met by the swap at the catalog's row.
#[tokio::test]
async fn a_grant_that_is_not_committed_yet_is_not_lost() {
    for object in ["t", "seen"] {
        let shop = shop().await;
        shop.exec(TABLES).await;
        let mut held = shop.held("cutover", "t", &["--rebuild"]).await;
        let theirs = shop.session().await;
        exec(&theirs, &format!("BEGIN; GRANT SELECT ON {object} TO reader")).await;
        held.release().await;
        held.run.wait_for_saying("the cutover waits: ").await;
        exec(&theirs, "COMMIT").await;
        swapped_whole(&shop, held).await;
        let may = format!("SELECT has_table_privilege('reader', '{object}', 'select')");
        assert!(shop.value::<bool>(&may).await, "{object}");
    }
}
