//! What PostgreSQL 18 brought that can hang on a table follows it too.

use super::Zoo;
use super::traffic::Script;
use crate::cases;
use crate::harness;
use crate::scene::shop;

const SINCE_18: Zoo = Zoo {
    table: "zoo18",
    retired: "public.zoo18_old",
    rows: "(SELECT id, n, plain, m, u, during, here, pid, pid2, self FROM zoo18)",
    twin: "twin",
    not_valid: &["hoped", "hoping_fk", "own"],
    traffic: &[
        Script {
            role: "postgres",
            sql: "UPDATE zoo18 SET n = {n} % 90 WHERE id = 1 + {n} % 60; \
              UPDATE twin SET n = {n} % 90 WHERE id = 1 + {n} % 60; \
              INSERT INTO zoo18 (id, plain, pid, here, m) VALUES (5000 + {n}, {n}, -{n}, 1, 1); \
              DELETE FROM zoo18 WHERE id = 5000 + {n}",
        },
        Script {
            role: "postgres",
            sql: "SELECT 1 / (count(*) = 1000)::int FROM zoo18_v WHERE id BETWEEN 401 AND 1400 AND doubled >= 0; \
              INSERT INTO within SELECT u, '[2024-01-07,2024-01-08)' FROM zoo18 WHERE id = 1000 + {n} % 90; \
              DELETE FROM within WHERE at = '[2024-01-07,2024-01-08)'",
        },
    ],
};

#[tokio::test]
async fn what_18_brought_is_rebuilt_under_traffic() {
    if !harness::since(18) {
        return;
    }
    let shop = shop().await;
    cases::zoo_18(&shop).await;
    shop.exec(&format!("CREATE TABLE twin AS SELECT * FROM {} z", SINCE_18.rows)).await;
    SINCE_18.rebuild(&shop).await;
}
