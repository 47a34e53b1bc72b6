//! `run --in-place`: the steps that plan shows, made one by one while the application writes.

mod filled;
mod killed;
#[cfg(feature = "failpoints")]
mod live;
mod meanwhile;
mod partitioned;
mod references;
mod refused;
mod undone;
mod violated;
mod waits;

use crate::harness::{self, ANY_WAY, Output};
use crate::scene::{Shop, shop};

/// A table of a thousand rows, and its twin.
const ROWS: &str = "CREATE SCHEMA {s}; CREATE TABLE {s}.p (id int PRIMARY KEY); \
    INSERT INTO {s}.p SELECT generate_series(1, 50); \
    CREATE TABLE {s}.t (id int PRIMARY KEY, a int, b text, k int); \
    INSERT INTO {s}.t SELECT n, n, 'row ' || n, n % 50 + 1 FROM generate_series(1, 1000) n";

/// Fills rows, builds an index, reads all rows: seven steps.
const ALL_KINDS: &str =
    "ADD COLUMN token uuid DEFAULT gen_random_uuid(), ADD UNIQUE (a), ADD CHECK (a > 0)";

async fn table() -> Shop {
    let shop = shop().await;
    crate::twins::twins(&shop, ROWS).await;
    shop
}

fn arguments(shop: &Shop, alter: &str, more: &[&str]) -> Vec<String> {
    let change = ["--in-place", "--alter", alter, ANY_WAY, "--chunk-rows", "100"];
    let all: Vec<&str> = change.iter().chain(more).copied().collect();
    shop.arguments("ours.t", &all)
}

async fn run(shop: &Shop, alter: &str, more: &[&str]) -> Output {
    harness::run(arguments(shop, alter, more)).await
}

async fn resume(shop: &Shop, more: &[&str]) -> Output {
    let given = ["resume", "ours.t", "-d", &shop.dsn, "--json"];
    harness::run(given.iter().chain(more)).await
}

async fn abort(shop: &Shop) -> Output {
    harness::run(["abort", "ours.t", "-d", &shop.dsn, "--json"]).await
}

/// It is as a plain ALTER TABLE makes it, and every row has a token of its own.
async fn as_its_twin(shop: &Shop, what: &str) {
    crate::twins::same_definition(shop, what).await;
    let tokens = "SELECT count(DISTINCT token) FROM ours.t";
    assert_eq!(shop.value::<i64>(tokens).await, 1000, "{what}");
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    assert_eq!(shop.value::<i64>(invalid).await, 0, "{what}");
}

async fn alter_the_twin(shop: &Shop, alter: &str) {
    shop.exec(&format!("ALTER TABLE twin.t {}", alter.replace("ours", "twin"))).await;
}
