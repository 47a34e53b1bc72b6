//! Two tables made alike, one for the tool and one for plain statements, that must end alike:
//! `ours.t` and `twin.t`.

use crate::definition::assert_same;
use crate::scene::Shop;

/// Runs `sql` for each, with its schema for `{s}`.
pub async fn twins(shop: &Shop, sql: &str) {
    for schema in ["ours", "twin"] {
        shop.exec(&sql.replace("{s}", schema)).await;
    }
}

/// Alters one by the tool and the other by ALTER TABLE; then they must be the same.
pub async fn alter_alike(shop: &Shop, clauses: &[&str]) {
    let mut change = Vec::new();
    for clause in clauses {
        shop.exec(&format!("ALTER TABLE twin.t {clause}")).await;
        change.extend(["--alter", clause]);
    }
    shop.run("ours.t", &change).await.expect_code(0);
    same(shop, &format!("{clauses:?}")).await;
}

/// Definition and rows are the same.
pub async fn same(shop: &Shop, what: &str) {
    same_definition(shop, what).await;
    assert_eq!(shop.rows("ours.t").await, shop.rows("twin.t").await, "{what}");
}

/// The definition is the same.
pub async fn same_definition(shop: &Shop, what: &str) {
    same_definition_of(shop, "t", what).await;
}

/// That of a table in both schemas.
pub async fn same_definition_of(shop: &Shop, table: &str, what: &str) {
    let ours = shop.definition(&format!("ours.{table}")).await;
    let ours = ours.into_iter().map(|s| s.replace("ours", "twin"));
    let mut ours: Vec<String> = ours.collect();
    ours.sort();
    assert_same(&ours, &shop.definition(&format!("twin.{table}")).await, what);
}
