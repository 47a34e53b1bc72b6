//! Large values, which are kept outside of their rows.

use crate::harness::{self, Background};
use crate::scene::{SOON, Shop, shop, wait_for};

/// Where the shadow keeps the large value of that row.
async fn place(shop: &Shop, row: &str) -> Vec<String> {
    let toast: String = shop
        .value("SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 't_v2'::regclass")
        .await;
    shop.value(&format!(
        "SELECT array_agg(ctid::text ORDER BY chunk_seq) FROM {toast}
         WHERE convert_from(chunk_data, 'SQL_ASCII') LIKE '{row}%'"
    ))
    .await
}

#[tokio::test]
async fn a_large_value_that_is_the_same_is_not_written_again() {
    let shop = shop().await;
    shop.exec(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, big text);
         ALTER TABLE t ALTER COLUMN big SET STORAGE EXTERNAL;
         INSERT INTO t (id, big) SELECT i, repeat(i::text, 50000) FROM generate_series(1, 2) i",
    )
    .await;
    let mut run = Background::start(
        shop.arguments("t", &["--alter", "ALTER COLUMN id TYPE bigint", "--postpone-cutover"]),
    );
    run.wait_for_saying("postponed until `pgwraith cutover`").await;
    let before = (place(&shop, "1").await, place(&shop, "2").await);

    shop.exec("UPDATE t SET n = 1 WHERE id = 1; UPDATE t SET n = 1, big = repeat('2', 50001) WHERE id = 2").await;
    wait_for(&shop.client, &mut run, "the sync", "SELECT sum(n) = 2 FROM t_v2").await;
    assert_eq!(place(&shop, "1").await, before.0);
    assert_ne!(place(&shop, "2").await, before.1);

    harness::run(["cutover", "t", "-d", &shop.dsn]).await.expect_code(0);
    run.finish(SOON).await.expect_code(0);
    let sizes = "SELECT array_agg(length(big) ORDER BY id) FROM t WHERE n = 1";
    assert_eq!(shop.value::<Vec<i32>>(sizes).await, [50_000, 50_001]);
}
