//! An ordinary table becomes a partitioned one.

mod again;
mod by_file;
mod carried;
mod file_refused;
mod live;
mod mover;
mod refused;
mod same;

use pgwraith::demo::orders::create_orders;

use crate::scene::Shop;

const TABLE: &str = "ours.orders";

/// `orders` with so many rows in a schema.
async fn make(shop: &Shop, schema: &str, rows: u64, before: &str) {
    shop.exec(&format!("CREATE SCHEMA {schema}; SET search_path = {schema}")).await;
    create_orders(&shop.client, rows).await.unwrap();
    shop.exec(&format!("{before}; SET search_path = public; ANALYZE {schema}.orders")).await;
}
