//! The source is a partitioned table: it becomes an ordinary one, or is divided otherwise.

use super::{TABLE, divided};
use crate::scene::shop;

#[tokio::test]
async fn a_partitioned_table_becomes_an_ordinary_one() {
    let shop = shop().await;
    divided(&shop, "ours", 5_000, "").await;
    let rows = shop.rows(TABLE).await;
    let output = shop.run(TABLE, &["--partition-by", "none"]).await.expect_code(0);
    assert_eq!(shop.rows(TABLE).await, rows, "{output}");
    let kind = "SELECT relkind::text FROM pg_class WHERE oid = 'ours.orders'::regclass";
    assert_eq!(shop.value::<String>(kind).await, "r");
    assert_eq!(shop.held_back().await, [""; 0]);
}
