//! What dead runs leave is found and removed; what is alive is not.

use pgwraith::demo::orders::create_orders;

use super::{CHANGE, kill};
use crate::harness;
use crate::scene::{SOON, shop};

#[tokio::test]
async fn what_dead_runs_left_is_listed_and_removed_and_a_living_one_is_spared() {
    let mut shop = shop().await;
    create_orders(&shop.client, 1_000).await.unwrap();
    shop.exec("CREATE TABLE alive (id int PRIMARY KEY); INSERT INTO alive VALUES (1)").await;
    let none = harness::run(["cleanup", "-d", &shop.dsn]).await.expect_code(0);
    assert!(none.stdout.contains("nothing was left"), "{none}");

    let held = shop.held("verify", "orders", &CHANGE).await;
    kill(held).await;
    shop.exec("DROP FUNCTION gate() CASCADE").await;
    let quiet = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgwraith/%')";
    harness::wait_for_sql(&shop.client, "the sessions end", quiet).await;
    let living = shop.held("verify", "alive", &["--rebuild"]).await;
    // As after a state that was dropped by hand.
    let database: u32 =
        shop.value("SELECT oid FROM pg_database WHERE datname = current_database()").await;
    shop.exec(&format!(
        "SELECT pg_create_logical_replication_slot('pgwraith_{database}_1', 'pgoutput'); CREATE PUBLICATION pgwraith_1"
    ))
    .await;
    let here = shop.dsn.clone();
    shop.move_to("elsewhere").await;
    shop.exec("SELECT pg_create_logical_replication_slot('pgwraith_5_1', 'pgoutput')").await;

    let listed = harness::run(["cleanup", "-d", &here]).await.expect_code(0);
    for text in [
        "of \"public\".\"orders\", unfinished in phase verify",
        "slot pgwraith_",
        "publication pgwraith_1",
        "a run is alive",
        "connect to database \"elsewhere\"",
        "MB of WAL",
        "--yes",
    ] {
        assert!(listed.stdout.contains(text), "{text}: {listed}");
    }
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(shop.value::<i64>(slots).await, 4, "a list removes nothing");
    harness::run(["cleanup", "-d", &here, "--yes"]).await.expect_code(0);
    assert_eq!(
        shop.value::<i64>(slots).await,
        2,
        "that of the living run, and that of another database"
    );
    shop.exec("SELECT pg_drop_replication_slot('pgwraith_5_1')").await;
    living.finish().await.expect_code(0);
    shop.dsn = here;
    shop.client = shop.session().await;
    let gone = async || harness::leftovers(&shop.client).await == ["schema pgwraith"];
    harness::wait_until("nothing is left", SOON, gone).await;
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM orders").await, 1_000);
}
