//! A connection string that names several servers: one of them serves the whole run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;

use crate::harness;
use crate::scene::{Held, Shop, exec, shop};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); \
                     INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 1000) g";

async fn swapped(shop: &Shop) {
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM t").await, 1000);
    assert_eq!(shop.value::<i64>("SELECT count(*) FROM t_old").await, 1000);
    assert_eq!(shop.held_back().await, [""; 0]);
}

#[tokio::test]
async fn a_listed_server_that_comes_back_in_mid_run_is_not_asked() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let port = shop.cluster.port();
    let dsn = format!("host=127.0.0.2,127.0.0.1 port={port} user=postgres dbname=shop");
    let arguments = ["run", "t", "-d", &dsn, "--rebuild", "--json"].map(str::to_owned);
    let held = Held::start(&shop, "verify", arguments.to_vec()).await;

    // The first host had nobody listening until now.
    let listener = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let opened = "SELECT sum(sessions)::int8 FROM pg_stat_database WHERE datname = 'shop'";
    let before: i64 = shop.value(opened).await;
    held.finish().await.expect_code(0);
    harness::wait_for_sql(
        &shop.client,
        "the run opened more sessions after that",
        &format!("SELECT ({opened}) > {before}"),
    )
    .await;
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    swapped(&shop).await;
}

/// Only an SQL session notices that a server takes no writes: the replication connection, which
/// cannot ask, must not try the list again from its beginning.
#[tokio::test]
async fn the_replication_connection_follows_the_sessions_past_a_standby() {
    let shop = shop().await;
    shop.exec(TABLE).await;
    let mut standby = harness::cluster().await;
    let dsn = harness::database(&standby, "shop").await;
    exec(&harness::connect(&dsn).await, TABLE).await;
    standby.stop_fast().await.unwrap();
    let data: String = shop.value("SHOW data_directory").await;
    let ours = std::path::Path::new(&data).file_name().unwrap();
    std::fs::write(standby.folder().join(ours).join("standby.signal"), "").unwrap();
    standby.restart().await.unwrap();

    let dsn = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname=shop target_session_attrs=read-write",
        standby.port(),
        shop.cluster.port()
    );
    harness::run(["run", "t", "-d", &dsn, "--rebuild"]).await.expect_code(0);
    swapped(&shop).await;
}
