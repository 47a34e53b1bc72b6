//! A standby of a test's cluster follows it, and takes its place.

use crate::harness;
use crate::scene::{exec, shop, value};

#[tokio::test]
async fn a_standby_follows_and_is_promoted() {
    let shop = shop().await;
    shop.exec("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await;
    let standby = shop.cluster.standby(&[("work_mem", "7MB")]).await.unwrap();
    assert!(standby.port() != shop.cluster.port() && standby.folder() != shop.cluster.folder());

    shop.exec("INSERT INTO t VALUES (2)").await;
    standby.caught_up_with(&shop.cluster).await.unwrap();
    let there = harness::connect(&standby.dsn("shop")).await;
    assert_eq!(value::<i64>(&there, "SELECT sum(n) FROM t").await, 3);
    assert_eq!(value::<String>(&there, "SHOW work_mem").await, "7MB");
    let error = there.batch_execute("INSERT INTO t VALUES (3)").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "25006", "{error:?}");
    let id = "SELECT system_identifier::text FROM pg_control_system()";
    assert_eq!(value::<String>(&there, id).await, shop.value::<String>(id).await);

    assert_eq!(shop.cluster.timeline().await.unwrap(), 1);
    assert_eq!(standby.promote().await.unwrap(), 2);
    exec(&there, "INSERT INTO t VALUES (3)").await;
    assert_eq!(value::<i64>(&there, "SELECT sum(n) FROM t").await, 6);
    assert_eq!(shop.value::<i64>("SELECT sum(n) FROM t").await, 3);
}

/// The copy is made while rows come and files grow, and takes over after the primary has crashed.
#[tokio::test]
async fn a_standby_is_made_under_traffic_and_outlives_its_primary() {
    let mut shop = shop().await;
    shop.exec("CREATE TABLE t (n int PRIMARY KEY, v text)").await;
    let writer = shop.session().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut stopped = stopped;
        let mut n = 0_i64;
        while stopped.try_recv().is_err() {
            let rows = "INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series($1::int8, $1::int8 + 99) g";
            writer.execute(rows, &[&n]).await.unwrap();
            n += 100;
        }
        n
    });
    harness::wait_for_sql(&shop.client, "rows come", "SELECT count(*) > 0 FROM t").await;
    let standby = shop.cluster.standby(&[]).await.unwrap();
    stop.send(()).unwrap();
    let written = writing.await.unwrap();
    standby.caught_up_with(&shop.cluster).await.unwrap();
    shop.cluster.crash().await.unwrap();
    assert_eq!(standby.promote().await.unwrap(), 2);
    let there = harness::connect(&standby.dsn("shop")).await;
    assert_eq!(value::<i64>(&there, "SELECT count(*) FROM t").await, written);
    exec(&there, "SET enable_seqscan = off").await;
    assert_eq!(value::<i64>(&there, "SELECT count(*) FROM t WHERE n >= 0").await, written);
}
